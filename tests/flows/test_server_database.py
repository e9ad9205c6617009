"""A store's Prefect database: copied from what this machine keeps, made by migrations where it cannot be, and written
in turns."""

import asyncio
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from flows.server_database import lay_out_database, take_turns


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


READ, WRITE = sa.text("SELECT count(*) FROM known"), sa.text("INSERT INTO known VALUES (1)")


def in_turns(url: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """What the server of a database would be configured with; None: with what Prefect chooses."""
    monkeypatch.setitem(MODELS_DEPENDENCIES, "database_config", None)
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        take_turns()
    return MODELS_DEPENDENCIES["database_config"]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with one table, to which the interface of Prefect's server leads."""
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE known (number INTEGER)")
    assert in_turns(f"sqlite+aiosqlite:///{path}", monkeypatch)
    return path


def test_a_transaction_that_has_read_may_write_whoever_writes_meanwhile(database: Path) -> None:
    async def both() -> None:
        server = provide_database_interface()
        has_read, asks = asyncio.Event(), asyncio.Event()

        async def second() -> None:
            await has_read.wait()
            asks.set()
            async with server.session_context(begin_transaction=True) as session:
                await session.execute(WRITE)

        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(second())
            async with server.session_context(begin_transaction=True) as session:
                await session.execute(READ)
                has_read.set()
                await asks.wait()
                await asyncio.wait([other], timeout=0.5)  # one that does not wait its turn is through by then
                assert not other.done()
                await session.execute(WRITE)

    asyncio.run(both())
    with closing(sqlite3.connect(database)) as written:
        assert written.execute("SELECT count(*) FROM known").fetchone() == (2,)


@pytest.mark.parametrize("begins", [True, False])
def test_what_is_opened_within_a_transaction_does_not_wait_for_it(database: Path, begins: bool) -> None:
    async def nested() -> None:
        server = provide_database_interface()
        async with server.session_context(begin_transaction=True) as session:
            await session.execute(WRITE)
            async with server.session_context(begin_transaction=begins) as inner:
                assert (await inner.execute(READ)).scalar() == 0
            await session.execute(WRITE)

    asyncio.run(asyncio.wait_for(nested(), 20))  # it would wait for a minute


@pytest.mark.parametrize("address", ["work_pools/p/queues/q", "work_pools/p"])
def test_a_queue_and_a_pool_are_paused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect tells of it from a session of its own, opened within the transaction that pauses."""
    monkeypatch.setitem(MODELS_DEPENDENCIES, "database_config", None)
    url = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"

    async def pause() -> tuple[int, bool]:
        server = provide_database_interface()
        if not (tmp_path / "prefect.db").exists():
            await server.create_db()
        transport = httpx.ASGITransport(app=create_app(ignore_cache=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://here/api", timeout=30) as client:
            await client.post("/work_pools/", json={"name": "p", "type": "process"})
            await client.post("/work_pools/p/queues", json={"name": "q"})
            answer = await client.patch(f"/{address}", json={"is_paused": True})
            return answer.status_code, (await client.get(f"/{address}")).json()["is_paused"]

    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        lay_out_database(tmp_path)
        take_turns()
        assert asyncio.run(asyncio.wait_for(pause(), 120)) == (204, True)


def test_a_database_of_another_kind_is_left_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_turns("postgresql+asyncpg://db/prefect", monkeypatch) is None
