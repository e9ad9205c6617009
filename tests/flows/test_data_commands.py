"""The commands about data, run as a user runs them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from command import answer, polychoir
from factories import write_source


def with_ids(source: Path, prefix: str = "s") -> Path:
    """The same source with an id column in its table; its arrays stay aligned by row."""
    path = source.with_name("table.csv")
    table = pd.read_csv(path)
    table.insert(0, "id", [f"{prefix}{i}" for i in range(len(table))])
    table.to_csv(path, index=False)
    source.write_text(source.read_text() + "id: {file: table.csv, column: id}\n")
    return source


def test_a_dataset_is_prepared_listed_inspected_extended_compared_verified_and_cleaned_up(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    first = answer(polychoir("prepare", with_ids(write_source(tmp_path / "a")), *store, "--json"))
    assert first["rows"] == {"train": 280, "validation": 0, "test": 120}
    assert first["available"] == {"left": 400, "right": 400, "facts": 400}

    more = with_ids(write_source(tmp_path / "b", num_rows=90, seed=0), "t")
    second = answer(polychoir("append", more, *store, "--json"))
    assert sum(second["rows"].values()) == 490

    listed = answer(polychoir("datasets", *store, "--json"))["datasets"]
    assert [(row["dataset"], len(row["versions"])) for row in listed] == [(second["dataset"], 2)]

    found = answer(polychoir("inspect", "world", *store, "--json"))
    assert found["num_rows"] == 490
    assert found["num_parts"] == 2
    assert [line["name"] for line in found["modalities"]] == ["left", "right", "facts"]
    assert found["patterns"] == [{"present": ["left", "right", "facts"], "num_rows": 490}]
    assert [step["action"] for step in found["lineage"]] == ["append", "prepare"]
    assert Path(found["report"]).is_file()

    changed = answer(polychoir("diff", first["dataset"], "world@latest", *store, "--json"))
    assert changed["added"]["count"] == 90
    assert changed["removed"]["count"] == 0

    assert len(answer(polychoir("verify", *store, "--json"))["verified"]) == 2
    would = answer(polychoir("gc", "world", "--keep=1", "--dry-run", *store, "--json"))
    assert [len(would["world"][key]) for key in ("versions", "parts")] == [1, 0]  # the parts are shared
    gone = answer(polychoir("gc", "world", "--keep=1", *store, "--json"))
    assert gone == would
    assert polychoir("inspect", first["dataset"], *store).returncode == 2


def test_what_people_see_names_everything(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    result = polychoir("prepare", write_source(tmp_path / "a"), *store)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("world@")
    assert "400 rows (280 train, 120 test)" in result.stderr
    shown = polychoir("inspect", "world", *store).stdout
    for words in ("classification into 3 classes", "left", "vector", "shop", "Samples", "quality.html"):
        assert words in shown
    assert "world@" in polychoir("datasets", *store).stdout


def test_going_back_to_fewer_rows_and_appending_nothing_new_are_said(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    first, more = with_ids(write_source(tmp_path / "a")), with_ids(write_source(tmp_path / "b", num_rows=90), "t")
    for command, source, words in (
        ("prepare", first, ""),
        ("append", more, "490 rows"),
        ("append", more, "has all of this already; nothing was written"),
        ("prepare", first, "with 490 rows is no longer the latest version"),
    ):
        result = polychoir(command, source, *store)
        assert result.returncode == 0, result.stderr
        assert words in " ".join(result.stderr.split())


def test_a_damaged_file_is_named_by_verify(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    answer(polychoir("prepare", write_source(tmp_path / "a"), *store, "--json"))
    (table,) = (tmp_path / "store").rglob("table.parquet")
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(bytes(data))
    result = polychoir("verify", "world", *store)
    assert result.returncode == 2
    assert "table.parquet" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--quarantine",)])
def test_rows_that_cannot_be_used_are_refused_or_set_aside(tmp_path: Path, flags: tuple[str, ...]) -> None:
    source = write_source(tmp_path / "a")
    path = source.with_name("table.csv")
    table = pd.read_csv(path).astype({"size": object})
    table.loc[[3, 5], "size"] = "much"
    table.to_csv(path, index=False)
    result = polychoir("prepare", source, "--store", tmp_path / "store", "--json", *flags)
    found = json.loads(result.stdout)
    if flags:
        assert found["quarantined"] == 2
        assert any("'much' is not a number" in finding["message"] for finding in found["findings"])
    else:
        assert result.returncode == 2
        assert "row 3: 'much' is not a number" in found["error"]
        assert "quality.quarantine" in found["error"]


def test_unknown_datasets_are_named_with_the_known_ones(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    answer(polychoir("prepare", write_source(tmp_path / "a"), *store, "--json"))
    for command in (("inspect", "boots"), ("verify", "boots"), ("diff", "world", "boots"), ("gc", "boots")):
        result = polychoir(*command, *store)
        assert result.returncode == 2, command
        assert "boots" in result.stderr, command


def test_ids_columns_and_classes_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    table = pd.DataFrame({"id": [f"[/b]{i}" for i in range(60)], "label": ["[/red]", "[bold]"] * 30})
    table["[/x]"] = [(i * 37 % 60) / 7 for i in range(60)]
    table.to_csv(tmp_path / "table.csv", index=False)
    source = tmp_path / "source.yaml"
    source.write_text(
        "name: odd\n"
        "task: {kind: classification, target: {file: table.csv, column: label}}\n"
        "id: {file: table.csv, column: id}\n"
        'modalities: {facts: {kind: tabular, file: table.csv, columns: ["[/x]"]}}\n'
    )
    name = answer(polychoir("prepare", source, *store, "--json"))["dataset"]
    shown = polychoir("inspect", name, *store)
    assert shown.returncode == 0, shown.stderr
    assert "[/red] 30" in shown.stdout
    assert "[/b]0" in shown.stdout
    compared = polychoir("diff", name, name, *store)
    assert compared.returncode == 0, compared.stderr
