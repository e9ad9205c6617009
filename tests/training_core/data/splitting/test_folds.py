import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.model_selection import StratifiedKFold, TimeSeriesSplit

from training_core.data.splitting.folds import Fold, FoldsConfig, make_folds
from training_core.errors import ConfigError, DataError


def folds(
    kind: str, num_rows: int, num_folds: int = 5, seed: int = 0, config: dict | None = None, **known
) -> list[Fold]:
    settings = {"kind": kind, "num_folds": num_folds, **(config or {})}
    return list(make_folds(FoldsConfig.model_validate(settings), num_rows, seed=seed, **known))


def test_every_class_is_in_every_fold_in_proportion():
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [61, 23, 7]))
    found = folds("stratified", 91, strata=codes)
    counts = np.asarray([np.bincount(codes[held_out], minlength=3) for _, held_out in found])
    assert (np.ptp(counts, axis=0) <= 1).all()
    peers = StratifiedKFold(5, shuffle=True, random_state=0).split(codes, codes)
    expected = np.asarray([np.bincount(codes[held_out], minlength=3) for _, held_out in peers])
    assert (np.sort(counts, axis=0) == np.sort(expected, axis=0)).all()


def test_labels_are_in_every_fold_in_proportion():
    labels = np.random.default_rng(0).random((1000, 6)) < np.geomspace(0.01, 0.3, 6)
    counts = np.asarray([labels[held_out].sum(axis=0) for _, held_out in folds("stratified", 1000, strata=labels)])
    assert (np.ptp(counts[:, :2], axis=0) <= 2).all()
    assert counts == pytest.approx(np.tile(labels.sum(axis=0) / 5, (5, 1)), rel=0.15, abs=1)


def test_repeats_share_the_rows_out_anew_and_reproducibly():
    codes = np.arange(60) % 3
    found = folds("repeated", 60, config={"repeats": 3}, strata=codes)
    assert len(found) == 15
    assert not np.array_equal(found[0][1], found[5][1])
    again = folds("repeated", 60, config={"repeats": 3}, strata=codes)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found, again, strict=True))
    other = folds("repeated", 60, config={"repeats": 3}, strata=codes, seed=1)
    assert not np.array_equal(found[0][1], other[0][1])


def test_groups_of_several_classes_are_stratified_where_possible():
    groups = np.repeat([f"g{i:02d}" for i in range(50)], 6).astype(object)
    codes = np.repeat(np.arange(50) % 2, 6)
    counts = np.asarray(
        [np.bincount(codes[held_out]) for _, held_out in folds("grouped", 300, groups=groups, strata=codes)]
    )
    assert (counts == 30).all()


@pytest.mark.parametrize("num_rows", [12, 50, 101])
@pytest.mark.parametrize("num_folds", [2, 5])
@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("window", [None, 1, 2])
def test_walking_forward_through_distinct_times_is_scikit_learns_time_series_split(num_rows, num_folds, gap, window):
    order = np.random.default_rng(0).permutation(num_rows)
    times = np.empty(num_rows)
    times[order] = np.arange(num_rows) * 0.5  # row order[i] is the i-th in time
    size = num_rows // (num_folds + 1)
    found = folds("walk_forward", num_rows, num_folds, config={"embargo": gap * 0.5, "window": window}, times=times)
    peer = TimeSeriesSplit(num_folds, gap=gap, max_train_size=None if window is None else window * size)
    for (train, held_out), (expected_train, expected_held_out) in zip(found, peer.split(times), strict=True):
        assert train.tolist() == sorted(order[expected_train])
        assert held_out.tolist() == sorted(order[expected_held_out])


def test_rows_of_one_time_stay_together_walking_forward():
    times = np.repeat(np.arange("2026-01-01", "2026-01-13", dtype="datetime64[D]"), 7)
    found = folds("walk_forward", len(times), 3, config={"embargo": "2d"}, times=times)
    for train, held_out in found:
        assert times[held_out].min() - times[train].max() > np.timedelta64(2, "D")
        assert all((np.isin(np.flatnonzero(times == day), held_out)).all() for day in set(times[held_out]))


