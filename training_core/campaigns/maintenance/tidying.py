"""`tidy`: what goes from a store, and in which order.

Two kinds of things grow. What can be made again (learners, ensembles that were only a step on the way, cached results)
goes when nobody has used it for a while. What tells of the past (reports and the ensembles they name, evaluations,
studies, local copies of tracked runs) goes when it is very old. Never removed is what a registered version needs that
is not retired, has an alias, or once answered by the ledger of promotions: its ensemble, and the settings to train it
again. Data sets keep all their versions.

What refers to something else goes before it, so a maintenance that is killed leaves nothing that leads nowhere, and the
next one goes on. Somebody who finds a learner or an ensemble for a new use marks it as used, which is looked at again
right before it goes.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training_core.artifacts import exclusive, find_unfinished, is_published, open_published, remove_directory
from training_core.campaigns.maintenance.retention import RetentionConfig, Tidied, TidyReport
from training_core.campaigns.maintenance.things import (
    Thing,
    is_free,
    last_change,
    leftover_thing,
    lock_thing,
    path_thing,
    size_of,
)
from training_core.campaigns.promotion.ledger import Ledger, recorded_champion
from training_core.data.storage.store import DatasetStore
from training_core.errors import PolychoirError, StorageError, TransientError
from training_core.tracking.database import DATABASE, compact, is_tracked_elsewhere, spare_bytes
from training_core.tracking.registry import ModelVersion, open_registry
from training_core.tracking.upkeep import (
    close_orphans,
    deleted_runs,
    erase_copy,
    erase_run,
    has_own_tracking,
    unneeded_copies,
)

_DAY = 86_400.0
_LOCK_DAYS = 1.0
_LEFTOVER_DAYS = 1 / 24
"""On storage that several machines share nobody knows whether the writer of a leftover lives; nothing takes an hour."""
_WORTH_COMPACTING = 0.1
"""Share of a database's file that has to be free before it is rewritten: that reads and writes all of it."""

_HISTORY = {
    "evaluations": "evaluations/[!.]*",
    "studies": "studies/[!.]*",
    "drift reports": "watch/*/reports/[!.]*",
    "tensorboard": "tensorboard/[!.]*",
    "wandb": "wandb/[!.]*",
    "tracked on disk": "tracking/[!.l]*",
}
"""What tells of the past, and where it is; `tracking/learners` are notes, which go with their learners."""

_CACHES = {
    "stacks": "stacks/[!.]*",
    "learners given up": "given-up/[!.]*",
    "cached results": "prefect/storage/[!.]*",
    "downloads": "downloads/[!.]*",
    "probes": "probes/[!.]*",
}
"""What can be made again, and where it is."""


def tidy(store: Path, request: RetentionConfig, before: Iterable[Tidied] = (), now: float | None = None) -> TidyReport:
    """Remove what a store need not keep; on a dry run only say what that is.

    Args:
        store: the folder that keeps everything.
        request: how long what is kept.
        before: what has been removed elsewhere for the same request, to be reported with it.
        now: the time to reckon from, in seconds since the epoch; the present by default.

    Raises:
        TransientError: another process is at it.
        StorageError: nobody knows what is needed, see `needed_versions`; nothing was removed.
    """
    found, problems = list(before), list[str]()
    if store.is_dir():
        try:
            with exclusive(store / "locks" / "maintenance.lock", wait=False):
                broom = _Broom(store, request, time.time() if now is None else now)
                broom.sweep_all(needed_versions(store))
        except TransientError:
            raise TransientError(f"another process is tidying {store} already; wait until it is done") from None
        found, problems = found + broom.tidied, broom.problems
    tidied = tuple(kind for kind in found if kind.names)
    return TidyReport(dry_run=request.dry_run, tidied=tidied, problems=tuple(problems))


