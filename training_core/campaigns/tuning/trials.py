"""From the values of a trial to jobs, and from the reports of the jobs to what the trial is worth.

A trial is a few rounds of jobs, one after the other: the folds of one learner, or a survey of the modalities and then
the learners of an ensemble. It is written as a generator, which yields jobs and is sent their reports, so that whoever
runs several trials decides what is trained at the same time.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np

from training_core.campaigns import bagging
from training_core.campaigns.run_bags import run_spec
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.config import ParamValue
from training_core.campaigns.tuning.honest import Answers, cross_fitted_answers
from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.space import tuned_modalities, with_params
from training_core.data.splitting.bags import Bag
from training_core.engine.trained import TrainedLearner
from training_core.errors import ConfigError, DataError, GateError
from training_core.evaluation.metrics import calibration_error, loss, score
from training_core.jobs import DatasetRef, Job, JobReport, read_out_of_bag
from training_core.learners import LearnerBase
from training_core.recipes import MultimodalConfig
from training_core.schema import pattern_key
from training_core.seeding import derive_seed
from training_core.selection.cost_model import predict_cost

Rounds = Generator[list[Job], Mapping[str, JobReport], TrialOutcome]
"""Yields the jobs of a round and is sent their reports by name; returns what came of the trial."""

_TIMED_ROWS, _TIMED_RUNS = 64, 5


class Bench:
    """Runs trials of one run configuration on one data set."""

    def __init__(self, run: RunConfig, ref: DatasetRef) -> None:
        """Look at the data.

        Raises:
            ConfigError: the learner to be tuned can take none of the run's modalities, or the task has no calibration.
        """
        self._run, self._ref = run, ref
        self._dataset = bagging.open_dataset(ref)
        self.spec = run_spec(run, self._dataset)
        """Of the run's modalities."""
        if self.spec.task.kind == "regression" and "ece" in run.tuning.objectives:
            raise ConfigError("`tuning.objectives`: ece is the error of probabilities, and this task is a regression")
        self.modalities = (
            tuned_modalities(run, self._dataset.spec) if run.tuning.target == "learner" else self.spec.names
        )
        """What a trial is trained on."""
        if "robustness" in run.tuning.objectives and len(self.modalities) < 2:
            raise ConfigError(
                f"`tuning.objectives`: robustness hides one modality after the other, and there is only "
                f"{', '.join(self.modalities)}; leave it out"
            )

    def rounds(
        self,
        number: int,
        params: Mapping[str, ParamValue],
        give_up: Mapping[int, float],
        loses: Callable[[Sequence[float]], bool],
    ) -> Rounds:
        """The rounds of one trial.

        What is wrong with its values, or with a learner of it, fails the trial and nothing else.

        Args:
            number: of the trial.
            params: its values.
            give_up: of the trainings of its first round; see `Job.give_up`.
            loses: whether it is to be ended after the first folds, given the first objective on each.
        """
        try:
            run = with_params(self._run, params)
            if run.tuning.target == "learner":
                return (yield from self._learner_rounds(run, number, give_up, loses))
            return (yield from self._ensemble_rounds(run, number))
        except (ConfigError, DataError, GateError) as error:
            return TrialOutcome(state="failed", error=str(error))

    def _learner_rounds(
        self, run: RunConfig, number: int, give_up: Mapping[int, float], loses: Callable[[Sequence[float]], bool]
    ) -> Rounds:
        bags = self._bags(run)
        reports: list[JobReport] = []
        answers: list[Answers] = []
        folds: list[float] = []
        for place, bag in enumerate(bags):
            name = f"trial-{number:04d}" + (f"/fold-{place}" if len(bags) > 1 else "")
            job = self._job(run, name, bag, give_up if place == 0 else {})
            report = (yield [job])[name]
            reports.append(report)
            if report.status not in ("trained", "reused") or report.artifact is None:
                return _ended(reports)
            answers.append(self._answers(report))
            if len(bags) > 1:
                folds.append(self._quality(run, answers[-1:]))
                if place < len(bags) - 1 and loses(folds):
                    why = f"hopeless after {len(folds)} of {len(bags)} folds"
                    return _with_work(TrialOutcome(state="pruned", folds=tuple(folds), error=why), reports)
        size = float(np.mean([report.size_bytes for report in reports])) / 1e6
        return self._judged(run, answers, reports, size, folds)

    def _ensemble_rounds(self, run: RunConfig, number: int) -> Rounds:
        free = run.budget.model_copy(update={"seconds": None, "learners": None})
        run = run.model_copy(update={"budget": free})
        surveyed = yield from _in_one_round(bagging.plan_survey(run, self._ref).jobs, number)
        utilities = bagging.measure_utilities(run, self._ref, surveyed)
        plan = bagging.plan_training(run, self._ref, bagging.bags_of(run, self._ref, utilities))
        reports = yield from _in_one_round(plan.jobs, number)
        if any(report.status == "skipped" for report in reports):
            return _ended([report for report in reports if report.status == "skipped"])
        bagging.require_quorum(reports, run)
        trained = [report for report in reports if report.artifact is not None]
        answers = cross_fitted_answers(
            self._dataset, self.spec, trained, run.combination, run.seed, "robustness" in run.tuning.objectives
        )
        size = sum(report.size_bytes for report in trained) / 1e6
        return self._judged(run, [answers], trained, size, ())

    def _bags(self, run: RunConfig) -> list[Bag]:
        """The same for every trial: one that holds rows out, or one for each fold."""
        num_folds = run.tuning.folds
        return [
            Bag(
                name="tuning" if num_folds == 1 else f"tuning-fold-{fold}",
                modalities=self.modalities,
                sampling="subsample" if num_folds == 1 else "folds",
                row_fraction=min(run.bags.row_fraction, 0.8),
                feature_fraction=1.0,
                seed=derive_seed(self._run.seed, "tuning", "columns"),
                row_seed=derive_seed(self._run.seed, "tuning", "rows"),
                fold=fold,
                num_folds=0 if num_folds == 1 else num_folds,
            )
            for fold in range(num_folds)
        ]

    def _job(self, run: RunConfig, name: str, bag: Bag, give_up: Mapping[int, float]) -> Job:
        learner: LearnerBase = getattr(run, run.tuning.learner)
        share = 1 - 1 / bag.num_folds if bag.num_folds else bag.row_fraction
        num_rows = round(share * len(self._dataset.rows("train")))
        cost = predict_cost(learner, self.spec.select(bag.modalities), num_rows, run.training.epochs)
        return Job(
            name=name,
            recipe=MultimodalConfig(
                learner=getattr(run, run.tuning.learner),
                training=run.training,
                denoising=run.denoising.on(bag.modalities),
            ),
            dataset=self._ref,
            subset=bag,
            seed=derive_seed(self._run.seed, "tuning", run.tuning.learner),  # trials differ in their values only
            predicted_seconds=cost.seconds,
            predicted_bytes=cost.bytes,
            reason="a trial of a study",
            give_up=dict(give_up) if learner.family == "net" else {},
        )

    def _answers(self, report: JobReport) -> Answers:
        """What a learner says about the rows it was not trained on, with everything it has and with parts hidden."""
        assert report.artifact is not None
        rows, said = read_out_of_bag(report.artifact)
        full = pattern_key(report.modalities, self._dataset.spec.names)
        target = self._dataset.target(rows)
        return Answers(target, said[full], [values for key, values in said.items() if key != full])

    def _quality(self, run: RunConfig, answers: Sequence[Answers]) -> float:
        """The first objective, where it is one of quality; else the loss."""
        first = run.tuning.objectives[0]
        return self._value(first if first in ("score", "robustness", "ece") else "loss", answers, (), 0.0)

    def _judged(
        self,
        run: RunConfig,
        answers: Sequence[Answers],
        reports: Sequence[JobReport],
        size_mb: float,
        folds: Sequence[float],
    ) -> TrialOutcome:
        """The outcome of a trial that came to its end."""
        tuning = run.tuning
        values = tuple(self._value(objective, answers, reports, size_mb) for objective in tuning.objectives)
        beyond: dict[str, float] = {}
        if tuning.max_size_mb is not None:
            beyond["max_size_mb"] = size_mb / tuning.max_size_mb - 1
        if tuning.max_seconds is not None:
            beyond["max_seconds"] = sum(report.cpu_seconds for report in reports) / tuning.max_seconds - 1
        if tuning.max_ms_per_row is not None:
            each = [self._ms_per_row(report) for report in reports]
            taken = float(np.mean(each)) if tuning.target == "learner" else sum(each)
            beyond["max_ms_per_row"] = taken / tuning.max_ms_per_row - 1
        outcome = TrialOutcome(
            state="complete",
            values=values,
            constraints=beyond,
            curve=reports[0].validation_losses if tuning.target == "learner" else (),
            folds=tuple(folds),
        )
        return _with_work(outcome, reports)

    def _value(self, objective: str, answers: Sequence[Answers], reports: Sequence[JobReport], size_mb: float) -> float:
        """One objective, on all rows of all folds together."""
        task = self.spec.task
        if objective == "seconds":
            return sum(report.cpu_seconds for report in reports)
        if objective == "size_mb":
            return size_mb
        if objective == "robustness":
            lost = [self._loss(a.target, values) for a in answers for values in a.hidden]
            lost = [one[np.isfinite(one)] for one in lost]
            return float(np.mean([one.mean() for one in lost if len(one)])) if any(map(len, lost)) else float("nan")
        target = np.concatenate([a.target for a in answers])
        values = np.concatenate([a.values for a in answers])
        spoken = np.isfinite(values).all(axis=1)
        target, values = target[spoken], values[spoken]
        if not len(target):
            return float("nan")
        if objective == "score":
            return float(score(task, target, values))
        if objective == "ece":
            return float(calibration_error(task, target, values))
        return float(self._loss(target, values).mean())

    def _loss(self, target: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Loss per row [n]; of a regression in units of the variance of the training rows' target."""
        task = self.spec.task
        if task.kind != "regression":
            return loss(task, target, values)
        scale = np.maximum(self._dataset.target(self._dataset.rows("train")).std(axis=0), 1e-12)
        return loss(task, target / scale, values / scale)

    def _ms_per_row(self, report: JobReport) -> float:
        """Milliseconds a learner takes to answer a row in this process: the median of a few tries on 64 rows."""
        assert report.artifact is not None
        learner = TrainedLearner.load(report.artifact.path / "learner")
        samples = self._dataset.samples(self._dataset.rows("train")[:_TIMED_ROWS])
        learner.predict(samples)  # the first time something is imported or laid out
        taken: list[float] = []
        for _ in range(_TIMED_RUNS):
            begun = time.perf_counter()
            learner.predict(samples)
            taken.append(time.perf_counter() - begun)
        return 1e3 * float(np.median(taken)) / len(samples)


def _in_one_round(
    jobs: Sequence[Job], number: int
) -> Generator[list[Job], Mapping[str, JobReport], tuple[JobReport, ...]]:
    """Jobs of a plan, under names that tell the trial; their reports under their own again."""
    if not jobs:
        return ()
    prefix = f"trial-{number:04d}: "
    reports = yield [job.model_copy(update={"name": prefix + job.name}) for job in jobs]
    return tuple(reports[prefix + job.name].model_copy(update={"name": job.name}) for job in jobs)


def _ended(reports: Sequence[JobReport]) -> TrialOutcome:
    """The outcome of a trial of which the last learner gave nothing to be judged by."""
    last = reports[-1]
    state = last.status if last.status in ("pruned", "skipped") else "failed"
    curve = last.validation_losses if len(reports) == 1 else ()
    return _with_work(TrialOutcome(state=state, curve=curve, error=last.error), reports)


def _with_work(outcome: TrialOutcome, reports: Sequence[JobReport]) -> TrialOutcome:
    """An outcome with what the trainings took."""
    epochs, seconds = sum(report.epochs for report in reports), sum(report.cpu_seconds for report in reports)
    return outcome.model_copy(update={"epochs": epochs, "cpu_seconds": seconds})
