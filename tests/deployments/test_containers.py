"""The container files, held against the schemas of what reads them."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.utilities.templating import apply_values

from deployments.apply import CONTAINERS, kubernetes_template
from deployments.catalogue import HEARTBEAT_SECONDS, POOL

SCHEMAS = Path(__file__).parent / "schemas"


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text())


def compose() -> Any:
    return yaml.safe_load((CONTAINERS / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", (CONTAINERS / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def rendered_job(**values: Any) -> Any:
    """The manifest a worker would send, with the template's defaults and what Prefect fills in itself."""
    template = kubernetes_template("registry.example.org/polychoir:1")
    defaults = {name: one["default"] for name, one in template["variables"]["properties"].items() if "default" in one}
    given = {"name": "lively-bat", "command": ["prefect", "flow-run", "execute"], "labels": {"a": "b"}}
    given["env"] = [{"name": "PREFECT_API_URL", "value": "https://prefect.example.org/api"}]
    return apply_values(template["job_configuration"]["job_manifest"], {**defaults, **given, **values})


def test_the_compose_file_keeps_its_schema() -> None:
    jsonschema.validate(compose(), schema("compose_spec.json"), jsonschema.Draft201909Validator)


def test_the_schema_of_compose_files_finds_a_mistake() -> None:
    broken = compose()
    broken["services"]["worker"]["memory_limits"] = "2g"
    with pytest.raises(jsonschema.ValidationError, match="memory_limits"):
        jsonschema.validate(broken, schema("compose_spec.json"), jsonschema.Draft201909Validator)


def test_nothing_of_the_team_server_is_open_to_the_network() -> None:
    services = compose()["services"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    prefect = services["prefect"]["environment"]
    assert ":?" in prefect["PREFECT_SERVER_API_AUTH_STRING"]  # compose refuses to start without it
    assert prefect["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    assert "*" not in prefect["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]
    assert prefect["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
    hosts = next(option for option in services["mlflow"]["command"] if option.startswith("--allowed-hosts="))
    assert "mlflow:5000" in hosts  # the name the worker calls it by
    assert "*" not in hosts.partition("=")[2].split(",")
    assert services["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_no_password_is_written_in_the_compose_file() -> None:
    text = (CONTAINERS / "compose.yaml").read_text()
    for name, value in re.findall(r"^\s*([A-Z_]*(?:PASSWORD|AUTH_STRING)[A-Z_]*): *(.*)$", text, re.MULTILINE):
        assert value.startswith("${"), name


def test_the_worker_polls_the_pool_that_is_deployed_to() -> None:
    worker = compose()["services"]["worker"]
    command = worker["command"]
    assert command[command.index("--pool") + 1] == POOL
    assert worker["environment"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_SECONDS)
    assert {"store:/store"} == set(worker["volumes"]) & set(compose()["services"]["mlflow"]["volumes"])


def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    found = instructions()
    installs = [argument for name, argument in found if name == "RUN" and "pip install" in argument]
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)
    users = [argument for name, argument in found if name == "USER"]
    assert users[-1] == "10001"
    after = [name for name, _ in found[max(i for i, (name, _) in enumerate(found) if name == "USER") :]]
    assert "RUN" not in after
    assert not [argument for name, argument in found if name == "ADD"]
    assert {"FROM", "WORKDIR", "VOLUME", "CMD"} <= {name for name, _ in found}


def test_everything_the_image_copies_is_there_and_not_ignored() -> None:
    root = CONTAINERS.parents[1]
    kept = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name, argument in instructions()
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    assert copied == kept
    assert all((root / source).exists() for source in copied)


def test_a_job_of_the_template_is_a_kubernetes_job() -> None:
    jsonschema.validate(rendered_job(), schema("kubernetes_job.json"))


def test_the_schema_of_jobs_finds_a_key_in_the_wrong_place() -> None:
    broken = rendered_job()
    broken["spec"]["template"]["spec"]["completions"] = 1
    with pytest.raises(jsonschema.ValidationError, match="completions"):
        jsonschema.validate(broken, schema("kubernetes_job.json"))


@pytest.mark.parametrize("gpus", ["0", "2"])
def test_a_job_gets_the_gpus_it_asks_for(gpus: str) -> None:
    job = rendered_job(gpus=gpus)
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert container["image"] == "registry.example.org/polychoir:1"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_every_variable_of_the_template_is_used() -> None:
    template = kubernetes_template("polychoir:latest")
    used = set(re.findall(r"\{\{ *(\w+) *\}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
