"""What TensorBoard itself reads from the files we write."""

import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training_core.errors import ConfigError
from training_core.tracking import Guarded, JsonLinesTracker, RunRecord, TrackedDataset, open_tracker
from training_core.tracking.tensorboard import TensorBoardTracker

DATASET = TrackedDataset(name="digits", version="1f3a", fingerprint="1f3a" * 16, path="/data")
CURVE = tuple((epoch, 1.0 / epoch) for epoch in range(1, 6))


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def curve(folder: Path, key: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(key)]


def texts(folder: Path) -> dict[str, str]:
    found = read(folder)
    names = found.Tags()["tensors"]
    return {n.removesuffix("/text_summary"): found.Tensors(n)[0].tensor_proto.string_val[0].decode() for n in names}


def test_a_run_and_its_learners_are_folders_with_settings_curves_and_final_metrics(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start("digits", params={"training.lr": "0.1"}, tags={"a": "b|c"}, dataset=DATASET, run_id="r1")
    record = RunRecord(
        name="bag-01/fusion_net", params={"lr": "0.1", "act": "gelu"}, metrics={"accuracy": 0.9}, curves={"loss": CURVE}
    )
    tracker.log_run(run_id, record)
    tracker.log_metrics(run_id, {"test/accuracy": 0.95})
    tracker.finish(run_id)
    parent = tmp_path / "digits-r1"
    assert curve(parent, "test/accuracy") == [(0, pytest.approx(0.95))]
    assert "| training.lr | 0.1 |" in texts(parent)["settings"]
    assert "digits@1f3a" in texts(parent)["settings"]
    assert texts(parent)["status"] == "FINISHED"
    child = parent / "bag-01" / "fusion_net"
    assert curve(child, "loss") == [(epoch, pytest.approx(value)) for epoch, value in CURVE]
    assert curve(child, "accuracy") == [(0, pytest.approx(0.9))]
    assert "hparams" in read(child).summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name


def test_curves_can_be_watched_as_they_grow_and_have_each_step_once_in_the_end(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start("digits", run_id="r1")
    child = tmp_path / "digits-r1" / "net"
    for epoch, value in CURVE[:3]:
        tracker.log_progress(run_id, "net", {"loss": value}, epoch)
    assert [step for step, _ in curve(child, "loss")] == [1, 2, 3]
    tracker.log_progress(run_id, "net", {"loss": 1.0}, 1)  # its group died and was tried again
    tracker.log_run(run_id, RunRecord(name="net", curves={"loss": CURVE}))
    assert [step for step, _ in curve(child, "loss")] == [1, 2, 3, 4, 5]


def test_a_training_that_went_on_from_a_checkpoint_has_its_whole_curve_in_order(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start("digits", run_id="r1")
    for epoch, value in CURVE[3:]:
        tracker.log_progress(run_id, "net", {"loss": value}, epoch)
    tracker.log_run(run_id, RunRecord(name="net", curves={"loss": CURVE}))
    child = tmp_path / "digits-r1" / "net"
    assert [step for step, _ in curve(child, "loss")] == [1, 2, 3, 4, 5]
    assert len(list(child.glob("events.*"))) == 1


def test_another_process_goes_on_with_the_same_run(tmp_path: Path) -> None:
    run_id = TensorBoardTracker(tmp_path).start("digits")
    other = TensorBoardTracker(tmp_path)
    other.log_metrics(run_id, {"test/accuracy": 0.9})
    other.finish(run_id)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"digits-{run_id}"
    assert curve(folder, "test/accuracy") == [(0, pytest.approx(0.9))]


def test_texts_are_files_of_the_run_and_plain_ones_are_shown(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start("digits", run_id="r1")
    tracker.log_text(run_id, "<html>", "report.html")
    tracker.log_text(run_id, "operator  calls", "profile/operators.txt")
    tracker.log_artifact(run_id, Path("/somewhere/model.bin"), "models")
    with pytest.raises(ConfigError, match="leads out of the run's folder"):
        tracker.log_text(run_id, "x", "../../outside.txt")
    tracker.finish(run_id)
    folder = tmp_path / "digits-r1"
    assert (folder / "report.html").read_text() == "<html>"
    shown = texts(folder)
    assert shown["profile/operators.txt"] == "    operator  calls"
    assert "/somewhere/model.bin" in shown["files/models"]
    assert "report.html" not in shown


def test_numbers_that_are_none_are_kept_as_such_without_a_word(tmp_path: Path, caplog: Any, capfd: Any) -> None:
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start("digits", run_id="r1")
    tracker.log_metrics(run_id, {"a": float("nan"), "b": float("inf")})
    tracker.finish(run_id)
    assert math.isnan(curve(tmp_path / "digits-r1", "a")[0][1])
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training_core.tracking.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'polychoir\[tensorboard\]'"):
        open_tracker(["mlflow", "tensorboard"], tmp_path)


def test_a_folder_that_cannot_be_written_is_warned_about_and_json_lines_have_it_all(
    tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "board").write_text("a file where the folder should be")
    lines = JsonLinesTracker(tmp_path / "lines")
    tracker = Guarded(TensorBoardTracker(tmp_path / "board"), lines)
    run_id = tracker.start("digits")
    tracker.log_progress(run_id, "net", {"loss": 1.0}, 1)
    tracker.log_run(run_id, RunRecord(name="net", curves={"loss": CURVE}))
    tracker.finish(run_id)
    assert len(caplog.records) == 1
    written = (tmp_path / "lines" / run_id / "events.jsonl").read_text().splitlines()
    assert [line.split('"event": "')[1].split('"')[0] for line in written] == ["start", "child", "finish"]
