"""The charts of a study: history, importances, front, slices, parallel coordinates, learning curves of its trials."""

import math
from collections.abc import Mapping, Sequence

from training_core.campaigns.tuning.config import ParamValue
from training_core.campaigns.tuning.space import Dimension
from training_core.campaigns.tuning.summary import StudySummary, TrialRecord
from training_core.pages.charts import DotRow, dot_plot
from training_core.pages.scatter import Axis, Curve, Point, Thread, curves, parallel_coordinates, scatter

BEST, FRONT, REST = "second", "second", "fourth"
MOST_SLICES, MOST_PARALLEL = 12, 8
OBJECTIVES: Mapping[str, str] = {
    "loss": "loss, rows outside",
    "score": "score, rows outside",
    "seconds": "CPU seconds",
    "size_mb": "MB",
    "robustness": "loss, modalities hidden",
    "ece": "calibration error",
}
"""How objectives are called beside a chart and over a column."""
IMPORTANCES: Mapping[str, str] = {
    "ped_anova": "PED-ANOVA: what the best trials have in common",
    "fanova": "fANOVA: what moves the objective over the whole space",
}
"""The two ways of saying how much a parameter matters, which answer different questions."""


def study_plots(summary: StudySummary) -> dict[str, str]:
    """Every chart there is something to draw for, by the name of its file, in the order of the page."""
    found = {f"history-{name}": _history(summary, place) for place, name in enumerate(summary.objectives)}
    if len(summary.objectives) > 1:
        for place, name in enumerate(summary.objectives[1:], start=1):
            found[f"front-{name}"] = _front(summary, place)
    found["importances"] = _importances(summary)
    found["learning-curves"] = _learning_curves(summary)
    found["parallel"] = _parallel(summary)
    for dimension in by_importance(summary)[:MOST_SLICES]:
        found[f"slice-{dimension.path}"] = _slice(summary, dimension)
    return {name: chart for name, chart in found.items() if chart}


def by_importance(summary: StudySummary) -> list[Dimension]:
    """The dimensions of the space that varied, those that matter most first."""
    known = next((summary.importances[method] for method in IMPORTANCES if summary.importances.get(method)), {})
    varied = [d for d in summary.space if len({str(t.params.get(d.path)) for t in summary.trials}) > 1]
    return sorted(varied, key=lambda dimension: -known.get(dimension.path, 0.0))


def complete(summary: StudySummary) -> list[TrialRecord]:
    """Trials that have values, in the order of their numbers."""
    return sorted((t for t in summary.trials if t.state == "complete" and t.values), key=lambda t: t.number)


def described(trial: TrialRecord) -> str:
    """A trial in a few words, for where it is pointed at."""
    values = "" if not trial.values else ", ".join(f"{value:.4g}" for value in trial.values)
    params = ", ".join(f"{path} {shown(value)}" for path, value in trial.params.items())
    return f"trial {trial.number} ({trial.state}): {values}; {params}"