def needed_versions(store: Path) -> tuple[ModelVersion, ...]:
    """Registered versions that somebody may want: not retired, with an alias, or that once answered.

    Raises:
        StorageError: the registry does not answer or is another one than the ledgers tell of, or a ledger does not read
            back.
    """
    names = [path.parent.name for path in sorted(store.glob("registry/*/ledger.jsonl"))]
    ledgers = {name: Ledger(store, name).entries() for name in names}
    answered = {
        (name, version)
        for name, entries in ledgers.items()
        for entry in entries
        for version in (entry.previous, None if entry.action in {"refused", "retired"} else entry.version)
        if version is not None
    }
    if not is_tracked_elsewhere(store) and not (store / DATABASE).is_file():
        if answered:
            raise StorageError(
                f"{store} has no registry, and the ledger of '{min(answered)[0]}' names versions; set "
                "MLFLOW_TRACKING_URI to the registry that this store is used with"
            )
        return ()
    registry = open_registry(["mlflow"], store)
    versions = [version for name in registry.models() for version in registry.versions(name)]
    known = {(version.name, version.version) for version in versions}
    for name, entries in ledgers.items():
        if (champion := recorded_champion(entries)) is not None and (name, champion) not in known:
            raise StorageError(
                f"the registry {registry.location} has no version {champion} of '{name}', which is its champion by the "
                "ledger; set MLFLOW_TRACKING_URI to the registry that this store is used with, or, where the version "
                "was deleted there, promote another one"
            )
    return tuple(
        version
        for version in versions
        if version.aliases or not version.retired or (version.name, version.version) in answered
    )


