"""What the ensembles promise, checked: no worse than a single learner, sure as often as right, not fooled.

`python benchmarks/proofs.py` trains an ensemble of preset `quick` per case and prints

- `singles`: the score on test rows beside that of the best single learner (chosen out of bag), means over the seeds.
  The promise is a score no lower than the single learner's less one standard error of that.
- `calibration`: per pattern of modalities and of all seeds' test rows together, expected calibration error (15 bins of
  equal mass) beside the error that confidences which are all true would show on as many rows, which is not 0. Promised
  are .03 at most, or no more than .01 above what is unavoidable, and that confidence falls wherever the share of right
  answers falls by more than two standard errors. `rates errors`: how well confidence tells right from wrong.

and then, on worlds of their own,

- `noise`: the share of the weight a modality of pure noise has. Promised: below .02.
- `chance`: digits whose labels are permuted. Promised: chance within two standard errors, and as little confidence.
- `copies`: rows that come four times, labels drawn by lot; a group says which belong together. Promised: chance, out of
  bag and on test rows. Without the group the copies give the labels away, which shows that the check can see it.

`--sources FOLDER` adds every `*/source.yaml` in it, cut down to `--rows` where those are tables; `--store` keeps what
was trained. The exit code is 1 when a promise does not hold.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from proofs_cases import all_cases
from quality_cases import Case, planted
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import training_core as pc
from training_core.campaigns.run_config import RunConfig
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.data.synthetic import make_synthetic
from training_core.evaluation.calibration import correctness, expected_calibration_error, expected_error_if_calibrated
from training_core.evaluation.metrics import auroc, score
from training_core.evaluation.predictions import Predictions
from training_core.evaluation.statistics import resample, resampled_scores
from training_core.schema import TaskSpec, patterns_to_judge

PARTS = ("singles", "calibration", "noise", "chance", "copies")
FEWEST_ROWS = 500
"""Test rows of all seeds together from which a calibration error is told."""
MOST_ERROR, MOST_EXCESS = 0.03, 0.01
MOST_NOISE = 0.02


@dataclass(frozen=True)
class Against:
    """An ensemble beside its best single learner on the test rows of one split."""

    case: str
    seed: int
    metric: str
    num_rows: int
    ensemble: float
    single: float
    single_error: float
    """Standard error of the single learner's score on these rows."""
    difference_error: float
    """Of the difference: the rows are the same for both."""
    single_shipped: bool


