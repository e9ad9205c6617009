from types import SimpleNamespace

import numpy as np
import pytest

from training_core.artifacts import publish_directory
from training_core.data.views import HeldSamples
from training_core.engine.train import train_learner
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.errors import DataError, GateError
from training_core.evaluation.patterns import pattern_table
from training_core.learners import LinearConfig, TabularMLPConfig
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec, pattern_key, patterns_to_judge
from training_core.selection.combination import CombinationConfig
from training_core.selection.conclude import Candidate, conclude, learn_patterns
from training_core.selection.ensemble import Ensemble
from training_core.selection.evidence import OutOfBag
from training_core.selection.leaderboard import leaderboard

NAMES = ("good", "weak", "noise")
CLASSES = TaskSpec.classification("abc")
VALUES = TaskSpec.regression(["u", "v"])


def spec(task=CLASSES):
    return DataSpec(modalities=tuple(ModalitySpec(name=n, kind="vector", shape=(4,)) for n in NAMES), task=task)


def world(num_rows, task=CLASSES, missing=0.15, seed=0):
    """Three vectors that know much, little and nothing of the target."""
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(2, 3, 4))
    code = draws.integers(0, 3, num_rows)
    inputs = {n: draws.normal(size=(num_rows, 4)) for n in NAMES}
    inputs["good"] += 1.2 * centres[0][code]
    inputs["weak"] += 0.6 * centres[1][code]
    available = {n: draws.random(num_rows) >= missing for n in NAMES}
    available["noise"] |= ~np.any([available["good"], available["weak"]], axis=0)
    inputs = {n: np.where(available[n][:, None], values, np.nan) for n, values in inputs.items()}
    target = code
    if task.kind == "regression":
        target = np.column_stack([code * 100.0, -code + draws.normal(size=num_rows) * 0.1])
    if task.kind == "multilabel":
        target = np.eye(3, dtype=np.float32)[code]
    ids = np.array([f"s{i}" for i in range(num_rows)], dtype=object)
    return Samples(inputs, available, ids, target)


def candidates(folder, data, positions, task=CLASSES, num_bags=6):
    """Linear learners on every modality set, trained on random parts of the rows and judged on the others."""
    masks = [NAMES, ("good",), ("weak",), ("noise",), ("good", "weak"), ("good", "noise")]
    found = []
    for bag in range(num_bags):
        own = masks[bag % len(masks)]
        inside = np.random.default_rng(bag).random(len(data)) < 0.7
        learner, _ = train_learner(
            LinearConfig(strength=1.0),
            HeldSamples(data.take(np.flatnonzero(inside)), spec(task)),
            None,
            spec(task).select(own),
            {},
            TrainingConfig(),
            0,
        )
        outside = np.flatnonzero(~inside)
        place = folder / f"learner-{bag}"
        place.mkdir(parents=True)
        learner.save(place)
        found.append(candidate(f"bag-{bag}", "linear", own, place, learner, data.take(outside), positions[outside]))
    return found


def candidate(name, kind, own, place, learner, outside, rows):
    heard = {}
    for pattern in patterns_to_judge(NAMES, 6):
        key = pattern_key(pattern, own)
        if key and (len(key.split("+")) == len(own) or learner.tolerates):
            heard[key] = learner.predict(outside.without(set(own) - pattern))
    return Candidate(name, kind, own, place, rows, heard, score=0.5)


def concluded(tmp_path, data, task=CLASSES, config=None, **more):
    positions = np.arange(len(data)) * 3 + 5
    chosen = candidates(tmp_path / "learners", data, positions, task)
    final = tmp_path / "ensemble"
    with publish_directory(final) as folder:
        conclude(
            folder, name="toy", spec=spec(task), candidates=chosen, rows=positions, target=data.target,
            available=data.available, config=config, **more,
        )  # fmt: skip
    return Ensemble.load(final)


@pytest.mark.parametrize("task", [CLASSES, VALUES, TaskSpec.multilabel("xyz")], ids=lambda task: task.kind)
def test_an_ensemble_on_disk_predicts_under_every_pattern(tmp_path, task):
    ensemble = concluded(tmp_path, world(400, task), task, dataset="toy@1", seed=3)
    test = world(400, task, seed=1)
    under = ensemble.under_patterns(test)
    table = {row.available: row for row in pattern_table(task, under.predict, test.target, NAMES)}
    assert table[NAMES].score > table[("weak",)].score
    assert table[("good",)].score > table[("weak",)].score >= table[("noise",)].score
    assert table[NAMES].confidence > table[("weak",)].confidence >= table[("noise",)].confidence
    for pattern in patterns_to_judge(NAMES):
        found = under.predict(pattern)
        assert np.isfinite(found.values).all() and np.isfinite(found.confidence).all()
    best = under.predict_member(ensemble.best_single)
    assert "good" in {m.name: m.modalities for m in ensemble.members}[ensemble.best_single]
    assert np.isfinite(best.values).all()


def test_the_learners_of_the_noise_get_hardly_any_weight(tmp_path):
    ensemble = concluded(tmp_path, world(600))
    weights = ensemble.weights()
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["bag-3"] < 0.05
    assert sum(ensemble.weights(frozenset({"noise"})).values()) == 0.0  # where nothing else is left, nothing is known
    nothing = ensemble.under_patterns(world(50, seed=2)).predict(frozenset({"noise"}))
    assert nothing.values == pytest.approx(np.tile(ensemble.manifest.prior, (50, 1)))
    assert nothing.num_learners.max() == 0


