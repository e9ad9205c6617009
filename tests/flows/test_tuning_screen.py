"""The live view of a study: a table on a terminal, plain lines elsewhere, and the verdict at its end."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.screen import TrainingView
from flows.tuning_screen import TuningView, show_study
from training_core.campaigns.tuning.config import TuningConfig
from training_core.campaigns.tuning.dimensions import Dimension
from training_core.campaigns.tuning.summary import StudySummary


def trial(number: int, state: str, values: list[float] | None = None, **more: Any) -> dict[str, Any]:
    event = {"event": "trial", "number": number, "state": state, "values": values, "params": {"training.lr": 0.01}}
    return {**event, "best": None, "told": 0, "of": 8, **more}


def screen(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120, highlight=False), text


def shown(view: TuningView) -> str:
    console, text = screen(terminal=True)
    console.print(view)
    return text.getvalue()


def test_elsewhere_than_on_a_terminal_every_ended_trial_is_a_line() -> None:
    console, text = screen(terminal=False)
    view = TuningView(console, TuningConfig())
    with view.live():
        view({"event": "stage", "text": "opening the study"})
        view(trial(0, "running", jobs=["trial-0000"]))
        view(trial(0, "complete", [0.25], best=0, told=1))
        view(trial(1, "pruned", best=0, told=2))
        view(trial(2, "failed", best=0, told=3, error="the loss is not finite"))
    lines = text.getvalue().splitlines()
    assert lines == [
        "opening the study",
        "  1/8  trial 0 complete: 0.25   best so far: trial 0",
        "  2/8  trial 1 pruned   best so far: trial 0",
        "  3/8  trial 2 failed: the loss is not finite   best so far: trial 0",
    ]


def test_on_a_terminal_the_best_trials_and_those_that_train_are_a_table() -> None:
    view = TuningView(screen(terminal=True)[0], TuningConfig())
    view(trial(0, "running", jobs=["trial-0000"]))
    view(trial(0, "complete", [0.25], best=0, told=1))
    view(trial(1, "running", jobs=["trial-0001"], best=0, told=1))
    view({"event": "epoch", "job": "trial-0001", "epoch": 3, "validation/loss": 0.5})
    view({"event": "epoch", "job": "of another run", "epoch": 9})
    view(trial(2, "pruned", best=0, told=2))
    text = shown(view)
    assert "best 0.25" in text
    assert "1 running, 1 pruned" in text
    assert "epoch 3, loss 0.5000" in text
    assert "2/8" in text
    assert "lr 0.01" in text


@pytest.mark.parametrize(("objective", "first"), [("loss", "0.1"), ("score", "0.9")])
def test_the_best_trial_is_on_top_whichever_way_is_better(objective: Any, first: str) -> None:
    view = TuningView(screen(terminal=True)[0], TuningConfig(objectives=(objective,)))
    for number, value in enumerate((0.5, 0.9, 0.1)):
        view(trial(number, "complete", [value], best=2, told=number + 1))
    rows = [line for line in shown(view).splitlines() if "complete" in line]
    assert first in rows[0]


def test_a_limit_of_seconds_bounds_the_time_left() -> None:
    view = TuningView(screen(terminal=True)[0], TuningConfig(seconds=30.0))
    view(trial(0, "running"))
    assert "s left" in shown(view)
    unlimited = TuningView(screen(terminal=True)[0], TuningConfig())
    unlimited(trial(0, "running"))
    assert "left" not in shown(unlimited), "nothing is known yet"


def test_events_it_does_not_know_change_nothing() -> None:
    view = TuningView(screen(terminal=True)[0], TuningConfig())
    view({"event": "usable", "ensemble": "/x"})
    assert "starting" in shown(view)


def test_what_speaks_against_a_run_is_seen_on_every_screen() -> None:
    for terminal in (False, True):
        console, text = screen(terminal=terminal)
        TrainingView(console)({"event": "warning", "text": "too little memory for eight [workers]"})
        assert "too little memory for eight [workers]" in text.getvalue()


def test_a_study_before_a_training_is_a_line_per_trial_and_its_jobs_are_not_those_of_the_run() -> None:
    console, text = screen(terminal=False)
    view = TrainingView(console)
    view(trial(0, "running", jobs=["trial-0000"]))
    view({"event": "started", "job": "trial-0000", "epochs": 5})
    view({"event": "finished", "job": "trial-0000", "score": 0.9, "seconds": 1.0})
    view(trial(0, "complete", [0.25], best=0, told=1))
    assert text.getvalue().splitlines() == ["  1/8  trial 0 complete: 0.25   best so far: trial 0"]


def test_the_verdict_names_the_best_what_changed_and_where_it_is(tmp_path: Path) -> None:
    from training_core.campaigns.tuning.summary import TrialRecord

    def record(number: int, lr: float, loss: float) -> TrialRecord:
        origin = "" if number else "default"
        return TrialRecord(number=number, state="complete", params={"training.lr": lr}, values=(loss,), enqueued=origin)

    summary = StudySummary(
        name="shoes-1",
        title="shoes",
        dataset="shoes@1",
        target="learner",
        metric="accuracy",
        objectives=("loss",),
        directions=("minimize",),
        sampler="tpe",
        pruner="none",
        mode="deterministic",
        seed=0,
        space=(Dimension(path="training.lr", kind="float", low=1e-4, high=1e-1, log=True),),
        trials=(record(0, 0.001, 0.5), record(1, 0.02, 0.25)),
        best=1,
        front=(1,),
        counts={"complete": 2, "pruned": 0, "failed": 0, "running": 0},
        seconds=1.0,
        cpu_seconds=2.0,
        storage="journal.log",
        folder=str(tmp_path),
        best_yaml="best.yaml",
        report="report.html",
        importances={},
        stopped="all 2 trials are done",
    )
    console, text = screen(terminal=False)
    show_study(console, summary)
    found = text.getvalue()
    assert "trial 1: loss, rows outside 0.25" in found
    assert "0.5 with the run's own settings" in found
    assert "training.lr: 0.001 → 0.02" in found
    assert "polychoir train best.yaml" in found
    nothing = summary.model_copy(update={"best": None, "front": (), "trials": (), "best_yaml": ""})
    console, text = screen(terminal=False)
    show_study(console, nothing)
    assert "no trial is complete" in text.getvalue()
