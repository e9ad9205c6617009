"""A study: asks for trials and is told what came of them; killed at any moment, it goes on where it was.

A trial that was asked for and never told belongs to somebody. When its owner is dead, whoever opens the study next
takes it over with the number and the values it has: nothing is chosen twice, and nothing stays running for ever.
"""

import math
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from training_core.artifacts import exclusive
from training_core.campaigns.tuning.config import ParamValue, TuningConfig
from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.owners import PREFIX, Heartbeat, Owner, owners_in
from training_core.campaigns.tuning.pruning import Foresight, looks
from training_core.campaigns.tuning.records import ORIGIN, UNCOUNTED, facts_of, last_improvement, record_of
from training_core.campaigns.tuning.samplers import pruner_of, prunes_by_fold, sampler_of, suggest
from training_core.campaigns.tuning.space import Dimension, choose, curves_are_comparable
from training_core.campaigns.tuning.storage import open_storage, shown_storage
from training_core.campaigns.tuning.summary import Direction, TrialRecord
from training_core.errors import ConfigError, StorageError
from training_core.quantities import format_seconds

_ABOUT, _FIRST = "about", "first"
_OWNER, _DEATHS, _BEFORE = "owner", "deaths", "before"
_MOST_DEATHS = 3


@dataclass(frozen=True)
class FirstTrial:
    """Values a study begins with."""

    params: Mapping[str, ParamValue]
    """What is not among them is left to the sampler."""
    origin: str
    """See `TrialRecord.enqueued`."""


@dataclass(frozen=True)
class Asked:
    """A trial to be run."""

    number: int
    params: Mapping[str, ParamValue]
    give_up: Mapping[int, float]
    """Epoch by epoch, the largest best validation loss so far that may go on; see `Job.give_up`."""
    before: int
    """It is judged by what trials with smaller numbers did."""


