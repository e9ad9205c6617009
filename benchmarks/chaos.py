"""What becomes of a store that is up when things are killed in it, ten times each.

`python benchmarks/chaos.py` brings up a store with a tiny data set (`polychoir up`) and strikes:

- `worker`, `server`: the worker's or the Prefect server's process is killed at a random moment while a run trains;
- `learner`: the process of a learner is, at a random moment;
- `slot`: the server is killed or stopped while a run holds the only slot of `tag:learners`;
- `retrain`: two retrainings of one model are asked for at once;
- `disk`: there is no more room, at a random size of a file, during an export;
- `promotion`: a promotion is killed before or after a random change that it makes.

After each of the first four, the run that was hit must end by itself, or be marked as crashed; the same run, asked for
again, must complete with the predictions of a run that nobody disturbed, without training anything again that had been
published; and no process of the run, no slot, no unfinished folder and no open record may be left. Of two retrainings
one must train and the other be refused and show why. An export must say in one sentence what is wrong,
leave nothing, and go through afterwards; a promotion must be completed or dropped by the next verb, and the ledger and
the aliases agree.

The exit code is 1 when something was lost, or needs a person. `--out` writes every round as JSON.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from urllib.error import HTTPError

from chaos_alone import LoneBlows
from chaos_blows import RunningBlows
from chaos_rounds import Round, as_table
from chaos_store import RunningStore
from rich.console import Console
from running_store import TooLate, up

from training_core.errors import PolychoirError

RUNNING = {
    "worker": "worker killed while a run trains",
    "server": "server killed while a run trains",
    "learner": "learner's process killed",
    "slot": "server restarted while a slot is held",
    "retrain": "two retrainings at once",
}
ALONE = {"disk": "disk full during an export", "promotion": "promotion killed at some step"}
BLOWS = RUNNING | ALONE


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=10, help="rounds of each blow")
    options.add_argument("--only", nargs="+", choices=BLOWS, default=list(BLOWS))
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--out", type=Path, help="where to write every round as JSON")
    options.add_argument("--folder", type=Path, help="keep stores and logs here; it must not be there yet")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was brought up is stopped
    with ExitStack() as kept:
        if given.folder is None:
            folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="polychoir-chaos-")))
        else:
            folder = given.folder.absolute()
            folder.mkdir(parents=True)
        rounds = strike(folder, given.only, given.times, given.seed)
    Console(width=120).print(as_table(rounds, BLOWS))
    if given.out is not None:
        given.out.write_text(json.dumps([asdict(one) for one in rounds], indent=1) + "\n")
    return 0 if all(one.is_whole for one in rounds) else 1


def strike(folder: Path, chosen: Sequence[str], times: int, seed: int) -> list[Round]:
    """Every blow so many times; they take turns, so that what is killed has run for a while."""
    rounds: list[Round] = []
    with ExitStack() as stack:
        blows: dict[str, Callable[[int], Round]] = {}
        if any(name in ALONE for name in chosen):
            lone = LoneBlows(folder / "alone", folder / "sources", random.Random(f"{seed}-alone"))
            blows |= {"disk": lone.disk, "promotion": lone.promotion}
        if any(name in RUNNING for name in chosen):
            store = RunningStore(folder / "store", *stack.enter_context(up(folder / "store")))
            running = RunningBlows(store, folder / "calm", folder / "sources", random.Random(f"{seed}-running"))
            running.warm_up()
            blows |= {name: getattr(running, name) for name in RUNNING}
        for number in range(times):
            for name in chosen:
                try:
                    rounds.append(blows[name](number))
                except (TooLate, HTTPError, PolychoirError) as error:
                    rounds.append(Round(name, number, by_hand=[f"{type(error).__name__}: {error}"]))
                say(rounds[-1])
    return rounds


def say(one: Round) -> None:
    """A round as lines."""
    how = "went through" if one.went_through else "asked again"
    print(f"{one.blow} {one.number + 1}: {one.hit}: {how}, {one.seconds:.0f} s", flush=True)
    for what in [*(f"LOST: {text}" for text in one.lost), *(f"BY HAND: {text}" for text in one.by_hand)]:
        print(f"    {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
