"""The ledger: every decision about who answers for a model, for good; the registry itself keeps no history.

    <store>/registry/<model>/ledger.jsonl    one JSON object per line, appended and flushed to the disk
                             .lock           held by whoever changes anything about the model

What changes aliases is written down twice: as an intent, with where each alias is to point, before the first alias is
touched, and as done after the last. Whoever finds an intent that is not done sets the same aliases again. A line counts
once its line break is there; what a killed writer left of one is cut off by the next.
"""

import errno
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

import pydantic
from pydantic import Field

from training_core.artifacts import exclusive, storage_errors, sync_directory
from training_core.campaigns.promotion.contest import Contest
from training_core.config import Config
from training_core.data.source import is_dataset_name
from training_core.errors import ConfigError, StorageError
from training_core.tracking.registry import CHAMPION

Action = Literal["first", "promoted", "refused", "rolled-back", "retired", "moved"]
_CROWNED = {"first", "promoted", "moved"}


class LedgerEntry(Config):
    """One decision, or one half of it."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """The same in an intent and in what completes it."""
    time: float = Field(default_factory=time.time)
    """Seconds since 1970."""
    stage: Literal["intent", "done"]
    action: Action
    """"moved": somebody set the champion's alias by other means, which is noticed afterwards."""
    model: str
    version: int | None
    """That was promoted, refused, gone back to, retired, or found as champion; None: none was found."""
    previous: int | None = None
    """Champion before."""
    aliases: Mapping[str, int | None] = {}
    """Where each alias that this touches points afterwards; None: nowhere."""
    tags: Mapping[str, str] = {}
    """Added to the version."""
    why: str = ""
    """In the words of who asked for it."""
    by: str = ""
    reason: str = ""
    """What was found, as a sentence with figures."""
    contest: Contest | None = None
    dataset: str | None = None
    """`name@version` the version was trained on."""
    code: str | None = None
    """Code that it was trained with."""
    config_hash: str | None = None
    """Of the settings it was trained with."""
    decided_with: str = ""
    """Code that decided."""
    flow_run: str = ""
    """Prefect's id of the flow run that this happened in; empty outside one."""

    def completed(self) -> Self:
        """The entry that says this intent is done."""
        return self.model_copy(update={"stage": "done", "time": time.time()})


class Ledger:
    """The ledger of one model.

    Args:
        store: Folder of everything.
        model: Name of the model.

    Raises:
        ConfigError: the name cannot be a folder's.
    """

    def __init__(self, store: Path, model: str) -> None:
        if not is_dataset_name(model):
            raise ConfigError(
                f"{model!r} cannot be a model's name; it is up to 100 letters, digits, '.', '_' and '-', a letter or "
                "digit first"
            )
        self.model = model
        self.path = store / "registry" / model / "ledger.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else on this machine changes anything about the model within the block; waits for whoever does.

        Raises:
            StorageError: the lock cannot be written.
        """
        with exclusive(self.path.with_name(".lock")):
            yield

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Everything that was written, oldest first; the torn last line of a killed writer is none of it.

        Raises:
            StorageError: another line does not read back; says which.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}; mend its permissions") from error
        lines = content.split(b"\n")[:-1]
        return tuple(self._read(number, line) for number, line in enumerate(lines, 1))

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """Write an entry and flush it to the disk; call it within `locked`. Returns the entry.

        Raises:
            StorageError: the disk is full or the place cannot be written; the ledger is as it was.
        """
        line = entry.model_dump_json().encode() + b"\n"
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            with self.path.open("ab", buffering=0) as file:
                end = self._end_of_lines(file.tell())
                file.truncate(end)  # what a killed writer left of a line
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, "no space left")  # what the next byte would say
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        file.truncate(end)
                    raise
            if is_new:
                sync_directory(self.path.parent)
                sync_directory(self.path.parent.parent)
        return entry

    def _end_of_lines(self, size: int) -> int:
        """Where the last whole line of the file ends."""
        if not size:
            return 0
        with self.path.open("rb") as file:
            file.seek(size - 1)
            if file.read(1) == b"\n":
                return size
            file.seek(0)
            return file.read().rfind(b"\n") + 1

    def _read(self, number: int, line: bytes) -> LedgerEntry:
        try:
            return LedgerEntry.model_validate_json(line)
        except pydantic.ValidationError as error:
            raise StorageError(
                f"{self.path}, line {number} does not read back ({error.errors()[0]['msg']}); it was changed from "
                "outside or by another release: restore the file, or move it away to begin a new ledger"
            ) from error


def open_intent(entries: Iterable[LedgerEntry]) -> LedgerEntry | None:
    """The intent that is not done yet; None when there is none. There is one at most, since changes wait in line."""
    done = {entry.id for entry in entries if entry.stage == "done"}
    return next((entry for entry in entries if entry.stage == "intent" and entry.id not in done), None)


def recorded_champion(entries: Iterable[LedgerEntry]) -> int | None:
    """The version that the ledger says is champion; None when there never was one."""
    told = [entry.aliases[CHAMPION] for entry in entries if entry.stage == "done" and CHAMPION in entry.aliases]
    return told[-1] if told else None


def crowning(entries: Iterable[LedgerEntry], version: int) -> LedgerEntry | None:
    """The last entry by which a version became champion; None when it never did."""
    found = [one for one in entries if one.stage == "done" and one.aliases.get(CHAMPION) == version]
    return found[-1] if found else None


def succession(entries: Iterable[LedgerEntry]) -> tuple[int, ...]:
    """Champions one after another, the present one last, as if whoever was rolled back had never been.

    Going back to a version takes away those that came after it; retired versions are left out.
    """
    line: list[int] = []
    for entry in entries:
        if entry.stage != "done" or entry.version is None:
            continue
        if entry.action == "retired":
            line = [version for version in line if version != entry.version]
        elif entry.action in _CROWNED and line[-1:] != [entry.version]:
            line.append(entry.version)
        elif entry.action == "rolled-back":
            kept = line[: line.index(entry.version)] if entry.version in line else line[:-1]
            line = [*kept, entry.version]
    return tuple(line)
