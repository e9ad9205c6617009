import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from typer.testing import CliRunner

from flows.serving_commands import app
from tests.training_core.export.small_ensemble import make_ensemble, small_samples, small_spec
from training_core.artifacts import ArtifactRef, publish_directory
from training_core.errors import ConfigError
from training_core.export import package_ensemble
from training_core.schema import TaskSpec
from training_core.tracking.mlflow import MLflowTracker
from training_core.tracking.registry import open_registry

ROWS = json.dumps({"samples": [{"vec": [1, 2, 3, 4], "review": "good"}] * 50}).encode()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["small", "--host", "0.0.0.0"], "anyone who reaches '0.0.0.0' could ask"),
        (["small", "--token-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["small", "--port", "70000"], "'port' is 70000"),
        (["small", "--max-rows", "0"], "'max_rows' is 0"),
        (["no/such/folder"], "no ensemble in no/such/folder"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_code_2(tmp_path: Path, arguments: list[str], says: str):
    done = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert says in done.output.replace("\n", " ")


@contextmanager
def served(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and where it answers."""
    command = [sys.executable, "-m", "flows.cli", "serve", *map(str, arguments), "--port", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.wait()
        yield process, json.loads(line)["url"]
    finally:
        process.kill()
        process.wait()


def ask(url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def until(done, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


def register(store: Path, ensemble: ArtifactRef, task: TaskSpec) -> str:
    spec = small_spec(task)
    tracker = MLflowTracker(store)
    run_id = tracker.start("small")
    uri = tracker.log_ensemble(run_id, package_ensemble(ensemble, "small", spec, small_samples(spec)))
    tracker.finish(run_id, "FINISHED")
    assert uri is not None
    return uri


@pytest.mark.slow
def test_a_server_follows_the_champion_and_survives_one_that_is_damaged(tmp_path: Path):
    store = tmp_path / "store"
    tasks = [TaskSpec.classification(["no", "yes", "perhaps"]), TaskSpec.regression(["up"]), TaskSpec.multilabel(3)]
    for i, task in enumerate(tasks):
        register(store, make_ensemble(tmp_path / str(i), small_spec(task)), task)
    registry = open_registry(["mlflow"], store)
    registry.set_alias("small", "champion", 1)
    with served("small", "--store", store, "--check-every", "0.2") as (_, url):
        first = ask(f"{url}/predict", ROWS)
        assert first["model"] == "models:/small/1" and len(first["predictions"]) == 50
        assert first["predictions"][0]["prediction"] in tasks[0].classes
        registry.set_alias("small", "champion", 2)
        while (answer := ask(f"{url}/predict", ROWS))["model"] == "models:/small/1":
            assert len(answer["predictions"]) == 50  # the old one answers until the new one is ready
        assert isinstance(answer["predictions"][0]["prediction"], float)
        files = MLflowTracker(store).resolve_model("models:/small/3").path
        (files / "ensemble.json").write_text("{}")
        registry.set_alias("small", "champion", 3)
        until(lambda: ask(f"{url}/health")["status"] == "degraded")
        assert "ensemble.json" in ask(f"{url}/health")["problem"]
        assert ask(f"{url}/predict", ROWS)["model"] == "models:/small/2"
        registry.set_alias("small", "champion", 1)
        until(lambda: ask(f"{url}/health")["model"].endswith("/1"))
        assert ask(f"{url}/health")["problem"] is None


@pytest.mark.slow
def test_sigterm_lets_a_request_in_flight_finish(tmp_path: Path):
    ensemble = make_ensemble(tmp_path / "made", small_spec())
    with served(ensemble.path, "--store", tmp_path / "store") as (process, url):
        port = int(url.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(ROWS)))
        connection.endheaders(ROWS[:100])
        until(lambda: b"polychoir_in_progress 1" in urllib.request.urlopen(f"{url}/metrics").read())
        process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return True
            return False

        until(refused)
        connection.send(ROWS[100:])
        answer = connection.getresponse()
        assert answer.status == 200 and len(json.loads(answer.read())["predictions"]) == 50
        assert process.wait(60) == 0
        with pytest.raises(urllib.error.URLError):
            ask(f"{url}/health")


@pytest.mark.slow
def test_a_port_that_is_taken_and_ctrl_c(tmp_path: Path):
    ensemble = make_ensemble(tmp_path / "made", small_spec())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, [str(ensemble.path), "--port", port, "--store", str(tmp_path / "store")])
    assert done.exit_code == 2 and "cannot listen on" in done.output
    with served(ensemble.path, "--store", tmp_path / "store") as (process, url):
        assert ask(f"{url}/health")["model"] == str(ensemble.path)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_folder_stays_what_it_is_and_is_not_forgotten(tmp_path: Path):
    from training_core.campaigns.serving import RegisteredModel

    folder = tmp_path / "ensemble"
    with publish_directory(folder) as unfinished:
        (unfinished / "a").write_text("b")
    os.utime(folder, (0, 0))
    assert RegisteredModel(str(folder), tmp_path).newest() == str(folder)
    assert folder.stat().st_mtime > 0
    assert not (tmp_path / "mlflow.db").exists()  # nobody was asked
    with pytest.raises(ConfigError, match="NAME@champion"):
        RegisteredModel(str(tmp_path / "nothing"), tmp_path).newest()
