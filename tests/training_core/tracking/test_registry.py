"""The registry of models on a real database."""

import socket
from pathlib import Path

import pytest

from training_core.errors import ConfigError, StorageError
from training_core.tracking.mlflow_registry import MLflowRegistry
from training_core.tracking.models import model_uri, parse_model_uri
from training_core.tracking.registry import RETIRED, Origin, open_registry

ORIGIN = Origin(
    dataset="shoes@1f3a",
    parent="models:/shoes/1",
    code="0.1.0+abc",
    config_hash="c" * 64,
    metric="accuracy",
    scores={"accuracy": 0.91, "ece": 0.02},
    size_bytes=1234,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        found = MLflowRegistry(tmp_path_factory.mktemp("registry"))
        client = found._tracker.client
        client.create_registered_model("empty")
        client.create_registered_model("shoes")
        for tags in ({}, ORIGIN.tags(), {RETIRED: "2026-01-01 wrong prices"}):
            client.create_model_version("shoes", "/nowhere", run_id=None, tags=tags)
        found.set_alias("shoes", "champion", 1)
        yield found


def test_versions_come_with_their_origin_the_newest_first(registry):
    third, second, first = registry.versions("shoes")
    assert [one.version for one in (third, second, first)] == [3, 2, 1]
    assert {name: getattr(second, name) for name in Origin.model_fields} == ORIGIN.model_dump()
    assert (first.aliases, second.aliases, first.dataset, first.scores) == (("champion",), (), None, {})
    assert (third.retired, third.why_retired, second.retired) == (True, "2026-01-01 wrong prices", False)
    assert (second.uri, second.run_id, second.sha256) == ("models:/shoes/2", None, None)
    assert registry.versions("boots") == ()
    assert registry.models() == ("shoes",)


@pytest.mark.parametrize(
    ("model", "version"),
    [("shoes", 2), ("models:/shoes/latest", 2), ("shoes@champion", 1), ("models:/shoes@champion", 1),
     ("models:/shoes/3", 3)],
)  # fmt: skip
def test_a_version_is_found_by_every_name_it_has(registry, model, version):
    assert registry.find(model).version == version


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("boots", "no model 'boots'.*the models there are: shoes"),
        ("empty", "no model 'empty'"),
        ("shoes@challenger", r"no alias 'challenger'; its versions are 3; 2; 1 \(champion\)"),
        ("models:/shoes/7", "no version 7"),
        ("models:/../shoes/1", "not the URI of a model"),
        ("sho'es", "not the URI of a model"),
        ("shoes@", "not the URI of a model"),
        ("a\nb", "not the URI of a model"),
        ("", "not the URI of a model"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(registry, model, complaint):
    with pytest.raises(ConfigError, match=complaint):
        registry.find(model)


def test_aliases_move_and_go_and_doing_so_twice_changes_nothing(registry):
    for version in (2, 2, 1):
        registry.set_alias("shoes", "previous", version)
        assert registry.find("shoes@previous").version == version
    for _ in range(2):
        registry.set_alias("shoes", "previous", None)
    assert registry.find("shoes@champion").aliases == ("champion",)
    with pytest.raises(ConfigError):
        registry.set_alias("shoes", "previous", 99)
    with pytest.raises(ConfigError):
        registry.tag("shoes", 99, {"a": "b"})
    registry.tag("shoes", 1, {"polychoir.size_bytes": "12"})
    assert registry.find("models:/shoes/1").size_bytes == 12


@pytest.mark.parametrize("scores", ["[1, 2]", "{", '{"accuracy": "high"}', "null", "7"])
def test_tags_that_somebody_else_wrote_are_left_out(scores):
    found = Origin.of_tags({"polychoir.scores": scores, "polychoir.size_bytes": "-1", "other": "x"})
    assert (found.scores, found.size_bytes, found.dataset) == ({}, 0, None)


def test_scores_that_are_not_numbers_are_not_kept():
    tags = Origin(scores={"r2": float("nan"), "rmse": 1.5}).tags()
    assert Origin.of_tags(tags).scores == {"rmse": 1.5}


def test_names_become_uris():
    assert model_uri("shoes") == "models:/shoes/latest"
    assert parse_model_uri(model_uri("shoes@champion")) == ("shoes", "champion", None)
    assert model_uri("models:/shoes/3") == "models:/shoes/3"


def test_trackers_without_a_registry_say_so(tmp_path):
    with pytest.raises(ConfigError, match="jsonl have no registry"):
        open_registry(("jsonl",), tmp_path)


def test_a_registry_that_does_not_answer_is_named(monkeypatch, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=r"the registry http://127.0.0.1:\d+ cannot be asked"):
        MLflowRegistry(tmp_path).find("shoes")


def test_a_database_that_is_none_is_named(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("this is no database")
    with pytest.raises(StorageError, match="cannot write the tracking database"):
        MLflowRegistry(tmp_path).models()
