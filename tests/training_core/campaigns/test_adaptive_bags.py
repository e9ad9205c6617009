"""Two rounds: cheap learners of single modalities say what each tells, and the bags drop what tells most more often."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from factories import small_run, write_source
from sklearn.metrics import average_precision_score

from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.survey import gain_over_prior, needs_survey, survey_choices
from training_core.data.splitting.bags import make_bags
from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic
from training_core.errors import ConfigError
from training_core.jobs import DatasetRef, Job, JobReport, failed_report, read_out_of_bag, run_jobs
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

ADAPTIVE = {"num_bags": 9, "strategy": "adaptive", "num_row_draws": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


@pytest.fixture(scope="module")
def graded_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strong modality, a weak one and one that is noise."""
    modalities = (
        SyntheticModality(name="strong", strength=3.0),
        SyntheticModality(name="weak", strength=0.8),
        SyntheticModality(name="noise", role="noise"),
    )
    config = SyntheticConfig(name="graded", num_rows=900, modalities=modalities, seed=1)
    return make_synthetic(config).write(tmp_path_factory.mktemp("graded"))


def train(jobs: Sequence[Job], store: Path) -> tuple[JobReport, ...]:
    return tuple(run_jobs(jobs, store, "cpu", lambda event: None))


def planned(run: RunConfig, store: Path) -> tuple[DatasetRef, bagging.Plan]:
    ref = bagging.resolve_dataset(run.dataset, store)
    return ref, bagging.plan_survey(run, ref)


@pytest.mark.parametrize(
    "changes",
    [
        {"bags": {"strategy": "random"}},
        {"bags": {"strategy": "linear"}},
        {"bags": {"strategy": "exponential"}},
        {"bags": {"strategy": "adaptive", "modality_bags": False}},
        {"bags": {"strategy": "adaptive"}, "modalities": ("left",)},
    ],
)
def test_bags_that_do_not_depend_on_utilities_have_no_first_round(store: Path, source: Path, changes: dict) -> None:
    run = small_run(source, **changes)
    ref, plan = planned(run, store)
    assert plan.jobs == ()
    assert bagging.measure_utilities(run, ref, ()) == {}
    assert bagging.bags_of(run, ref, {}) == bagging.bags_of(run, ref)


def test_the_first_round_has_a_linear_learner_for_every_modality(store: Path, source: Path) -> None:
    _, plan = planned(small_run(source, bags=ADAPTIVE), store)
    assert [(job.subset.modalities, job.recipe.learner.kind) for job in plan.jobs] == [
        (("left",), "linear"),
        (("right",), "linear"),
        (("facts",), "linear"),
    ]
    assert "measures what left tells by itself" in plan.jobs[0].reason


def test_the_second_round_contains_the_first(store: Path, source: Path) -> None:
    run = small_run(source, bags=ADAPTIVE)
    ref, first = planned(run, store)
    utilities = {"left": 0.4, "right": 0.2, "facts": 0.0}
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref, utilities))
    both = {job.name: job.fingerprint("cpu") for job in plan.jobs}
    assert {job.name: job.fingerprint("cpu") for job in first.jobs}.items() <= both.items()
    assert len(both) == len(plan.jobs)
    assert bagging.plan_training(run, ref, bagging.bags_of(run, ref, utilities)) == plan


def test_with_folds_the_first_round_trains_every_fold(store: Path, source: Path) -> None:
    run = small_run(source, bags={"strategy": "adaptive", "sampling": "folds", "num_bags": 12, "num_row_draws": 3})
    ref, first = planned(run, store)
    assert [(job.subset.modalities[0], job.subset.fold) for job in first.jobs] == [
        (name, fold) for name in ("left", "right", "facts") for fold in range(3)
    ]
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref, {}))
    assert {job.fingerprint("cpu") for job in first.jobs} <= {job.fingerprint("cpu") for job in plan.jobs}


def test_the_first_round_uses_the_kinds_that_are_allowed(store: Path, source: Path) -> None:
    _, plan = planned(small_run(source, bags=ADAPTIVE, learners={"include": ("tabular_mlp",)}), store)
    assert {job.recipe.learner.kind for job in plan.jobs} == {"tabular_mlp"}