def test_a_group_that_is_held_out_is_not_trained_on_walking_forward():
    times = np.arange(60.0)
    groups = np.asarray([f"g{i // 7}" for i in range(60)], object)
    found = folds("walk_forward", 60, 4, times=times, groups=groups)
    for train, held_out in found:
        assert not set(groups[train]) & set(groups[held_out])
        assert times[train].max() < times[held_out].min()


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.integers(0, 10_000),
    st.integers(30, 120),
    st.integers(2, 5),
    st.sampled_from(["rows", "classes", "labels", "groups", "grouped classes", "grouped labels"]),
)
def test_every_row_is_held_out_exactly_once_and_no_group_is_on_both_sides(seed, num_rows, num_folds, known):
    draws = np.random.default_rng(seed)
    strata = groups = None
    if "classes" in known:
        strata = draws.permutation(np.resize(np.arange(3), num_rows))
    if "labels" in known:
        strata = draws.random((num_rows, 4)) < draws.random(4) * 0.5
    if "group" in known:
        groups = np.resize([f"g{i}" for i in draws.permutation(9)], num_rows).astype(object)
        groups = draws.permutation(groups)
    kind = "stratified" if groups is None else "grouped"
    found = folds(kind, num_rows, num_folds, seed, strata=strata, groups=groups)
    assert len(found) == num_folds
    assert sorted(np.concatenate([held_out for _, held_out in found])) == list(range(num_rows))
    for train, held_out in found:
        assert len(held_out)
        assert train.dtype == held_out.dtype == np.int64
        assert sorted(np.concatenate([train, held_out])) == list(range(num_rows))
        if groups is not None:
            assert not set(groups[train]) & set(groups[held_out])
        if strata is not None and groups is None:
            present = np.eye(3, dtype=bool)[strata] if strata.ndim == 1 else strata
            assert present[train].any(axis=0)[present.sum(axis=0) > 1].all()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.integers(0, 10_000),
    st.integers(40, 150),
    st.integers(2, 4),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([None, 1]),
)
def test_training_ends_the_embargo_before_the_held_out_rows_begin(seed, num_rows, num_folds, embargo, window):
    times = np.random.default_rng(seed).integers(0, 80, num_rows).astype(float)
    found = folds("walk_forward", num_rows, num_folds, config={"embargo": embargo, "window": window}, times=times)
    held = np.concatenate([held_out for _, held_out in found])
    assert len(held) == len(set(held))
    assert times[held].min() > times[np.setdiff1d(np.arange(num_rows), held)].max()
    for train, held_out in found:
        assert times[train].max() < times[held_out].min() - embargo


@pytest.mark.parametrize(
    ("kind", "num_rows", "known", "message"),
    [
        ("stratified", 4, {}, r"4 rows cannot make 5 folds; lower `num_folds`"),
        ("grouped", 40, {"groups": np.resize(["a", "b"], 40)}, r"2 groups cannot make 5 folds"),
        ("stratified", 40, {"strata": np.repeat([0, 1], [37, 3])}, r"class 1 has 3 row\(s\), too few .* 5 folds"),
        ("walk_forward", 5, {"times": np.arange(5.0)}, r"5 rows at 5 distinct times cannot be walked through in 5"),
        ("walk_forward", 50, {"times": np.repeat([0.0, 1], 25)}, r"50 rows at 2 distinct times"),
        ("walk_forward", 60, {"times": np.repeat(np.arange(10), [1, 1, 1, 50, 2, 1, 1, 1, 1, 1])}, r"share one time"),
        (
            "walk_forward",
            60,
            {"times": np.arange(60.0), "groups": np.resize(["a", "b"], 60)},
            "fold 1 of 5: groups that are held out leaves no earlier row to train on",
        ),
    ],
)
def test_more_folds_than_there_is_data_for_are_refused(kind, num_rows, known, message):
    with pytest.raises(DataError, match=message):
        folds(kind, num_rows, **known)


def test_a_kind_needs_what_it_goes_by():
    with pytest.raises(ConfigError, match="walk-forward folds need the times"):
        folds("walk_forward", 40)
    with pytest.raises(ConfigError, match="grouped folds need the groups"):
        folds("grouped", 40)
    with pytest.raises(ConfigError, match=r"embargo 3\.0 is a number, but the times are dates"):
        folds("walk_forward", 40, config={"embargo": 3.0}, times=np.datetime64("2026-01-01") + np.arange(40))
    with pytest.raises(DataError, match=r"fold 1 of 5: an embargo of 30.0 leaves no earlier row"):
        folds("walk_forward", 40, config={"embargo": 30.0}, times=np.arange(40.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_folds": 1}, "greater than or equal to 2"),
        ({"embargo": 2.0}, "are for walk_forward"),
        ({"kind": "grouped", "window": 2}, "are for walk_forward"),
        ({"repeats": 2}, "`repeats` is for kind repeated"),
        ({"kind": "walk_forward", "embargo": "soon"}, "'soon' is no duration"),
        ({"kind": "walk_forward", "embargo": -1.0}, "no length of time"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        FoldsConfig.model_validate(settings)
