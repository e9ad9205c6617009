import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from training_core.data.splitting.splits import (
    SET_ASIDE,
    check_given_split,
    draw_split,
    grouped_split,
    row_split,
    time_split,
)
from training_core.errors import ConfigError, DataError


class Rows:
    """Rows that have been split before."""

    def __init__(self, split: np.ndarray, groups: np.ndarray | None = None) -> None:
        self._split, self._groups = split, groups

    def split(self) -> np.ndarray:
        return self._split

    def groups(self) -> np.ndarray | None:
        return self._groups

    def times(self) -> None:
        return None


def shares(split: np.ndarray) -> dict[str, float]:
    return {part: float((split == part).mean()) for part in ("train", "validation", "test")}


def test_rows_are_split_exactly_as_scikit_learn_splits_them():
    codes = np.random.default_rng(0).integers(0, 4, 203)
    split = row_split(203, codes, test=0.3, validation=0.0, seed=0)
    _, expected = train_test_split(np.arange(203), test_size=0.3, stratify=codes, random_state=0)
    assert np.flatnonzero(split == "test").tolist() == sorted(expected)
    assert "validation" not in split


def test_a_validation_share_leaves_the_test_rows_as_they_were():
    codes = np.arange(400) % 4
    without = row_split(400, codes, test=0.25, validation=0.0, seed=3)
    split = row_split(400, codes, test=0.25, validation=0.15, seed=3)
    assert ((split == "test") == (without == "test")).all()
    assert shares(split) == {"train": 0.6, "validation": 0.15, "test": 0.25}
    assert np.bincount(codes[split == "validation"]).tolist() == [15] * 4


def test_another_seed_draws_other_rows():
    first, other = (row_split(100, None, test=0.3, validation=0.0, seed=seed) for seed in (0, 1))
    assert (first != other).any()


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_group_never_crosses_a_split(validation, with_classes, seed):
    draws = np.random.default_rng(seed)
    groups = draws.choice([f"user {i}" for i in range(40)], 500)
    codes = draws.integers(0, 3, 500) if with_classes else None
    split = grouped_split(groups, codes, test=0.3, validation=validation, seed=seed)
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert shares(split)["test"] == pytest.approx(0.3, abs=0.05)
    assert shares(split)["validation"] == pytest.approx(validation, abs=0.05)


def test_grouped_rows_keep_their_classes_in_proportion():
    groups = np.repeat([f"g{i:02d}" for i in range(60)], 10)
    codes = np.repeat(np.arange(60) % 3, 10)
    split = grouped_split(groups, codes, test=0.3, validation=0.0, seed=0)
    assert np.bincount(codes[split == "test"]).tolist() == [60, 60, 60]


def test_two_groups_of_any_size_make_a_training_and_a_test_part():
    groups = np.asarray(["big"] * 97 + ["small"] * 3)
    split = grouped_split(groups, None, test=0.3, validation=0.0, seed=0)
    assert set(split) == {"train", "test"}
    with pytest.raises(DataError, match=r"2 group\(s\) cannot be shared out over 3 parts"):
        grouped_split(groups, None, test=0.3, validation=0.1, seed=0)
    with pytest.raises(DataError, match=r"1 group\(s\)"):
        grouped_split(groups[:97], None, test=0.3, validation=0.0, seed=0)


def test_the_last_rows_in_time_are_the_test_rows():
    times = np.random.default_rng(0).permutation(200).astype(float)
    split = time_split(times, None, test=0.3, validation=0.1)
    assert shares(split) == {"train": 0.6, "validation": 0.1, "test": 0.3}
    assert times[split == "train"].max() < times[split == "validation"].min()
    assert times[split == "validation"].max() < times[split == "test"].min()


def test_rows_of_one_time_stay_together():
    times = np.repeat(np.arange("2026-01-01", "2026-01-11", dtype="datetime64[D]"), 10)
    split = time_split(times, None, test=0.25, validation=0.0)
    assert (split == "test").sum() == 30
    assert not set(times[split == "test"]) & set(times[split == "train"])


def test_with_times_and_groups_neither_a_group_nor_the_order_of_their_ends_is_broken():
    draws = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(30)], 10)
    times = np.repeat(draws.permutation(30) * 5.0, 10) + draws.random(300) * 20
    split = time_split(times, groups, test=0.3, validation=0.0)
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    ends = {group: times[groups == group].max() for group in set(groups)}
    tested = {group for group in ends if (split[groups == group] == "test").all()}
    assert min(ends[g] for g in tested) > max(ends[g] for g in set(ends) - tested)