def test_confidence_is_honest_under_every_pattern(tmp_path):
    ensemble = concluded(tmp_path, world(1500))
    test = world(2000, seed=1)
    for row in pattern_table(CLASSES, ensemble.under_patterns(test).predict, test.target, NAMES):
        assert abs(row.confidence - row.score) < 0.05, row.available
        assert row.ece is not None and row.ece < 0.07, row.available


def test_the_same_inputs_give_the_same_description(tmp_path):
    data = world(200)
    first = concluded(tmp_path / "a", data, seed=1, config=CombinationConfig(max_rows=60))
    second = concluded(tmp_path / "b", data, seed=1, config=CombinationConfig(max_rows=60))
    third = concluded(tmp_path / "c", data, seed=2, config=CombinationConfig(max_rows=60))
    assert first.manifest == second.manifest
    assert first.manifest.patterns != third.manifest.patterns
    assert first.manifest.patterns[0].num_rows <= 60


def test_loading_gives_what_was_concluded(tmp_path):
    ensemble = concluded(tmp_path, world(200), dataset="toy@1", dataset_fingerprint="f" * 64, seed=4)
    again = Ensemble.load(tmp_path / "ensemble")
    assert again.manifest == ensemble.manifest
    assert again.manifest.patterns[0].available == NAMES
    assert again.manifest.dataset == "toy@1"
    assert again.task == CLASSES
    assert set(again.kept) <= {member.name for member in again.members}


def test_a_pattern_is_learned_from_the_rows_that_have_all_of_it(tmp_path):
    data = world(400, missing=0.3)
    positions = np.arange(400)
    chosen = candidates(tmp_path, data, positions)
    config = CombinationConfig()
    heard = OutOfBag(spec(), chosen, positions, data.target, data.available, config, 0)
    learned = learn_patterns(heard, config, 0)
    whole = np.logical_and.reduce(list(data.available.values())).sum()
    assert learned[0].available == NAMES
    assert 50 <= learned[0].num_rows <= whole
    alone = next(found for found in learned if found.available == ("good",))
    assert whole < alone.num_rows <= data.available["good"].sum()


def test_the_prior_is_the_frequency_of_the_classes(tmp_path):
    data = world(90)
    ensemble = concluded(tmp_path, data)
    counts = np.bincount(data.target)
    assert ensemble.manifest.prior == pytest.approx((counts + 1 / 3) / 91)
    nothing = ensemble.predict(data.take(np.arange(2)).without(NAMES))
    assert nothing.values == pytest.approx(np.tile(ensemble.manifest.prior, (2, 1)))


def test_nothing_to_combine_is_a_gate_error(tmp_path):
    data = world(30)
    with pytest.raises(GateError, match="no learner trained"):
        conclude(
            tmp_path,
            name="x",
            spec=spec(),
            candidates=[],
            rows=np.arange(30),
            target=data.target,
            available=data.available,
        )


def test_rows_of_another_dataset_are_refused(tmp_path):
    data = world(100)
    chosen = candidates(tmp_path, data, np.arange(100), num_bags=1)
    with pytest.raises(DataError, match="not training rows"):
        OutOfBag(spec(), chosen, np.arange(50), data.target[:50], data.available, CombinationConfig(), 0)


def test_a_net_and_a_linear_learner_make_an_ensemble_that_survives_a_missing_modality(tmp_path):
    """From training to a prediction on disk, with the real learners and their real files."""
    data, own = world(300, missing=0.0), ("good", "weak")
    inside, outside = np.arange(200), np.arange(200, 300)
    chosen = []
    for name, config in (("net", TabularMLPConfig(width=32)), ("line", LinearConfig())):
        learner, _ = train_learner(
            config,
            HeldSamples(data.take(inside), spec()),
            None,
            spec().select(own),
            {},
            TrainingConfig(epochs=15, lr=3e-3),
            seed=0,
        )
        place = tmp_path / name
        place.mkdir()
        learner.save(place)
        chosen.append(candidate(name, config.kind, own, place, learner, data.take(outside), outside))
        assert np.array_equal(TrainedLearner.load(place).predict(data), learner.predict(data), equal_nan=True)
    with publish_directory(tmp_path / "ensemble") as folder:
        conclude(
            folder, name="pair", spec=spec(), candidates=chosen, rows=np.arange(300), target=data.target,
            available=data.available,
        )  # fmt: skip
    ensemble = Ensemble.load(tmp_path / "ensemble")
    test = world(300, missing=0.0, seed=5)
    full = ensemble.predict(test)
    half = ensemble.predict(test.without({"weak"}))
    assert (full.values.argmax(axis=1) == test.target).mean() > 0.6
    assert (half.values.argmax(axis=1) == test.target).mean() > 0.5
    assert half.num_learners.tolist() == [1] * 300  # only the net was trained to do without
    assert half.confidence.mean() < full.confidence.mean()


def test_the_leaderboard_puts_the_best_first_and_failures_last():
    def report(name, score, status="trained"):
        return SimpleNamespace(
            name=name, learner="linear", modalities=("good",), bag="bag-0", score=score, seconds=1.5,
            size_bytes=2_000_000, status=status,
        )  # fmt: skip

    rows = leaderboard([report("a", 0.7), report("x", None, "failed"), report("b", 0.9), report("c", 0.9)], {"b": 0.6})
    assert [row.name for row in rows] == ["b", "c", "a", "x"]
    assert [row.weight for row in rows] == [0.6, 0.0, 0.0, 0.0]
    assert rows[0].megabytes == 2.0
    assert rows[-1].status == "failed"
