"""What `apply` makes of a real server, and what a scheduled look at every champion does there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from deployments.apply import Applied, apply
from deployments.catalogue import LEARNERS_LIMIT, POOL
from deployments.environments import Environment
from flows.monitor import monitor_champions
from tests.training_core.campaigns.promotion.registered_versions import register_versions
from training_core.tracking.registry import CHAMPION

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=300):
        yield


def applied(store: Path, prune: bool = False, **values: object) -> Applied:
    return apply(Environment.named("local", {"timezone": "UTC", **values}), store, prune)


def test_what_changed_is_updated_and_then_left_alone(tmp_path: Path) -> None:
    applied(tmp_path)
    assert {change.action for change in applied(tmp_path).changes} == {"unchanged"}
    changed = applied(tmp_path, stale_hours=30.0, monitor="0 7 * * *")
    assert {change.name for change in changed.changes if change.action == "updated"} == {
        "polychoir: monitoring stands still",
        "polychoir: maintain stands still",
        "monitor-champions/monitoring",
    }
    again = applied(tmp_path, stale_hours=30.0, monitor="0 7 * * *")
    assert {change.action for change in again.changes} == {"unchanged"}


def test_what_is_switched_off_goes_without_being_asked_for(tmp_path: Path) -> None:
    applied(tmp_path, gpu_slots=2)
    changed = applied(tmp_path, gpu_slots=0, monitor="")
    assert {change.name for change in changed.changes if change.action == "removed"} == {
        LEARNERS_LIMIT,
        "polychoir: monitoring stands still",
    }
    applied(tmp_path)


def test_what_people_switched_off_or_added_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.apply.detected_gpus", lambda: 1)
    applied(tmp_path)
    with get_client(sync_client=True) as client:
        name = "polychoir: maintain stands still"
        (automation,) = client.read_automations_by_name(name)
        client.pause_automation(automation.id)
        client.create_work_queue("of-an-operator", work_pool_name=POOL)
        client.upsert_global_concurrency_limit_by_name(LEARNERS_LIMIT, 3)
        applied(tmp_path, prune=True, stale_hours=31.0)
        (after,) = client.read_automations_by_name(name)
        limits = {limit.name: limit.limit for limit in client.read_global_concurrency_limits()}
        queues = {queue.name for queue in client.read_work_queues(work_pool_name=POOL)}
    assert not after.enabled
    assert after.trigger.within.total_seconds() == 31 * 3600
    assert "of-an-operator" in queues
    assert limits[LEARNERS_LIMIT] == 3


def test_every_champion_is_looked_at_though_one_cannot_be(tmp_path: Path) -> None:
    for name in ("boots", "hats", "shoes"):
        registry = register_versions(tmp_path, name=name)
        registry.set_alias(name, CHAMPION, None if name == "hats" else 1)
    state = monitor_champions(str(tmp_path), return_state=True)
    assert state.is_failed()  # there are no files behind them
    with get_client(sync_client=True) as client:
        looks = [run.name for run in client.read_flow_runs() if run.name.startswith("monitor ")]
    assert sorted(looks) == ["monitor boots", "monitor shoes"]


def test_where_nothing_is_registered_nothing_is_looked_at(tmp_path: Path) -> None:
    assert monitor_champions(str(tmp_path), return_state=True).is_completed()
    assert not (tmp_path / "mlflow.db").exists()
