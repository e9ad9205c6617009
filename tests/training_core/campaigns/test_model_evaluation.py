import dataclasses
from pathlib import Path

import numpy as np
import pytest
from factories import small_run, write_source

from training_core.artifacts import open_published
from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.evaluation.config import EvaluationConfig
from training_core.campaigns.evaluation.keeping import headline_figures, keep, to_markdown
from training_core.campaigns.evaluation.measure import evaluate
from training_core.campaigns.evaluation.oracle import oracle_runs, train_oracle
from training_core.campaigns.evaluation.outcome import BEST_SINGLE, ENSEMBLE, PLAIN_MEAN, EvaluationReport
from training_core.campaigns.evaluation.page import write_html
from training_core.campaigns.evaluation.predictors import best_for, predictors_of
from training_core.campaigns.evaluation.subject import find_model, judged_rows, require_same_samples
from training_core.campaigns.library import fit_ensemble
from training_core.data.storage.store import DatasetStore
from training_core.errors import ConfigError, DataError
from training_core.jobs import DatasetRef


@dataclasses.dataclass(frozen=True)
class World:
    store: Path
    source: Path
    ref: DatasetRef
    folder: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("evaluated")
    source = write_source(place / "source", num_rows=300)
    ensemble = fit_ensemble(
        small_run(source, learners={"learners_per_bag": 1, "include": ("linear",)}), place / "store", processes=False
    )
    return World(place / "store", source, resolve_dataset("world", place / "store"), str(ensemble.folder))


@pytest.fixture(scope="module")
def report(world: World) -> EvaluationReport:
    request = EvaluationConfig(model=world.folder, dataset="world", num_resamples=200, rates=(0.3, 0.9), trackers=())
    return evaluate(request, [find_model(world.folder, world.store)], world.ref, world.store)


def test_the_report_agrees_with_the_ensemble_asked_by_hand(world, report):
    ensemble = find_model(world.folder, world.store).load()
    dataset = DatasetStore(world.store / "datasets").open("world")
    samples = dataset.samples(dataset.rows("test"))
    predicted = ensemble.predict(samples).values
    assert report.score == (predicted.argmax(axis=1) == samples.target).mean()
    assert report.full.interval.low < report.score < report.full.interval.high or report.score == 1
    for one in report.patterns:
        hidden = ensemble.predict(samples.without(one.ensemble.missing)).values
        assert one.ensemble.score == (hidden.argmax(axis=1) == samples.target).mean()
        mean = ensemble.predict(samples.without(one.ensemble.missing), weighting="mean").values
        assert one.plain_mean == (mean.argmax(axis=1) == samples.target).mean()
    assert len(report.patterns) == 7
    assert report.rows.num_rows == len(samples)
    assert (report.rows.trained_on, report.rows.checked, report.rows.unit) == (0, True, "row")


def test_every_part_is_there_and_says_on_how_many_rows(report):
    num = report.rows.num_rows
    assert [one.predictor for one in report.predictors] == [ENSEMBLE, BEST_SINGLE, PLAIN_MEAN]
    parts = [*report.predictors, *report.curves, report.selective, *report.conflict, *report.modalities]
    assert {one.num_rows for one in parts} == {num}
    assert {one.calibration.num_rows for one in report.patterns} == {num}
    assert len(report.curves) == 6
    assert [point.rate for point in report.curve(ENSEMBLE, "block").points] == [0.0, 0.3, 0.9]
    assert report.curve(ENSEMBLE, "random").points[0].score == report.score
    assert report.cost.size_bytes > 0
    assert report.cost.milliseconds_single > 0
    assert report.cost.cpu_seconds is None
    with pytest.raises(KeyError):
        report.curve("nobody", "random")


def test_worth_sums_to_what_is_gained_over_knowing_nothing(world, report):
    ensemble = find_model(world.folder, world.store).load()
    dataset = DatasetStore(world.store / "datasets").open("world")
    samples = dataset.samples(dataset.rows("test"))
    nothing = ensemble.predict(samples.without(ensemble.spec.names)).values
    gained = report.score - (nothing.argmax(axis=1) == samples.target).mean()
    assert sum(one.shapley for one in report.modalities) == pytest.approx(gained)
    assert sum(one.shapley_share for one in report.modalities) == pytest.approx(1)
    assert sum(one.weight_share for one in report.modalities) == pytest.approx(1)
    for one in report.modalities:
        assert one.interval.low <= one.shapley <= one.interval.high


def test_the_best_single_learner_is_one_that_can_answer(world):
    ensemble = find_model(world.folder, world.store).load()
    dataset = DatasetStore(world.store / "datasets").open("world")
    samples = dataset.samples(dataset.rows("test"))
    alone = next(one for one in predictors_of(ensemble, samples) if one.name == BEST_SINGLE)
    for name in ensemble.spec.names:
        assert (alone.under(frozenset({name})).num_learners == 1).all()
        assert (alone.of(samples.without({name})).num_learners == 1).all()
    shown = np.zeros((len(samples), 3), bool)
    shown[np.arange(len(samples)), np.arange(len(samples)) % 3] = True
    assert (alone.shown(shown).num_learners == 1).all()
    assert best_for(ensemble, frozenset()) == ensemble.best_single


