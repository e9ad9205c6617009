"""`python -m training_core.engine.distributed --ranks 2 package.module:function '{"epochs": 3}'`: see `launch`."""

import argparse
import json
import sys

from training_core.engine.distributed.launch import launch
from training_core.errors import PolychoirError, UserError


def main() -> int:
    """Read the command line, launch, print what rank 0 returned as JSON; 2: a user's error, 1: any other."""
    parser = argparse.ArgumentParser(
        prog="python -m training_core.engine.distributed",
        description="Call FUNCTION(ranks, **ARGUMENTS) in several processes on this machine, joined to one group.",
    )
    parser.add_argument("function", help="package.module:function")
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads, help="a JSON object")
    parser.add_argument("--ranks", "--nproc", type=int, required=True, help="processes, on GPUs at most one per GPU")
    given = parser.parse_args()
    sys.path.insert(0, "")
    try:
        print(json.dumps(launch(given.function, given.ranks, given.arguments)))
    except PolychoirError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
