from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_core.data.splitting.splits import SET_ASIDE, draw_split, extend_split, time_split
from training_core.errors import ConfigError, DataError


@dataclass
class Version:
    """Rows that have been split."""

    parts: np.ndarray
    group: np.ndarray | None = None
    time: np.ndarray | None = None

    def split(self) -> np.ndarray:
        return self.parts

    def groups(self) -> np.ndarray | None:
        return self.group

    def times(self) -> np.ndarray | None:
        return self.time


@dataclass
class Rule:
    test: float = 0.3
    validation: float = 0.0
    seed: int = 0
    embargo: float | str = 0.0


def extended(base: Version, num_rows: int, rule: Rule, strata=None, groups=None, times=None) -> np.ndarray:
    return extend_split(base, num_rows=num_rows, strata=strata, groups=groups, times=times, rule=rule)


OLD = Version(np.resize(np.asarray(["train", "train", "test"], object), 90))


def test_new_rows_are_drawn_in_the_same_fractions_class_by_class():
    codes = np.repeat([0, 1, 2], [600, 300, 100])
    split = extended(OLD, 1000, Rule(validation=0.1), strata=codes)
    for code, size in enumerate([600, 300, 100]):
        assert abs((split[codes == code] == "test").sum() - 0.3 * size) <= 1
        assert abs((split[codes == code] == "validation").sum() - 0.1 * size) <= 1
    assert (split == extended(OLD, 1000, Rule(validation=0.1), strata=codes)).all()


def test_new_rows_keep_the_shares_of_their_labels():
    labels = np.random.default_rng(0).random((2000, 6)) < np.geomspace(0.01, 0.3, 6)
    split = extended(OLD, len(labels), Rule(), strata=labels)
    assert labels[split == "test"].sum(axis=0) == pytest.approx(0.3 * labels.sum(axis=0), rel=0.05, abs=1)


@pytest.mark.parametrize("kind", ["rows", "classes", "labels", "groups", "times"])
def test_rows_that_arrive_one_by_one_are_shared_out_in_the_same_fractions(kind):
    parts, times = list(OLD.parts), list(np.arange(90.0))
    groups = np.asarray([f"g{i}" for i in range(90)], object)
    for row in range(400):
        new: dict = {
            "rows": {},
            "classes": {"strata": np.asarray([row % 3])},
            "labels": {"strata": np.asarray([[row % 2, 1, 0]])},
            "groups": {"groups": np.asarray([f"new {row}"], object)},
            "times": {"times": np.asarray([100.0 + row])},
        }[kind]
        base = Version(np.asarray(parts, object), groups, np.asarray(times))
        part = extended(base, 1, Rule(), **new)
        parts.append(part[0])
        times.append(100.0 + row)
        groups = np.append(groups, f"new {row}")
    assert (np.asarray(parts[90:]) == "test").mean() == pytest.approx(0.3, abs=0.07)


def test_known_groups_keep_their_side_and_new_ones_stay_whole():
    base = Version(np.asarray(["train", "test", SET_ASIDE, "train"], object), np.asarray(["a", "b", "c", "c"], object))
    groups = np.asarray(["a", "b", "c", *np.repeat([f"new {i}" for i in range(100)], 3)], object)
    split = extended(base, 303, Rule(), groups=groups, strata=np.resize([0, 1, 2], 303))
    assert split[:3].tolist() == ["train", "test", "train"]
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert (split[3:] == "test").mean() == pytest.approx(0.3, abs=0.02)


def test_in_time_the_newest_new_rows_are_tested_on():
    base = Version(time_split(np.arange(100.0), None, test=0.3, validation=0.0), None, np.arange(100.0))
    times = np.random.default_rng(0).permutation(np.arange(100.0, 200.0))
    split = extended(base, 100, Rule(validation=0.1, embargo=3), times=times)
    assert (split == "test").sum() == pytest.approx(30, abs=1)
    assert (split == "validation").sum() == pytest.approx(10, abs=1)
    assert times[split == "test"].min() > times[split == "validation"].max() + 3
    assert times[split == "validation"].min() > times[split == "train"].max() + 3
    assert times[split == "train"].min() > 99 + 3  # the old test rows end at 99


def test_rows_that_arrive_late_join_what_was_going_on_at_their_time():
    base = Version(time_split(np.arange(100.0), None, test=0.3, validation=0.1), None, np.arange(100.0))
    times = np.asarray([5.5, 57.0, 58.5, 65.5, 80.5, 99.0])
    split = extended(base, 6, Rule(test=0.3, validation=0.1, embargo=2), times=times)
    assert split.tolist() == ["train", "train", SET_ASIDE, "validation", "test", "test"]


def test_times_of_another_kind_are_refused():
    base = Version(time_split(np.arange(100.0), None, test=0.3, validation=0.0), None, np.arange(100.0))
    with pytest.raises(DataError, match="the times of the new rows are dates and those before are numbers"):
        extended(base, 2, Rule(), times=np.datetime64("2026-01-01") + np.arange(2))
    with pytest.raises(ConfigError, match="embargo '7d' is a duration, but the times are numbers"):
        extended(base, 2, Rule(embargo="7d"), times=np.arange(2.0))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.integers(0, 10_000), st.integers(1, 60), st.sampled_from(["rows", "groups", "times"]), st.sampled_from([0, 3])
)
def test_no_added_row_leaks(seed, num_new, kind, embargo):
    draws = np.random.default_rng(seed)
    groups = draws.choice([f"g{i}" for i in range(20)], 80 + num_new).astype(object)
    times = np.concatenate([draws.integers(0, 100, 80), draws.integers(40, 160, num_new)]).astype(float)
    known = {"rows": (None, None), "groups": (groups, None), "times": (None, times)}[kind]
    first = [None if values is None else values[:80] for values in known]
    gap = embargo if kind == "times" else 0
    old = draw_split(test=0.3, validation=0.1, seed=seed, num_rows=80, groups=first[0], times=first[1], embargo=gap)
    added = [None if values is None else values[80:] for values in known]
    new = extended(Version(old, *first), num_new, Rule(0.3, 0.1, seed, gap), groups=added[0], times=added[1])
    assert set(new) <= {"train", "validation", "test", SET_ASIDE}
    if kind == "groups":
        whole = np.concatenate([old, new])
        assert all(len(set(whole[groups == group])) == 1 for group in set(groups))
    if kind == "times":
        trained, tested = times[80:][new == "train"], times[80:][new == "test"]
        span = times[:80][old == "test"]
        assert not ((trained >= span.min()) & (trained <= span.max())).any()
        if len(trained) and len(late := tested[tested > span.max()]):
            assert trained.max() < late.min() - gap
