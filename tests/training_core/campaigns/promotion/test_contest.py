"""Champion and challenger on rows that neither was trained on, from real ensembles."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from factories import small_run, write_source

from training_core.artifacts import ArtifactRef
from training_core.campaigns.evaluation.subject import ModelRef, find_model, fresh_rows
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.promotion.contest import Contest, hold_contest
from training_core.campaigns.promotion.decide import PromotionConfig, decide
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.storage.store import DatasetStore
from training_core.errors import DataError
from training_core.schema import DataSpec, Samples
from training_core.selection.combination import PatternWeights
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import EnsembleManifest, Member

CONFIG = PromotionConfig(model="world")
LINEAR = {"learners": {"learners_per_bag": 1, "include": ("linear",)}, "bags": {"num_bags": 3, "num_row_draws": 1}}


@dataclasses.dataclass(frozen=True)
class World:
    store: Path
    narrow: ModelRef
    """Trained on one of three modalities."""
    wide: ModelRef


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("contested")
    source = write_source(place / "source", num_rows=400, noise=1.0)
    models = [
        find_model(
            str(fit_ensemble(small_run(source, **LINEAR, **more), place / "store", processes=False).folder), place
        )
        for more in ({"modalities": ("facts",)}, {})
    ]
    return World(place / "store", *models)


@pytest.fixture(scope="module")
def won(world: World) -> Contest:
    return hold_contest(world.narrow, world.wide, "world", "unseen", world.store)


def test_the_scores_are_those_of_the_models_asked_by_hand(world, won):
    dataset = DatasetStore(world.store / "datasets").open("world")
    samples = dataset.samples(dataset.rows("test"))
    assert (won.num_rows, won.left_out) == (len(samples), 400 - len(samples))
    for model, found in ((world.narrow, won.champion_score), (world.wide, won.challenger_score)):
        assert found == (model.load().predict(samples).values.argmax(axis=1) == samples.target).mean()
    assert won.difference.difference == pytest.approx(won.challenger_score - won.champion_score)
    assert (won.dataset, won.metric, won.unit, won.without_target) == (dataset.ref, "accuracy", "row", 0)
    assert won.checked
    assert len(won.patterns) == 7
    hidden = next(duel for duel in won.patterns if duel.available == ("left",))
    blind = world.narrow.load().predict(samples.without(("facts", "left", "right"))).values
    assert hidden.champion == (blind.argmax(axis=1) == samples.target).mean()


def test_three_modalities_beat_one_and_one_does_not_beat_three(world, won):
    decision = decide(won, CONFIG)
    assert (decision.promote, decision.ground) == (True, "better")
    assert won.loss.p_value < 0.05
    back = hold_contest(world.wide, world.narrow, "world", "unseen", world.store)
    assert back.difference.difference == -won.difference.difference
    assert not decide(back, CONFIG).promote


def test_a_model_against_itself_gains_nothing(world):
    held = hold_contest(world.wide, world.wide, "world", "test", world.store)
    assert (held.difference.difference, held.loss.difference, held.loss.p_value) == (0, 0, 1)
    assert decide(held, CONFIG).ground == "no gain"


def test_rows_that_one_of_both_was_trained_on_judge_nobody(world):
    dataset = DatasetStore(world.store / "datasets").open("world")
    ensemble = world.wide.load()
    fresh = fresh_rows((ensemble, world.narrow.load()), dataset, "unseen")
    assert np.array_equal(fresh.positions, dataset.rows("test"))
    assert (fresh.left_out, fresh.checked) == (400 - len(fresh.positions), True)
    stranger = Ensemble(ensemble.manifest.model_copy(update={"dataset": "elsewhere@0"}), ensemble.folder)
    mine = fresh_rows((ensemble, stranger), dataset, "unseen")
    assert np.array_equal(mine.positions, fresh.positions)  # what one was trained on is out for both
    gone = Ensemble(ensemble.manifest.model_copy(update={"dataset": "world@000000000000"}), ensemble.folder)
    with pytest.raises(DataError, match="not in this store any more"):
        fresh_rows((ensemble, gone), dataset, "unseen")


def test_data_of_another_kind_is_refused_by_name(world, tmp_path_factory):
    made = create_dataset_from_arrays(
        "other", {"left": np.zeros((30, 9))}, np.arange(30.0), task="regression", store=world.store
    )
    made.close()
    with pytest.raises(DataError, match="cannot be asked about other@"):
        hold_contest(world.narrow, world.wide, "other", "test", world.store)


class Echo:
    """A learner that says what two columns of its input hold."""

    def __init__(self, first: int) -> None:
        self.columns = slice(first, first + 2)

    def usable(self, available: Mapping[str, np.ndarray]) -> np.ndarray:
        return available["vec"]

    def predict(self, samples: Samples) -> np.ndarray:
        return np.asarray(samples.inputs["vec"][:, self.columns], float)


class InMemory(ModelRef):
    """A model whose only learner is no file."""

    first: int
    spec: DataSpec

    def load(self) -> Ensemble:
        member = Member(name="echo", folder="", kind="echo", modalities=("vec",))
        known = PatternWeights(available=("vec",), weights={"echo": 1.0}, num_rows=100)
        manifest = EnsembleManifest(
            name=self.name, spec=self.spec, members=(member,), patterns=(known,), prior=(0.0, 0.0), dataset="other@1"
        )
        return Ensemble(manifest, Path(self.name), learners={"echo": Echo(self.first)})


@pytest.mark.parametrize("unit", [1.0, 1e6])
@pytest.mark.parametrize("constant", [False, True])
def test_targets_of_very_different_units_count_alike(tmp_path, unit, constant):
    """The challenger errs less in one target, a little more in the other, whose unit is a small or a large one."""
    draws = np.random.default_rng(0)
    target = draws.normal(loc=(0.0, 0.1), size=(400, 2))
    if constant:  # in the rows that judge
        target[100:, 1] = 0.1
    errors = draws.normal(size=(2, 400, 2)) * np.array([[[0.8, 0.30]], [[0.3, 0.32]]])
    told = np.concatenate([(target + error) * [1.0, unit] for error in errors], axis=1)
    data = create_dataset_from_arrays(
        "two",
        {"vec": told.astype(np.float64)},
        target * [1.0, unit],
        task="regression",
        store=tmp_path,
        split=["train"] * 100 + ["test"] * 300,
        quality={"accept": ["*"]},
    )
    artifact = ArtifactRef(uri=str(tmp_path), sha256="0" * 64)
    old, new = (InMemory(name=f"from-{first}", artifact=artifact, first=first, spec=data.spec) for first in (0, 2))
    held = hold_contest(old, new, "two", "test", tmp_path)
    assert held.num_rows == 300
    if constant:  # there is nothing to measure its errors by: they count in their own unit
        assert (held.loss.difference > 0) == (unit == 1.0)
        return
    assert held.loss.difference == pytest.approx((0.8**2 - 0.3**2 + 0.30**2 - 0.32**2) / 2, rel=0.2)
    assert decide(held, CONFIG).promote


@pytest.mark.parametrize("task", ["regression", "multilabel"])
@pytest.mark.slow
def test_other_tasks_are_contested_alike(tmp_path, task):
    random = np.random.default_rng(0)
    left, right = random.normal(size=(2, 300, 3))
    signal = left[:, 0] + right[:, 0]
    if task == "regression":
        target: np.ndarray = np.stack([signal, signal**2], axis=1) + 0.1 * random.normal(size=(300, 2))
    else:
        target = (np.stack([signal, right[:, 1]], axis=1) + 0.7 * random.normal(size=(300, 2)) > 0).astype(int)
    models = []
    for modalities in (("left",), ()):
        found = fit_ensemble(
            {"left": left, "right": right},
            tmp_path,
            target=target,
            task=task,
            name="task",
            split={"test": 0.4},
            processes=False,
            preset="quick",
            modalities=modalities,
            **LINEAR,
        )
        models.append(find_model(str(found.folder), tmp_path))
    held = hold_contest(*models, "task", "unseen", tmp_path)
    assert held.metric == ("r2" if task == "regression" else "mean_average_precision")
    assert held.num_rows == 120
    assert held.difference.difference > 0
    assert decide(held, CONFIG).promote
    assert not decide(hold_contest(*models[::-1], "task", "unseen", tmp_path), CONFIG).promote


@pytest.mark.slow
def test_a_class_that_only_the_challenger_knows_counts_for_it(tmp_path):
    """The next version of the data has a class more: the champion is never right about it, but is asked."""
    random = np.random.default_rng(0)
    models = []
    for classes in (2, 3):
        label = np.arange(150 * classes) % classes
        values = np.eye(3)[label] + 0.3 * random.normal(size=(len(label), 3))
        found = fit_ensemble(
            {"vec": values},
            tmp_path,
            target=np.array(["blue", "green", "azure"])[label],
            task="classification",
            name="grown",
            split={"test": 0.4},
            processes=False,
            preset="quick",
            **LINEAR,
        )
        models.append(find_model(str(found.folder), tmp_path))
    held = hold_contest(*models, "grown", "test", tmp_path)
    assert held.champion_score < 0.75 < held.challenger_score
    assert decide(held, CONFIG).promote
