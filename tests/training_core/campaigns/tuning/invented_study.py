"""A study that nobody ran, with trials of every state: complete, pruned, failed, running, beyond a limit."""

import math
from pathlib import Path

import numpy as np

from training_core.campaigns.tuning.config import ObjectiveName
from training_core.campaigns.tuning.space import Condition, Dimension
from training_core.campaigns.tuning.summary import (
    Direction,
    StudySummary,
    TrialRecord,
    TrialStateName,
    pareto_front,
)

PRUNED, FAILED, BEYOND, RUNNING = 7, 3, 5, 9
_EPOCHS = 12

SPACE = (
    Dimension(path="training.lr", kind="float", low=1e-4, high=1e-1, log=True),
    Dimension(path="training.schedule", kind="choice", choices=("cosine", "none")),
    Dimension(path="fusion_net.width", kind="int", low=16, high=256, log=True),
    Dimension(path="denoising.enabled", kind="choice", choices=(False, True)),
    Dimension(
        path="denoising.weight",
        kind="float",
        low=0.01,
        high=1.0,
        log=True,
        when=(Condition(paths=("denoising.enabled",), values=(True,)),),
    ),
)


def invented_study(
    folder: Path, objectives: tuple[ObjectiveName, ...] = ("loss",), num_trials: int = 30, title: str = "shoes"
) -> StudySummary:
    """The loss is least near a learning rate of .01 and moved by nothing else; wider nets take longer."""
    draws = np.random.default_rng(0)
    trials = tuple(_trial(number, draws, objectives) for number in range(num_trials))
    directions: tuple[Direction, ...] = tuple("maximize" if name == "score" else "minimize" for name in objectives)
    front = pareto_front(trials, directions)
    return StudySummary(
        name="shoes-1f3a",
        title=title,
        dataset="shoes@1f3a",
        target="learner",
        learner="fusion_net",
        metric="accuracy",
        objectives=objectives,
        directions=directions,
        sampler="tpe",
        pruner="hyperband",
        mode="deterministic",
        seed=0,
        space=SPACE,
        trials=trials,
        best=front[0] if front else None,
        front=front,
        counts={
            state: sum(trial.state == state for trial in trials)
            for state in ("complete", "pruned", "failed", "running")
        },
        seconds=61.0,
        cpu_seconds=100.0,
        storage=str(folder / "journal.log"),
        folder=str(folder),
        best_yaml=str(folder / "best.yaml"),
        report=str(folder / "report.html"),
        importances={"ped_anova": {"training.lr": 0.9, "fusion_net.width": 0.1}, "fanova": {"training.lr": 1.0}},
        stopped=f"All {num_trials} trials are done.",
    )


def _trial(number: int, draws: np.random.Generator, objectives: tuple[ObjectiveName, ...]) -> TrialRecord:
    lr, width = float(10 ** draws.uniform(-4, -1)), 4 * int(2 ** draws.uniform(2, 6))
    params = {"training.lr": lr, "training.schedule": str(draws.choice(["cosine", "none"])), "fusion_net.width": width}
    enabled = bool(draws.random() < 0.5)
    params |= {"denoising.enabled": enabled, **({"denoising.weight": 0.1} if enabled else {})}
    loss = 0.1 + (math.log10(lr) + 2) ** 2
    ended: dict[int, TrialStateName] = {PRUNED: "pruned", FAILED: "failed", RUNNING: "running"}
    state = ended.get(number, "complete")
    epochs = {"complete": _EPOCHS, "pruned": 4, "failed": 0, "running": 0}[state]
    known = {"loss": loss, "score": 1 - loss / 10, "seconds": width / 10, "size_mb": width / 100, "ece": 0.01}
    return TrialRecord(
        number=number,
        state=state,
        params=params,
        values=tuple(known[name] for name in objectives) if state == "complete" else None,
        constraints={"max_size_mb": 0.5 if number == BEYOND else -0.5},
        feasible=number != BEYOND,
        curve=tuple(loss + 1 / epoch for epoch in range(1, epochs + 1)),
        epochs=epochs,
        started=1000.0 + number,
        ended=1001.0 + number,
        cpu_seconds=2.0,
        enqueued="default" if number == 0 else "",
        error="DivergenceError: the loss is not finite" if state == "failed" else "",
    )
