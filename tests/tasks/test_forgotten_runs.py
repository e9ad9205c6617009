"""Which flow runs a maintenance forgets: those of its own store, on a server that others may use as well."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from tasks.maintenance import FLOWS, forget_flow_runs
from training_core.campaigns.maintenance import RetentionConfig

ROOT = Path(__file__).parents[2]
AT_ONCE = RetentionConfig(flow_run_days=1e-9)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=300):
        yield


def run(name: str, called: str, *tagged: str, **parameters: str) -> None:
    """A flow run that is over."""

    def on_store(store: str) -> None: ...

    def of_nothing() -> None: ...

    with tags(*tagged):
        flow(name=name, flow_run_name=called)(on_store if parameters else of_nothing)(**parameters)


def known() -> set[str]:
    with get_client(sync_client=True) as client:
        return {found.name for found in client.read_flow_runs()}


def test_every_flow_is_ours() -> None:
    defined = [
        name for path in (ROOT / "flows").glob("*.py") for name in re.findall(r'@flow\(name="(.+?)"', path.read_text())
    ]
    assert sorted(defined) == sorted(FLOWS)


@pytest.mark.slow
def test_runs_of_others_on_the_same_server_are_left_alone(server: None, tmp_path: Path) -> None:
    mine, theirs, link = tmp_path / "mine", tmp_path / "theirs", tmp_path / "link"
    mine.mkdir()
    link.symlink_to(mine)
    run("train-ensemble", "mine", store=str(mine))
    run("train-ensemble", "mine by another name", store=str(link))
    run("train-ensemble", "another store", store=str(theirs))
    run("train-ensemble", "somewhere", store=".polychoir")
    run("nightly-invoices", "a foreign flow", store=str(mine))
    run("notify", "a foreign notice")
    run("notify", "our notice", "polychoir")
    foreign = {"another store", "somewhere", "a foreign flow", "a foreign notice"}
    ours = {"mine", "mine by another name", "our notice"}
    said = forget_flow_runs.fn(AT_ONCE.model_copy(update={"dry_run": True}), mine)
    assert set(said.names) == ours and known() == foreign | ours
    assert set(forget_flow_runs.fn(AT_ONCE, mine).names) == ours
    assert known() == foreign
    assert forget_flow_runs.fn(AT_ONCE, mine).names == ()
    assert forget_flow_runs.fn(RetentionConfig(), theirs).names == (), "it is not old"
