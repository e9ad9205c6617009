"""How well the ensemble predicts, complete and with modalities missing, beside what one would use instead.

`python benchmarks/quality.py` compares on the bundled cases (digits in three views and in halves, two synthetic
worlds); `--sources FOLDER` adds every `*/source.yaml` in it, `--autogluon PYTHON` AutoGluon, installed in the
environment of that Python, which may use as many CPU-seconds as ours took. All see the same rows: 70 % for everything,
30 % to judge by.

Columns: the headline score with all modalities; expected calibration error (15 bins of equal mass); mean and worst
score with one modality hidden from every row; `curve`, the mean score over missing rates 0 to 90 % (each modality of
each row hidden at that rate, one stays); CPU-seconds of training. ± is the standard error over the seeds. A star says
that the full ensemble is better, two-sided corrected resampled t-test (Nadeau & Bengio 2003), p < .05.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from quality_cases import TEST_SHARE, Case, bundled_cases, cases_in, cpu_seconds
from quality_rivals import Predict, train_autogluon, train_rivals
from rich.console import Console
from rich.table import Table

import training_core as pc
from training_core.campaigns.run_config import RunConfig
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.evaluation.calibration import confidence, correctness, expected_calibration_error
from training_core.evaluation.metrics import score
from training_core.evaluation.robustness import hide_at_random
from training_core.evaluation.statistics import corrected_resampled_t
from training_core.schema import DataSpec, Samples
from training_core.seeding import generator
from training_core.selection.ensemble import Weighting

RATES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
FULL = "Polychoir"
OURS: dict[str, dict[str, Any]] = {
    FULL: {},
    "Polychoir, denoising": {"denoising": {"enabled": True}},
    "Polychoir, no modality bags": {"bags": {"modality_bags": False}},
}
UNIFORM = "Polychoir, uniform weights"
MEASURES = ("score", "ece", "hidden", "worst", "curve", "cpu_seconds")


@dataclass(frozen=True)
class Exam:
    """Test rows as every method is asked about them, one `Samples` per condition."""

    spec: DataSpec
    target: np.ndarray
    conditions: tuple[Samples, ...]
    """All modalities; each hidden in turn; then one per missing rate above 0."""

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> "Exam":
        """The test rows of a data set; `seed` draws what the missing rates hide."""
        samples = dataset.samples(dataset.rows("test"))
        assert samples.target is not None
        names = dataset.spec.names
        hidden = [samples.without({name}) for name in names] if len(names) > 1 else []
        rated = [thinned(samples, names, rate, seed) for rate in RATES[1:]]
        return cls(dataset.spec, samples.target, (samples, *hidden, *rated))

    def judge(self, answers: Sequence[np.ndarray]) -> dict[str, float]:
        """All measures but the time."""
        task, num_hidden = self.spec.task, len(self.conditions) - len(RATES)
        found = [score(task, self.target, values) for values in answers]
        hidden = found[1 : 1 + num_hidden] or found[:1]
        measures = {
            "score": found[0],
            "hidden": float(np.mean(hidden)),
            "worst": float(np.min(hidden)),
            "curve": float(np.mean([found[0], *found[1 + num_hidden :]])),
        }
        if task.kind == "classification":
            right = correctness(task, self.target, answers[0])
            measures["ece"] = expected_calibration_error(confidence(task, answers[0]), right)
        return measures


def thinned(samples: Samples, names: Sequence[str], rate: float, seed: int) -> Samples:
    """The same samples with modalities hidden as `hide_at_random` does."""
    kept = hide_at_random(samples.availability(names), rate, generator(seed, "missing", int(100 * rate)))
    return replace(samples, available={name: kept[:, i] for i, name in enumerate(names)})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", nargs="*", default=None, help="names of cases; all by default")
    options.add_argument("--sources", type=Path, default=None, help="folder whose folders hold sources")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--preset", default="balanced")
    options.add_argument("--ours", nargs="*", default=None, help="which of ours: " + "; ".join([*OURS, UNIFORM]))
    options.add_argument("--autogluon", type=Path, default=None, help="python of an environment with AutoGluon")
    options.add_argument("--presets", nargs="*", default=["medium_quality", "best_quality"], help="AutoGluon's")
    options.add_argument("--out", type=Path, default=None, help="where to write every figure as JSON")
    given = options.parse_args()
    cases = [*bundled_cases(), *(cases_in(given.sources) if given.sources else ())]
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for case in cases:
        if given.cases is not None and case.name not in given.cases:
            continue
        rows = figures[case.name] = {}
        for seed in range(1 if case.has_own_split else given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                for name, measures in compare(case, seed, Path(folder), given).items():
                    rows.setdefault(name, []).append(measures)
            if given.out:
                given.out.write_text(json.dumps(figures, indent=1))
        Console(width=150).print(tabulate(case.name, rows))


def compare(case: Case, seed: int, folder: Path, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every method on one split."""
    source = case.write(folder / "source", seed)
    dataset = prepare_dataset(source, DatasetStore(folder / "datasets"))
    train, exam = dataset.samples(dataset.rows("train")), Exam.of(dataset, seed)
    before = cpu_seconds()
    rivals = train_rivals(dataset.spec, train, seed)
    spent = (cpu_seconds() - before) / len(rivals)
    rows = {rival.name: {**asked(exam, rival.predict), "cpu_seconds": spent} for rival in rivals}
    allowed = 60.0
    for name, settings in OURS.items():
        if given.ours is not None and name not in given.ours:
            continue
        run = RunConfig.load(dataset=str(source), preset=given.preset, seed=seed, **settings)
        before = cpu_seconds()
        ensemble = pc.fit_ensemble(run, store=folder / name.replace(" ", "-"))
        spent = cpu_seconds() - before

        def predict(samples: Samples, weighting: Weighting = "selected", ensemble: Any = ensemble) -> np.ndarray:
            return ensemble.predict(samples, weighting=weighting).values

        rows[name] = {**asked(exam, predict), "cpu_seconds": spent}
        if name == FULL:
            allowed = spent
            rows[UNIFORM] = {**asked(exam, lambda samples: predict(samples, "mean")), "cpu_seconds": spent}
    for preset in given.presets if given.autogluon else ():
        seconds = allowed / len(os.sched_getaffinity(0))
        place = folder / f"autogluon-{preset}"
        answers, told = train_autogluon(given.autogluon, preset, seconds, dataset.spec, train, exam.conditions, place)
        if "error" in told:
            Console().print(f"AutoGluon {preset} gave no predictor: {told['error']}")
            continue
        rows[f"AutoGluon, {preset}"] = {**exam.judge(answers), "cpu_seconds": told["cpu_seconds"]}
    return rows


