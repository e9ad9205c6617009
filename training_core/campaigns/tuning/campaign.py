"""The tuning campaign: asks a study for trials, has their jobs trained, and tells the study what came of them.

Who trains a group of jobs (a pool of threads, an orchestrator) is the caller's business, as with `campaigns.dispatch`.
The jobs are jobs like any other: what an earlier trial or run has trained is not trained again, whoever is killed when.
"""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from training_core.artifacts import write_text_atomically
from training_core.campaigns.bagging import num_workers, open_dataset
from training_core.campaigns.budget import max_bytes
from training_core.campaigns.dispatch import Launch, Outcome, reports_of
from training_core.campaigns.grouping import plan_cohorts
from training_core.campaigns.run_config import WHERE, RunConfig
from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.space import params_of, run_yaml, space_of
from training_core.campaigns.tuning.storage import shown_storage
from training_core.campaigns.tuning.study import Asked, FirstTrial, Study
from training_core.campaigns.tuning.summary import (
    BEST,
    REPORT,
    StudySummary,
    TrialRecord,
    parameter_importances,
    pareto_front,
    write_summary,
)
from training_core.campaigns.tuning.trials import Bench, Rounds
from training_core.campaigns.tuning.warm_start import earlier_winners
from training_core.config import canonical_json
from training_core.errors import ConfigError
from training_core.isolation import device_kind
from training_core.jobs import Cohort, DatasetRef, Job, JobReport, Limits, OnEvent
from training_core.seeding import derive_seed

_UNSEARCHED = {"tune", "tuning", "budget", "gates", "preset", "keep_learners_of", *WHERE}
"""Sections of a run that do not change what a trial is worth."""


@dataclass
class _Running:
    """A trial under way."""

    asked: Asked
    rounds: Rounds
    jobs: Mapping[str, Job] = field(default_factory=dict)
    """Of its round, by name."""
    outcome: TrialOutcome | None = None

    def go_on(self, reports: Mapping[str, JobReport] | None) -> None:
        """Begin (with None), or hand in the reports of a round: then there are other jobs, or an outcome."""
        try:
            jobs = next(self.rounds) if reports is None else self.rounds.send(reports)
            while not jobs:
                jobs = self.rounds.send({})
            self.jobs = {job.name: job for job in jobs}
        except StopIteration as end:
            self.jobs, self.outcome = {}, end.value


