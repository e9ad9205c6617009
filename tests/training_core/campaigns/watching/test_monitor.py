import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from streamed_world import WEEK, frame, more, train

from training_core.artifacts import open_published
from training_core.campaigns.serving import RegisteredModel
from training_core.campaigns.watching.monitor import MonitorConfig, MonitorReport, monitor
from training_core.campaigns.watching.profiles import profile_folder, profile_of
from training_core.campaigns.watching.retraining import RetrainConfig, called_for
from training_core.campaigns.watching.showing import alarm
from training_core.campaigns.watching.state import WatchFolder
from training_core.campaigns.watching.trigger import RetrainRule
from training_core.data.storage.store import DatasetStore
from training_core.errors import ConfigError, DataError, StorageError
from training_core.monitoring import DriftConfig
from training_core.tracking.mlflow_registry import MLflowRegistry
from training_core.tracking.registry import open_registry

START = 4 * WEEK


def look(model: str, store: Path, **given: object) -> MonitorReport:
    return monitor(MonitorConfig.model_validate({"model": model, **given}), store)


def test_rows_the_model_came_with_are_no_window(model: str, store: Path):
    found = look(model, store)
    assert (found.num_rows, found.counted, found.drift) == (0, False, None)
    assert found.verdict == "insufficient_data"


def test_a_change_is_confirmed_in_the_second_window_and_calls_for_training(place: Path, model: str, store: Path):
    more(place, frame(START, WEEK, shift=2.0))
    first = look(model, store)
    assert first.drift is not None
    assert first.drift.verdict == "drift"
    assert first.verdict == "ok"
    assert not first.retrain.retrain
    more(place, frame(START + WEEK, WEEK, shift=2.0))
    second = look(model, store)
    assert second.num_rows == WEEK
    assert second.verdict == "drift"
    assert "input/first.here" in second.confirmed
    assert second.retrain.retrain
    assert Path(second.report).read_text().startswith("<!doctype html>")


def test_the_alarm_carries_the_retraining_that_is_called_for_and_nothing_else_of_it(
    tmp_path: Path, model: str, store: Path
):
    looks = []
    for week in range(2):
        path = tmp_path / f"{week}.csv"
        frame(START + week * WEEK, WEEK, shift=2.0).drop(columns=["label", "sample"]).to_csv(path, index=False)
        request = MonitorConfig(model=model, dataset=str(path), retrain=RetrainRule(min_days=3.0))
        looks.append((request, monitor(request, store)))
    request, found = looks[-1]
    assert found.retrain.retrain
    told = json.loads(json.dumps(alarm(request, found)))
    asked = RetrainConfig.model_validate(told["retrain"])
    assert asked == called_for(request, found)
    assert asked == RetrainConfig(model=model, reason="drift", window=found.window, rule=RetrainRule(min_days=3.0)), (
        "its rows come from the data set, though the window was a file"
    )


@pytest.fixture
def registered(model: str, store: Path, blank_database: Path) -> str:
    """The model as the champion of a registry, version 1, and as version 2 one that wants to take over."""
    shutil.copyfile(blank_database, store / "mlflow.db")
    registry = open_registry(("mlflow",), store)
    assert isinstance(registry, MLflowRegistry)
    client = registry._tracker.client
    client.create_registered_model("stream")
    challenger = train(store.parent, DatasetStore(store / "datasets").open("stream"), seed=1)
    for number, folder in enumerate((model, challenger), 1):
        package = store.parent / f"package-{number}"
        shutil.copytree(folder, package / "artifacts")
        (package / "MLmodel").write_text(
            "flavors:\n  python_function: {loader_module: none, artifacts: {ensemble: {path: artifacts}}}\n"
        )
        client.create_model_version("stream", str(package))
    client.set_registered_model_alias("stream", "champion", "1")
    client.set_registered_model_alias("stream", "challenger", "2")
    return "stream"


def test_a_look_at_the_challenger_leaves_the_champions_windows_alone(place: Path, registered: str, store: Path):
    more(place, frame(START, WEEK, shift=2.0))
    look(registered, store)
    more(place, frame(START + WEEK, WEEK, shift=2.0))
    before = WatchFolder(store, "stream").state()
    aside = look("stream@challenger", store)
    assert aside.num_rows == 2 * WEEK, "all that came after its data, whatever the champion's windows had"
    assert aside.drift is not None
    assert aside.drift.verdict == "drift"
    assert (aside.counted, aside.retrain.retrain, aside.report) == (False, False, "")
    assert "models:/stream/1 answers for stream" in aside.not_counted
    assert WatchFolder(store, "stream").state() == before
    assert look("models:/stream/1", store).retrain.retrain, "the champion by any name is the champion"


