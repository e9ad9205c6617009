"""What the benchmarks of tuning share: data sets, the command line, and a study of one kind of net on one split."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from quality_cases import Case, bundled_cases, case_of

from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.jobs import DatasetRef

BUNDLED = ("halves", "digits")
"""Bundled cases that need no files: scikit-learn's digits as upper and lower half, and in three views."""
LEARNERS = ("tabular_mlp", "fusion_net")


class Scale(NamedTuple):
    """How much is trained, unless the command line says otherwise."""

    seeds: int
    trials: int
    epochs: int


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    cases: Sequence[Case]
    learner: str
    seeds: int
    trials: int
    epochs: int
    workers: int | None
    quick: bool
    out: Path | None
    given: argparse.Namespace
    """Options that only one benchmark has are in it."""

    def run(self, dataset: DatasetRef, seed: int, tuning: Mapping[str, Any], **settings: Any) -> RunConfig:
        """A run on a data set whose learner is to be tuned; `tuning` and `settings` stand over what is usual here."""
        training = {"epochs": self.epochs, **settings.pop("training", {})}
        usual = {"learner": self.learner, "trials": self.trials, "min_epochs": min(3, self.epochs)}
        return RunConfig.load(
            dataset=dataset.label,
            seed=seed,
            training=training,
            tuning={**usual, **tuning},
            budget={"workers": self.workers},
            **settings,
        )

    def write(self, figures: Mapping[str, Any]) -> None:
        """Keep every figure so far as JSON, where the command line says so."""
        if self.out is not None:
            self.out.write_text(json.dumps(figures, indent=1))


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=None, choices=BUNDLED, help="bundled data sets; all by default")
    parser.add_argument("--source", type=Path, action="append", default=[], help="a SOURCE.yaml; may be repeated")
    parser.add_argument("--learner", choices=LEARNERS, default=LEARNERS[0])
    for name in Scale._fields:
        parser.add_argument(f"--{name}", type=int, default=None)
    parser.add_argument("--workers", type=int, default=None, help="processes that train; as many as there are cores")
    parser.add_argument("--quick", action="store_true", help="see that it works, in seconds; says nothing of quality")
    parser.add_argument("--out", type=Path, default=None, help="where to write every figure as JSON")
    return parser


def options_of(parser: argparse.ArgumentParser, full: Scale, quick: Scale) -> Options:
    """What the command line says, and what of `full` or `quick` it leaves open."""
    given = parser.parse_args()
    scale = quick if given.quick else full
    said = {name: getattr(given, name) for name in Scale._fields if getattr(given, name) is not None}
    named = given.cases if given.cases is not None else BUNDLED[:1] if given.quick else BUNDLED
    torch.set_num_threads(1)
    return Options(
        cases=[*(case for case in bundled_cases() if case.name in named), *map(case_of, given.source)],
        learner=given.learner,
        workers=given.workers,
        quick=given.quick,
        out=given.out,
        given=given,
        **{**scale._asdict(), **said},
    )


def prepared(case: Case, folder: Path, seed: int) -> DatasetRef:
    """The data set of a case with the split of a seed, in the store `folder`."""
    return resolve_dataset(str(case.write(folder / f"source-{case.name}-{seed}", seed)), folder)


def today() -> str:
    """For the titles of tables."""
    return time.strftime("%Y-%m-%d")


def mean_and_error(values: Sequence[float] | np.ndarray, digits: int = 4) -> str:
    """Mean ± standard error of the mean, as text."""
    found = np.asarray(values, dtype=float)
    error = f" ± {found.std(ddof=1) / np.sqrt(len(found)):.{digits}f}" if len(found) > 1 else ""
    return f"{found.mean():.{digits}f}{error}"
