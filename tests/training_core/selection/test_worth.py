import numpy as np
import pytest

from training_core.selection.worth import modality_shares, modality_worth

A, B, AB = frozenset("a"), frozenset("b"), frozenset("ab")


def around(mean, seed=0, num_rows=400):
    return mean + np.random.default_rng(seed).normal(size=num_rows) * 0.01


def test_a_modality_is_worth_the_more_of_what_it_saves_first_and_last():
    found = modality_worth({A: around(1.0, 1), B: around(1.7, 2), AB: around(0.9, 3)}, np.full(400, 2.0), "ab")
    assert found["a"] == pytest.approx(1.0, abs=0.01)  # alone: 2 - 1; last: 1.7 - 0.9
    assert found["b"] == pytest.approx(0.3, abs=0.01)  # alone: 2 - 1.7; last: 1 - 0.9


def test_modalities_that_tell_something_only_together_are_worth_it_all():
    found = modality_worth({A: around(2.0, 1), B: around(2.0, 2), AB: around(0.5, 3)}, np.full(400, 2.0), "ab")
    assert found == pytest.approx({"a": 1.5, "b": 1.5}, abs=0.01)


def test_what_is_not_beyond_noise_is_worth_nothing():
    draws = np.random.default_rng(0)
    lost = {A: draws.normal(size=400) * 0.5 + 1.99, B: np.full(400, np.nan)}
    assert modality_worth(lost, np.full(400, 2.0), "ab") == {"a": 0.0, "b": 0.0}
    assert modality_worth({}, np.full(400, 2.0), "ab") == {"a": 0.0, "b": 0.0}


def test_shares_of_an_example_worked_by_hand():
    modalities = {"one": ("a",), "both": ("a", "b"), "none": ()}
    shares = modality_shares({"one": 0.25, "both": 0.75, "none": 0.0}, modalities, {"a": 3.0, "b": 1.0}, "abc")
    assert shares == pytest.approx({"a": 0.25 + 0.75 * 0.75, "b": 0.75 * 0.25, "c": 0.0})
    assert modality_shares({"both": 1.0}, modalities, {}, "ab") == {"a": 0.5, "b": 0.5}
    assert modality_shares({}, modalities, {}, "ab") == {"a": 0.0, "b": 0.0}


def test_noise_that_silences_learners_when_it_is_hidden_is_worth_nothing():
    lost = {A: around(0.5, 1), B: around(2.0, 2), AB: around(0.45, 3)}
    assert modality_worth(lost, np.full(400, 2.0), "ab") == {"a": pytest.approx(1.55, abs=0.01), "b": 0.0}
