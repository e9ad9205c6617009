import json
import math

import numpy as np

from tests.training_core.export.small_ensemble import small_samples
from training_core.export import predictions_frame
from training_core.selection.ensemble import Ensemble
from training_core.serving.answers import answer_rows


def test_answers_of_classes_are_those_of_the_ensemble(ensemble: Ensemble):
    samples = small_samples(ensemble.spec, 12, seed=3)
    rows = answer_rows(ensemble, samples)
    frame = predictions_frame(ensemble.task, ensemble.predict(samples))
    assert [row["prediction"] for row in rows] == frame["prediction"].tolist()
    assert [row["confidence"] for row in rows] == frame["confidence"].tolist()
    assert [", ".join(row["prediction_set"]) for row in rows] == frame["prediction_set"].tolist()
    for i, row in enumerate(rows):
        assert row["probabilities"] == {name: frame[f"probability_{name}"][i] for name in ensemble.task.classes}
        assert math.isclose(sum(row["probabilities"].values()), 1.0)
        assert row["id"] == samples.ids[i]


def test_it_says_what_was_missing_and_what_it_looked_at(ensemble: Ensemble):
    samples = small_samples(ensemble.spec, 12, seed=3)  # the first six lack the vector
    rows = answer_rows(ensemble, samples)
    assert all("vec" in row["missing"] for row in rows[:6]) and not rows[-1]["missing"]
    for row in rows:
        assert not set(row["used"]) & set(row["missing"])
        assert bool(row["used"]) == (row["num_learners"] > 0)
    nothing = answer_rows(ensemble, samples.take(np.arange(1)).without(ensemble.spec.names))[0]
    assert nothing["used"] == [] and nothing["num_learners"] == 0 and nothing["missing"] == list(ensemble.spec.names)


def test_labels_are_lists_of_those_of_even_probability(multilabel: Ensemble):
    rows = answer_rows(multilabel, small_samples(multilabel.spec, 12, seed=3))
    for row in rows:
        assert row["prediction"] == [name for name, share in row["probabilities"].items() if share >= 0.5]
    assert any(row["prediction"] for row in rows)


def test_values_have_an_error_and_an_interval_by_target(regression: Ensemble):
    samples = small_samples(regression.spec, 12, seed=3)
    said = regression.predict(samples)
    rows = answer_rows(regression, samples)
    for i, row in enumerate(rows):
        assert row["prediction"] == dict(zip(("up", "down"), said.values[i].tolist(), strict=True))
        assert set(row["std"]) == {"up", "down"}
        assert "probabilities" not in row
    assert said.lower is not None
    ends = np.array([list(row["interval"]["lower"].values()) for row in rows], dtype=float)  # null becomes NaN
    np.testing.assert_array_equal(np.isnan(ends), ~np.isfinite(said.lower))


def test_every_answer_is_strict_json(ensemble: Ensemble, multilabel: Ensemble, regression: Ensemble):
    for one in (ensemble, multilabel, regression):
        samples = small_samples(one.spec, 8, seed=5)
        json.dumps(answer_rows(one, samples), allow_nan=False)
        json.dumps(answer_rows(one, samples.without(one.spec.names)), allow_nan=False)
