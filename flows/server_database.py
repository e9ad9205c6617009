"""The SQLite file in which a Prefect server keeps what it knows: made quickly, and written in turns.

Prefect lets most transactions read before they ask to write. SQLite refuses such a one at once, however long it may
wait, when another has written meanwhile: an event that is refused four times reaches no automation, so a drift would
start no retraining. Here a transaction asks for its turn when it begins.

`python -m flows.server_database ARGUMENTS` is `prefect ARGUMENTS` with such transactions.
"""

import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from training_core.artifacts import machine_cache

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def lay_out_database(home: Path) -> bool:
    """Give a new `home` the tables for which Prefect needs 10 to 20 s of migrations, where this machine has them kept.

    A home that has a database and a server whose database is elsewhere are left alone.

    Returns:
        Whether the database is still to be made by migrations.
    """
    database = home / "prefect.db"
    if database.exists() or any("DATABASE_CONNECTION_URL" in name for name in os.environ):
        return False
    try:
        _copy(_kept_database(), database)
    except (OSError, sqlite3.Error):
        return True
    return False


def migrate_and_keep(home: Path) -> None:
    """Let Prefect make the database of a new home, and keep a copy, empty as it is, for the homes to come."""
    import asyncio

    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    with suppress(OSError, sqlite3.Error):
        _kept_database().parent.mkdir(parents=True, exist_ok=True)
        _copy(home / "prefect.db", _kept_database())


def _kept_database() -> Path:
    return machine_cache() / f"prefect-{version('prefect')}.db"


def _copy(source: Path, target: Path) -> None:
    """Copy a database whole or not at all; what is in its write-ahead log comes along."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as known,
            closing(sqlite3.connect(unfinished)) as new,
        ):
            known.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, which can be read where nothing may be written
            if new.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError(f"{source} is damaged")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def take_turns() -> None:
    """Let the Prefect server that is about to start in this process wait with every transaction for its turn.

    One whose database is no SQLite file is left as it is.
    """
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
    from prefect.server.database.dependencies import MODELS_DEPENDENCIES
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    class InTurn(AioSqliteConfiguration):
        @asynccontextmanager
        async def begin_transaction(
            self, session: "AsyncSession", with_for_update: bool = False
        ) -> AsyncGenerator["AsyncSessionTransaction", None]:
            within_another = SQLITE_BEGIN_MODE.get() is not None  # which would never end, were it waited for
            async with super().begin_transaction(session, with_for_update or not within_another) as transaction:
                await session.connection()  # it begins here, not with its first statement
                token = SQLITE_BEGIN_MODE.set("DEFERRED")  # nor do sessions that are opened within it wait for it
                try:
                    yield transaction
                finally:
                    SQLITE_BEGIN_MODE.reset(token)

    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        MODELS_DEPENDENCIES["database_config"] = InTurn(connection_url=url)


if __name__ == "__main__":
    take_turns()
    from prefect.cli import app

    app()
