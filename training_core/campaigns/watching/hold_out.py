"""Cutting the data of a retraining: the newest rows judge, the rows before them train.

The cut is a version of the data set on the side: the same parts, another split, and not the latest. So the challenger
is trained by the ordinary run, both models are judged on rows that neither was trained on, and later rows are appended
to what was the latest before. Rows that judge now may train the next challenger.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training_core.campaigns.watching.state import digests_of
from training_core.data.splitting.embargo import embargo_of, unit_times
from training_core.data.splitting.splits import SET_ASIDE, time_split
from training_core.data.storage.store import Dataset, DatasetStore, Described
from training_core.errors import DataError

_ACTION = "split for a retraining"


@dataclass(frozen=True)
class Recent:
    """How many of the newest training rows train.

    Attributes:
        num_rows: so many; 0: all.
        why: a sentence.
    """

    num_rows: int = 0
    why: str = ""


@dataclass(frozen=True)
class Candidates:
    """What may train: everything but the rows that judge.

    Attributes:
        rows: positions in the data set, oldest first, int64 [N].
        order: what they are ordered by, [N]: rows of one time, and of one group, have one value.
        num_since: of them, the newest so many came in since the drift showed, or since the champion's data.
    """

    rows: np.ndarray
    order: np.ndarray
    num_since: int


@dataclass(frozen=True)
class Cut:
    """A data set as a retraining is given it.

    Attributes:
        dataset: the version on the side; the latest itself where no rows are newer than the champion.
        num_new: rows that the champion's version does not have.
        num_hold_out: rows that judge.
        num_training: rows that train or validate.
        recent: how many of the newest rows train.
    """

    dataset: Dataset
    num_new: int
    num_hold_out: int
    num_training: int
    recent: Recent


def cut(
    store: DatasetStore,
    latest: Dataset,
    known: Dataset | None,
    *,
    share: float,
    num_drifted: int = 0,
    recent: Recent | Callable[[Candidates], Recent] = Recent(),
) -> Cut:
    """The latest version, split for a retraining.

    The newest are told by their times, without times by the order in which rows came in. Rows of one time, and of one
    group, stay on one side; earlier rows of a group that judges are set aside, and so are those that an embargo keeps
    from the rows that judge. Rows that were set aside stay so.

    Args:
        store: where the version is published.
        latest: the latest version.
        known: the version the champion was trained on; None when it is gone.
        share: of the new rows that judge, the newest.
        num_drifted: rows that came in since the drift showed, of which the share is taken, so that some of them train;
            0: all new ones.
        recent: how many rows train, the newest; or who says so where there are new rows.

    Raises:
        DataError: too few times or groups to keep some apart.
    """
    split = latest.split()
    served = np.flatnonzero(split != SET_ASIDE)
    order = _order(latest, served)
    after = ~np.isin(digests_of(latest.ids(served)), [] if known is None else digests_of(known.ids()))
    num_new = int(after.sum()) if known is not None else 0
    made, pool = split.copy(), np.empty(0, np.int64)
    if num_new:
        pool = np.flatnonzero(after)
        pool = pool[np.argsort(order[pool], kind="stable")][-(num_drifted or num_new) :]
        made[served] = np.where(split[served] == "validation", "validation", "train")
        made[served[_judging(latest, served, order, pool, share)]] = "test"
        made[_of_judging_groups(latest, made)] = SET_ASIDE
        made[_too_near(latest, served, order, made)] = SET_ASIDE
    training = np.flatnonzero(made[served] == "train")
    training = training[np.argsort(order[training], kind="stable")]
    if not isinstance(recent, Recent):
        num_since = int(np.isin(training, pool).sum())
        found = Candidates(served[training], order[training], num_since)
        recent = recent(found) if num_new else Recent(why="no rows are new, so that all of them train")
    if 0 < recent.num_rows < len(training):
        made[served[training[: -recent.num_rows]]] = SET_ASIDE
        first = order[training[-recent.num_rows]]
        made[served[(made[served] == "validation") & (order < first)]] = SET_ASIDE  # of the past that misleads
    return _of(latest if (made == split).all() else _published(store, latest, made), num_new, recent)


def is_cut(dataset: Dataset) -> bool:
    """Whether a version was made for a retraining, from the one that is its parent."""
    return dataset.manifest["lineage"].get("action") == _ACTION


def _order(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """What `rows` are sorted by, float64 or datetime64 [n]: their times (of a group its last), or how they came in."""
    times, groups = dataset.times(rows), dataset.groups(rows)
    return unit_times(rows.astype(np.float64) if times is None else times, groups)


def _judging(latest: Dataset, served: np.ndarray, order: np.ndarray, pool: np.ndarray, share: float) -> np.ndarray:
    """Which of `pool` (positions among `served`) are the newest `share`."""
    groups = latest.groups(served[pool])
    parts = time_split(order[pool], groups, test=share, validation=0.0)
    return pool[parts == "test"]


def _of_judging_groups(latest: Dataset, made: np.ndarray) -> np.ndarray:
    """Positions of the rows that are in a group with a row that judges, and do not judge themselves."""
    groups = latest.groups()
    if groups is None:
        return np.empty(0, np.int64)
    judging = np.unique(groups[made == "test"].astype(str))
    return np.flatnonzero(np.isin(groups.astype(str), judging) & (made != "test"))


def _too_near(latest: Dataset, served: np.ndarray, order: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Positions of training rows whose time is in the embargo before the first row that judges, or later.

    As in `splitting.splits.time_split`: what came in late, of a time after that row, is as near as what is before it.
    """
    rule = latest.manifest["lineage"].get("source", {}).get("split", {})
    embargo = rule.get("embargo", 0.0) if isinstance(rule, dict) else 0.0
    times = latest.times(served)
    if times is None or not embargo:
        return np.empty(0, np.int64)
    first = order[made[served] == "test"].min() - embargo_of(embargo, times)
    return served[np.isin(made[served], ("train", "validation")) & (order >= first)]


def _published(store: DatasetStore, latest: Dataset, split: np.ndarray) -> Dataset:
    if not (split == "train").any():
        raise DataError(f"{latest.ref}: no row would be left to train on; widen `recent_rows`, or lower `holdout`")
    quality = latest.path / "quality.json"
    described = Described(
        spec=latest.spec,
        target_names=tuple(latest.manifest["target_names"]),
        split=split,
        lineage={**latest.manifest["lineage"], "action": _ACTION, "parent": latest.version},
        files={"quality.json": quality.read_bytes()} if quality.is_file() else {},
    )
    return store.publish(latest.name, None, described, base=latest, make_latest=False)


def _of(dataset: Dataset, num_new: int, recent: Recent) -> Cut:
    split = dataset.split()
    return Cut(
        dataset=dataset,
        num_new=num_new,
        num_hold_out=int((split == "test").sum()),
        num_training=int(np.isin(split, ("train", "validation")).sum()),
        recent=recent,
    )
