"""The estimators against scikit-learn's own checklist, and what they add to it: modalities that may be missing."""

import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import training_core as pc
from training_core.errors import ConfigError


@pytest.mark.slow
@parametrize_with_checks([pc.PolychoirClassifier(random_state=0), pc.PolychoirRegressor(random_state=0)])
def test_scikit_learn_finds_nothing_wrong(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]  # pyright: ignore[reportCallIssue]


def halves() -> tuple[np.ndarray, np.ndarray]:
    rows, target = load_digits(return_X_y=True)
    return rows[:500], target[:500]


@pytest.fixture(scope="module")
def fitted() -> pc.PolychoirClassifier:
    rows, target = halves()
    parts = {"top": slice(0, 32), "bottom": slice(32, 64)}
    return pc.PolychoirClassifier(parts, settings={"bags": {"num_bags": 4}}, random_state=0).fit(
        rows[:400], target[:400]
    )


def test_rows_that_lack_a_modality_are_predicted_from_the_other(fitted: pc.PolychoirClassifier) -> None:
    rows, target = halves()
    rows, target = rows[400:].copy(), target[400:]
    assert fitted.score(rows, target) > 0.85
    sure = fitted.predict_proba(rows).max(axis=1).mean()
    rows[:, :32] = np.nan
    assert fitted.score(rows, target) > 0.6
    assert fitted.predict_proba(rows).max(axis=1).mean() < sure


def test_a_copy_says_the_same(fitted: pc.PolychoirClassifier) -> None:
    rows, _ = halves()
    twin = copy.deepcopy(fitted)
    np.testing.assert_array_equal(twin.predict_proba(rows), fitted.predict_proba(rows))
    assert not hasattr(clone(fitted), "classes_")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 3}, "as `random_state`"),
        ({"preset": "quick"}, "a parameter `preset`"),
        ({"budget": {"learners": 2}}, "a parameter `budget`"),
        ({"dataset": "x"}, "what `fit` is given"),
        ({"trackers": ("mlflow",)}, "records nothing"),
        ({"executor": "dask"}, "as many as `n_jobs`"),
        ({"cluster": "tcp://host:8786"}, "as many as `n_jobs`"),
    ],
)
def test_settings_with_a_parameter_of_their_own_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pc.PolychoirClassifier(settings=settings).fit(np.zeros((4, 2)), [0, 1, 0, 1])


def test_columns_go_by_name_or_position() -> None:
    frame = pd.DataFrame(np.zeros((3, 4)), columns=list("abcd"))
    with pytest.raises(ConfigError, match="modality 'm' names column 'z'; X has a, b, c, d"):
        pc.PolychoirClassifier({"m": ["a", "z"]}).fit(frame, [0, 1, 0])
    with pytest.raises(ConfigError, match=r"modality 'm' has columns \[9\]; X has 4"):
        pc.PolychoirClassifier({"m": [9]}).fit(frame, [0, 1, 0])


@pytest.mark.slow
def test_it_works_inside_cross_validation() -> None:
    rows, target = halves()
    assert cross_val_score(pc.PolychoirClassifier(random_state=0), rows[:300], target[:300], cv=2).mean() > 0.7