def test_a_folder_named_like_the_model_is_none(
    place: Path, registered: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here" / "stream").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    more(place, frame(START, WEEK, shift=2.0))
    assert RegisteredModel(registered, store).newest() == "models:/stream/1"
    assert look(registered, store).version == "models:/stream/1"


def test_answers_that_come_late_count_beside_rows_that_have_none_yet(
    place: Path, model: str, store: Path, tmp_path: Path
):
    rows = frame(START, WEEK, turned=True)
    path = tmp_path / "without.csv"
    rows.drop(columns="label").rename(columns={"sample": "id"}).to_csv(path, index=False)
    look(model, store, dataset=str(path))
    later = frame(START + WEEK, WEEK)
    later["label"] = None
    more(place, pd.concat([rows, later]), quarantine=True)
    found = look(model, store)
    assert (found.num_rows, found.num_late) == (WEEK, WEEK)
    assert found.drift is not None
    assert "performance" in {check.kind for check in found.drift.checks}
    assert found.drift.drifted, "the answers have turned round"


def test_a_window_of_answers_alone_is_nothing_to_compare_later_ones_with(
    place: Path, model: str, store: Path, tmp_path: Path
):
    rolling = DriftConfig(reference="rolling")
    weeks = [frame(START + week * WEEK, WEEK) for week in range(4)]
    path = tmp_path / "without.csv"
    weeks[0].drop(columns="label").rename(columns={"sample": "id"}).to_csv(path, index=False)
    look(model, store, dataset=str(path), drift=rolling)
    for rows in weeks[1:3]:
        more(place, rows)
        usual = look(model, store, drift=rolling)
    more(place, weeks[0])
    answers = look(model, store, drift=rolling)
    assert (answers.num_rows, answers.num_late, answers.counted) == (0, WEEK, True)
    more(place, weeks[3])
    after = look(model, store, drift=rolling)
    assert usual.drift is not None and after.drift is not None
    assert {check.name for check in after.drift.checks} == {check.name for check in usual.drift.checks}


def test_a_window_seen_twice_counts_once_and_calls_for_the_same(place: Path, model: str, store: Path):
    for week in range(2):
        more(place, frame(START + week * WEEK, WEEK, shift=2.0))
        last = look(model, store)
    before = WatchFolder(store, "stream").state()
    again = look(model, store)
    assert WatchFolder(store, "stream").state() == before
    assert not again.counted
    assert again.drift == last.drift
    assert again.retrain.retrain
    other = look(model, store, label="by another name")
    assert other.num_rows == 0, "its rows were in a window already"


def test_few_rows_wait_until_they_are_a_window(place: Path, model: str, store: Path):
    more(place, frame(START, 30))
    few = look(model, store)
    assert (few.num_rows, few.counted) == (30, False)
    more(place, frame(START + 30, 30))
    enough = look(model, store)
    assert (enough.num_rows, enough.counted) == (60, True)


def test_a_file_of_rows_is_watched_without_answers(tmp_path: Path, model: str, store: Path):
    path = tmp_path / "november.csv"
    frame(START, WEEK, shift=2.0).drop(columns=["label", "sample"]).to_csv(path, index=False)
    found = look(model, store, dataset=str(path))
    assert found.drift is not None
    assert found.drift.verdict == "drift"
    assert not any(check.kind == "performance" for check in found.drift.checks)
    assert any(check.name == "prediction/confidence" for check in found.drift.checks)
    assert found.window.startswith("november.csv@")


def test_answers_that_come_later_count_for_the_performance_alone(tmp_path: Path, place: Path, model: str, store: Path):
    path = tmp_path / "unanswered.csv"
    rows = frame(START, WEEK, turned=True)
    rows.drop(columns="label").rename(columns={"sample": "id"}).to_csv(path, index=False)
    asked = look(model, store, dataset=str(path))
    assert asked.drift is not None
    assert asked.drift.verdict == "ok"
    more(place, rows)
    answered = look(model, store)
    assert (answered.num_rows, answered.num_late) == (0, WEEK)
    assert answered.drift is not None
    assert [check.name for check in answered.drift.of("drift")] == ["performance/accuracy"]
    more(place, frame(START + WEEK, WEEK))
    assert look(model, store).num_late == 0


def test_rows_set_aside_for_want_of_an_answer_are_watched(place: Path, model: str, store: Path):
    rows = frame(START, WEEK, shift=2.0)
    rows.loc[rows.index[:-20], "label"] = None
    more(place, rows, quarantine=True)
    found = look(model, store)
    assert found.num_rows == WEEK
    assert found.drift is not None
    assert found.drift.check("input/first.here").verdict == "drift"
    assert found.drift.check("performance/accuracy").window_rows == 20


def test_a_category_and_a_class_that_the_model_never_met_are_watched(place: Path, model: str, store: Path):
    rows = frame(START, WEEK)
    rows.loc[rows.index[::2], "shop"] = "west"
    rows.loc[rows.index[::3], "label"] = "sideways"
    more(place, rows)
    found = look(model, store)
    assert found.drift is not None
    assert found.drift.check("missing/first.shop").verdict == "drift"
    assert found.drift.check("target/class").verdict == "warning"
    assert found.drift.check("performance/accuracy").window_value == pytest.approx(0.62, abs=0.06)


def test_which_rows_and_a_rolling_reference(place: Path, model: str, store: Path):
    more(place, frame(START, WEEK))
    drift = DriftConfig(reference="rolling", num_windows=2).model_dump()
    everything = look(model, store, rows="all", drift=drift)
    assert everything.num_rows == 5 * WEEK
    assert look(model, store, rows="test", drift=drift).num_rows < WEEK * 2
    more(place, frame(START + WEEK, WEEK))
    assert look(model, store, drift=drift).drift.reference == "rolling"  # pyright: ignore[reportOptionalMemberAccess]


def test_what_cannot_be_watched_is_a_users_error(tmp_path: Path, place: Path, model: str, store: Path):
    with pytest.raises(ConfigError, match="no ensemble in"):
        look("no/such/model", store)
    with pytest.raises(DataError, match="no file"):
        look(model, store, dataset=str(tmp_path / "gone.csv"))
    pd.DataFrame({"what": [1.0]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(DataError, match="none of the columns"):
        look(model, store, dataset=str(tmp_path / "other.csv"))


def test_a_model_without_a_profile_gets_one_as_long_as_its_data_are_there(model: str, store: Path):
    ensemble = open_published(Path(model))
    folder = profile_folder(ensemble, store)
    kept = profile_of(ensemble, store)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert profile_of(ensemble, store).tally.scale == kept.tally.scale
    (folder / "profile.json").write_text("{}")
    with pytest.raises(StorageError):
        profile_of(ensemble, store)


def test_a_profile_holds_honest_answers_and_no_row(model: str, store: Path):
    profile = profile_of(open_published(Path(model)), store)
    assert profile.tally.num_rows == 4 * WEEK
    assert profile.tally.performance is not None
    assert profile.tally.performance.num_rows == WEEK, "the test split"
    folder = profile_folder(open_published(Path(model)), store)
    assert all(b"row-1" not in path.read_bytes() for path in folder.iterdir())


def test_a_full_disk_leaves_everything_as_it_was(place: Path, model: str, store: Path):
    more(place, frame(START, WEEK))
    before = WatchFolder(store, "stream").state()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(StorageError, match="no space left"):
            look(model, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert WatchFolder(store, "stream").state() == before
    assert look(model, store).counted


_KILLED = """
import os, signal, sys
from pathlib import Path
from training_core.campaigns.watching import monitor, state
def die(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(state.WatchFolder if sys.argv[3] == "write" else monitor, sys.argv[3], die)
monitor.monitor(monitor.MonitorConfig(model=sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["compare", "write_text_atomically", "write"])
def test_killed_at_any_step_the_next_look_finds_the_same(place: Path, model: str, store: Path, step: str):
    more(place, frame(START, WEEK, shift=2.0))
    ended = subprocess.run([sys.executable, "-c", _KILLED, model, str(store), step], check=False)
    assert ended.returncode == -signal.SIGKILL
    found = look(model, store)
    assert (found.num_rows, found.counted) == (WEEK, True)
    assert WatchFolder(store, "stream").state().labels == (found.window,)


_LOOK = """
import sys
from pathlib import Path
from training_core.campaigns.watching.monitor import MonitorConfig, monitor
print(monitor(MonitorConfig(model=sys.argv[1]), Path(sys.argv[2])).model_dump_json())
"""


@pytest.mark.slow
def test_two_at_once_count_a_window_once(place: Path, model: str, store: Path):
    more(place, frame(START, WEEK, shift=2.0))
    both = [
        subprocess.Popen([sys.executable, "-c", _LOOK, model, str(store)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    assert sorted(one["counted"] for one in said) == [False, True]
    assert said[0]["drift"] == said[1]["drift"]
    assert len(WatchFolder(store, "stream").state().labels) == 1
