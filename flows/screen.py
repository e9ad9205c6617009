"""What a person sees while learners train and when a run is over: live progress, tables, the last lines."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from flows.console import facts, overall_progress
from flows.tuning_screen import trial_line
from training_core.campaigns.bagging import Plan
from training_core.campaigns.budget_use import BudgetUse
from training_core.campaigns.summary import RunSummary
from training_core.jobs import Event
from training_core.quantities import format_seconds

MAX_LEADERBOARD_ROWS = 30
_OF_A_TRIAL = "trial-"  # the names of jobs of a study that comes before; of a trial one line is enough


class TrainingView:
    """Live progress: one bar for the run with the time left, and one line per learner that is training now.

    On a terminal the bars move; elsewhere one plain line is printed per stage and per finished learner.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._predicted: dict[str, float] = {}
        self._done: set[str] = set()
        self._work_done = 0.0
        self._started = time.monotonic()
        self._deadline = float("inf")
        self._total = overall_progress(console)
        self._learners = Progress(
            TextColumn("  {task.description}", style="dim"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}", style="dim"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._overall = self._total.add_task("starting", total=None, left="")

    @contextmanager
    def live(self) -> Iterator["TrainingView"]:
        """Show the view for as long as the block lasts; nothing of it stays on the screen."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(Group(self._total, self._learners), console=self._console, transient=True, refresh_per_second=8):
            yield self

    def __call__(self, event: Event) -> None:
        """Take in one event, from any thread."""
        if str(event.get("job", "")).startswith(_OF_A_TRIAL):
            return
        with self._lock:
            getattr(self, f"_on_{event['event']}", lambda _: None)(event)

    def _on_stage(self, event: Event) -> None:
        self._total.update(self._overall, description=event["text"])
        self._say(event["text"])

    def _on_warning(self, event: Event) -> None:
        self._console.print(Text(event["text"], style="yellow"), soft_wrap=True)

    def _on_trial(self, event: Event) -> None:
        self._total.update(self._overall, description="tuning", total=event["of"], completed=event["told"])
        if event["state"] != "running":
            self._say(trial_line(event))

    def _on_plan(self, event: Event) -> None:
        plan = Plan.model_validate(event["plan"])
        self._predicted = {job.name: job.predicted_seconds or 1.0 for job in plan.jobs}
        self._deadline = event.get("deadline") or float("inf")
        self._started = time.monotonic()
        text = f"training {len(self._predicted)} learners in {len(plan.cohorts)} groups"
        self._total.update(
            self._overall, description="training learners", total=len(self._predicted), completed=len(self._done)
        )
        self._say(text)

    def _on_started(self, event: Event) -> None:
        self._remove_bar(event["job"])  # of a group that is tried again
        self._bars[event["job"]] = self._learners.add_task(event["job"], total=event["epochs"], state="fitting")

    def _on_epoch(self, event: Event) -> None:
        if (bar := self._bars.get(event["job"])) is not None:
            loss = event.get("validation/loss", event.get("training/loss"))
            state = f"epoch {event['epoch']}" + ("" if loss is None else f"  loss {loss:.4f}")
            self._learners.update(bar, completed=event["epoch"], state=state)

    def _on_finished(self, event: Event) -> None:
        score = "" if event["score"] is None else f"score {event['score']:.4f}, "
        self._settle(event["job"], f"{score}{format_seconds(event['seconds'])}")

    def _on_reused(self, event: Event) -> None:
        self._settle(event["job"], "trained before, reused")

    def _on_skipped(self, event: Event) -> None:
        self._settle(event["job"], f"skipped: {event['why']}")

    def _on_pruned(self, event: Event) -> None:
        self._settle(event["job"], event["why"])

    def _on_usable(self, event: Event) -> None:
        self._say(f"  a first ensemble of {event['learners']} learners is usable: {event['ensemble']}")

    def _on_failed(self, event: Event) -> None:
        self._settle(event["job"], f"failed: {event['error']}")
        if self._console.is_terminal:
            self._console.print(Text(f"{event['job']} failed: {event['error']}", style="yellow"))

    def _settle(self, job: str, how: str) -> None:
        if job in self._done:
            return
        self._done.add(job)
        self._work_done += self._predicted.get(job, 0.0)
        self._remove_bar(job)
        elapsed = time.monotonic() - self._started
        left = elapsed * (sum(self._predicted.values()) / self._work_done - 1) if self._work_done else 0.0
        left = min(left, self._deadline - time.time())
        about = f"about {format_seconds(left)} left" if left > 1 else ""
        self._total.update(self._overall, completed=len(self._done), left=about)
        self._say(f"  {len(self._done)}/{len(self._predicted)}  {job}: {how}")

    def _remove_bar(self, job: str) -> None:
        if (bar := self._bars.pop(job, None)) is not None:
            self._learners.remove_task(bar)

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(Text(text))


def show_summary(console: Console, summary: RunSummary) -> None:
    """The end of a run: leaderboard, missing modalities, the verdict, and where everything is."""
    console.print()
    console.print(leaderboard_table(summary))
    console.print(patterns_table(summary))
    console.print(verdict(summary))


def show_profile(console: Console, summary: RunSummary) -> None:
    """What the net that took longest spent its time on, and where the profiles of all are."""
    console.print()
    if not summary.profiles:
        why = "no net was trained" if not summary.speed else "every net was trained before, without `--profile`"
        console.print(Text(f"no profile: {why}; give another --seed or --store", style="yellow"))
        return
    slowest = max(summary.profiles, key=lambda name: summary.speed[name].seconds)
    console.print(Text(summary.profiles[slowest].profile.table()), soft_wrap=True)
    grid = facts()
    for name, profiled in sorted(summary.profiles.items()):
        grid.add_row(f"profile of {name}", Text(profiled.folder, style="cyan"))
    grid.add_row("", "trace.json.gz opens in https://ui.perfetto.dev or chrome://tracing; operators.txt is the table")
    console.print(grid)


def verdict(summary: RunSummary) -> Table:
    """What came of the run, a line each: scores against the reference rows, learners, places."""
    counts = summary.learners
    ece = "" if summary.ece is None else f"   calibration error {summary.ece:.3f}"
    if counts.trained or counts.failed:
        done = f"{counts.trained} trained, {counts.reused} reused, {counts.failed} failed, {counts.kept} kept"
    else:
        done = f"Nothing to train: all {counts.reused} learners were trained before; {counts.kept} kept"
    if counts.skipped:
        done += f"; {counts.skipped} skipped for want of time"
    grid = facts()
    grid.add_row("ensemble", Text(f"{summary.metric} {summary.score:.4f} on the test split{ece}", style="bold green"))
    grid.add_row("best single", f"{summary.metric} {summary.best_single.score:.4f}   {summary.best_single.learner}")
    grid.add_row("plain mean", f"{summary.metric} {summary.plain_mean.score:.4f}")
    grid.add_row("learners", done)
    for name, error in summary.failures.items():
        grid.add_row("", Text(f"{name} failed: {error}", style="yellow"))
    cpu = f"{format_seconds(summary.seconds)}; learners took {format_seconds(summary.cpu_seconds)} of CPU"
    grid.add_row("time", cpu)
    if (cost := summary.cost_model) is not None:
        ranks = "" if cost.rank_correlation is None else f", rank correlation {cost.rank_correlation:.2f}"
        grid.add_row("cost model", f"learners took {cost.seconds_ratio:.2f} × the predicted time (median){ranks}")
    if (use := summary.budget) is not None:
        grid.add_row("budget", budget_line(use))
        for name, why in use.left_out.items():
            grid.add_row("", Text(f"{name} left out: {why}", style="dim"))
    for number, sentence in enumerate(summary.advice):
        grid.add_row("" if number else "advice", Text(sentence, style="yellow"))
    grid.add_row("model", Text(summary.model, style="cyan"))
    grid.add_row("report", Text(summary.report, style="cyan"))
    grid.add_row("tracked as", Text(f"{summary.run_id} in {summary.tracking}", style="cyan"))
    return grid


def budget_line(use: BudgetUse) -> str:
    """What was set, and what was used of it."""
    parts = []
    if use.seconds is not None:
        first = "" if use.usable_seconds is None else f", a usable ensemble after {format_seconds(use.usable_seconds)}"
        parts.append(f"{format_seconds(use.used_seconds)} of {format_seconds(use.seconds)}{first}")
    if use.memory_mb is not None:
        parts.append(f"{use.memory_mb:g} MB a process")
    if use.learners is not None:
        parts.append(f"{use.learners} learners at most")
    return "; ".join(parts)


def leaderboard_table(summary: RunSummary) -> Table:
    """One row per learner, the heaviest first."""
    table = _table("Leaderboard")
    for name in ("learner", "modalities", "bag"):
        table.add_column(name, overflow="fold")
    for name in (f"validation\n{summary.metric}", "weight", "seconds", "MB"):
        table.add_column(name, justify="right")
    rows = summary.leaderboard
    for row in rows[:MAX_LEADERBOARD_ROWS]:
        style = "dim" if not row.weight else None
        table.add_row(
            row.label,
            ", ".join(row.modalities),
            row.bag,
            "failed" if row.score is None else f"{row.score:.4f}",
            f"{row.weight:.3f}" if row.weight else "–",
            f"{row.seconds:.1f}",
            f"{row.megabytes:.1f}",
            style=style,
        )
    if len(rows) > MAX_LEADERBOARD_ROWS:
        table.caption = f"and {len(rows) - MAX_LEADERBOARD_ROWS} more in the report"
    return table


def patterns_table(summary: RunSummary) -> Table:
    """One row per availability pattern, the complete one first."""
    table = _table("When modalities are missing (test split)")
    table.add_column("available", overflow="fold")
    table.add_column("missing", overflow="fold")
    for name in (summary.metric, "calibration error", "confidence"):
        table.add_column(name, justify="right")
    for row in summary.patterns:
        ece = "" if row.ece is None else f"{row.ece:.3f}"
        missing = ", ".join(row.missing) or "nothing"
        table.add_row(", ".join(row.available), missing, f"{row.score:.4f}", ece, f"{row.confidence:.3f}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
