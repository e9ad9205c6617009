"""A model in production on real processes: it is trained, watched, trained again after a change, and takes over."""

import time
from pathlib import Path

import pytest
from streamed_world import WEEK, begin, frame, more, quick_run

from training_core.data.storage.store import DatasetStore

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


def _events(name: str) -> list[dict]:
    """The events of a name that the server has, oldest first; they are written behind the flow's back."""
    from prefect.client.orchestration import get_client

    wanted = {"filter": {"event": {"name": [name]}, "order": "ASC"}}
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            found = client._client.post("/events/filter", json=wanted).json()["events"]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(1)


def test_a_change_is_noticed_and_the_model_trained_again_takes_over(tmp_path: Path):
    store = tmp_path / "store"
    first = begin(tmp_path)
    from flows.runtime import prefect_at

    with prefect_at(store):
        from flows.monitor import monitor_model
        from flows.retrain import retrain_model
        from flows.train_ensemble import train_ensemble
        from training_core.campaigns.watching.monitor import MonitorConfig
        from training_core.campaigns.watching.retraining import RetrainConfig
        from training_core.campaigns.watching.state import WatchFolder

        trained = train_ensemble(quick_run(first.ref), str(store))
        assert trained.model == "models:/stream/1"
        reports = []
        for week in range(3):
            more(tmp_path, frame(4 * WEEK + week * WEEK, WEEK, turned=week > 0))
            reports.append(monitor_model(MonitorConfig(model="stream"), str(store)))
        assert [report.retrain.retrain for report in reports] == [False, False, True]
        assert reports[-1].version == "models:/stream/1"
        assert Path(reports[-1].report).read_text().startswith("<!doctype html>")
        told = _events("polychoir.drift.detected")
        assert [event["payload"]["window"] for event in told] == [reports[-1].window]
        assert told[0]["resource"]["prefect.resource.id"] == "polychoir.model.stream"

        asked = RetrainConfig.model_validate(told[0]["payload"]["retrain"])
        again = retrain_model(asked, str(store))
        assert again.outcome == "promoted", again.why
        assert again.version == "models:/stream/2"
        assert again.plan.num_hold_out == round(0.3 * 2 * WEEK)
        assert again.plan.num_training == 2 * WEEK - again.plan.num_hold_out, "what came before the change misleads"
        assert DatasetStore(store / "datasets").open("stream").ref == reports[-1].dataset
        record = WatchFolder(store, "stream").state().retrains[-1]
        assert (record.outcome, record.version, record.reason) == ("promoted", "models:/stream/2", "degradation")

        more(tmp_path, frame(7 * WEEK, WEEK, turned=True))
        after = monitor_model(MonitorConfig(model="stream"), str(store))
        assert after.version == "models:/stream/2"
        assert after.drift is not None
        assert not after.retrain.retrain
        assert after.drift.check("performance/accuracy").verdict == "ok"

        too_soon = retrain_model(RetrainConfig(model="stream", reason="drift"), str(store))
        assert too_soon.outcome == "refused"
        assert "days between" in too_soon.why
        assert _events("polychoir.retrain.refused")[0]["payload"]["why"] == too_soon.why
