"""What a user gets wrong: one clear line, exit code 2, and nothing half-written."""

import json
from pathlib import Path

import pytest
from command import polychoir
from factories import write_source


def only_line(result: "object", code: int = 2) -> str:
    stderr, returncode = result.stderr, result.returncode  # pyright: ignore[reportAttributeAccessIssue]
    assert returncode == code, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


def test_an_unknown_key_in_a_run_is_named_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("dataset: x\ntraining: {epochz: 3}\n")
    line = only_line(polychoir("train", tmp_path / "run.yaml", "--store", tmp_path / "store"))
    assert "unknown key 'training.epochz'" in line
    assert "epochs" in line


def test_an_unknown_dataset_is_named(tmp_path: Path) -> None:
    line = only_line(polychoir("train", "nothing", "--store", tmp_path / "store"))
    assert "nothing" in line


def test_an_unknown_preset_lists_the_presets(tmp_path: Path) -> None:
    line = only_line(polychoir("train", "x", "--preset=fast", "--store", tmp_path / "store"))
    assert "quick" in line
    assert "balanced" in line


def test_a_malformed_override_is_explained(tmp_path: Path) -> None:
    assert "key.path=value" in only_line(polychoir("train", "x", "--set", "epochs", "--store", tmp_path / "store"))


def test_an_error_in_an_override_names_the_override_not_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("dataset: x\ntraining: {epochs: 3}\n")
    arguments = ("train", tmp_path / "run.yaml", "--set", "seed=1", "--store", tmp_path / "store")
    line = only_line(polychoir(*arguments, "--set", "training.epochs=few"))
    assert line.startswith("error: --set training.epochs=few: 'training.epochs' is 'few'")
    line = only_line(polychoir(*arguments, "--set", "training.epochz=2"))
    assert line.startswith("error: --set training.epochz=2: unknown key 'training.epochz'")


def test_an_absent_source_is_named(tmp_path: Path) -> None:
    line = only_line(polychoir("prepare", tmp_path / "absent.yaml", "--store", tmp_path / "store"))
    assert "absent.yaml" in line


def test_one_class_only_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_source(tmp_path / "world")
    table = source.with_name("table.csv")
    table.write_text(table.read_text().replace("green", "red").replace("blue", "red"))
    line = only_line(polychoir("prepare", source, "--store", tmp_path / "store"))
    assert "class" in line
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    source = write_source(tmp_path / "world")
    arguments = ("predict", "nothing", source.with_name("table.csv"), "--store", tmp_path / "store")
    assert "nothing" in only_line(polychoir(*arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--check",), "name it"),
        (("--against", "2"), "name it"),
        (("shoes", "--check", "--against", "2"), "one of them at a time"),
        (("shoes", "--export"), "--export is a part of --check"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert said in only_line(polychoir("models", *arguments, "--store", tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_errors_are_json_when_json_is_asked_for(tmp_path: Path) -> None:
    result = polychoir("train", "nothing", "--store", tmp_path / "store", "--json")
    assert result.returncode == 2
    assert "nothing" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("command", [(), ("demo",), ("prepare",), ("train",), ("predict",)])
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    result = polychoir(*command, "--help")
    assert result.returncode == 0
    assert "xample" in result.stdout or command == ()
