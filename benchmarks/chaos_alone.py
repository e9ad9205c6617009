"""Blows that need no server: a disk that is full during an export, and a promotion that is killed at some step.

As a script it is the process that is hit: `export ENSEMBLE OUT BYTES` writes a bundle while no file may have more than
so many bytes, then again without a limit; `promote STORE STEP before|after` ends itself at the so-manieth change that a
promotion makes, and tells how many it made where it made fewer.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chaos_world
from chaos_rounds import Round
from chaos_store import unfinished
from running_store import user_environment

from training_core.artifacts import open_published
from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.judgement import judge
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.promotion import registration, verbs
from training_core.campaigns.promotion.changes import is_settled, open_model
from training_core.campaigns.promotion.decide import PromotionConfig
from training_core.campaigns.promotion.ledger import Ledger, recorded_champion
from training_core.campaigns.recording import begin_record, end_record
from training_core.campaigns.run_config import RunConfig
from training_core.errors import StorageError
from training_core.export.bundle import export_bundle
from training_core.tracking.mlflow_registry import MLflowRegistry
from training_core.tracking.registry import open_registry

MODEL = "world"
_CHILD_SECONDS = 900
_LINEAR: dict[str, Any] = {
    "preset": "tiny",
    "bags": {"num_bags": 3, "num_row_draws": 1},
    "learners": {"learners_per_bag": 1, "include": ["linear"]},
}
_NO_LIMIT = resource.RLIM_INFINITY


class LoneBlows:
    """Blows against a store of their own: version 1 of a model sees half of what version 2 sees."""

    def __init__(self, store: Path, sources: Path, draws: random.Random) -> None:
        self._store, self._draws = store, draws
        dataset = chaos_world.prepare(MODEL, store, sources / "alone")
        reference = resolve_dataset(dataset, store)
        open_registry(("mlflow",), store).models()  # made beforehand: a tracker that is slow to begin is given up
        for modalities in (("first",), ()):
            run = RunConfig.model_validate({**_LINEAR, "dataset": dataset, "modalities": modalities})
            self._ensemble = open_published(fit_ensemble(run, store, processes=False).folder)
            record = begin_record(run, reference, store, {})
            registration.register(record, reference, self._ensemble, judge(self._ensemble, reference), {})
            end_record(record, "FINISHED")
        self._largest = self._num_steps = 0

    def disk(self, number: int) -> Round:
        """The disk is full when a file of an export has some size."""
        if not self._largest:
            whole = self._store / "whole"
            export_bundle(self._ensemble, whole)
            self._largest = max(file.stat().st_size for file in whole.rglob("*") if file.is_file())
        limit = int(100 * ((self._largest - 1) / 100) ** self._draws.random())  # small files as often as large ones
        out = self._store / "exports" / f"bundle-{number}"
        found = Round("disk", number, f"no room beyond {limit:,} bytes")
        began = time.monotonic()
        ended = _hit("export", self._ensemble.path, out, limit)
        found.seconds = time.monotonic() - began
        if ended.returncode:
            found.by_hand.append(f"the export ended with {ended.returncode}: {ended.stderr[-500:]}")
            return found
        said = json.loads(ended.stdout.splitlines()[-1])
        if "no space left to write" not in said["error"] or "\n" in said["error"]:
            found.by_hand.append(f"what was said of it is no clear sentence: {said['error'] or 'nothing'}")
        if said["left"]:
            found.by_hand.append(f"it left {said['left']}")
        if said["again"] or not (out / "model.onnx").exists():
            found.lost.append(f"afterwards the export did not go through: {said['again']}")
        found.by_hand += [f"{path} is left" for path in unfinished(self._store)]
        return found

    def promotion(self, number: int) -> Round:
        """A promotion is killed before or after some change that it makes."""
        ledger, registry = open_model(self._store, MODEL)
        if not self._num_steps:
            for _ in range(2):  # the first takes an alias away that is not there afterwards
                self._num_steps = int(_hit("promote", self._store, 0, "before").stdout)
                self._require_champion(2)
                verbs.rollback(MODEL, self._store, version=1)
        step, when = self._draws.randint(1, self._num_steps), self._draws.choice(["before", "after"])
        found = Round("promotion", number, f"{when} change {step} of {self._num_steps}")
        written = len(ledger.entries())
        began = time.monotonic()
        ended = _hit("promote", self._store, step, when)
        if ended.returncode != -signal.SIGKILL:
            found.by_hand.append(f"it was not killed but ended with {ended.returncode}: {ended.stderr[-500:]}")
        begun = (step, when) != (1, "before")
        if self._draws.random() < 0.5:  # somebody else looks first
            verbs.reconcile(self._store, MODEL)
            self._agree(found, 2 if begun else 1)
        found.went_through = begun
        outcome = verbs.promote(_request(), self._store)
        found.seconds = time.monotonic() - began
        if (outcome.action, outcome.version, outcome.champion, outcome.previous) != ("promoted", 2, 2, 1):
            found.lost.append(f"asked for again it said {outcome.action} {outcome.version}: {outcome.reason}")
        self._agree(found, 2)
        added = [one.action for one in ledger.entries()[written:] if one.stage == "done"]
        if added != ["promoted"]:
            found.lost.append(f"the ledger tells of {added}")
        aliases = {alias: one.version for one in registry.versions(MODEL) for alias in one.aliases}
        if (aliases.get("champion"), aliases.get("previous")) != (2, 1):
            found.by_hand.append(f"the aliases are {aliases}")
        verbs.rollback(MODEL, self._store, version=1)
        return found

    def _require_champion(self, version: int) -> None:
        ledger, _ = open_model(self._store, MODEL)
        if recorded_champion(ledger.entries()) != version:
            raise RuntimeError(f"undisturbed, version {version} is not promoted: {ledger.entries()[-1].reason}")

    def _agree(self, found: Round, champion: int) -> None:
        """Note a ledger that says something else than the aliases, or another champion than there should be."""
        ledger, registry = open_model(self._store, MODEL)
        if not is_settled(ledger, registry):
            found.by_hand.append("the ledger and the aliases disagree")
        if (told := recorded_champion(ledger.entries())) != champion:
            found.lost.append(f"version {told} is champion in place of {champion}")


def _hit(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """This file in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(
        command, env=user_environment(), capture_output=True, text=True, timeout=_CHILD_SECONDS, check=False
    )


