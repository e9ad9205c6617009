"""A new store's Prefect database: copied from what this machine keeps, made by migrations where it cannot be."""

import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.embedded_server import lay_out_database


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database that this machine keeps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "polychoir" / f"prefect-{version('prefect')}.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE flow_run (id TEXT)")
    return path


def tables(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT name FROM sqlite_master").fetchall()


def test_a_new_home_gets_the_tables_that_are_kept(kept: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert not lay_out_database(home)
    assert tables(home / "prefect.db") == [("flow_run",)]
    assert [path.name for path in home.iterdir()] == ["prefect.db"]


@pytest.mark.parametrize("damage", [b"", b"not a database at all, but long enough to look like a file" * 99])
def test_what_is_damaged_or_absent_is_left_to_migrations(kept: Path, tmp_path: Path, damage: bytes) -> None:
    kept.write_bytes(damage) if damage else kept.unlink()
    home = tmp_path / "home"
    home.mkdir()
    assert lay_out_database(home)
    assert list(home.iterdir()) == []


def test_a_database_that_is_there_or_elsewhere_is_left_alone(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect.db").write_bytes(b"of somebody")
    assert not lay_out_database(tmp_path)
    assert (tmp_path / "prefect.db").read_bytes() == b"of somebody"
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://db/prefect")
    assert not lay_out_database(home)
    assert list(home.iterdir()) == []