@dataclass(frozen=True)
class Said:
    """Confidence and correctness under one pattern: [n] each."""

    sure: np.ndarray
    right: np.ndarray


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    options.add_argument("--cases", nargs="*", default=None, help="names of cases; all by default")
    options.add_argument("--sources", type=Path, default=None, help="folder whose folders hold sources")
    options.add_argument("--rows", type=int, default=12_000, help="of tables in the sources that have more")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--preset", default="quick")
    options.add_argument("--store", type=Path, default=None, help="where to keep what is trained")
    options.add_argument("--out", type=Path, default=None, help="where to write the figures of `singles` as JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if prove(given, (given.store or Path(folder)).resolve()) else 1)


def prove(given: argparse.Namespace, store: Path) -> bool:
    """Every part that was asked for, printed as it is done; whether all of it holds."""
    console = Console(width=150)
    against: list[Against] = []
    tables: list[Table] = []

    def show(table: Table) -> None:
        tables.append(table)
        console.print(table)

    if {"singles", "calibration"} & set(given.parts):
        for case in all_cases(given.sources, given.rows):
            if given.cases is not None and case.name not in given.cases:
                continue
            found, said = judged(case, given.seeds, given.preset, store)
            against += found
            if "calibration" in given.parts and said:
                show(calibration_table(case.name, said))
    if "singles" in given.parts:
        show(singles_table(against))
    for part, prover in (("noise", noise_table), ("chance", chance_table), ("copies", copies_table)):
        if part in given.parts:
            show(prover(given.seeds, given.preset, store))
    if given.out:
        given.out.write_text(json.dumps([asdict(one) for one in against], indent=1))
    return all(cell != "NO" for table in tables for cell in table.columns[-1].cells)


def judged(case: Case, seeds: int, preset: str, store: Path) -> tuple[list[Against], dict[tuple[str, ...], Said]]:
    """The case on every split: beside the best single learner, and what was said per pattern (not of regression)."""
    against, said = [], {}
    for seed in range(1 if case.has_own_split else seeds):
        with tempfile.TemporaryDirectory() as folder:
            dataset = prepare_dataset(case.write(Path(folder), seed), DatasetStore(store / "datasets"))
        run = RunConfig.load(dataset=dataset.ref, preset=preset, seed=seed)
        ensemble = pc.fit_ensemble(run, store, processes=False)
        samples = dataset.samples(dataset.rows("test"))
        assert samples.target is not None
        task, target, under = ensemble.task, samples.target, ensemble.under_patterns(samples)
        alone, whole = under.predict_member(ensemble.best_single).values, under.predict().values
        drawn = resample(len(target), 1000, seed)
        mixed, single = (resampled_scores(task, target, values, drawn) for values in (whole, alone))
        against.append(
            Against(
                case=case.name,
                seed=seed,
                metric=task.metric,
                num_rows=len(target),
                ensemble=score(task, target, whole),
                single=score(task, target, alone),
                single_error=max(float(np.std(single)), least_error(task, len(target))),
                difference_error=float(np.std(mixed - single)),
                single_shipped=ensemble.manifest.patterns[0].single_shipped,
            )
        )
        if task.kind == "regression":
            continue
        for pattern in patterns_to_judge(ensemble.spec.names):
            key = tuple(name for name in ensemble.spec.names if name in pattern)
            said.setdefault(key, []).append(said_of(task, target, under.predict(pattern)))
    together = {key: joined(parts) for key, parts in said.items()}
    return against, {key: one for key, one in together.items() if len(one.sure) >= FEWEST_ROWS}


def least_error(task: TaskSpec, num_rows: int) -> float:
    """Standard error of a share of right answers that is all but 1, which resampling takes for 0 where it is 1."""
    if task.kind != "classification":
        return 0.0
    wrong = 1 / (num_rows + 2)  # one wrong answer that was not met (Laplace)
    return float(np.sqrt(wrong * (1 - wrong) / num_rows))


def said_of(task: TaskSpec, target: np.ndarray, predictions: Predictions) -> Said:
    """How sure and how right; of multilabel data every label of every row counts."""
    values = predictions.values
    sure = np.maximum(values, 1 - values).ravel() if task.kind == "multilabel" else predictions.confidence
    return Said(sure, correctness(task, target, values).ravel())


def singles_table(found: Sequence[Against]) -> Table:
    """One row per case: means over its splits; the standard error is that over splits, of one split over its rows."""
    table = Table(title="beside the best single learner", title_justify="left")
    for column in (
        "case",
        "splits",
        "test rows",
        "metric",
        "ensemble",
        "best single",
        "shipped",
        "difference",
        "holds",
    ):
        table.add_column(column)
    held = 0
    cases = list(dict.fromkeys(one.case for one in found))
    for case in cases:
        own = [one for one in found if one.case == case]
        gaps = np.array([one.ensemble - one.single for one in own])
        error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else own[0].difference_error
        allowed = float(np.sqrt(np.mean([one.single_error**2 for one in own]) / len(own)))
        holds = gaps.mean() >= -allowed
        held += holds
        table.add_row(
            case,
            str(len(own)),
            str(own[0].num_rows),
            own[0].metric,
            f"{np.mean([one.ensemble for one in own]):.4f}",
            f"{np.mean([one.single for one in own]):.4f} ± {allowed:.4f}",
            str(sum(one.single_shipped for one in own)),
            f"{gaps.mean():+.4f} ± {error:.4f}",
            "yes" if holds else "NO",
        )
    table.caption = f"{held} of {len(cases)} hold"
    return table


def calibration_table(case: str, said: dict[tuple[str, ...], Said]) -> Table:
    """One row per pattern."""
    table = Table(title=f"{case}: sure as often as right", title_justify="left")
    for column in ("modalities", "answers", "right", "sure", "ECE", "if all true", "more", "rates errors", "holds"):
        table.add_column(column)
    full = next(iter(said.values()))
    for key, one in said.items():
        error, unavoidable = expected_calibration_error(one.sure, one.right), expected_error_if_calibrated(one.sure)
        doubt = 2 * np.hypot(one.right.std(), full.right.std()) / np.sqrt(len(one.right))
        falls = one.sure.mean() < full.sure.mean() or one.right.mean() > full.right.mean() - doubt
        table.add_row(
            "+".join(key),
            str(len(one.sure)),
            f"{one.right.mean():.4f}",
            f"{one.sure.mean():.4f}" + ("" if falls else " (does not fall)"),
            f"{error:.4f}",
            f"{unavoidable:.4f}",
            f"{error - unavoidable:+.4f}",
            f"{auroc(one.right, one.sure):.3f}" if 0 < one.right.mean() < 1 else "",
            "yes" if error <= max(MOST_ERROR, unavoidable + MOST_EXCESS) and falls else "NO",
        )
    return table


def noise_table(seeds: int, preset: str, store: Path) -> Table:
    """What a modality of noise weighs."""
    table = Table("seed", "share of the weight", "holds", title="a modality of pure noise", title_justify="left")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            source = make_synthetic(planted(seed)).write(Path(folder))
            ensemble = pc.fit_ensemble(str(source), store, preset=preset, seed=seed, processes=False)
        share = ensemble.modality_weights()["hum"]
        table.add_row(str(seed), f"{share:.4f}", "yes" if share < MOST_NOISE else "NO")
    return table


def chance_table(seeds: int, preset: str, store: Path) -> Table:
    """Digits with permuted labels; all seeds' test rows together."""
    table = Table("modalities", "answers", "right", "two errors", "sure", "holds", title="permuted labels")
    loaded: Any = load_digits()
    digits, pixels = loaded.target, loaded.data.astype(np.float32)
    arrays: dict[str, np.ndarray] = {"top": pixels[:, :32], "bottom": pixels[:, 32:]}
    said: dict[tuple[str, ...], list[Said]] = {("top", "bottom"): [], ("top",): [], ("bottom",): []}
    for seed in range(seeds):
        draws = np.random.default_rng(seed)
        # Classes are as frequent among training rows as among test rows: else what is frequent in the one is rare in
        # the other, and whoever answers with the most frequent class is right less often than by chance.
        train, rest = train_test_split(np.arange(len(digits)), test_size=0.4, stratify=digits, random_state=seed)
        test = np.isin(np.arange(len(digits)), rest)
        target = digits.copy()
        for rows in (train, rest):
            target[rows] = draws.permutation(digits[rows])
        ensemble = pc.fit_ensemble(
            arrays, store, target=target, split=np.where(test, "test", "train"), name="permuted", preset=preset,
            seed=seed, processes=False,
        )  # fmt: skip
        for key, found in said.items():
            answers = ensemble.predict({name: arrays[name][test] for name in key})
            found.append(Said(answers.confidence, answers.labels == target[test]))
    for key, found in said.items():
        one = joined(found)
        right, sure, error = one.right.mean(), one.sure.mean(), float(np.sqrt(0.1 * 0.9 / len(one.right)))
        held = abs(right - 0.1) <= 2 * error and sure - right <= 2 * error + MOST_EXCESS
        cells = ("+".join(key), str(len(one.right)), f"{right:.4f}", f"{2 * error:.4f}", f"{sure:.4f}")
        table.add_row(*cells, "yes" if held else "NO")
    return table


def copies_table(seeds: int, preset: str, store: Path) -> Table:
    """Rows that come four times, and labels that mean nothing; means over the seeds."""
    table = Table("group given", "best out of bag", "test", "two errors", "holds", title="copies of rows")
    for given in (True, False):
        out_of_bag, test = [], []
        for seed in range(seeds):
            draws = np.random.default_rng(seed)
            origin = np.repeat(np.arange(300), 4)
            target = draws.integers(0, 2, 300)[origin]
            views: dict[str, np.ndarray] = {
                name: (draws.normal(size=(300, 6))[origin] + 0.02 * draws.normal(size=(1200, 6))).astype(np.float32)
                for name in ("left", "right")
            }
            ensemble = pc.fit_ensemble(
                views, store, target=target, groups=origin if given else None, split={"test": 0.3, "seed": seed},
                name="copies", preset=preset, seed=seed, processes=False,
            )  # fmt: skip
            judgement = ensemble.summary().judgement
            assert judgement is not None
            out_of_bag.append(float(ensemble.leaderboard()["score"].max()))
            test.append(judgement.score)
        error = 2 * float(np.sqrt(0.25 / 90 / seeds))  # a group is one draw: 90 of the 300 are tested on
        chance = abs(np.mean(test) - 0.5) <= error
        told = (f"{np.mean(out_of_bag):.4f}", f"{np.mean(test):.4f}", f"{error:.4f}")
        table.add_row("yes" if given else "no", *told, "yes" if chance == given else "NO")
    return table


def joined(parts: Sequence[Said]) -> Said:
    """The rows of several splits together."""
    return Said(np.concatenate([one.sure for one in parts]), np.concatenate([one.right for one in parts]))


if __name__ == "__main__":
    main()
