"""The flows that change who answers, on a real Prefect server, a real registry and real ensembles."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from factories import small_run, write_source
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.testing.utilities import prefect_test_harness

from flows.promote import promote_model, rollback_model
from tasks import promotion as tasks
from training_core.artifacts import open_published
from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.judgement import judge
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.promotion import registration, verbs
from training_core.campaigns.promotion.decide import PromotionConfig
from training_core.campaigns.promotion.integration import prepare_for_integration
from training_core.campaigns.promotion.ledger import Ledger
from training_core.campaigns.promotion.lineage import compare_versions, lineage
from training_core.campaigns.recording import begin_record, end_record
from training_core.errors import GateError
from training_core.evaluation.gates import GateConfig

pytestmark = pytest.mark.slow

LINEAR = {"learners": {"learners_per_bag": 1, "include": ("linear",)}, "bags": {"num_bags": 3, "num_row_draws": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion that looks at one modality, and a challenger that looks at three."""
    folder = tmp_path_factory.mktemp("promoted")
    source, store = write_source(folder / "source", num_rows=400, noise=1.0), folder / "store"
    verbs.open_registry(("mlflow",), store).models()  # made beforehand: a tracker that is slow to begin is given up
    for more in ({"modalities": ("facts",)}, {}):
        run = small_run(source, **LINEAR, **more)
        artifact = open_published(fit_ensemble(run, store, processes=False).folder)
        ref = resolve_dataset(str(source), store)
        record = begin_record(run, ref, store, {})
        registration.register(record, ref, artifact, judge(artifact, ref), {"prefect.flow_run_id": "trained-here"})
        end_record(record, "FINISHED")
    return store


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(tasks, "tell", lambda event, model, payload: events.append((event, dict(payload))))
    return events


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=300):
        yield


def resume_when_paused(answer: dict[str, Any], seen: list[str]) -> threading.Thread:
    """Somebody at the UI, who fills in the form as soon as there is one."""

    def watch() -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            with get_client(sync_client=True) as client:
                for run in client.read_flow_runs():
                    if run.state and run.state.type == StateType.PAUSED:
                        keyset = run.state.state_details.run_input_keyset
                        try:
                            description = client._client.get(f"/flow_runs/{run.id}/input/{keyset['description']}")
                        except PrefectHTTPStatusError:  # the form comes a moment after the pause
                            continue
                        seen.append(description.text)
                        client.resume_flow_run(run.id, run_input=answer)
                        return
            time.sleep(0.5)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_from_registration_to_approval_and_back(place, told):
    """One story: nobody answers, a person refuses, a person approves, and it is taken back."""
    newest, first = verbs.open_registry(("mlflow",), place).versions("world")
    assert (newest.version, newest.aliases, newest.parent) == (2, ("challenger",), "models:/world/1")
    assert (first.version, first.aliases, first.parent) == (1, ("champion",), None)
    request = PromotionConfig(model="world", approval=True, approval_hours=1 / 3600, by="bot", why="summer")
    silent = promote_model(request, str(place))
    assert (silent.action, silent.champion) == ("refused", 1)
    assert silent.reason.startswith("nobody answered in time; the challenger is better")

    for approve, action, champion in ((False, "refused", 1), (True, "promoted", 2)):
        seen: list[str] = []
        person = resume_when_paused({"approve": approve, "reason": "I looked", "by": "ann"}, seen)
        outcome = promote_model(request.model_copy(update={"approval_hours": 1.0}), str(place))
        person.join()
        assert (outcome.action, outcome.champion, outcome.by) == (action, champion, "ann")
        assert "| modalities | champion | challenger |" in seen[0]
    entry = Ledger(place, "world").entries()[-1]
    assert (entry.stage, entry.action, entry.version, entry.previous) == ("done", "promoted", 2, 1)
    assert entry.contest is not None
    assert entry.contest.challenger_score > entry.contest.champion_score
    assert entry.reason.startswith("ann approved: I looked; the challenger is better: accuracy")
    assert len(entry.flow_run) == 36
    assert entry.dataset is not None
    assert entry.dataset.startswith("world@")

    back = rollback_model("world", "complaints", str(place), by="ann")
    assert (back.action, back.champion) == ("rolled-back", 1)
    assert [event for event, _ in told] == ["model.refused", "model.refused", "model.promoted", "model.rolled-back"]
    assert told[2][1] == {"version": 2, "previous": 1, "by": "ann", "why": f"{entry.reason} (summer)"}


def test_a_loser_is_refused_without_asking_anybody(place, told):
    registry = verbs.open_registry(("mlflow",), place)
    champion = registry.find("world@champion").version
    verbs.rollback("world", place, version=2)
    refused = promote_model(PromotionConfig(model="world", challenger="1", approval=True), str(place))
    assert (refused.action, refused.champion) == ("refused", 2)
    assert "not higher by enough" in refused.reason
    verbs.rollback("world", place, version=champion)
    assert [event for event, _ in told] == ["model.refused"]


def test_versions_are_told_apart_by_where_they_come_from(place):
    table = lineage("world", place)
    assert list(table["version"]) == [2, 1]
    assert table.loc[0, "parent"] == "models:/world/1"
    assert table["parent"].isna().tolist() == [False, True]
    assert table["code"].notna().all()
    assert table["config_hash"].nunique() == 2
    assert (table["size_bytes"] > 1000).all()
    assert table.loc[0, "score"] > table.loc[1, "score"]
    differences = compare_versions("world", (1, 2), place)
    assert list(differences.columns) == ["version 1", "version 2"]
    assert differences.loc["settings/modalities", "version 1"] == '["facts"]'
    assert "settings/seed" not in differences.index
    assert differences.loc["test/accuracy", "version 2"] == pytest.approx(table.loc[0, "score"])


def test_a_version_is_looked_at_before_it_is_built_in(place):
    report = prepare_for_integration("models:/world/2", place)
    assert report.ready, report
    assert {one.name for one in report.checks} == {"in use", "files", "libraries", "answers", "measured"}
    report.require()
    strict = prepare_for_integration("models:/world/2", place, GateConfig(min_score=0.9999, max_size_mb=1000.0))
    assert [one.name for one in strict.checks if not one.passed] == ["min_score"]
    with pytest.raises(GateError, match="min_score: score is"):
        strict.require()
