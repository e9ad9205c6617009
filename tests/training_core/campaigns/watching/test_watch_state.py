import json
from pathlib import Path

import numpy as np
import pytest

from training_core.campaigns.watching.state import SeenRows, WatchFolder, WatchState, digests_of
from training_core.errors import ConfigError, StorageError
from training_core.monitoring import DriftWatch, Tally, Window


def window(label: str) -> Window:
    nothing: dict = {"numbers": {}, "categories": {}, "shares": {}, "arrays": {}}
    return Window(label=label, tally=Tally(scale="s", num_rows=60, measured_rows=60, **nothing))


def put(folder: WatchFolder, label: str, serious: bool = False, count: bool = True) -> None:
    """A window of 60 rows; without `count` the writer is killed before it counts."""
    with folder.locked() as state:
        digests = digests_of([f"{label}-{i}" for i in range(60)])
        folder.put_window(state, window(label), digests, np.ones(60, bool))
        if count:
            added = {"labels": (*state.labels, label), "num_rows": (*state.num_rows, 60)}
            folder.write(state.model_copy(update={**added, "serious": (*state.serious, serious)}))


def labels(folder: WatchFolder) -> list[str]:
    return [one.label for one in folder.windows(folder.state())]


def test_what_was_written_is_read_back(tmp_path: Path):
    folder = WatchFolder(tmp_path, "shoes")
    put(folder, "monday")
    put(folder, "tuesday")
    again = WatchFolder(tmp_path, "shoes")
    assert labels(again) == ["monday", "tuesday"]
    assert again.seen(again.state()).known(digests_of(["monday-3", "wednesday-3"])).tolist() == [True, False]


def test_a_window_counts_only_once_the_state_names_it(tmp_path: Path):
    folder = WatchFolder(tmp_path, "shoes")
    put(folder, "monday")
    put(folder, "killed", count=False)
    assert labels(folder) == ["monday"]
    assert not folder.seen(folder.state()).known(digests_of(["killed-3"])).any()
    put(folder, "tuesday")
    assert labels(folder) == ["monday", "tuesday"]


def test_half_a_line_that_a_killed_writer_left_is_replaced(tmp_path: Path):
    folder = WatchFolder(tmp_path, "shoes")
    put(folder, "monday")
    with (folder.path / "windows.jsonl").open("a") as file:
        file.write('{"label": "tues')
    assert labels(folder) == ["monday"]
    put(folder, "tuesday")
    assert labels(folder) == ["monday", "tuesday"]


def test_windows_that_are_missing_are_an_error_that_says_what_to_do(tmp_path: Path):
    folder = WatchFolder(tmp_path, "shoes")
    put(folder, "monday")
    (folder.path / "windows.jsonl").write_text("")
    with pytest.raises(StorageError, match="0 windows of 1; restore it, or delete"):
        folder.windows(folder.state())


@pytest.mark.parametrize("text", ["", "{", '{"labels": 3}', '{"format": 1, "more": 1}', "\x00"])
def test_a_damaged_state_is_an_error(tmp_path: Path, text: str):
    folder = WatchFolder(tmp_path, "shoes")
    put(folder, "monday")
    (folder.path / "watch.json").write_text(text)
    with pytest.raises(StorageError, match=r"watch\.json is unreadable"):
        folder.state()


def test_a_state_of_another_release_is_refused(tmp_path: Path):
    folder = WatchFolder(tmp_path, "shoes")
    folder.write(WatchState())
    path = folder.path / "watch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(StorageError, match="format 99"):
        folder.state()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", "a\x00b", ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="cannot name"):
        WatchFolder(tmp_path, name)


def test_another_reference_begins_anew_and_forgets_no_rows(tmp_path: Path):
    state = WatchState(profile="a", watch=DriftWatch(streaks={"x": (2, 2)}, num_windows=2), labels=("monday",))
    assert state.about("a") is state
    after = state.about("b")
    assert after.watch == DriftWatch()
    assert after.labels == ("monday",)


def test_a_streak_is_the_serious_windows_up_to_the_one_named():
    state = WatchState(labels=tuple("abcde"), num_rows=(10, 20, 30, 40, 50), serious=(True, False, True, True, False))
    assert [state.rows_of_streak(label) for label in "abcdex"] == [10, 0, 30, 70, 0, 0]


def test_answers_that_come_later_are_known_as_such():
    seen = SeenRows(digests_of(["a", "b", "b"]), np.array([True, False, True]))
    later = SeenRows(digests_of(["a", "b"]), np.array([True, False]))
    asked = digests_of(["a", "b", "c"])
    assert seen.without_label(asked).tolist() == [False, False, False]
    assert later.without_label(asked).tolist() == [False, True, False]


def test_no_id_is_kept(tmp_path: Path):
    folder = WatchFolder(tmp_path, "shoes")
    put(folder, "patient")
    assert all(b"patient-1" not in path.read_bytes() for path in (folder.path / "rows").iterdir())
