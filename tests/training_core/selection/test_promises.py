"""What an ensemble promises about its answers, on worlds whose learners are cheap and whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from training_core.evaluation.metrics import calibration_error, loss
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec, pattern_key, patterns_to_judge
from training_core.selection.answering import calibrated_values, with_promise
from training_core.selection.combination import CombinationConfig, PatternWeights, combine_pattern
from training_core.selection.conclude import Candidate, conclude, learn_patterns, learn_worth
from training_core.selection.conformal import ConformalRule, prediction_sets
from training_core.selection.ensemble import Ensemble
from training_core.selection.evidence import Evidence, OutOfBag
from training_core.selection.manifest import EnsembleManifest, Member
from training_core.selection.pooling import pool

NAMES = ("strong", "weak", "noise")
CLASSES, LABELS, VALUES = TaskSpec.classification("abc"), TaskSpec.multilabel("xyz"), TaskSpec.regression(["u", "v"])
TASKS = [CLASSES, LABELS, VALUES]
SIGNAL = {"strong": 2.0, "weak": 1.0, "noise": 0.0}


def spec(task):
    return DataSpec(modalities=tuple(ModalitySpec(name=n, kind="vector", shape=(3,)) for n in NAMES), task=task)


def world(task, num_rows, seed, missing=0.0):
    """Every modality shows the truth through noise of its own; the fewer there are, the less can be known."""
    draws = np.random.default_rng(seed)
    if task.kind == "classification":
        target = draws.integers(0, 3, num_rows)
        truth = np.eye(3)[target] - 1 / 3
    elif task.kind == "multilabel":
        target = (draws.random((num_rows, 3)) < 0.4).astype(np.float32)
        truth = target - 0.5
    else:
        target = draws.normal(size=(num_rows, 2)) * [1.0, 100.0]
        truth = np.column_stack([target / [1.0, 100.0], np.zeros(num_rows)])
    inputs = {n: SIGNAL[n] * truth + draws.normal(size=(num_rows, 3)) for n in NAMES}
    available = {n: draws.random(num_rows) >= missing for n in NAMES}
    return Samples(inputs, available, np.arange(num_rows).astype(str).astype(object), target)


class Reader:
    """Adds up the evidence of the modalities it is left with, more or less too loudly, with errors of its own."""

    def __init__(self, task, modalities, loudness=1.0, seed=0):
        self.task, self.modalities, self.loudness, self.seed = task, modalities, loudness, seed

    def usable(self, available):
        return np.logical_or.reduce([available[n] for n in self.modalities])

    def predict(self, samples):
        odds, square = 0.0, 0.0
        for name in self.modalities:
            here = samples.available[name][:, None]
            odds = odds + np.where(here, SIGNAL[name] * samples.inputs[name], 0.0)
            square = square + here * SIGNAL[name] ** 2
        odds = odds + np.random.default_rng(self.seed).normal(size=(len(samples), 3)) * 0.3
        if self.task.kind == "classification":
            raised = np.exp(self.loudness * (odds - odds.max(axis=1, keepdims=True)))
            values = raised / raised.sum(axis=1, keepdims=True)
        elif self.task.kind == "multilabel":
            values = 1 / (1 + np.exp(-self.loudness * odds))
        else:
            values = (odds / (square + 1.0))[:, :2] * [1.0, 100.0]
        return np.where(self.usable(samples.available)[:, None], values, np.nan)


def readers(task):
    masks = [NAMES, ("strong",), ("weak",), ("noise",), ("strong", "weak"), NAMES, ("strong", "noise"), NAMES]
    return {f"r{i}": Reader(task, own, [3.0, 1.0, 0.4, 2.0][i % 4], i) for i, own in enumerate(masks)}


def concluded(task, num_rows=1500, config=None, missing=0.0):
    """An ensemble of readers that were judged on random halves of the rows."""
    data, learners = world(task, num_rows, 0, missing), readers(task)
    candidates = []
    for index, (name, learner) in enumerate(learners.items()):
        rows = np.flatnonzero(np.random.default_rng(100 + index // 2).random(num_rows) < 0.5)
        heard = {
            pattern_key(p, NAMES): learner.predict(data.take(rows).without(set(NAMES) - p))
            for p in patterns_to_judge(learner.modalities)
        }
        candidates.append(Candidate(name, "reader", learner.modalities, Path(name), rows, heard, score=0.5))
    return data, learners, candidates, config or CombinationConfig()


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.kind)
def made(request, tmp_path_factory):
    """(task, ensemble, fresh samples) of one world."""
    task = request.param
    folder = tmp_path_factory.mktemp("promises")
    data, learners, candidates, config = concluded(task)
    placed = []
    for candidate in candidates:
        (folder / candidate.name).mkdir()
        placed.append(Candidate(**{**candidate.__dict__, "folder": folder / candidate.name}))
    (folder / "ensemble").mkdir()
    manifest = conclude(
        folder / "ensemble", name="w", spec=spec(task), candidates=placed, rows=np.arange(1500), target=data.target,
        available=data.available, config=config,
    )  # fmt: skip
    assert EnsembleManifest.model_validate_json(manifest.to_json()) == manifest
    return task, Ensemble(manifest, folder / "ensemble", learners=learners), world(task, 6000, 9)


def covered(task, target, found):
    """How often the truth is inside, per row (labels: share of the true ones)."""
    if task.kind == "classification":
        return found.sets[np.arange(len(target)), target].mean()
    if task.kind == "multilabel":
        true = target > 0.5
        rows = true.any(axis=1)
        return 1 - ((true & ~found.sets)[rows].sum(axis=1) / true[rows].sum(axis=1)).mean()
    return ((found.lower <= target) & (target <= found.upper)).mean()


def test_the_truth_is_inside_as_often_as_promised_under_every_pattern(made):
    task, ensemble, fresh = made
    under = ensemble.under_patterns(fresh)
    for pattern in patterns_to_judge(NAMES):
        found = under.predict(pattern)
        assert covered(task, fresh.target, found) > 0.9 - 0.025, sorted(pattern)
        if pattern != {"noise"}:  # of which fewer learners out of bag say other things than all of them later
            assert covered(task, fresh.target, found) < 0.96, sorted(pattern)


def test_confidence_falls_and_answers_widen_when_a_modality_goes(made):
    task, ensemble, fresh = made
    under = ensemble.under_patterns(fresh)
    found = [under.predict(frozenset(p)) for p in (("strong", "weak"), ("strong",), ("weak",), ("noise",))]
    sure = [f.confidence.mean() for f in found]
    assert sure == sorted(sure, reverse=True)
    width = [
        (f.upper - f.lower)[:, 1].mean() if task.kind == "regression" else f.sets.sum(axis=1).mean() for f in found
    ]
    assert width == sorted(width)
    nothing = under.predict(frozenset())
    assert nothing.num_learners.max() == 0
    assert covered(task, fresh.target, nothing) > 0.88


def test_probabilities_are_calibrated_under_every_pattern(made):
    task, ensemble, fresh = made
    if task.kind != "regression":
        for pattern in patterns_to_judge(NAMES):
            found = ensemble.under_patterns(fresh).predict(pattern)
            assert calibration_error(task, fresh.target, found.values) < 0.03, sorted(pattern)


def test_no_pattern_is_worse_than_its_best_single_learner_beyond_noise(made):
    task, ensemble, fresh = made
    scale = fresh.target.std(axis=0) if task.kind == "regression" else 1.0
    for learned in ensemble.manifest.patterns:
        under = ensemble.under_patterns(fresh)
        ours, alone = (
            under.predict(learned.pattern).values,
            under.predict_member(learned.best_single, learned.pattern).values,
        )
        target = fresh.target / scale if task.kind == "regression" else fresh.target
        gap = loss(task, target, ours / scale) - loss(task, target, alone / scale)
        assert gap.mean() < 3 * gap.std() / np.sqrt(len(gap)) + 0.01, learned.available


def test_a_modality_of_noise_has_no_share(made):
    _, ensemble, _ = made
    shares = ensemble.modality_weights()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["noise"] < 0.02
    assert shares["strong"] > shares["weak"] > 0.02
    assert ensemble.weights()["r3"] == 0.0  # which looks at the noise alone
    assert ensemble.modality_weights(frozenset({"weak", "noise"}))["strong"] == 0.0


def test_rows_that_lack_different_modalities_get_their_own_promise_in_any_company(made):
    task, ensemble, fresh = made
    mixed = Samples(fresh.inputs, world(task, 6000, 3, missing=0.5).available, fresh.ids, fresh.target)
    whole = ensemble.predict(mixed)
    part = ensemble.predict(mixed.take(np.arange(40, 300)))
    for name in ("values", "std", "sets", "lower", "upper"):
        ours, theirs = getattr(whole, name), getattr(part, name)
        assert (ours is None) == (theirs is None)
        if ours is not None and name != "values" and name != "sets":
            assert theirs.shape == (260, ours.shape[1]) and not np.isnan(theirs).any()
    assert covered(task, fresh.target, whole) > 0.88


def heard(task, num_rows=1500, **settings):
    """(evidence, settings) of the readers on `num_rows` rows."""
    data, _, candidates, _ = concluded(task, num_rows)
    config = CombinationConfig(**settings)
    rows = np.arange(num_rows)
    return OutOfBag(spec(task), candidates, rows, data.target, data.available, config, 0), config


def test_learners_are_judged_by_what_calibration_makes_of_them():
    said, config = heard(CLASSES)
    plain = learn_patterns(said, config, 0)
    said.calibrate_learners()
    assert said.temperatures[0]["strong+weak+noise"] > 1.5  # three times too loud
    assert said.temperatures[2]["weak"] < 0.7  # too quiet
    assert set(said.temperatures[4]) == {"strong+weak", "strong", "weak"}
    assert learn_patterns(said, config, 0)[0].loss < plain[0].loss + 0.002
    off, _ = heard(CLASSES, learner_calibration=None)
    off.calibrate_learners()
    assert off.temperatures == [{}] * 8


def test_a_modality_is_worth_what_it_saves():
    said, config = heard(CLASSES)
    worth = learn_worth(said, learn_patterns(said, config, 0))
    assert worth["strong"] > worth["weak"] > 0.05
    assert worth["noise"] < 0.01


def test_where_nothing_is_known_that_is_what_is_said():
    said, config = heard(LABELS)
    learned = {found.available: found for found in learn_patterns(said, config, 0)}
    assert learned[("noise",)].uninformed and learned[("noise",)].weights == {}
    assert not learned[("weak",)].uninformed
    few, config = heard(LABELS, 24)
    assert not any(found.uninformed for found in learn_patterns(few, config, 0))  # which is too few rows to say so


def test_each_learner_is_cooled_for_what_it_is_left_with():
    loud = Reader(CLASSES, ("strong", "weak"), 2.0)
    member = Member(
        name="r", folder="r", kind="reader", modalities=loud.modalities, temperatures={"strong+weak": 2.0, "weak": 4.0}
    )
    patterns = (PatternWeights(available=NAMES, weights={"r": 1.0}, num_rows=100),)
    manifest = EnsembleManifest(name="x", spec=spec(CLASSES), members=(member,), patterns=patterns, prior=(1 / 3,) * 3)
    ensemble = Ensemble(manifest, Path("/nowhere"), learners={"r": loud})
    data = world(CLASSES, 20, 0)
    said = loud.predict(data)
    expected = np.sqrt(np.clip(said, 1e-6, 1))
    expected /= expected.sum(axis=1, keepdims=True)
    assert ensemble.predict(data).values == pytest.approx(expected, abs=1e-4)
    assert ensemble.predict(data, weighting="mean").values == pytest.approx(said)
    expected = np.clip(loud.predict(data.without({"strong"})), 1e-6, 1) ** 0.25
    expected /= expected.sum(axis=1, keepdims=True)
    assert ensemble.predict(data.without({"strong"})).values == pytest.approx(expected, abs=1e-4)
    said = loud.predict(data.without({"weak"}))  # no temperature known
    assert ensemble.predict(data.without({"weak"})).values == pytest.approx(said, abs=1e-5)


def test_an_ensemble_without_promises_makes_none():
    reader = Reader(VALUES, ("strong",))
    member = Member(name="r", folder="r", kind="reader", modalities=("strong",))
    learned = PatternWeights(available=NAMES, weights={"r": 1.0}, error_std=(1.0, 2.0), num_rows=100)
    manifest = EnsembleManifest(
        name="x", spec=spec(VALUES), members=(member,), patterns=(learned,), prior=(0.0, 0.0), prior_std=(3.0, 4.0)
    )
    found = Ensemble(manifest, Path("/nowhere"), learners={"r": reader}).predict(world(VALUES, 5, 0))
    assert found.lower is None and found.upper is None and found.sets is None
    some = manifest.model_copy(update={"prior_conformal": ConformalRule(coverage=0.9, thresholds=(1.0, 1.0))})
    found = Ensemble(some, Path("/nowhere"), learners={"r": reader}).predict(world(VALUES, 5, 0))
    assert found.lower is not None and np.isneginf(found.lower).all()  # this pattern promises nothing


def test_few_rows_promise_little_rather_than_too_much():
    said, config = heard(CLASSES, 24)
    assert all(found.conformal.num_rows <= 24 for found in learn_patterns(said, config, 0))
    said, strict = heard(CLASSES, 24, coverage=0.99)
    assert all(found.conformal.thresholds == (np.inf,) for found in learn_patterns(said, strict, 0))


def test_the_promise_is_kept_where_a_stacker_was_fitted_on_the_few_rows_there_are():
    """20 classes, 6 learners that lean to some of them, 150 rows: thresholds from fitted answers would give .888."""
    task, names, number = TaskSpec.classification([f"c{i}" for i in range(20)]), tuple("abcdef"), np.arange(6)
    loudness, likeness = 0.5 + 0.2 * number[:, None, None], 0.4 * number[:, None, None]
    config, inside, num_stacked = CombinationConfig(), [], 0
    for seed in range(40):
        draws = np.random.default_rng(1000 + seed)
        leaning = draws.normal(size=(6, 1, 20)) + draws.normal(size=20)
        target = draws.integers(0, 20, 2150)
        own, shared = 2.0 * np.eye(20)[target] + draws.normal(size=(2150, 20)), draws.normal(size=(2150, 20))
        odds = loudness * own + likeness * shared + draws.normal(size=(6, 2150, 20)) + leaning
        raised = np.exp(odds - odds.max(axis=2, keepdims=True))
        said = raised / raised.sum(axis=2, keepdims=True)
        evidence = Evidence(np.arange(150), target[:150], said[:, :150], names, names)
        learned = combine_pattern(task, evidence.target, evidence.predictions, names, config, seed, ("x",))
        learned = with_promise(task, learned, evidence, config, seed)
        num_stacked += learned.stacker is not None
        weights = np.array([learned.weights.get(name, 0.0) for name in names])
        target, fresh = target[150:], said[:, 150:]
        values = calibrated_values(task, learned, pool(fresh, weights), fresh, weights, names)
        assert learned.conformal is not None
        inside.append(prediction_sets(task, values, learned.conformal)[np.arange(2000), target].mean())
    assert num_stacked > 30
    assert 0.894 < np.mean(inside) < 0.91
