"""Blows against a store that is up, each followed by the question whether anything was lost or needs a hand."""

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chaos_world
import psutil
from chaos_rounds import Round
from chaos_store import FINAL, RunningStore
from running_store import TooLate, until

from training_core.campaigns.promotion.changes import champion_of, is_settled, open_model
from training_core.campaigns.promotion.ledger import crowning, recorded_champion
from training_core.campaigns.watching.state import WatchFolder

TRAIN, RETRAIN = "train-ensemble/train", "retrain-model/retrain"
RUN_SECONDS = 900
"""How long a run may take on a very busy machine before it counts as one that will never end."""
NOTICED_SECONDS = 300
"""Four heartbeats of 30 s are missed before a run counts as dead, and the server looks now and then; a lease of a slot
lasts 60 s."""
NOBODY = "nobody"
_SEEDS = itertools.count(1)


class RunningBlows:
    """Blows against one store that is up."""

    def __init__(self, store: RunningStore, calm: Path, sources: Path, draws: random.Random) -> None:
        """`calm`: another store, where the same runs train undisturbed; `sources`: rows are written there."""
        self.store, self._calm, self._sources, self._draws = store, calm, sources, draws
        self._dataset = chaos_world.prepare("world", store.path, sources / "world")
        chaos_world.prepare("world", calm, sources / "calm")
        self._learner_seconds = 0.0
        store.set_limit(2)  # as on a machine with two GPUs: whoever trains holds a slot

    def warm_up(self) -> None:
        """A run that nobody disturbs: it has to succeed, and says how long a learner trains.

        Raises:
            TooLate: it did not.
        """
        run = self.store.ask_for(TRAIN, {"run": self._settings(), "store": str(self.store.path)})
        self._until_it_trains(run)
        began = time.monotonic()
        self._until_published({}, chaos_world.NUM_LEARNERS, run)
        self._learner_seconds = 2 * (time.monotonic() - began) / chaos_world.NUM_LEARNERS
        if self.store.end_of(run, RUN_SECONDS) != "COMPLETED":
            raise TooLate(f"a run that nobody disturbed ended as {self.store.state(run)}")

    def worker(self, number: int) -> Round:
        """The worker is killed while a run trains."""
        return self._while_training("worker", number, lambda run: self._kill_child("worker", signal.SIGKILL))

    def server(self, number: int) -> Round:
        """The Prefect server is killed while a run trains."""
        return self._while_training("server", number, lambda run: self._kill_child("server", signal.SIGKILL))

    def learner(self, number: int) -> Round:
        """The process of a learner is killed while it trains."""
        while (found := self._while_training("learner", number, self._kill_learner)).hit.startswith(NOBODY):
            pass  # the last one had ended a moment before
        return found

    def slot(self, number: int) -> Round:
        """The server is restarted while a run holds the only slot; afterwards the next run takes it."""
        how = self._draws.choice([signal.SIGKILL, signal.SIGTERM])

        def strike(run: str) -> tuple[str, Callable[[], None]]:
            until(lambda: self.store.slots_taken() == 1, RUN_SECONDS, "a slot that is taken")
            return self._kill_child("server", how)

        self.store.set_limit(1)
        try:
            found = self._while_training("slot", number, strike, workers=1)
            self._take_slot(found)
        finally:
            self.store.set_limit(2)
        return found

    def retrain(self, number: int) -> Round:
        """Two retrainings of one model are asked for at once."""
        found = Round("retrain", number, "asked for twice")
        if number == 0:
            self._begin_stream()
        chaos_world.append("stream", self.store.path, self._sources / "stream", number)
        watched = WatchFolder(self.store.path, "stream")
        before = len(watched.state().retrains)
        ledger, registry = open_model(self.store.path, "stream")
        versions = len(registry.versions("stream"))
        request = {"model": "stream", "force": True, "recent_rows": 10**6, "reason": f"round {number}"}
        parameters = {"request": request, "store": str(self.store.path)}
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(lambda _: self.store.ask_for(RETRAIN, parameters), range(2)))
        ends = [self.store.end_of(run, RUN_SECONDS) for run in runs]
        shown = [text for run in runs for text in self.store.artifacts(run, "retraining")]
        refused = [text for text in shown if "nother retraining of it is running" in text]
        found.went_through = set(ends) == {"COMPLETED"} and len(shown) == 2 and len(refused) == 1
        told = [one for one in watched.state().retrains[before:] if one.outcome in ("promoted", "refused")]
        if not found.went_through:
            found.by_hand.append(f"the two ended as {', '.join(ends)}, and show {shown}")
        if len(told) != 1 or len(registry.versions("stream")) != versions + 1:
            found.lost.append(
                f"{len(told)} retrainings are remembered, and {len(registry.versions('stream')) - versions} registered"
            )
        champion = champion_of(registry, "stream")
        if not is_settled(ledger, registry) or recorded_champion(ledger.entries()) != champion:
            found.by_hand.append(f"the ledger and the aliases disagree about version {champion}")
        elif told and told[0].outcome == "promoted" and f"models:/stream/{champion}" != told[0].version:
            found.by_hand.append(f"{told[0].version} is remembered as promoted, and {champion} is champion")
        elif champion is None or crowning(ledger.entries(), champion) is None:
            found.lost.append("the ledger does not know how the champion became it")
        self._clear(found, *runs)
        found.seconds = time.monotonic() - began
        return found

    def _begin_stream(self) -> None:
        """A champion to be trained again."""
        dataset = chaos_world.prepare("stream", self.store.path, self._sources / "stream")
        run = chaos_world.settings(dataset, 0)
        if self._complete(run) is None:
            raise TooLate("the model that is to be trained again was not trained")

    def _while_training(
        self, blow: str, number: int, strike: Callable[[str], tuple[str, Callable[[], None]]], workers: int = 2
    ) -> Round:
        """Strike at a random moment of a run's training, and hold what comes of it against an undisturbed run.

        `strike` is given the run; it says what was hit, and gives what waits until that works again.
        """
        found, store = Round(blow, number), self.store
        settings = self._settings(budget={"workers": workers})
        expected = chaos_world.undisturbed(settings, self._calm)
        for child in ("server", "worker"):
            store.calm_down(child)
        earlier = store.published()
        run = store.ask_for(TRAIN, {"run": settings, "store": str(store.path)})
        self._until_it_trains(run)
        done = self._draws.randrange(chaos_world.NUM_LEARNERS - 1)
        self._until_published(earlier, done, run)
        moment = self._draws.uniform(0, 0.8 * self._learner_seconds)
        time.sleep(moment)
        there = store.published()
        hit, recovered = strike(run)
        began = time.monotonic()
        found.hit = f"{hit}, {moment:.1f} s after learner {done} of {chaos_world.NUM_LEARNERS}"
        try:
            recovered()
            until(lambda: store.is_over(run), RUN_SECONDS, "the end of the run that was hit")
        except TooLate as error:
            found.by_hand.append(str(error))
        found.went_through = store.state(run)[0] == "COMPLETED"
        if found.went_through:
            self._compare(found, "the run that was hit", store.summary(run), expected)
        kept = {name: seal for name, seal in {**store.published(), **there}.items() if name not in earlier}
        again = self._complete(settings)
        if again is None:
            found.by_hand.append("the same run, asked for again, did not complete")
        else:
            self._compare(found, "the same run, asked for again,", again, expected)
            self._nothing_twice(found, kept, again)
        self._clear(found, run)
        found.seconds = time.monotonic() - began
        return found

    def _compare(self, found: Round, what: str, summary: dict[str, Any], expected: str) -> None:
        """Note where a run did not come to what the undisturbed one did."""
        if summary["failures"]:
            found.lost.append(f"{what} lost learners: {summary['failures']}")
        if summary["predictions_sha256"] != expected:
            found.lost.append(f"{what} predicts something else than the undisturbed run")

    def _nothing_twice(self, found: Round, kept: dict[str, tuple[int, int]], again: dict[str, Any]) -> None:
        """Note learners that had been published and were trained again."""
        now = self.store.published()
        if replaced := [name for name, seal in kept.items() if now.get(name) != seal]:
            found.lost.append(f"{len(replaced)} published learners were not kept")
        counts = again["learners"]
        if counts["reused"] < len(kept) or counts["trained"] > chaos_world.NUM_LEARNERS - len(kept):
            found.lost.append(f"{len(kept)} learners were published, and of those asked for again {counts}")

    def _clear(self, found: Round, *runs: str) -> None:
        """Note runs that do not end, and what they leave behind."""
        for run in runs:
            try:
                self.store.end_of(run, NOTICED_SECONDS)
            except TooLate:
                found.by_hand.append(f"flow run {run} is {self.store.state(run)[0]} for ever")
        try:
            until(lambda: not self.store.left_behind(*runs), NOTICED_SECONDS, "clearing up")
        except TooLate:
            found.by_hand += self.store.left_behind(*runs)

    def _take_slot(self, found: Round) -> None:
        """A run with learners of its own takes the slot and gives it back."""
        few = {"num_bags": 2, "num_row_draws": 1}
        run = self.store.ask_for(TRAIN, {"run": self._settings(bags=few), "store": str(self.store.path)})
        taken = 0
        deadline = time.monotonic() + RUN_SECONDS
        while self.store.state(run)[0] not in FINAL and time.monotonic() < deadline:
            taken = max(taken, self.store.slots_taken())
            time.sleep(0.1)
        if self.store.state(run)[0] != "COMPLETED" or taken != 1:
            found.by_hand.append(f"the next run took {taken} slots and ended as {self.store.state(run)}")
        self._clear(found, run)

    def _complete(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The summary of a run that nobody disturbs; None when it does not complete."""
        run = self.store.ask_for(TRAIN, {"run": settings, "store": str(self.store.path)})
        try:
            ended = self.store.end_of(run, RUN_SECONDS)
        except TooLate:
            return None
        return self.store.summary(run) if ended == "COMPLETED" else None

    def _until_published(self, earlier: dict[str, tuple[int, int]], number: int, run: str) -> None:
        """Wait for so many more published learners, or the end of the run."""

        def are_there() -> bool:
            return len(self.store.published().keys() - earlier.keys()) >= number or self.store.is_over(run)

        until(are_there, RUN_SECONDS, f"learner {number} of flow run {run}")

    def _until_it_trains(self, run: str) -> None:
        def trains() -> bool:
            if self.store.learners_of(run):
                return True
            kind, message = self.store.state(run)
            if kind in FINAL:
                raise TooLate(f"flow run {run} was {kind} before it trained: {message}")
            return False

        until(trains, RUN_SECONDS, "a learner that trains")

    def _kill_child(self, name: str, how: signal.Signals) -> tuple[str, Callable[[], None]]:
        return f"the {name} with {how.name}", self.store.kill_child(name, how)

    def _kill_learner(self, run: str) -> tuple[str, Callable[[], None]]:
        """One of those that train at the moment, or the next that does."""
        while True:
            until(lambda: self.store.learners_of(run) or self.store.is_over(run), RUN_SECONDS, "a learner that trains")
            for victim in self._draws.sample(found := self.store.learners_of(run), len(found)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    name = victim.name()
                    victim.kill()
                    return f"the process of {name}", lambda: None
            if self.store.is_over(run):
                return NOBODY, lambda: None

    def _settings(self, **changed: dict[str, Any]) -> dict[str, Any]:
        """A run that nobody has asked for yet."""
        return chaos_world.settings(self._dataset, next(_SEEDS), **changed)