@pytest.mark.parametrize("times", [np.zeros(10), np.arange(1.0)])
def test_a_single_time_cannot_be_split(times):
    with pytest.raises(DataError, match="too few distinct times"):
        time_split(times, None, test=0.3, validation=0.0)


def test_two_times_of_very_unlike_size_still_leave_something_to_train_on():
    split = time_split(np.asarray([0.0] + [1.0] * 9), None, test=0.3, validation=0.0)
    assert split.tolist() == ["train"] + ["test"] * 9
    split = time_split(np.asarray([0.0] * 9 + [1.0]), None, test=0.3, validation=0.0)
    assert split.tolist() == ["train"] * 9 + ["test"]


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match=r"cannot draw 30% of 1 rows for the test"):
        row_split(1, None, test=0.3, validation=0.0, seed=0)
    with pytest.raises(DataError, match=r"each of 4 classes on both sides"):
        row_split(8, np.arange(8) % 4, test=0.3, validation=0.0, seed=0)


def test_time_comes_before_groups_and_groups_before_rows():
    known = {"test": 0.3, "validation": 0.0, "seed": 0, "num_rows": 20}
    groups, times = np.arange(20) // 2, np.arange(20.0)
    names = groups.astype(str).astype(object)
    assert (draw_split(**known, groups=names, times=times) == time_split(times, names, test=0.3, validation=0)).all()
    by_group = draw_split(**known, groups=names)
    assert (by_group[::2] == by_group[1::2]).all()


def given(*values: str | None) -> np.ndarray:
    return np.asarray(values, object)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (given("train", "tset"), r"meta.csv, row 1: the split is 'tset'; expected one of train, validation, test"),
        (given("train", None), r"row 1: the split is absent"),
        (given("train", "train"), r"no row is marked 'test'"),
        (given("test", "test"), r"no row is marked 'train'"),
    ],
)
def test_a_wrong_given_split_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        check_given_split(values, None, "meta.csv")


def test_a_given_split_may_not_part_a_group():
    groups = np.asarray(["a", "b", "a"], object)
    with pytest.raises(DataError, match="group 'a' is in both 'train' and 'test'"):
        check_given_split(given("train", "train", "test"), groups, "meta.csv")
    assert len(check_given_split(given("train", "test", "train"), groups, "meta.csv")) == 3


def test_a_given_split_of_added_rows_may_lack_a_part():
    base = Rows(given("train", "test"))
    assert len(check_given_split(given("test", "test"), None, "meta.csv", base=base)) == 2


def test_a_given_split_of_added_rows_may_not_move_a_known_group():
    base = Rows(given("train", "test", "quarantined"), np.asarray(["a", "b", "c"], object))
    groups = np.asarray(["b", "c", "d"], object)
    with pytest.raises(DataError, match="group 'b' is in both 'test' and 'train'"):
        check_given_split(given("train", "train", "test"), groups, "meta.csv", base=base)
    assert len(check_given_split(given("test", "train", "test"), groups, "meta.csv", base=base)) == 3


@pytest.mark.parametrize("kind", ["rows", "classes", "labels", "groups", "times"])
def test_without_a_test_share_no_row_is_tested_on_and_validation_still_is(kind):
    draws = np.random.default_rng(0)
    known = {
        "rows": {},
        "classes": {"strata": draws.integers(0, 3, 200)},
        "labels": {"strata": draws.random((200, 4)) < 0.3},
        "groups": {"groups": np.repeat(np.arange(40), 5).astype(object)},
        "times": {"times": draws.random(200)},
    }[kind]
    split = draw_split(test=0.0, validation=0.0, seed=0, num_rows=200, **known)
    assert shares(split)["train"] == 1
    split = draw_split(test=0.0, validation=0.25, seed=0, num_rows=200, **known)
    assert shares(split)["test"] == 0
    assert shares(split)["validation"] == pytest.approx(0.25, abs=0.03)


def test_a_group_with_a_class_of_its_own_is_trained_on():
    groups = np.repeat([f"g{i}" for i in range(10)], 10)
    codes = np.where(groups == "g3", 1, 0)
    for seed in range(20):
        split = grouped_split(groups, codes, test=0.3, validation=0.2, seed=seed)
        assert (split[groups == "g3"] == "train").all()


