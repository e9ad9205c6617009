import json
import subprocess
import sys
from pathlib import Path

import pytest

from training_core.errors import ConfigError
from training_core.tracking import JsonLinesTracker, NullTracker, RunRecord, TrackedDataset, flat_params, open_tracker
from training_core.tracking.entries import MAX_KEY_LENGTH, legal_keys, thin


def lines(tracker: JsonLinesTracker, run_id: str) -> list[dict]:
    text = Path(tracker.location, run_id, "events.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_nested_settings_become_flat_text():
    settings = {"seed": 0, "bags": {"num_bags": 6, "names": ["a", "b"], "none": None}, "fast": True, "rate": 0.1}
    assert flat_params(settings) == {
        "seed": "0",
        "bags.num_bags": "6",
        "bags.names": '["a","b"]',
        "bags.none": "null",
        "fast": "true",
        "rate": "0.1",
    }


def test_json_lines_hold_everything_about_a_run(tmp_path):
    tracker = JsonLinesTracker(tmp_path)
    data = TrackedDataset(name="digits", version="1f", fingerprint="1f00", path="/d")
    run_id = tracker.start("train", tags={"a": "b"}, params={"seed": "0"}, dataset=data)
    tracker.log_metrics(run_id, {"loss": float("nan"), "score": 0.5}, step=3)
    tracker.finish(run_id)
    start, metrics, finish = lines(tracker, run_id)
    assert start["dataset"] == {"name": "digits", "version": "1f", "fingerprint": "1f00", "path": "/d"}
    assert (start["name"], start["tags"], start["params"]) == ("train", {"a": "b"}, {"seed": "0"})
    assert (metrics["metrics"], metrics["step"]) == ({"loss": "NaN", "score": 0.5}, 3)
    assert finish["status"] == "FINISHED"


def test_json_lines_record_reads_back_as_it_was(tmp_path):
    tracker = JsonLinesTracker(tmp_path)
    parent = tracker.start("parent")
    record = RunRecord(name="child", metrics={"x": float("inf")}, curves={"loss": ((0, 1.0), (1, 0.5))})
    child = tracker.log_run(parent, record)
    (line,) = lines(tracker, child)
    assert line["parent"] == parent
    kept = {key: line[key] for key in RunRecord.model_fields}
    assert RunRecord.model_validate(kept) == record
    assert lines(tracker, parent)[-1]["run"] == child


def test_json_lines_text_stays_inside_the_run(tmp_path):
    tracker = JsonLinesTracker(tmp_path)
    run_id = tracker.start("train")
    tracker.log_text(run_id, "hello", "reports/a.txt")
    assert (tmp_path / run_id / "artifacts" / "reports" / "a.txt").read_text() == "hello"
    with pytest.raises(ConfigError, match="leads out of the run's folder"):
        tracker.log_text(run_id, "x", "../../outside.txt")


@pytest.mark.parametrize("tracker", [NullTracker(), JsonLinesTracker.__new__(JsonLinesTracker)])
def test_tracker_without_a_registry_says_what_to_give_instead(tracker):
    with pytest.raises(ConfigError, match="give the ensemble's directory instead"):
        tracker.resolve_model("models:/toy/1")


def test_opening_a_tracker_imports_nothing_heavy_and_writes_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from training_core.tracking import open_tracker\n"
        "open_tracker(['mlflow', 'tensorboard', 'wandb', 'jsonl'], Path(sys.argv[1]))\n"
        "sys.exit(bool({'mlflow', 'pandas', 'torch', 'numpy', 'tensorboard', 'wandb'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], check=True)
    assert list(tmp_path.iterdir()) == []


def test_kinds_of_tracker(tmp_path):
    lines = tmp_path / "tracking"
    assert open_tracker([], tmp_path).location == "nowhere"
    assert open_tracker(["jsonl"], tmp_path).location == str(lines)
    several = open_tracker(["jsonl", "tensorboard", "wandb", "mlflow"], tmp_path).location
    assert several == f"sqlite:///{tmp_path}/mlflow.db, {tmp_path}/tensorboard, {tmp_path}/wandb, {lines}"


def test_legal_keys_are_kept_and_illegal_ones_stay_distinct():
    names = legal_keys(["a/b", "pix+fou", "pix_fou", "pix*fou", "a//b", "../up", "é ü", ""])
    assert names["a/b"] == "a/b"
    assert names["pix_fou"] == "pix_fou"
    assert names["../up"] == "up"
    assert names["é ü"] == "é ü"
    assert len(set(names.values())) == len(names)
    assert names["pix+fou"].startswith("pix_fou_")


def test_long_keys_are_cut_and_stay_distinct():
    names = legal_keys(["k" * 300, "k" * 301, "k" * MAX_KEY_LENGTH])
    assert len(set(names.values())) == 3
    assert max(len(name) for name in names.values()) <= MAX_KEY_LENGTH


def test_thinned_curve_keeps_both_ends_and_its_order():
    curve = [(step, float(step)) for step in range(1001)]
    thinned = thin(curve, 11)
    assert thinned == [(step, float(step)) for step in range(0, 1001, 100)]
    assert thin(curve[:5], 11) == curve[:5]
