"""Whether tuning pays where it counts: tuned settings against the default ones on test rows that chose neither.

`python benchmarks/tuning_held_out.py --source mfeat/source.yaml` (five splits of every case; 40 trials each). Of every
split: a study on the training rows, then an ensemble with the default settings and one with those of the best trial,
both trained on all training rows, both asked about the test rows. `--target learner` (default) tunes one kind of net,
and the ensembles are three nets of that kind on three draws of rows; `--target ensemble` tunes whole runs of the preset
`quick`, and the ensembles are such runs.

What is held to be shown: on random splits a difference with p < .05 in the corrected resampled t-test (Nadeau & Bengio
2003), since splits share rows. A source with a split of its own has one test part: there three seeds tune and train,
rows (whole groups, blocks of time) and seeds are drawn with replacement, and it is the paired bootstrap that says.

`promised` is by how much less the best trial's loss was than the default's in the study itself. It is a maximum over
trials, so it promises too much; what is left of it is in the column `loss, gain`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quality_cases import TEST_SHARE, Case
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from tuning_cases import Options, Scale, command_line, mean_and_error, options_of, prepared, today

import training_core as pc
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.data.storage.store import Dataset
from training_core.evaluation.metrics import loss, score
from training_core.evaluation.statistics import (
    corrected_resampled_t,
    corrected_standard_error,
    percentile_interval,
    resample,
    resampled_scores,
)
from training_core.schema import TaskSpec
from training_core.seeding import generator

FULL, QUICK = Scale(seeds=5, trials=40, epochs=30), Scale(seeds=2, trials=3, epochs=3)
OWN_SPLIT_SEEDS = 3
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "learner": {"bags": {"num_bags": 3, "num_row_draws": 3, "modality_bags": False}},
    "ensemble": {"preset": "quick"},
}
_MAYBE = 0.05


@dataclass(frozen=True)
class Exam:
    """The test rows of a split, and what is needed to judge answers to them."""

    task: TaskSpec
    target: np.ndarray
    groups: np.ndarray | None
    times: np.ndarray | None
    scale: np.ndarray
    """What squared errors are measured in units of, [K]: the standard deviation of the training rows' target."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Exam":
        """The test rows of a data set."""
        rows, task = dataset.rows("test"), dataset.spec.task
        is_regression = task.kind == "regression"
        known = dataset.target(dataset.rows("train"))
        scale = np.maximum(known.std(axis=0), 1e-12) if is_regression else np.ones(1)
        return cls(task, dataset.target(rows), dataset.groups(rows), dataset.times(rows), scale)

    def losses(self, values: np.ndarray) -> np.ndarray:
        """Loss per row [n] of predictions as in `metrics.loss`: log loss, or squared error in units of the variance."""
        if self.task.kind == "regression":
            return loss(self.task, self.target / self.scale, values / self.scale)
        return loss(self.task, self.target, values)


class Answered(NamedTuple):
    """One split, or one seed of a split that is given."""

    exam: Exam
    default: np.ndarray
    """Predictions for the test rows, as in `metrics.score`."""
    tuned: np.ndarray
    promised: float
    """By how much less the best trial's loss was than the default's, in the study."""
    kept: bool
    """Whether the study found nothing better than the default."""

    def figures(self) -> dict[str, float]:
        """Everything measured, by name; gains are above 0 where the tuned one is better."""
        scores = [score(self.exam.task, self.exam.target, values) for values in (self.default, self.tuned)]
        losses = [float(self.exam.losses(values).mean()) for values in (self.default, self.tuned)]
        return {
            "default_score": scores[0],
            "tuned_score": scores[1],
            "score_gain": scores[1] - scores[0],
            "default_loss": losses[0],
            "tuned_loss": losses[1],
            "loss_gain": losses[0] - losses[1],
            "promised": self.promised,
            "kept_default": float(self.kept),
        }


class Gain(NamedTuple):
    """A mean difference, above 0 where the tuned one is better, and how sure it is."""

    mean: float
    low: float
    high: float
    p_value: float


def answer(options: Options, case: Case, seed: int, folder: Path) -> Answered:
    """Tune on a split, train both, and ask them about its test rows."""
    ref = prepared(case, folder, seed)
    settings = dict(SETTINGS[options.given.target])
    if options.given.target == "learner":
        settings["learners"] = {"learners_per_bag": 1, "include": (options.learner,)}
    run = options.run(ref, seed, {"target": options.given.target}, **settings)
    summary = pc.tune(run, folder, processes=not options.quick)
    best, default = summary.best_trial, summary.default_trial
    if best is None or best.values is None or default is None or default.values is None:
        raise SystemExit(f"{case.name}, seed {seed}: the study has no best trial, or the default failed")
    dataset = open_dataset(ref)
    samples = dataset.samples(dataset.rows("test"))
    tuned = RunConfig.load(Path(summary.best_yaml))
    ensembles = [pc.fit_ensemble(config, folder, processes=not options.quick) for config in (run, tuned)]
    answers = [ensemble.predict(samples).values for ensemble in ensembles]
    promised = default.values[0] - best.values[0]
    return Answered(Exam.of(dataset), *answers, promised, best.number == default.number)