def shown(value: object) -> str:
    """A value of a parameter as a person reads it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _minimised(summary: StudySummary, place: int) -> bool:
    return summary.directions[place] == "minimize"


def _history(summary: StudySummary, place: int) -> str:
    """Value of each trial, and with one objective the best so far."""
    trials, minimise = complete(summary), _minimised(summary, place)
    values = [_value(trial, place) for trial in trials]
    y = Axis.cut(OBJECTIVES[summary.objectives[place]], values, minimise)
    x = Axis.of("trial", [0.0, *(float(trial.number) for trial in summary.trials)])
    alone, best = len(summary.objectives) == 1, None
    steps: list[tuple[float, float]] = []
    for trial, value in zip(trials, values, strict=True):
        better = best is None or (value < best if minimise else value > best)
        if trial.feasible and better:
            best = value
            steps.append((float(trial.number), value))
    if steps and alone:
        steps.append((float(max(trial.number for trial in summary.trials)), steps[-1][1]))
    points = [Point(float(t.number), _value(t, place), described(t), "first" if t.feasible else REST) for t in trials]
    names = ["trial", "best so far" if steps and alone else "", "", ""]
    names[3] = "breaks a constraint" if any(not trial.feasible for trial in trials) else ""
    return scatter(points, x, y, names, steps if alone else (), f"History: {y.label}")


def _front(summary: StudySummary, place: int) -> str:
    """The first objective against another one; the front is that of all objectives."""
    trials = complete(summary)
    horizontal, upright = [_value(t, place) for t in trials], [_value(t, 0) for t in trials]
    x = Axis.cut(OBJECTIVES[summary.objectives[place]], horizontal, _minimised(summary, place))
    y = Axis.cut(OBJECTIVES[summary.objectives[0]], upright, _minimised(summary, 0))
    on_front = set(summary.front)
    points = [
        Point(_value(t, place), _value(t, 0), described(t), FRONT if t.number in on_front else REST) for t in trials
    ]
    pairs = ((_value(t, place), _value(t, 0)) for t in trials if t.number in on_front)
    steps = sorted(pairs) if len(summary.objectives) == 2 else []
    if not _minimised(summary, place):
        steps.reverse()
    label = f"{y.label} against {x.label}"
    return scatter(points, x, y, ("", "front", "", "other trials"), steps, label)


def _importances(summary: StudySummary) -> str:
    """Shares of both ways of measuring, a row per parameter."""
    methods = [method for method in IMPORTANCES if summary.importances.get(method)]
    paths = [dimension.path for dimension in by_importance(summary)]
    rows = [
        DotRow(path, [summary.importances[method].get(path) for method in methods])
        for path in paths
        if any(path in summary.importances[method] for method in methods)
    ]
    return dot_plot(rows, [IMPORTANCES[method] for method in methods], "How much each setting matters (share)")


def _slice(summary: StudySummary, dimension: Dimension) -> str:
    """The first objective against one parameter; later trials are darker."""
    trials = [t for t in complete(summary) if dimension.path in t.params]
    y = Axis.cut(OBJECTIVES[summary.objectives[0]], [_value(t, 0) for t in trials], _minimised(summary, 0))
    last = max((trial.number for trial in trials), default=1) or 1
    points = [
        Point(
            _placed(t.params[dimension.path], dimension),
            _value(t, 0),
            described(t),
            BEST if t.number in summary.front else "first",
            1.0 if t.number in summary.front else t.number / last,
        )
        for t in trials
    ]
    return scatter(points, _axis(summary, dimension), y, ("trial", "best"), label=dimension.path)


def _parallel(summary: StudySummary) -> str:
    """The parameters that matter most and the objective; the best tenth of the trials stands out."""
    trials, dimensions = complete(summary), by_importance(summary)[:MOST_PARALLEL]
    minimise = _minimised(summary, 0)
    ranked = sorted(trials, key=lambda t: _value(t, 0) if minimise else -_value(t, 0))
    best = {trial.number for trial in ranked[: max(1, math.ceil(len(ranked) / 10))]}
    objective = Axis.cut(OBJECTIVES[summary.objectives[0]], [_value(t, 0) for t in trials], minimise)
    axes = [*(_axis(summary, dimension) for dimension in dimensions), objective]
    threads = [
        Thread(
            [
                *(_placed(t.params[d.path], d) if d.path in t.params else None for d in dimensions),
                _value(t, 0),
            ],
            described(t),
            BEST if t.number == summary.best else "first" if t.number in best else REST,
        )
        for t in trials
    ]
    names = ("best tenth of the trials", "best")
    return parallel_coordinates(axes, threads, "Settings of every trial, side by side", names) if dimensions else ""


def _learning_curves(summary: StudySummary) -> str:
    """Best validation loss so far, epoch by epoch: where pruned trials were given up, and how the best one went."""
    drawn = [trial for trial in summary.trials if len(trial.curve) > 1]
    y = Axis.cut("best validation loss so far", [value for trial in drawn for value in trial.curve])
    x = Axis.of("epoch", [1.0, *(float(len(trial.curve)) for trial in drawn)])
    lines = [
        Curve(
            [(float(epoch), value) for epoch, value in enumerate(trial.curve, start=1)],
            described(trial),
            BEST if trial.number in summary.front else "first" if trial.state == "complete" else REST,
        )
        for trial in drawn
    ]
    return curves(lines, x, y, ("complete", "best", "", "pruned"), "Learning curves")


def _axis(summary: StudySummary, dimension: Dimension) -> Axis:
    """What a parameter runs along: its range, as far as trials were there, or its choices."""
    tried = [t.params[dimension.path] for t in summary.trials if dimension.path in t.params]
    if dimension.choices:
        return Axis.choice(dimension.path, list(dict.fromkeys(map(str, [*dimension.choices, *tried]))))
    values = [float(value) for value in tried if isinstance(value, int | float)]
    return Axis.of(dimension.path, values, log=dimension.log)


def _placed(value: ParamValue, dimension: Dimension) -> float | str:
    """A value of a parameter as its axis takes it."""
    return str(value) if dimension.choices or not isinstance(value, int | float) else float(value)


def _value(trial: TrialRecord, place: int) -> float:
    return math.nan if trial.values is None else trial.values[place]


def best_first(summary: StudySummary) -> Sequence[TrialRecord]:
    """Complete trials, feasible ones before others, the best in the first objective first."""
    sign = 1 if _minimised(summary, 0) else -1
    return sorted(complete(summary), key=lambda t: (not t.feasible, sign * _value(t, 0), t.number))
