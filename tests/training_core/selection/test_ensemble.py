from pathlib import Path

import numpy as np
import pytest

from training_core.errors import DataError, StorageError
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.selection.combination import PatternWeights
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import EnsembleManifest, Member, with_inherited

NAMES = ("pix", "fou", "pro")
CLASSES = TaskSpec.classification("abc")
VALUES = TaskSpec.regression()


def spec(task=CLASSES):
    return DataSpec(modalities=tuple(ModalitySpec(name=n, kind="vector", shape=(3,)) for n in NAMES), task=task)


class Fake:
    """Answers with the mean of its available modalities; those it does not tolerate the absence of must be there."""

    def __init__(self, modalities, tolerates=(), broken=False):
        self.modalities, self.tolerates, self.broken = modalities, set(tolerates), broken
        self.calls = 0

    def usable(self, available):
        own = np.stack([available[n] for n in self.modalities])
        needed = [available[n] for n in self.modalities if n not in self.tolerates]
        return np.logical_and.reduce([own.any(axis=0), *needed])

    def predict(self, samples):
        self.calls += 1
        own = np.stack([np.where(samples.available[n][:, None], samples.inputs[n], 0.0) for n in self.modalities])
        count = np.maximum(np.stack([samples.available[n] for n in self.modalities]).sum(axis=0), 1)[:, None]
        values = np.where(self.usable(samples.available)[:, None], own.sum(axis=0) / count, np.nan)
        return values * np.inf if self.broken else values


def samples(num_rows=12, seed=0, missing=0.0):
    draws = np.random.default_rng(seed)
    available = {n: draws.random(num_rows) >= missing for n in NAMES}
    inputs = {n: draws.dirichlet(np.ones(3), num_rows) for n in NAMES}
    inputs = {n: np.where(available[n][:, None], inputs[n], np.nan) for n in NAMES}
    return Samples(inputs=inputs, available=available, ids=np.array([str(i) for i in range(num_rows)], dtype=object))


def learned(available, weights, **more):
    return PatternWeights(available=available, weights=weights, num_rows=100, **more)


def ensemble(patterns, learners=None, task=CLASSES, **more):
    learners = learners or {"p": Fake(("pix",)), "f": Fake(("fou",)), "pf": Fake(("pix", "fou"), ("pix", "fou"))}
    members = tuple(
        Member(name=n, folder=f"members/{n}", kind="fake", modalities=learner.modalities, score=0.5)
        for n, learner in learners.items()
    )
    prior = (0.5, 0.3, 0.2) if task.kind == "classification" else (7.0,)
    manifest = EnsembleManifest(
        name="toy", spec=spec(task), members=members, patterns=tuple(patterns), prior=prior, **more
    )
    return Ensemble(manifest, Path("/nowhere"), learners=learners)


FULL = learned(NAMES, {"p": 0.25, "f": 0.75}, best_single="f")
ONLY_PIX = learned(("pix",), {"p": 0.5, "pf": 0.5}, temperature=2.0, best_single="p")


def test_a_full_row_is_the_weighted_mean_of_its_pattern():
    data = samples()
    found = ensemble([FULL, ONLY_PIX]).predict(data)
    assert found.values == pytest.approx(0.25 * data.inputs["pix"] + 0.75 * data.inputs["fou"], abs=1e-5)
    assert found.confidence == pytest.approx(found.values.max(axis=1))
    assert found.num_learners.tolist() == [2] * 12
    assert found.std is None


def test_each_row_uses_the_weights_and_the_temperature_of_its_own_pattern():
    data = samples(2)
    data.available["fou"][1] = data.available["pro"][1] = False
    found = ensemble([FULL, ONLY_PIX]).predict(data)
    flat = np.sqrt(data.inputs["pix"][1])
    assert found.values[1] == pytest.approx(flat / flat.sum(), abs=1e-5)
    assert found.values[0] == pytest.approx(0.25 * data.inputs["pix"][0] + 0.75 * data.inputs["fou"][0], abs=1e-5)