class Tuner:
    """One call of tuning, on a study that may have been begun by an earlier one."""

    def __init__(self, run: RunConfig, dataset: DatasetRef, store: Path) -> None:
        """Find out what is searched, and on what.

        Raises:
            ConfigError: the search space, the learner or an objective does not go with the data.
        """
        self._run, self._dataset, self._store = run, dataset, store
        self._bench = Bench(run, dataset)
        self.space = space_of(run, open_dataset(dataset).spec)
        """What is searched."""
        self.about = self._about()
        """Hash of what makes trials comparable: space, data, target, objectives, and all that is not searched."""
        name = run.tuning.name or f"{_slug(run.title.partition('@')[0])}-{run.tuning.target}-{self.about[:12]}"
        if _slug(name) != name:
            raise ConfigError(
                f"`tuning.name` is '{name}': letters, digits, `-`, `_` and `.` only, such as '{_slug(name)}'"
            )
        self.folder = store / "studies" / name
        """Of the study: its journal, its summary, its report."""
        self._messages: SimpleQueue[tuple[Cohort, Outcome]] = SimpleQueue()
        self._deadline: float | None = None
        self._device = "cpu"

    def tune(
        self,
        launch: Launch,
        tell: OnEvent = lambda event: None,
        deadline: float | None = None,
        device: str | None = None,
    ) -> StudySummary:
        """Run trials until the study is over; write `best.yaml` and the summary into its folder.

        Args:
            launch: begins to train a group.
            tell: told of every trial when it begins and when it ends.
            deadline: when what still trains is ended, in seconds since the epoch; its trials stay open, and a later
                call goes on with them.
            device: kind of device that groups train on, which learners are filed under; by default this machine's.

        Raises:
            UserError: the study cannot be run as asked, or its files cannot be written.
        """
        began, self._deadline, self._device = time.time(), deadline, device or device_kind()
        run, tuning = self._run, self._run.tuning
        first = [FirstTrial(params_of(run, self.space), "default")]
        if tuning.warm_start:
            found = earlier_winners(self._store / "studies", self.folder, self.space, tuning, first[0].params)
            first += [FirstTrial(params, "warm start") for params in found]
        study = Study(
            tuning,
            self.space,
            self.folder,
            derive_seed(run.seed, "tuning"),
            first=first,
            about=self.about,
            epochs=run.training.epochs,
        )
        with study:
            steps = self._in_batches if tuning.mode == "deterministic" else self._as_they_end
            steps(study, launch, tell)
        return self._conclude(study, began)

    def _in_batches(self, study: Study, launch: Launch, tell: OnEvent) -> None:
        """Batch after batch; a round of all trials of a batch is dealt into groups together."""
        while batch := study.ask():
            running = [self._begin(study, asked, tell) for asked in batch]
            while waiting := [trial for trial in running if trial.outcome is None]:
                jobs = [job for trial in waiting for job in trial.jobs.values()]
                reports = self._train(jobs, launch)
                for trial in waiting:
                    trial.go_on({name: reports[name] for name in trial.jobs})
            for trial in sorted(running, key=lambda trial: trial.asked.number):
                self._tell(study, trial, tell)

    def _as_they_end(self, study: Study, launch: Launch, tell: OnEvent) -> None:
        """Each trial by itself, the next one as soon as one ends."""
        running: dict[str, _Running] = {}  # by the name of the group that trains it
        while True:
            for asked in study.ask():
                trial = self._begin(study, asked, tell)
                self._launch_round(study, trial, running, launch, tell)
            if not running:
                if study.stopped:
                    return
                continue
            cohort, outcome = self._messages.get()
            trial = running.pop(cohort.name)
            trial.go_on({report.name: report for report in reports_of(cohort, outcome, self._store, self._device)})
            self._launch_round(study, trial, running, launch, tell)

    def _launch_round(
        self, study: Study, trial: _Running, running: dict[str, _Running], launch: Launch, tell: OnEvent
    ) -> None:
        """Train what a trial wants next; when that is nothing, it is told."""
        if trial.outcome is not None:
            self._tell(study, trial, tell)
            return
        cohort = Cohort(name=f"trial {trial.asked.number}", jobs=tuple(trial.jobs.values()))
        running[cohort.name] = trial
        self._launch(cohort, launch)

    def _begin(self, study: Study, asked: Asked, tell: OnEvent) -> _Running:
        rounds = self._bench.rounds(asked.number, asked.params, asked.give_up, lambda folds: study.loses(asked, folds))
        trial = _Running(asked, rounds)
        trial.go_on(None)
        tell({**self._event(study, asked.number, "running", None, asked.params), "jobs": list(trial.jobs)})
        return trial

    def _tell(self, study: Study, trial: _Running, tell: OnEvent) -> None:
        assert trial.outcome is not None
        record = study.tell(trial.asked.number, trial.outcome)
        tell({**self._event(study, record.number, record.state, record.values, record.params), "error": record.error})

    def _event(
        self,
        study: Study,
        number: int,
        state: str,
        values: Sequence[float] | None,
        params: Mapping[str, bool | int | float | str | None],
    ) -> dict[str, object]:
        records = study.records()
        front = pareto_front(records, study.directions)
        return {
            "event": "trial",
            "number": number,
            "state": state,
            "values": None if values is None else list(values),
            "params": dict(params),
            "best": front[0] if front else None,
            "told": sum(record.state != "running" for record in records),
            "of": self._run.tuning.trials,
        }

    def _train(self, jobs: Sequence[Job], launch: Launch) -> dict[str, JobReport]:
        """Train the jobs of a round, equal ones once; their reports by name."""
        same = dict[tuple[str, str], list[Job]]()
        for job in jobs:  # equal ones that would be given up at other losses need not end alike
            give_up = canonical_json({str(epoch): value for epoch, value in job.give_up.items()})
            same.setdefault((job.fingerprint(self._device), give_up), []).append(job)
        cohorts = plan_cohorts(
            [alike[0] for alike in same.values()], num_workers(self._run), self._run.budget.group_size
        )
        for cohort in cohorts:
            self._launch(cohort, launch)
        reports: dict[str, JobReport] = {}
        for _ in cohorts:
            reports |= {report.name: report for report in reports_of(*self._messages.get(), self._store, self._device)}
        for alike in same.values():
            for job in alike[1:]:
                reports[job.name] = reports[alike[0].name].model_copy(update={"name": job.name})
        return reports

    def _launch(self, cohort: Cohort, launch: Launch) -> None:
        limits = Limits(
            learner_seconds=self._run.budget.learner_seconds,
            memory_bytes=max_bytes(self._run),
            deadline=self._deadline,
        )
        launch(cohort, limits, lambda outcome: self._messages.put((cohort, outcome)))

    def _about(self) -> str:
        """What trials have to share so that their values compare."""
        run, searched = self._run.model_dump(mode="json", exclude=_UNSEARCHED), {d.path for d in self.space}
        fixed = {path: value for path, value in _flat(run).items() if path not in searched and path != "dataset"}
        tuning = self._run.tuning
        values = [
            [dimension.model_dump(mode="json") for dimension in self.space],
            fixed,
            [self._dataset.fingerprint, tuning.target, tuning.learner, tuning.objectives, tuning.folds],
            [tuning.max_size_mb, tuning.max_seconds, tuning.max_ms_per_row],
        ]
        return hashlib.sha256(canonical_json(values).encode()).hexdigest()

    def _conclude(self, study: Study, began: float) -> StudySummary:
        """The summary of the study as it is now, written together with the best trial's settings."""
        run, tuning = self._run, self._run.tuning
        records = study.records()
        front = pareto_front(records, study.directions)
        best = next((record for record in records if front and record.number == front[0]), None)
        if best is not None:
            text = run_yaml(run, best.params, note=self._note(best))
            write_text_atomically(self.folder / BEST, text)
        summary = StudySummary(
            name=study.name,
            title=run.title,
            dataset=self._dataset.label,
            dataset_fingerprint=self._dataset.fingerprint,
            target=tuning.target,
            learner=tuning.learner if tuning.target == "learner" else "",
            metric=self._bench.spec.task.metric,
            objectives=tuning.objectives,
            directions=study.directions,
            sampler=tuning.sampler,
            pruner=tuning.pruner if study.pruner is not None else "none",
            mode=tuning.mode,
            seed=run.seed,
            space=self.space,
            trials=records,
            best=None if best is None else best.number,
            front=front,
            counts={s: sum(r.state == s for r in records) for s in ("complete", "pruned", "failed", "running")},
            seconds=time.time() - began,
            cpu_seconds=sum(record.cpu_seconds for record in records),
            storage=shown_storage(tuning.storage, self.folder),
            folder=str(self.folder),
            best_yaml="" if best is None else str(self.folder / BEST),
            report=str(self.folder / REPORT),
            importances=parameter_importances(study.optuna_study, study.seed),
            stopped=study.stopped,
        )
        write_summary(summary)
        return summary

    def _note(self, best: TrialRecord) -> str:
        tuning, found = self._run.tuning, ", ".join(f"{value:.6g}" for value in best.values or ())
        return f"Trial {best.number} of study {self.folder.name}: {', '.join(tuning.objectives)} {found}"


def _slug(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "study"


def _flat(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested sections as dotted keys."""
    found: dict[str, object] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found