def test_rows_within_the_embargo_before_a_later_part_are_set_aside():
    times = np.random.default_rng(0).permutation(200).astype(float)
    split = time_split(times, None, test=0.3, validation=0.1, embargo=5)
    assert [int((split == part).sum()) for part in ("test", "validation", SET_ASIDE)] == [60, 20, 10]
    assert times[split == "validation"].max() == 134  # 140 is tested on; 135 to 139 are five rows
    assert times[split == "train"].max() == 109


def test_an_embargo_for_dates_is_a_duration():
    times = np.datetime64("2026-01-01", "us") + np.arange(100) * np.timedelta64(12, "h")
    split = time_split(times, None, test=0.3, validation=0.0, embargo="7d")
    assert (split == SET_ASIDE).sum() == 14
    assert times[split == "test"].min() - times[split == "train"].max() > np.timedelta64(7, "D")
    assert (time_split(times, None, test=0.3, validation=0.0, embargo="168h") == split).all()


@pytest.mark.parametrize(
    ("embargo", "dates", "message"),
    [
        ("7d", False, "embargo '7d' is a duration, but the times are numbers"),
        (7, True, "embargo 7 is a number, but the times are dates; give a duration such as '7d'"),
        ("7 moons", True, "'7 moons' is no duration; give a number and one of s, min, h, d, w"),
        (-1.0, False, "an embargo of -1.0 is no length of time"),
    ],
)
def test_an_embargo_that_does_not_fit_the_times_is_refused(embargo, dates, message):
    times = np.arange(50.0)
    if dates:
        times = np.datetime64("2026-01-01") + np.arange(50)
    with pytest.raises(ConfigError, match=message):
        time_split(times, None, test=0.3, validation=0.0, embargo=embargo)


def test_an_embargo_needs_times_and_must_leave_rows():
    with pytest.raises(ConfigError, match=r"an embargo \(3\) needs the times of the rows"):
        draw_split(test=0.3, validation=0.0, seed=0, num_rows=10, embargo=3)
    with pytest.raises(DataError, match="an embargo of 100 leaves no row to train on"):
        time_split(np.arange(50.0), None, test=0.3, validation=0.0, embargo=100)
    with pytest.raises(DataError, match="validation without splitting one and an embargo of 100"):
        time_split(np.arange(50.0), None, test=0.3, validation=0.1, embargo=100)


@settings(deadline=None, derandomize=True, max_examples=150)
@for_all(
    st.integers(0, 10_000),
    st.integers(30, 150),
    st.sampled_from([0.0, 0.15]),
    st.sampled_from(["rows", "classes", "labels", "groups", "grouped classes", "grouped labels", "times", "both"]),
    st.sampled_from([0, 2, 5]),
)
def test_no_split_leaks(seed, num_rows, validation, kind, embargo):
    draws = np.random.default_rng(seed)
    strata = groups = times = None
    if "classes" in kind:
        strata = np.resize(np.arange(3), num_rows)
    if "labels" in kind:
        strata = draws.random((num_rows, 5)) < 0.3
    if "group" in kind or kind == "both":
        groups = draws.choice([f"g{i}" for i in range(12)], num_rows).astype(object)
    if kind in {"times", "both"}:
        times = draws.integers(0, 60, num_rows).astype(float)
    if kind == "both":
        times = times + 40.0 * np.unique(groups.astype(str), return_inverse=True)[1]  # groups come after each other
    split = draw_split(
        test=0.3, validation=validation, seed=seed, num_rows=num_rows, strata=strata, groups=groups, times=times,
        embargo=embargo if times is not None else 0,
    )  # fmt: skip
    assert len(split) == num_rows
    assert set(split) <= {"train", "validation", "test", SET_ASIDE}
    assert {"train", "test"} <= set(split)
    assert ("validation" in split) == (validation > 0)
    assert (SET_ASIDE in split) <= (times is not None and embargo > 0)
    if groups is not None:
        assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    if kind == "classes":
        assert set(strata[split == "train"]) == {0, 1, 2}
    if kind in {"grouped classes", "grouped labels"}:
        present = np.eye(3, dtype=bool)[strata] if kind == "grouped classes" else strata
        several = np.asarray([len(set(groups[has])) > 3 for has in present.T])
        assert present[split == "train"].any(axis=0)[several].all()
    if times is not None:
        when = times
        if groups is not None:
            when = np.asarray([times[groups == group].max() for group in groups])
        later = [part for part in ("validation", "test") if part in split]
        for earlier, part in zip(["train", *later], later, strict=False):
            assert when[split == earlier].max() < when[split == part].min() - embargo