def test_a_pattern_that_is_not_listed_borrows_the_summed_weights_and_the_nearest_temperature():
    toy = ensemble([FULL, ONLY_PIX])
    rule = toy.rule(frozenset({"pix", "pro"}))
    # p has .25 + .5, pf has .5, f cannot answer
    assert rule.weights == pytest.approx({"p": 0.6, "pf": 0.4})
    assert rule.learned.temperature == 1.0  # as far from the full set as from pix alone: the first
    assert toy.rule(frozenset({"fou"})).weights == pytest.approx({"f": 0.6, "pf": 0.4})


def test_without_any_learned_weight_every_learner_that_can_answer_counts_the_same():
    assert ensemble([learned(NAMES, {"p": 1.0})]).rule(frozenset({"fou"})).weights == {"f": 0.5, "pf": 0.5}


def test_a_row_nobody_can_answer_for_gets_the_prior():
    data = samples(3)
    for name in ("pix", "fou"):
        data.available[name][1] = False
    data.available["pro"][2] = data.available["pix"][2] = data.available["fou"][2] = False
    toy = ensemble([FULL, ONLY_PIX])
    for found in (toy.predict(data), toy.predict(data, weighting="mean"), toy.predict_member("f", data)):
        assert found.values[1:] == pytest.approx(np.array([[0.5, 0.3, 0.2]] * 2))
        assert found.num_learners[1:].tolist() == [0, 0]
        assert found.confidence[1:] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("weighting", ["selected", "mean"])
def test_no_number_is_ever_nan_whatever_is_missing(weighting):
    data = samples(300, missing=0.6)
    found = ensemble([FULL, ONLY_PIX]).predict(data, weighting=weighting)
    assert np.isfinite(found.values).all() and np.isfinite(found.confidence).all()
    assert found.values.sum(axis=1) == pytest.approx(np.ones(300))


def test_a_learner_whose_answer_is_not_finite_is_passed_over():
    learners = {"p": Fake(("pix",)), "f": Fake(("fou",), broken=True)}
    data = samples(5)
    found = ensemble([learned(NAMES, {"p": 0.5, "f": 0.5})], learners).predict(data)
    assert found.values == pytest.approx(data.inputs["pix"], abs=1e-5)
    only_broken = ensemble([learned(NAMES, {"f": 1.0})], {"f": Fake(("fou",), broken=True)}).predict(data)
    assert only_broken.values == pytest.approx(np.tile([0.5, 0.3, 0.2], (5, 1)))


def test_a_row_is_answered_the_same_in_any_company():
    data = samples(80, missing=0.4)
    toy = ensemble([FULL, ONLY_PIX])
    whole = toy.predict(data)
    order = np.random.default_rng(1).permutation(80)
    for rows in [order, order[:7], np.array([3])]:
        part = toy.predict(data.take(rows))
        assert part.values == pytest.approx(whole.values[rows], abs=1e-12)
        assert part.confidence == pytest.approx(whole.confidence[rows], abs=1e-12)


def test_many_rows_are_predicted_in_blocks(monkeypatch):
    data = samples(50, missing=0.3)
    whole = ensemble([FULL, ONLY_PIX]).predict(data)
    monkeypatch.setattr("training_core.selection.ensemble._BLOCK_ROWS", 7)
    blocks = ensemble([FULL, ONLY_PIX]).predict(data)
    assert np.array_equal(blocks.values, whole.values)
    assert np.array_equal(blocks.num_learners, whole.num_learners)


def test_hiding_a_modality_is_the_same_as_missing_it():
    data = samples(30, missing=0.2)
    toy = ensemble([FULL, ONLY_PIX])
    hidden = toy.under_patterns(data).predict(frozenset({"pix", "pro"}))
    assert np.array_equal(hidden.values, toy.predict(data.without({"fou"})).values)


