"""What a person sees while a study runs and when it is over: the best trials, what trains now, the time left."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.console import facts, overall_progress
from training_core.campaigns.tuning.config import TuningConfig
from training_core.campaigns.tuning.plots import OBJECTIVES, best_first, by_importance, shown
from training_core.campaigns.tuning.report import changed_settings
from training_core.campaigns.tuning.summary import StudySummary
from training_core.jobs import Event
from training_core.quantities import format_seconds

_BEST_ROWS = 5
_MOST_PARAMS = 6
_ENDED = ("complete", "pruned", "failed")


class TuningView:
    """Live progress of a study: how far it is, the best trials so far, and the trials that train now.

    On a terminal a table that moves; elsewhere a plain line per stage and per trial that ended.
    """

    def __init__(self, console: Console, asked: TuningConfig) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._seconds = asked.seconds
        self._worst_first = asked.objectives[0] == "score"  # of values in rising order; all others are costs
        self._trials: dict[int, Event] = {}
        self._epochs: dict[int, str] = {}
        self._owner: dict[str, int] = {}
        self._best: int | None = None
        self._told = self._told_before = 0
        self._of: int | None = None
        self._began: float | None = None
        self._progress = overall_progress(console)
        self._bar = self._progress.add_task("starting", total=None, left="")

    @contextmanager
    def live(self) -> Iterator["TuningView"]:
        """Show the view for as long as the block lasts; nothing of it stays on the screen."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, get_renderable=self.__rich__, transient=True, refresh_per_second=4):
            yield self

    def __call__(self, event: Event) -> None:
        """Take in one event, from any thread."""
        with self._lock:
            getattr(self, f"_on_{event['event']}", lambda _: None)(event)

    def __rich__(self) -> Group:
        """The view as it is now."""
        with self._lock:
            return Group(self._progress, *([self._table()] if self._trials else []))

    def _on_stage(self, event: Event) -> None:
        self._progress.update(self._bar, description=event["text"])
        self._say(event["text"])

    def _on_trial(self, event: Event) -> None:
        number = event["number"]
        if self._began is None:
            self._began, self._told_before = time.monotonic(), event["told"]
        for job in event.get("jobs", ()):
            self._owner[job] = number
        self._trials[number] = event
        self._told, self._of, self._best = event["told"], event["of"], event["best"]
        self._progress.update(self._bar, description=self._headline(), total=self._of, completed=self._told)
        self._progress.update(self._bar, left=self._left())
        if event["state"] in _ENDED:
            self._epochs.pop(number, None)
            self._say(trial_line(event))

    def _on_epoch(self, event: Event) -> None:
        if (number := self._owner.get(event["job"])) is not None:
            loss = event.get("validation/loss", event.get("training/loss"))
            self._epochs[number] = f"epoch {event['epoch']}" + ("" if loss is None else f", loss {loss:.4f}")

    def _headline(self) -> str:
        states = [trial["state"] for trial in self._trials.values()]
        counts = ", ".join(f"{states.count(s)} {s}" for s in ("running", "pruned", "failed") if states.count(s))
        best = self._trials.get(-1 if self._best is None else self._best)
        found = "" if best is None or not best["values"] else f", best {_values(best)}"
        return f"tuning{found}" + (f" ({counts})" if counts else "")

    def _left(self) -> str:
        """The time left: until all trials are told at the pace so far, or until no more are begun."""
        done = self._told - self._told_before
        gone = 0.0 if self._began is None else time.monotonic() - self._began
        guesses = [] if self._seconds is None else [self._seconds - gone]
        if done > 0 and self._of is not None:
            guesses.append(gone / done * (self._of - self._told))
        left = min(guesses, default=0.0)
        return f"about {format_seconds(left)} left" if left > 1 else ""

    def _table(self) -> Table:
        """The best trials that ended with values, then those that train now."""
        table = Table(box=SIMPLE_HEAD, header_style="bold")
        for name in ("trial", "state", "value"):
            table.add_column(name, no_wrap=True)
        table.add_column("settings", overflow="ellipsis", no_wrap=True, ratio=1)
        ended = [trial for trial in self._trials.values() if trial["values"]]
        ranking = sorted(ended, key=lambda trial: trial["values"][0], reverse=self._worst_first)
        for trial in ranking[:_BEST_ROWS]:
            style = "bold green" if trial["number"] == self._best else None
            table.add_row(str(trial["number"]), trial["state"], _values(trial), _params(trial["params"]), style=style)
        for trial in self._trials.values():
            if trial["state"] == "running":
                now = self._epochs.get(trial["number"], "")
                table.add_row(str(trial["number"]), "running", now, _params(trial["params"]), style="dim")
        return table

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(Text(text))