@dataclass
class _Broom:
    """One maintenance of one store."""

    store: Path
    request: RetentionConfig
    now: float

    def __post_init__(self) -> None:
        self.tidied: list[Tidied] = []
        self.problems: list[str] = []

    def sweep_all(self, needed: tuple[ModelVersion, ...]) -> None:
        """Everything, what refers to something before what it refers to."""
        store, history, cache = self.store, self.request.history_days, self.request.cache_days
        needed_runs = {version.run_id for version in needed}
        reports, named = self._reports(needed_runs)
        ensembles = self._unneeded_ensembles({version.sha256 for version in needed}, named)
        self._sweep("reports", map(path_thing, reports))
        for kind, pattern in _HISTORY.items():
            self._sweep(kind, map(path_thing, self._old(store.glob(pattern), history)))
        profiles = (store / "profiles" / folder.name for folder in ensembles)
        self._sweep("profiles", (path_thing(folder) for folder in profiles if folder.is_dir()))
        self._sweep("ensembles", (self._unused(folder, cache) for folder in ensembles))
        self._sweep("learners", (self._unused(path, cache) for path in self._old(store.glob("jobs/[!.]*"), cache)))
        for kind, pattern in _CACHES.items():
            self._sweep(kind, map(path_thing, self._old(store.glob(pattern), cache)))
        self._sweep("checkpoints", self._checkpoints(cache))
        self._sweep("locks", map(lock_thing, self._old(store.glob("locks/job-*.lock"), _LOCK_DAYS)))
        self._sweep("leftovers", map(leftover_thing, self._old(self._unfinished(), _LEFTOVER_DAYS)))
        self._sweep_datasets()
        if has_own_tracking(store):
            self._sweep_tracker(needed)
        for database in (store / DATABASE, store / "prefect" / "prefect.db"):
            self._compact(database)

    def _sweep(self, kind: str, things: Iterable[Thing]) -> None:
        """Remove things of a kind; what cannot be removed is a problem, and no reason to stop."""
        names, num_bytes = list[str](), 0
        for thing in things:
            if not self.request.dry_run:
                try:
                    thing.remove()
                except FileNotFoundError:
                    continue  # somebody else was faster, or needs it
                except (OSError, PolychoirError) as error:
                    self.problems.append(f"{kind}: {thing.name} cannot be removed: {error}")
                    continue
            names.append(thing.name)
            num_bytes += thing.num_bytes
        self.tidied.append(Tidied(kind=kind, names=tuple(names), num_bytes=num_bytes))

    def _old(self, paths: Iterable[Path], days: float) -> Iterator[Path]:
        """Those that nobody has changed for so many days, by name."""
        for path in sorted(paths):
            try:
                if self.now - last_change(path) > days * _DAY:
                    yield path
            except FileNotFoundError:
                continue

    def _reports(self, needed_runs: set[str | None]) -> tuple[list[Path], set[str]]:
        """The files of the reports that go, and the ensembles that those which stay name, by their paths.

        A report goes once it is very old, and nobody has used the ensemble it names for as long, or that is gone.
        """
        going, named = list[Path](), set[str]()
        old = set(self._old(self.store.glob("reports/*.*"), self.request.history_days))
        for run_id in sorted({path.name.partition(".")[0] for path in self.store.glob("reports/[!.]*.json")}):
            files = sorted(self.store.glob(f"reports/{run_id}.*"))  # the page goes first, the settings last
            ensemble = _ensemble_of(self.store / "reports" / f"{run_id}.json")
            unused = (
                ensemble is None
                or not is_published(ensemble)
                or bool(list(self._old([ensemble], self.request.history_days)))
            )
            if run_id not in needed_runs and unused and old.issuperset(files):
                going += files
            elif ensemble is not None:
                named.add(str(ensemble))
        return going, named

    def _unneeded_ensembles(self, needed: set[str | None], named: set[str]) -> list[Path]:
        """Ensembles nobody has used for a while that no version needs and no report names."""
        old = self._old(self.store.glob("ensembles/[!.]*"), self.request.cache_days)
        return [
            folder
            for folder in old
            if str(folder.resolve()) not in named
            and not (is_published(folder) and open_published(folder).sha256 in needed)
        ]

    def _unused(self, folder: Path, days: float) -> Thing:
        """A learner or an ensemble. With a learner goes the note of the run that it is recorded under."""
        note = self.store / "tracking" / "learners" / f"{folder.name}.json"

        def remove() -> None:
            if self.now - last_change(folder) <= days * _DAY:
                raise FileNotFoundError(f"{folder} has found a use since")
            note.unlink(missing_ok=True)
            remove_directory(folder)

        return Thing(folder.name, size_of(folder), remove)

    def _checkpoints(self, days: float) -> Iterator[Thing]:
        """Those of trainings that nobody has gone on with, and nobody is at."""
        for folder in self._old(self.store.glob("checkpoints/[!.]*"), days):
            try:
                owners = json.loads((folder / "jobs.json").read_text())
                locks = [self.store / "locks" / f"job-{name}.lock" for name in owners]
            except (OSError, ValueError, TypeError):
                locks = []
            if all(is_free(lock) for lock in locks):
                yield path_thing(folder)

    def _unfinished(self) -> Iterator[Path]:
        """What killed writers left in the store, its folders, and those of single models."""
        for parent in (
            self.store,
            *self.store.glob("*/"),
            *self.store.glob("registry/*/"),
            *self.store.glob("watch/*/"),
        ):
            yield from find_unfinished(parent)

    def _sweep_datasets(self) -> None:
        """What no version of a data set lists; see `DatasetStore.gc`."""
        datasets = DatasetStore(self.store / "datasets")
        names, num_bytes = list[str](), 0
        for name in datasets.homes():
            try:
                found = datasets.gc(name, None, self.request.dry_run)
            except (OSError, StorageError) as error:
                self.problems.append(f"data sets: {name}: {error}")
                continue
            names += [f"{name}: {part}" for part in found.parts] + [f"{name}: unfinished"] * found.leftovers
            num_bytes += found.num_bytes
        self.tidied.append(Tidied(kind="parts of data sets", names=tuple(names), num_bytes=num_bytes))

    def _sweep_tracker(self, needed: tuple[ModelVersion, ...]) -> None:
        """Runs of dead processes are closed; what was deleted or retired long ago is erased with its files."""
        needed_runs = {version.run_id for version in needed}
        if not self.request.dry_run and (closed := close_orphans(self.store)):
            self.tidied.append(Tidied(kind="tracked runs closed", names=("run of a dead process",) * closed))
        copies = {Path(copy.folder): copy for copy in unneeded_copies(self.store, needed)}
        self._sweep(
            "copies of retired versions",
            (
                Thing(copies[folder].uri, size_of(folder), lambda folder=folder: erase_copy(self.store, copies[folder]))
                for folder in self._old(copies, self.request.cache_days)
            ),
        )
        deleted = deleted_runs(self.store, self.request.cache_days)
        self._sweep(
            "deleted tracked runs",
            (
                Thing(run.run_id, size_of(Path(run.folder)), lambda run=run: erase_run(self.store, run))
                for run in deleted
                if run.run_id not in needed_runs
            ),
        )

    def _compact(self, database: Path) -> None:
        """Give the free pages of a database back, where they are worth the copy."""
        try:
            spare = spare_bytes(database)
            if spare == 0 or spare < _WORTH_COMPACTING * database.stat().st_size:
                return
            if not self.request.dry_run:
                compact(database)
        except StorageError as error:
            self.problems.append(f"databases: {error}")
            return
        self.tidied.append(Tidied(kind="free pages of databases", names=(database.name,), num_bytes=spare))


def _ensemble_of(summary: Path) -> Path | None:
    """The ensemble that a run's summary names; None where there is none."""
    try:
        return Path(json.loads(summary.read_text(encoding="utf-8"))["ensemble"]).resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return None