def gains_over_splits(answered: Sequence[Answered]) -> dict[str, Gain]:
    """Of score and loss over random splits of the same rows; intervals are those of the corrected t-test."""
    found: dict[str, Gain] = {}
    for measure in ("score", "loss"):
        gaps, ratio = np.array([one.figures()[f"{measure}_gain"] for one in answered]), TEST_SHARE / (1 - TEST_SHARE)
        reach = student.ppf(0.975, len(gaps) - 1) * corrected_standard_error(gaps, ratio)
        mean = float(gaps.mean())
        found[measure] = Gain(mean, mean - reach, mean + reach, corrected_resampled_t(gaps, ratio)[1])
    return found


def gains_on_one_split(answered: Sequence[Answered]) -> dict[str, Gain]:
    """Of score and loss over seeds on the same test rows: rows and seeds are drawn with replacement."""
    exam = answered[0].exam
    drawn = resample(len(exam.target), groups=exam.groups, times=exam.times)
    share = drawn.counts / drawn.counts.sum(axis=1, keepdims=True)
    draws = {
        "score": [
            resampled_scores(exam.task, exam.target, one.tuned, drawn)
            - resampled_scores(exam.task, exam.target, one.default, drawn)
            for one in answered
        ],
        "loss": [share @ (exam.losses(one.default) - exam.losses(one.tuned)) for one in answered],
    }
    seeds = generator(0, "seeds").integers(0, len(answered), (len(answered), len(drawn.counts)))
    found: dict[str, Gain] = {}
    for measure, gaps in draws.items():
        means = np.take_along_axis(np.stack(gaps), seeds, axis=0).mean(axis=0)
        interval = percentile_interval(means)
        least = min(np.sum(means <= 0), np.sum(means >= 0))  # as in `evaluation.statistics.compare`
        p_value = min(1.0, float(2 * (least + 1) / (len(means) + 1)))
        mean = float(np.mean([one.figures()[f"{measure}_gain"] for one in answered]))
        found[measure] = Gain(mean, interval.low, interval.high, p_value)
    return found


def sentence(measure: str, gain: Gain) -> str:
    """What can be said of a gain, and what cannot."""
    figures = f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}, p = {gain.p_value:.3g})"
    if gain.p_value >= _MAYBE:
        return f"{measure}: no difference that can be shown between tuned and default, gain {figures}."
    return f"{measure}: the tuned settings are {'better' if gain.mean > 0 else 'worse'} than the default, {figures}."


def tabulate(name: str, metric: str, answered: Sequence[Answered]) -> Table:
    """Means over splits or seeds."""
    figures = [one.figures() for one in answered]
    table = Table(title=f"{name}: {len(answered)} seeds, test rows, {today()}")
    for column in ("settings", metric, f"{metric}, gain", "loss", "loss, gain", "promised", "kept default"):
        table.add_column(column, justify="left" if column == "settings" else "right")

    def cell(key: str) -> str:
        return mean_and_error([one[key] for one in figures])

    table.add_row("default", cell("default_score"), "", cell("default_loss"), "", "", "")
    kept = f"{sum(one.kept for one in answered)} of {len(answered)}"
    table.add_row(
        "tuned", cell("tuned_score"), cell("score_gain"), cell("tuned_loss"), cell("loss_gain"), cell("promised"), kept
    )
    return table


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--target", choices=list(SETTINGS), default="learner", help="what is tuned")
    options = options_of(parser, FULL, QUICK)
    if options.seeds < 2:
        parser.error("--seeds: a test needs 2 at least")
    console, figures = Console(width=150), dict[str, object]()
    for case in options.cases:
        answered: list[Answered] = []
        for seed in range(min(options.seeds, OWN_SPLIT_SEEDS) if case.has_own_split else options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                answered.append(answer(options, case, seed, Path(folder)))
        gains = gains_on_one_split(answered) if case.has_own_split else gains_over_splits(answered)
        metric = answered[0].exam.task.metric
        console.print(tabulate(case.name, metric, answered))
        console.print(sentence(metric, gains["score"]), sentence("loss", gains["loss"]), "", sep="\n")
        figures[case.name] = {
            "seeds": [one.figures() for one in answered],
            "gains": {measure: gain._asdict() for measure, gain in gains.items()},
        }
        options.write({"target": options.given.target, "learner": options.learner, "cases": figures})


if __name__ == "__main__":
    main()