def test_the_report_survives_json_and_its_page_stands_alone(world, report, tmp_path):
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    page = write_html(report)
    assert page.count("<h2>") == 9
    assert not any(word in page for word in ("<script", "src=", "href=", "url(", "@import", "nan", "None"))
    assert "world@" in to_markdown(report)
    kept = keep(report, world.store, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.html", "evaluation.json"}
    assert kept.report == str(tmp_path / "out" / "evaluation.html")
    assert keep(report, world.store).folder == keep(report, world.store).folder
    figures = headline_figures(report)
    assert figures["test/accuracy"] == report.score
    assert all(np.isfinite(value) for value in figures.values())


def test_another_model_is_compared_on_the_same_rows(world):
    rival = fit_ensemble(
        small_run(world.source, learners={"learners_per_bag": 1, "include": ("linear",)}, seed=1),
        world.store,
        processes=False,
    )
    models = [find_model(str(folder), world.store) for folder in (world.folder, rival.folder)]
    request = EvaluationConfig(model=world.folder, dataset="world", num_resamples=200, rates=(0.5,), trackers=())
    found = evaluate(request, models, world.ref, world.store).predictors[-1]
    assert (found.predictor, found.detail) == ("other model", str(rival.folder))
    assert found.lead is not None
    assert found.adjusted_p_value == found.lead.p_value  # one rival alone


def test_rows_a_model_was_trained_on_never_judge(world):
    ensemble = find_model(world.folder, world.store).load()
    dataset = DatasetStore(world.store / "datasets").open("world")
    rows, left_out, checked = judged_rows(ensemble, dataset, "unseen")
    assert sorted(rows) == sorted(dataset.rows("test"))
    assert left_out == len(dataset) - len(rows)
    assert checked
    gone = ensemble.manifest.model_copy(update={"dataset": "world@0000000000"})
    stranger = type(ensemble)(gone, ensemble.folder)
    assert judged_rows(stranger, dataset, "test")[2] is False
    with pytest.raises(DataError, match="not in this store any more"):
        judged_rows(stranger, dataset, "unseen")


def test_data_of_another_kind_is_refused_with_what_differs(world, tmp_path):
    ensemble = find_model(world.folder, world.store).load()
    text = write_source(tmp_path / "other", name="other")
    text.write_text(text.read_text().replace("columns: [size, shop]", "columns: [shop]"))
    other = resolve_dataset(str(text), world.store)
    with pytest.raises(DataError, match="takes 'facts' as tabular"):
        require_same_samples(ensemble, DatasetStore(Path(other.root)).open(other.label), "the model")


def test_a_model_that_is_not_there_is_an_error(world):
    with pytest.raises(ConfigError, match="no ensemble in"):
        find_model(str(world.store / "nowhere"), world.store)


@pytest.mark.slow
def test_many_modalities_are_judged_one_missing_and_one_alone(tmp_path):
    draws = np.random.default_rng(0)
    target = np.arange(240) % 3
    arrays = {
        f"m{i}": (draws.normal(size=(3, 3))[target] + draws.normal(size=(240, 3))).astype(np.float32) for i in range(7)
    }
    learners = {"learners_per_bag": 1, "include": ("linear",)}
    ensemble = fit_ensemble(
        arrays, tmp_path, target=target, split={"test": 0.3}, name="many", preset="tiny", learners=learners,
        processes=False,
    )  # fmt: skip
    request = EvaluationConfig(
        model=str(ensemble.folder), dataset="many", num_resamples=200, rates=(0.5,), repeats=1, trackers=()
    )
    model = find_model(str(ensemble.folder), tmp_path)
    found = evaluate(request, [model], resolve_dataset("many", tmp_path), tmp_path)
    assert len(found.patterns) == 1 + 7 + 7
    assert {len(run.modalities) for run in oracle_runs(model, tmp_path)} == {6}
    assert len(found.modalities) == 7
    assert sum(one.shapley_share for one in found.modalities) == pytest.approx(1)
    assert "nan" not in write_html(found)


@pytest.mark.slow
def test_an_oracle_is_trained_on_just_the_modalities_that_are_left(world):
    model = find_model(world.folder, world.store)
    runs = oracle_runs(model, world.store)
    assert {run.modalities for run in runs} == {
        ("left",), ("right",), ("facts",), ("left", "right"), ("left", "facts"), ("right", "facts")
    }  # fmt: skip
    assert {run.dataset for run in runs} == {model.load().manifest.dataset}
    only = small_run(world.ref.label, modalities=("right",), learners={"learners_per_bag": 1, "include": ("linear",)})
    oracle = train_oracle(only, world.store)
    assert oracle.artifact == open_published(oracle.artifact.path)
    request = EvaluationConfig(model=world.folder, dataset="world", num_resamples=200, rates=(0.5,), trackers=())
    found = evaluate(request, [model], world.ref, world.store, [oracle])
    judged = {one.ensemble.available: one.oracle for one in found.patterns}
    assert [available for available, one in judged.items() if one is not None] == [("right",)]
    gap = judged[("right",)]
    assert gap is not None
    ours = next(one for one in found.patterns if one.ensemble.available == ("right",))
    assert gap.gap.difference == pytest.approx(gap.score - ours.ensemble.score)
    assert "oracle" in write_html(found)