def _export(ensemble: Path, out: Path, limit: int) -> None:
    """In the child: what was said of the full disk, what it left, and what was said without the limit, as JSON."""

    def export(num_bytes: int) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, _NO_LIMIT))
        try:
            export_bundle(open_published(ensemble), out)
        except StorageError as error:
            return str(error)
        return ""

    out.parent.mkdir(exist_ok=True)
    known = set(out.parent.iterdir())
    error = export(limit)
    left = [path.name for path in out.parent.iterdir() if path not in known]
    print(json.dumps({"error": error, "left": left, "again": export(_NO_LIMIT)}))


def _request() -> PromotionConfig:
    """Version 2 is to take over, however much worse it is with one half of what it sees: it is the kill that counts."""
    return PromotionConfig(model=MODEL, challenger="2", max_pattern_loss=1.0, why="kills", by="chaos")


def _promote(store: Path, step: int, after: bool) -> None:
    """In the child: promote, and end at a change of the world, before or after making it; 0: at none."""
    taken = 0

    def watched(original: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            nonlocal taken
            taken += 1
            if taken == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*given, **named)
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in ((Ledger, "append"), (MLflowRegistry, "set_alias"), (MLflowRegistry, "tag")):
        setattr(owner, name, watched(getattr(owner, name)))
    verbs.promote(_request(), store)
    print(taken)


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    if what == "export":
        _export(Path(place), Path(rest[0]), int(rest[1]))
    else:
        _promote(Path(place), int(rest[0]), rest[1] == "after")
