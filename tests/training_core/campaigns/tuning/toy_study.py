"""A study whose trials are a formula, and a process that runs it until it is killed."""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from training_core.campaigns.tuning.config import ParamValue, TuningConfig
from training_core.campaigns.tuning.dimensions import Condition, Dimension
from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.study import Asked, FirstTrial, Study
from training_core.campaigns.tuning.summary import TrialRecord

EPOCHS = 9
DEFAULT: Mapping[str, ParamValue] = {"x": 3.0, "rate": 1.0, "kind": "b", "depth": 2}
SPACE = (
    Dimension(path="x", kind="float", low=-5, high=5),
    Dimension(path="rate", kind="float", low=1e-3, high=10, log=True),
    Dimension(path="kind", kind="choice", choices=("a", "b")),
    Dimension(path="depth", kind="int", low=1, high=6, when=(Condition(paths=("kind",), values=("b",)),)),
)


def bowl(params: Mapping[str, ParamValue]) -> float:
    """0 at x = 1, rate = 1, kind a; deeper is worse."""
    x, rate, depth = params["x"], params["rate"], params.get("depth", 0)
    assert isinstance(x, float) and isinstance(rate, float) and isinstance(depth, int)
    return (x - 1) ** 2 + math.log(rate) ** 2 + 0.3 * depth


def curve_to(value: float, epochs: int = EPOCHS) -> tuple[float, ...]:
    """A learning curve that ends at `value`."""
    return tuple(value + 2.0 * (epochs - epoch) / epochs for epoch in range(1, epochs + 1))


def worked(asked: Asked, epochs: int = EPOCHS) -> TrialOutcome:
    """What a worker would say: it ends a trial as its table says."""
    value = bowl(asked.params)
    curve = curve_to(value, epochs)
    for epoch, best in enumerate(curve, start=1):
        if best > asked.give_up.get(epoch, math.inf):
            return TrialOutcome(state="pruned", curve=curve[:epoch], epochs=epoch)
    return TrialOutcome(state="complete", values=(value,), curve=curve, epochs=epochs)


def open_study(folder: Path, seed: int = 0, first: Sequence[FirstTrial] | None = None, **settings: object) -> Study:
    """The toy study in `folder`, which begins with the default unless `first` is given."""
    config = TuningConfig.parse({"startup_trials": 4, "min_epochs": 1, **settings}, "toy")
    start = (FirstTrial(DEFAULT, "default"),) if first is None else first
    return Study(config, SPACE, folder, seed, first=start, about="toy", epochs=EPOCHS)


def run_study(folder: Path, seed: int = 0, **settings: object) -> tuple[TrialRecord, ...]:
    """Run the toy study to its end."""
    with open_study(folder, seed, **settings) as study:
        while asked := study.ask():
            for one in asked:
                study.tell(one.number, worked(one))
        return study.records()


def essence(records: Sequence[TrialRecord]) -> list[object]:
    """What has to be the same however a study was run."""
    return [(r.number, r.state, dict(r.params), r.values, r.curve, r.enqueued) for r in records]


def main() -> None:
    """Run the toy study from a shell, slowly."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--mode", default="deterministic")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--wait", action="store_true", help="say `ready`, and begin once told to by a line")
    given = parser.parse_args()
    with open_study(given.folder, trials=given.trials, batch=given.batch, mode=given.mode) as study:
        if given.wait:
            print("ready", flush=True)
            sys.stdin.readline()
        waiting: list[Asked] = []
        while waiting or not study.stopped:
            waiting += study.ask()
            if waiting:
                one = waiting.pop(0)
                time.sleep(given.pause)
                study.tell(one.number, worked(one))
                print(one.number, flush=True)


if __name__ == "__main__":
    main()