def test_a_text_is_measured_by_its_words() -> None:
    text = ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="note"),))
    vector = ModalitySpec(name="view", kind="vector", shape=(3,))
    spec = DataSpec(modalities=(text, vector), task=TaskSpec.classification(2))
    run = RunConfig.load(dataset="world", bags={"strategy": "adaptive"})
    assert needs_survey(run, spec)
    bags = make_bags(run.bags, spec, 0, {})
    found = survey_choices(run, spec, 100, bags)
    assert [choice.learner.kind for choice in found] == ["tfidf_linear", "linear"]
    assert survey_choices(run, spec, 100, bags, chosen=found[:1]) == found[1:]


def test_the_first_round_keeps_to_the_memory_of_the_budget() -> None:
    views = tuple(ModalitySpec(name=name, kind="vector", shape=(3,)) for name in ("left", "right"))
    spec = DataSpec(modalities=views, task=TaskSpec.classification(2))
    run = RunConfig.load(dataset="world", bags={"strategy": "adaptive"}, budget={"memory_mb": 1})
    with pytest.raises(ConfigError, match="memory"):
        survey_choices(run, spec, 100, make_bags(run.bags, spec, 0, {}))


def test_utilities_are_what_each_modality_tells_beyond_the_prior(store: Path, graded_source: Path) -> None:
    run = small_run(graded_source, bags=ADAPTIVE)
    ref, first = planned(run, store)
    reports = train(first.jobs, store)
    utilities = bagging.measure_utilities(run, ref, reports)
    target = bagging.open_dataset(ref).target()
    train_target = target[bagging.open_dataset(ref).rows("train")]
    commonest = np.bincount(train_target).argmax()
    for report in reports:
        assert report.artifact is not None
        rows, predictions = read_out_of_bag(report.artifact)
        right = predictions[report.modalities[0]].argmax(axis=1) == target[rows]
        gain = right.mean() - (target[rows] == commonest).mean()
        assert utilities[report.modalities[0]] == pytest.approx(max(0.0, gain), abs=1e-12)
    assert utilities["strong"] > utilities["weak"] + 0.1 > utilities["noise"] + 0.15
    assert utilities["noise"] < 0.1


def test_the_bags_of_the_second_round_lack_what_tells_most(store: Path, graded_source: Path) -> None:
    bags = {"num_bags": 60, "strategy": "adaptive", "max_dropout": 1.0, "num_row_draws": 1}
    run = small_run(graded_source, bags=bags)
    ref, first = planned(run, store)
    utilities = bagging.measure_utilities(run, ref, train(first.jobs, store))
    drawn = bagging.bags_of(run, ref, utilities)[7:]
    lack = {name: sum(name not in bag.modalities for bag in drawn) for name in ("strong", "weak", "noise")}
    assert lack["strong"] > lack["weak"] > lack["noise"]


def test_a_modality_whose_learner_failed_has_no_utility(store: Path, source: Path) -> None:
    run = small_run(source, bags=ADAPTIVE)
    ref, first = planned(run, store)
    reports = [*train(first.jobs[:2], store), failed_report(first.jobs[2], "it did not fit")]
    assert set(bagging.measure_utilities(run, ref, reports)) == {"left", "right"}
    assert len(bagging.bags_of(run, ref, bagging.measure_utilities(run, ref, reports))) == 9


def test_adaptive_bags_without_utilities_are_refused(store: Path, source: Path) -> None:
    run = small_run(source, bags=ADAPTIVE)
    ref = bagging.resolve_dataset(run.dataset, store)
    with pytest.raises(ConfigError, match="measure them with a first round"):
        bagging.bags_of(run, ref)


def test_the_gain_over_the_prior_in_closed_form() -> None:
    task = TaskSpec.classification(2)
    target = np.array([0, 0, 0, 1])
    perfect = np.eye(2)[target]
    assert gain_over_prior(task, target, perfect, np.array([0.75, 0.25])) == pytest.approx(0.25)
    assert gain_over_prior(task, target, 1 - perfect, np.array([0.75, 0.25])) == 0.0
    values = np.array([[1.0], [2.0], [3.0], [6.0]])
    regression = TaskSpec.regression()
    assert gain_over_prior(regression, values, values, np.array([3.0])) == pytest.approx(1.0)
    halfway = (values + 3.0) / 2
    assert gain_over_prior(regression, values, halfway, np.array([3.0])) == pytest.approx(0.75)
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], np.float32)
    said = np.array([[0.9, 0.1], [0.2, 0.6], [0.3, 0.7], [0.4, 0.5]])
    expected = average_precision_score(labels, said, average="macro") - labels.mean()
    assert gain_over_prior(TaskSpec.multilabel(2), labels, said, np.array([0.5, 0.5])) == pytest.approx(expected)