def asked(exam: Exam, predict: Predict) -> dict[str, float]:
    return exam.judge([predict(samples) for samples in exam.conditions])


def tabulate(case: str, rows: dict[str, list[dict[str, float]]]) -> Table:
    """One row per method: means over the seeds."""
    number = max(map(len, rows.values()))
    table = Table(title=f"{case}, {number} {'splits' if number > 1 else 'split'}, {time.strftime('%Y-%m-%d')}")
    table.add_column("method")
    for measure in MEASURES:
        table.add_column(measure.replace("_", " "), justify="right")
    full = rows.get(FULL, [])
    for name, found in rows.items():
        cells = []
        for measure in MEASURES:
            values = np.array([one[measure] for one in found if measure in one])
            if not len(values):
                cells.append("")
                continue
            digits = 0 if measure == "cpu_seconds" else 4
            error = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
            better = measure in ("score", "hidden", "worst", "curve") and is_better(full, found, measure)
            cells.append(f"{values.mean():.{digits}f}{error}{' *' if better and name != FULL else ''}")
        table.add_row(name, *cells)
    return table


def is_better(ours: list[dict[str, float]], others: list[dict[str, float]], measure: str) -> bool:
    """Whether ours is better beyond the noise of the splits."""
    if len(ours) != len(others) or len(ours) < 3:
        return False
    gaps = np.array([one[measure] - other[measure] for one, other in zip(ours, others, strict=True)])
    if gaps.mean() <= 0 or not gaps.std():
        return False
    return corrected_resampled_t(gaps, TEST_SHARE / (1 - TEST_SHARE))[1] < 0.05


if __name__ == "__main__":
    main()