def test_a_table_of_patterns_asks_a_learner_once_per_part_of_its_own_modalities():
    learners = {"p": Fake(("pix",)), "pf": Fake(("pix", "fou"), ("pix", "fou"))}
    under = ensemble([learned(NAMES, {"p": 0.5, "pf": 0.5})], learners).under_patterns(samples())
    for pattern in ({"pix", "fou", "pro"}, {"pix", "fou"}, {"pix", "pro"}, {"pix"}, {"fou"}, {"fou", "pro"}):
        under.predict(frozenset(pattern))
        under.predict(frozenset(pattern), weighting="mean")
        under.predict_member("pf", frozenset(pattern))
    assert learners["p"].calls == 1  # with pix; without it, it is known to have no answer
    assert learners["pf"].calls == 3  # both, pix alone, fou alone


def test_the_plain_mean_counts_every_usable_learner_the_same_and_calibrates_nothing():
    data = samples(4)
    data.available["fou"][:] = False
    found = ensemble([FULL, learned(("pix", "pro"), {"p": 1.0}, temperature=3.0)]).predict(data, weighting="mean")
    assert found.values == pytest.approx(data.inputs["pix"], abs=1e-5)  # p and pf both say pix
    assert found.num_learners.tolist() == [2] * 4


def test_one_member_by_itself_is_not_calibrated():
    data = samples(4)
    toy = ensemble([FULL, ONLY_PIX])
    assert toy.best_single == "f"
    assert toy.predict_member("f", data).values == pytest.approx(data.inputs["fou"])


def test_regression_says_how_far_off_it_may_be_and_is_less_sure_without_a_modality():
    patterns = [
        learned(NAMES, {"p": 0.5, "f": 0.5}, explained=0.9, error_std=(1.0,)),
        learned(("pix",), {"p": 1.0}, explained=0.4, error_std=(3.0,)),
    ]
    data = samples(3)
    narrow = {n: values[:, :1] for n, values in data.inputs.items()}
    data = Samples(narrow, data.available, data.ids)
    data.available["fou"][1] = data.available["pro"][1] = False
    for name in NAMES:
        data.available[name][2] = False
    learners = {"p": Fake(("pix",)), "f": Fake(("fou",))}
    found = ensemble(patterns, learners, VALUES, prior_std=(9.0,)).predict(data)
    assert found.std is not None
    assert found.std[:, 0].tolist() == [1.0, 3.0, 9.0]
    assert found.confidence.tolist() == [0.9, 0.4, 0.0]
    assert found.values[2, 0] == 7.0


def test_patterns_with_few_rows_inherit_the_calibration_of_the_nearest():
    poor = PatternWeights(available=("pix", "fou"), weights={"p": 1.0}, temperature=1.0, num_rows=20)
    rich = learned(NAMES, {"p": 1.0}, temperature=1.7)
    found = with_inherited([rich, ONLY_PIX, poor], min_rows=50)
    assert [pattern.temperature for pattern in found] == [1.7, 2.0, 1.7]
    assert with_inherited([poor], min_rows=50)[0].temperature == 1.0


def test_no_rows_give_no_predictions():
    found = ensemble([FULL]).predict(samples().take(np.zeros(0, np.int64)))
    assert found.values.shape == (0, 3)
    assert len(found) == 0


def test_samples_without_a_modality_of_the_spec_are_refused_by_name():
    with pytest.raises(DataError, match="no modality fou"):
        ensemble([FULL]).predict(samples().select(["pix", "pro"]))


def test_an_unknown_learner_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="it has p, f, pf"):
        ensemble([FULL]).learner("q")


def test_a_folder_without_an_ensemble_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no ensemble that can be read"):
        Ensemble.load(tmp_path)
    (tmp_path / "ensemble.json").write_text('{"name": "x"')
    with pytest.raises(StorageError, match="train it again"):
        Ensemble.load(tmp_path)