class Study:
    """One study. Use it as a context: within it this process owns the trials it asked for.

    Several processes, on several machines, may own trials of one study in mode `throughput`. One `Study` is not to be
    used by several threads at a time.
    """

    def __init__(
        self,
        config: TuningConfig,
        space: Sequence[Dimension],
        folder: Path,
        seed: int,
        *,
        first: Sequence[FirstTrial] = (),
        about: str = "",
        epochs: int = 1,
    ) -> None:
        """Open a study, or begin it.

        Args:
            config: how to search.
            space: what is searched.
            folder: of the study; its name is that of the study.
            seed: root of all draws.
            first: trials it begins with; those of an earlier call stand.
            about: what makes values comparable; it has to be what it was when the study began.
            epochs: a training has at most.

        Raises:
            ConfigError: the storage does not open, or the study was begun about something else.
            StorageError: the study cannot be written, or is damaged.
        """
        self.config, self.space, self.folder, self.seed = config, tuple(space), folder, seed
        self.directions: tuple[Direction, ...] = tuple(
            "maximize" if objective == "score" else "minimize" for objective in config.objectives
        )
        self.by_fold = prunes_by_fold(config)
        self.pruner = pruner_of(config, epochs) if self.by_fold or curves_are_comparable(space) else None
        self.stopped = ""
        """Why there are no more trials, as a sentence; empty as long as there are."""
        self._looks = looks(epochs)
        self._lock = folder / ".lock"
        self._mine: set[int] = set()
        self._out_of_time = False
        self._owner = Owner.here()
        self._began = time.time()
        with exclusive(self._lock):
            self._storage = open_storage(config.storage, folder)
            try:
                self._study = optuna.create_study(
                    storage=self._storage,
                    study_name=folder.name,
                    sampler=sampler_of(config, [dimension.path for dimension in self.space], seed),
                    pruner=optuna.pruners.NopPruner(),  # ours is asked beforehand, and TPE is to see all trials
                    directions=self.directions,
                    load_if_exists=True,
                )
                self._require_same(about)
                self._enqueue(first)
            except (KeyError, TypeError, AssertionError) as error:
                where = shown_storage(config.storage, folder)
                raise StorageError(f"{where} is no study of ours ({type(error).__name__}: {error})") from error
        self._heartbeat = Heartbeat(self._owner, config.grace_seconds, self._note_owner)

    def __enter__(self) -> Self:
        """Own trials from now on.

        Raises:
            ConfigError: somebody else does, and the study is deterministic.
        """
        with exclusive(self._lock):
            if self.config.mode == "deterministic" and (others := self._others()):
                who = others[0].process.get("polychoir.host", "?"), others[0].process.get("polychoir.pid", "?")
                raise ConfigError(
                    f"study '{self.name}' is being run by process {who[1]} of {who[0]}; wait for it, end it, or set "
                    "`tuning.mode` to throughput for several at a time"
                )
            self._heartbeat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let go of the trials that were not told."""
        self._heartbeat.stop()
        self._mine.clear()

    @property
    def name(self) -> str:
        """Of the study."""
        return self.folder.name

    @property
    def optuna_study(self) -> optuna.Study:
        """The study itself, to look at."""
        return self._study

    def ask(self) -> list[Asked]:
        """The trials to be run next; none when the search is over (see `stopped`) or those at hand have to end first.

        `deterministic`: what a batch lacks, trials of a dead owner among it, as soon as the batch before it is told.
        `throughput`: as many as there is room for.
        """
        if self._mine and self.config.mode == "deterministic":
            return []
        with exclusive(self._lock):
            numbers = [] if self._out_of_time else self._take_over()
            room = self._room(len(numbers))
            while room > 0 and not self._why_over():
                number = self._begin()
                if number is not None:
                    numbers.append(number)
                room -= 1
            self.stopped = "" if numbers or self._mine else self._why_over()
            self._mine.update(numbers)
            trials = self._trials()
            foresights: dict[int, Foresight] = {}
            return [self._asked(trials[number], foresights) for number in numbers]

    def tell(self, number: int, outcome: TrialOutcome) -> TrialRecord:
        """What came of a trial; one that was told before, by whoever took it over, stays as it is.

        A value that is no number makes it a failed trial. One there was no time for stays open for whoever opens the
        study next, and here the search is over.
        """
        with exclusive(self._lock):
            frozen = self._trials()[number]
            self._out_of_time |= outcome.state == "skipped"
            if outcome.state != "skipped" and not frozen.state.is_finished():
                self._note(Trial(self._study, frozen._trial_id), frozen, outcome)
            self._mine.discard(number)
            return record_of(self._trials()[number])

    def loses(self, asked: Asked, folds: Sequence[float]) -> bool:
        """Whether the pruner ends a trial by the first objective on its first folds."""
        if self.pruner is None or not self.by_fold:
            return False
        return Foresight(self._study, asked.before).would_prune(self.pruner, asked.number, dict(enumerate(folds, 1)))

    def records(self) -> tuple[TrialRecord, ...]:
        """All trials that were asked for, by number; those that do not count are left out."""
        return tuple(record_of(trial) for trial in self._counted())

    def _trials(self) -> list[FrozenTrial]:
        """All trials; the position of each is its number."""
        return sorted(self._study.get_trials(deepcopy=False), key=lambda trial: trial.number)

    def _counted(self) -> list[FrozenTrial]:
        """Those that were asked for and count, by number."""
        return [t for t in self._trials() if t.state != TrialState.WAITING and UNCOUNTED not in t.user_attrs]

    def _require_same(self, about: str) -> None:
        known = self._study.user_attrs.get(_ABOUT)
        if known is None:
            self._study.set_user_attr(_ABOUT, about)
        elif known != about:
            raise ConfigError(
                f"study '{self.name}' was begun on other data, another space, or other settings that are not searched; "
                "choose another `tuning.name`, or leave it out"
            )

    def _enqueue(self, first: Sequence[FirstTrial]) -> None:
        """Put the trials to begin with in front, those that an earlier call could not yet."""
        known: Any = self._study.user_attrs.get(_FIRST)
        if known is None:
            known = [{"params": dict(trial.params), "origin": trial.origin} for trial in first]
            self._study.set_user_attr(_FIRST, known)
        for trial in known[len(self._trials()) : self.config.trials]:
            self._study.enqueue_trial(trial["params"], user_attrs={ORIGIN: trial["origin"]})

    def _others(self) -> list[Owner]:
        owners = owners_in(self._study.user_attrs)
        return [o for o in owners.values() if o.id != self._owner.id and not o.is_dead(self.config.grace_seconds)]

    def _note_owner(self, owner: Owner) -> None:
        self._study.set_user_attr(f"{PREFIX}{owner.id}", owner.model_dump(mode="json"))

    def _take_over(self) -> list[int]:
        """Make trials of dead owners this one's; one that three owners died over has failed.

        An owner that was interrupted and let go of its trials did not die over them.
        """
        alive = {owner.id for owner in self._others()} | {self._owner.id}
        gone = {owner.id for owner in owners_in(self._study.user_attrs).values() if owner.gone}
        taken: list[int] = []
        for frozen in self._trials():
            owner = frozen.user_attrs.get(_OWNER)
            if frozen.state != TrialState.RUNNING or owner in alive:
                continue
            if owner is None and self.config.storage is not None and self._is_young(frozen):
                continue  # another machine, which has locks of its own, may be about to note whose it is
            deaths = frozen.user_attrs.get(_DEATHS, 0) + (owner is not None and owner not in gone)
            if deaths >= _MOST_DEATHS:
                why = f"the process that ran it died {deaths} times before it was done"
                self._note(Trial(self._study, frozen._trial_id), frozen, TrialOutcome(state="failed", error=why))
                continue
            trial = Trial(self._study, frozen._trial_id)
            if deaths:
                trial.set_user_attr(_DEATHS, deaths)
            self._own(trial)
            taken.append(frozen.number)
        return taken

    def _is_young(self, frozen: FrozenTrial) -> bool:
        started = frozen.datetime_start
        return started is not None and time.time() - started.timestamp() < self.config.grace_seconds

    def _room(self, num_taken: int) -> int:
        """How many trials to begin."""
        if self.config.mode == "throughput":
            return self.config.batch - len(self._mine) - num_taken
        begun = len(self._counted()) % self.config.batch
        return 0 if num_taken and not begun else self.config.batch - begun

    def _begin(self) -> int | None:
        """Ask for one trial more; None when another machine was quicker to begin the last one."""
        trial = self._study.ask()
        self._own(trial)
        rank = sum(other.number < trial.number for other in self._counted())
        if rank < self.config.trials:
            return trial.number
        trial.set_user_attr(UNCOUNTED, True)
        self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _own(self, trial: Trial) -> None:
        """Note whose a trial is, and give it the values it lacks."""
        numbers = [other.number for other in self._counted()]
        if _BEFORE not in trial.user_attrs:
            start = numbers.index(trial.number) // self.config.batch * self.config.batch
            before = numbers[start] if self.config.mode == "deterministic" else trial.number
            trial.set_user_attr(_BEFORE, before)
        trial.set_user_attr(_OWNER, self._owner.id)
        choose(self.space, lambda dimension: suggest(trial, dimension))

    def _asked(self, frozen: FrozenTrial, foresights: dict[int, Foresight]) -> Asked:
        before, table = frozen.user_attrs[_BEFORE], dict[int, float]()
        if self.pruner is not None and not self.by_fold:
            if before not in foresights:  # one copy of what is known is enough for a batch
                foresights[before] = Foresight(self._study, before)
            table = foresights[before].give_up_table(self.pruner, frozen.number, self._looks)
        return Asked(number=frozen.number, params=frozen.params, give_up=table, before=before)

    def _why_over(self) -> str:
        """Why no trial may be begun; empty when one may."""
        counted, config = self._counted(), self.config
        if self._out_of_time:
            return "the time it may take is over"
        if len(counted) >= config.trials:
            return f"all {config.trials} trials are done"
        if config.seconds is not None and counted and time.time() - self._began >= config.seconds:
            return f"its {format_seconds(config.seconds)} are over"
        if config.patience is not None:
            told = [record_of(trial) for trial in counted if trial.state.is_finished()]
            since = len(told) - last_improvement(told, self.directions)
            if since >= config.patience:
                return f"the last {since} trials were no better"
        return ""

    def _note(self, trial: Trial, frozen: FrozenTrial, outcome: TrialOutcome) -> None:
        """Write everything that is known of a trial, its state last: whoever is killed before that does it again."""
        values = outcome.values if all(math.isfinite(value) for value in outcome.values) else ()
        state, error = outcome.state, outcome.error
        if state == "complete" and not values:
            state, error = "failed", error or f"its values are {outcome.values}: training or judging it went astray"
        if self.pruner is not None and state != "failed":
            self._replay(trial, frozen, outcome)
        for key, value in facts_of(outcome, error).items():
            trial.set_user_attr(key, value)
        for key, value in outcome.constraints.items():
            if math.isfinite(value) and key not in trial.constraints:
                trial.set_constraint(key, value)
        ended = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(state, TrialState.FAIL)
        given = values if ended == TrialState.COMPLETE else None
        self._study.tell(trial, given, state=ended, skip_if_finished=True)

    def _replay(self, trial: Trial, frozen: FrozenTrial, outcome: TrialOutcome) -> None:
        """Report what a trial went through, so that pruners know which rungs it reached.

        A training that ended early by itself has the value it ended with at all later epochs.
        """
        assert self.pruner is not None
        if self.by_fold:
            steps = dict(enumerate(outcome.folds, start=1))
        else:
            sign = 1.0 if self.directions[0] == "minimize" else -1.0
            last = len(outcome.curve)
            reached = [e for e in self._looks if last and (e <= last or outcome.state == "complete")]
            steps = {epoch: sign * outcome.curve[min(epoch, last) - 1] for epoch in reached}
        known = dict(frozen.intermediate_values)
        for step, value in steps.items():
            if step not in known:
                trial.report(value, step)
                known[step] = value
            if not self.by_fold:
                so_far = copy(self._storage.get_trial(trial._trial_id))
                so_far.intermediate_values = {s: v for s, v in known.items() if s <= step}
                self.pruner.prune(self._study, so_far)  # which notes the rung; whether it goes on is decided