def trial_line(event: Event) -> str:
    """A trial that ended, as one plain line."""
    of = "" if event["of"] is None else f"/{event['of']}"
    found = f": {_values(event)}" if event["values"] else f": {event['error']}" if event.get("error") else ""
    best = "" if event["best"] is None else f"   best so far: trial {event['best']}"
    return f"  {event['told']}{of}  trial {event['number']} {event['state']}{found}{best}"


def show_study(console: Console, summary: StudySummary) -> None:
    """The end of a study: the best trials, what changed, and where everything is."""
    console.print()
    console.print(trials_table(summary))
    console.print(verdict(summary))


def trials_table(summary: StudySummary) -> Table:
    """The front, and the best of the other trials, the best first."""
    title = "Pareto front" if len(summary.objectives) > 1 else "The best trials"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    table.add_column("trial", justify="right")
    for name in summary.objectives:
        table.add_column(OBJECTIVES[name], justify="right")
    dimensions = by_importance(summary)[:_MOST_PARAMS]
    for dimension in dimensions:
        table.add_column(dimension.path.replace(".", ".\n", 1), justify="right", overflow="fold")
    ranking = best_first(summary)
    if len(summary.objectives) > 1:
        ranking = [trial for trial in ranking if trial.number in summary.front]
    for trial in ranking[: 2 * _BEST_ROWS]:
        cells = [shown(trial.params[d.path]) if d.path in trial.params else "–" for d in dimensions]
        style = "bold green" if trial.number == summary.best else None if trial.feasible else "dim"
        table.add_row(str(trial.number), *(f"{value:.4g}" for value in trial.values or ()), *cells, style=style)
    return table


def verdict(summary: StudySummary) -> Table:
    """What came of the study, a line each."""
    grid = facts()
    best, default = summary.best_trial, summary.default_trial
    if best is None or best.values is None:
        grid.add_row("best", Text("no trial is complete and within all limits", style="yellow"))
    else:
        pairs = zip(summary.objectives, best.values, strict=True)
        found = ", ".join(f"{OBJECTIVES[name]} {value:.4g}" for name, value in pairs)
        grid.add_row("best", Text(f"trial {best.number}: {found}", style="bold green"))
    if default is not None and default.values is not None and default.number != summary.best:
        grid.add_row("before", ", ".join(f"{value:.4g}" for value in default.values) + " with the run's own settings")
    for number, (path, tuned, before) in enumerate(changed_settings(summary)):
        grid.add_row("" if number else "changed", f"{path}: {before} → {tuned}")
    counts = ", ".join(f"{number} {state}" for state, number in summary.counts.items() if number)
    grid.add_row("trials", f"{counts}; {summary.epochs:,} epochs; {summary.stopped}")
    took = f"{format_seconds(summary.seconds)}; trials took {format_seconds(summary.cpu_seconds)} of CPU"
    grid.add_row("time", took)
    if summary.best_yaml:
        grid.add_row("to train with it", Text(f"polychoir train {summary.best_yaml}", style="cyan"))
    grid.add_row("report", Text(summary.report, style="cyan"))
    grid.add_row("study", Text(f"{summary.name} in {summary.storage}", style="cyan"))
    return grid


def _values(trial: Event) -> str:
    return ", ".join(f"{value:.4g}" for value in trial["values"])


def _params(params: Mapping[str, Any]) -> str:
    """Settings of a trial, by the last word of their names."""
    return ", ".join(f"{path.rpartition('.')[2]} {shown(value)}" for path, value in params.items())
