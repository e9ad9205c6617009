from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamed_world import WEEK, begin, frame, more, write

from training_core.campaigns.watching.hold_out import Candidates, Cut, Recent, cut
from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.errors import DataError

START = 4 * WEEK


def cut_of(place: Path, known: str, **given: float | Recent | Callable[[Candidates], Recent]) -> Cut:
    store = DatasetStore(place / "store" / "datasets")
    return cut(store, store.open("stream"), store.open(known), **{"share": 0.3, **given})  # pyright: ignore[reportArgumentType]


def days(made: Cut, split: str) -> np.ndarray:
    """Which rows of the stream are in a part, by their number."""
    ids = made.dataset.ids(np.flatnonzero(made.dataset.split() == split))
    return np.sort([int(one.partition("-")[2]) for one in ids])


@pytest.mark.parametrize("times", [True, False])
def test_the_newest_of_the_new_rows_judge_and_all_before_them_train(tmp_path: Path, times: bool):
    known = begin(tmp_path, times=times)
    more(tmp_path, frame(START, 2 * WEEK), times=times)
    made = cut_of(tmp_path, known.ref)
    assert (made.num_new, made.num_hold_out, made.num_training) == (300, 90, 810)
    assert days(made, "test").tolist() == list(range(START + 2 * WEEK - 90, START + 2 * WEEK))
    assert days(made, "train").tolist() == list(range(START + 2 * WEEK - 90))


def test_the_cut_is_beside_the_latest_and_later_rows_do_not_know_of_it(tmp_path: Path):
    known = begin(tmp_path)
    latest = more(tmp_path, frame(START, WEEK))
    made = cut_of(tmp_path, known.ref)
    store = DatasetStore(tmp_path / "store" / "datasets")
    assert made.dataset.ref != latest.ref
    assert made.dataset.parent == latest.version
    assert store.open("stream").ref == latest.ref
    parts = [[part.digest for part in dataset.parts] for dataset in (made.dataset, latest)]
    assert parts[0] == parts[1], "no row is written again"
    assert cut_of(tmp_path, known.ref).dataset.ref == made.dataset.ref, "asked again it is the same"
    later = more(tmp_path, frame(START + WEEK, WEEK))
    assert later.parent == latest.version
    assert (later.split()[: latest.num_rows] == latest.split()).all()


def test_of_the_rows_since_a_drift_some_train(tmp_path: Path):
    known = begin(tmp_path)
    more(tmp_path, frame(START, 4 * WEEK))
    made = cut_of(tmp_path, known.ref, num_drifted=200)
    assert days(made, "test").tolist() == list(range(START + 4 * WEEK - 60, START + 4 * WEEK))
    assert days(made, "train").max() == START + 4 * WEEK - 61


def test_a_sliding_window_trains_on_the_newest_rows_only(tmp_path: Path):
    known = begin(tmp_path)
    more(tmp_path, frame(START, WEEK))
    made = cut_of(tmp_path, known.ref, recent=Recent(100))
    assert days(made, "train").tolist() == list(range(START + WEEK - 45 - 100, START + WEEK - 45))
    assert len(days(made, "quarantined")) == START + WEEK - 45 - 100


def test_who_chooses_the_window_is_shown_the_training_rows_in_order(tmp_path: Path):
    known = begin(tmp_path)
    more(tmp_path, frame(START, 4 * WEEK))
    shown: list[Candidates] = []

    def choose(candidates: Candidates) -> Recent:
        shown.append(candidates)
        return Recent(candidates.num_since, "as a test")

    made = cut_of(tmp_path, known.ref, num_drifted=200, recent=choose)
    assert len(shown[0].rows) == START + 4 * WEEK - 60
    assert (np.diff(shown[0].order) > 0).all()
    assert shown[0].num_since == 140
    assert days(made, "train").tolist() == list(range(START + 4 * WEEK - 200, START + 4 * WEEK - 60))
    assert made.recent.why == "as a test"


def _with_split(place: Path, rows: pd.DataFrame, rule: str) -> Path:
    """A source of `rows` that are split by another rule."""
    source = write(place, rows)
    source.write_text(source.read_text().replace("split: {test: 0.25}", f"split: {rule}"))
    return source


def test_rows_that_came_in_late_are_kept_out_of_the_embargo_as_earlier_ones_are(tmp_path: Path):
    """An old row of a time after the first that judges is as near to it as one before."""
    store = DatasetStore(tmp_path / "store" / "datasets")
    early = frame(0, START)
    early.loc[5, "day"] = START + 2 * WEEK - 40.5  # among those that will judge
    known = prepare_dataset(_with_split(tmp_path / "first", early, "{test: 0.25, embargo: 10}"), store)
    append_to_dataset(_with_split(tmp_path / "more", frame(START, 2 * WEEK), "{test: 0.25, embargo: 10}"), store)
    made = cut_of(tmp_path, known.ref).dataset
    times, split = made.times(), made.split()
    assert times is not None
    first = times[split == "test"].min()
    assert first > START
    assert times[np.isin(split, ("train", "validation"))].max() < first - 10
    assert split[list(made.ids()).index("row-5")] == "quarantined"


def test_validation_rows_older_than_a_window_do_not_say_when_to_stop(tmp_path: Path):
    store = DatasetStore(tmp_path / "store" / "datasets")
    rule = "{test: 0.25, validation: 0.25}"
    known = prepare_dataset(_with_split(tmp_path / "first", frame(0, START), rule), store)
    append_to_dataset(_with_split(tmp_path / "more", frame(START, 2 * WEEK), rule), store)
    assert len(days(cut_of(tmp_path, known.ref), "validation"))
    made = cut_of(tmp_path, known.ref, recent=Recent(100))
    assert (days(made, "validation") > days(made, "train").min()).all()


def test_without_new_rows_the_split_stays(tmp_path: Path):
    known = begin(tmp_path)
    made = cut_of(tmp_path, known.ref)
    assert made.dataset.ref == known.ref
    assert made.num_new == 0


def test_rows_of_one_group_are_on_one_side(tmp_path: Path):
    def source(first: int, num_rows: int) -> Path:
        rows = frame(first, num_rows)
        rows["user"] = [f"user-{(first + i) // 7 % 60}" for i in range(num_rows)]
        folder = tmp_path / str(first)
        folder.mkdir()
        rows.to_csv(folder / "rows.csv", index=False)
        (folder / "source.yaml").write_text(
            "name: stream\ntask: {kind: classification, target: {file: rows.csv, column: label}}\n"
            "id: {file: rows.csv, column: sample}\ngroup: {file: rows.csv, column: user}\n"
            "modalities:\n  first: {kind: tabular, file: rows.csv, columns: [here]}\n"
        )
        return folder / "source.yaml"

    store = DatasetStore(tmp_path / "store" / "datasets")
    known = prepare_dataset(source(0, 300), store)
    append_to_dataset(source(300, 300), store)
    made = cut_of(tmp_path, known.ref).dataset
    frame_of = pd.DataFrame({"split": made.split(), "user": made.groups()})
    judging = set(frame_of[frame_of.split == "test"].user)
    assert judging
    assert not judging & set(frame_of[frame_of.split == "train"].user)


def test_one_time_for_all_new_rows_cannot_be_split(tmp_path: Path):
    known = begin(tmp_path)
    more(tmp_path, frame(START, 60).assign(day=1e6))
    with pytest.raises(DataError, match="too few distinct times"):
        cut_of(tmp_path, known.ref)
