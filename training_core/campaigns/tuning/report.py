"""The report of a study: one page that needs no other file and no network, and its charts as files beside it."""

import html
from collections.abc import Sequence
from pathlib import Path

from training_core.artifacts import storage_errors, write_text_atomically
from training_core.campaigns.tuning.held_out import HeldOut
from training_core.campaigns.tuning.plots import IMPORTANCES, OBJECTIVES, best_first, by_importance, shown, study_plots
from training_core.campaigns.tuning.space import Dimension
from training_core.campaigns.tuning.summary import REPORT, StudySummary, TrialRecord
from training_core.pages.document import document, figures, lead
from training_core.pages.svg_file import svg_file
from training_core.pages.tables import CODE, markdown_table, table
from training_core.quantities import format_seconds

PLOTS = "plots"
_FEW_TRIALS = 20
MOST_TRIALS = 200
"""Rows of the table of trials on the page; the tracker and the study have them all."""


def write_report(summary: StudySummary, folder: Path, held_out: HeldOut | None = None) -> Path:
    """Write `report.html` and `plots/*.svg` into the folder of a study; returns the page's path.

    Args:
        summary: the study.
        folder: made when absent; charts of an earlier report in it are replaced.
        held_out: how the tuned configuration did against the run's own on the test rows, where both were trained.

    Raises:
        StorageError: the folder cannot be written.
    """
    plots = study_plots(summary)
    with storage_errors(folder):
        (folder / PLOTS).mkdir(parents=True, exist_ok=True)
        for old in (folder / PLOTS).glob("*.svg"):
            if old.stem not in plots:
                old.unlink(missing_ok=True)
    for name, chart in plots.items():
        write_text_atomically(folder / PLOTS / f"{name}.svg", svg_file(chart))
    write_text_atomically(folder / REPORT, render_html(summary, held_out, plots))
    return folder / REPORT


def render_html(summary: StudySummary, held_out: HeldOut | None = None, plots: dict[str, str] | None = None) -> str:
    """The page as HTML."""
    plots = study_plots(summary) if plots is None else plots
    slices = [chart for name, chart in plots.items() if name.startswith("slice-")]
    fronts = [chart for name, chart in plots.items() if name.startswith("front-")]
    histories = [chart for name, chart in plots.items() if name.startswith("history-")]
    ranking = best_first(summary)
    front = [trial for trial in ranking if trial.number in summary.front]
    return document(
        f"Tuning {summary.title}: {_headline(summary)}",
        [
            f"<h1>Tuning {html.escape(summary.title)} <small>on {html.escape(summary.dataset)}</small></h1>",
            lead(_lead(summary)),
            figures(_figures(summary)),
            *_section("What was found", _found(summary)),
            *_section("On rows held out", _held_out(summary, held_out)),
            *_section("Pareto front", [*_charts(fronts), _trials_table(summary, front)] if fronts else []),
            *_section("Trials", _charts([*histories, plots.get("learning-curves", "")])),
            *_section("What matters", _importances(summary, plots)),
            *_section("Each setting by itself", _slices(summary, slices)),
            *_section("All settings together", [plots["parallel"]] if "parallel" in plots else []),
            *_section("The best trials", [_trials_table(summary, ranking[:10])] if ranking else []),
            "<details><summary>Every trial</summary>",
            _trials_table(summary, sorted(summary.trials, key=lambda t: t.number)[:MOST_TRIALS]),
            "</details>",
            *_section("What was searched", [_space_table(summary.space)]),
            *_section("Where it is", [table(("", ""), [(name, f"{CODE}{place}") for name, place in _places(summary)])]),
            f'<p class="foot">{html.escape(_method(summary))}</p>',
        ],
    )


def render_markdown(summary: StudySummary, held_out: HeldOut | None = None) -> str:
    """The headline, what was found and the best trials, for places that render Markdown."""
    lines = [f"# Tuning {summary.title}: {_headline(summary)}", "", _lead(summary), ""]
    if (changes := changed_settings(summary)) and summary.best is not None:
        lines += [f"## Trial {summary.best}", "", *markdown_table(("setting", "tuned", "before"), changes), ""]
    if held_out is not None:
        lines += ["## On rows held out", "", held_out.sentence, ""]
    header, rows = _trial_cells(summary, best_first(summary)[:10])
    lines += ["## The best trials", "", *markdown_table(header, rows), "", "## Where it is", ""]
    lines += [f"- {name}: `{place}`" for name, place in _places(summary)]
    return "\n".join(lines) + "\n"


def changed_settings(summary: StudySummary) -> list[tuple[str, str, str]]:
    """Setting, tuned value and value before, where they differ; empty without a best trial."""
    best, default = summary.best_trial, summary.default_trial
    if best is None:
        return []
    before = {} if default is None else default.params
    return [
        (path, shown(value), shown(before[path]) if path in before else "–")
        for path, value in best.params.items()
        if path not in before or before[path] != value
    ]


def _section(title: str, body: Sequence[str]) -> list[str]:
    return [f"<h2>{html.escape(title)}</h2>", *body] if body else []


def _headline(summary: StudySummary) -> str:
    best = summary.best_trial
    if best is None or best.values is None:
        return "no trial is acceptable"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(summary.objectives, best.values, strict=True))


def _lead(summary: StudySummary) -> str:
    counts = summary.counts
    parts = [f"{counts.get(state, 0)} {state}" for state in ("complete", "pruned", "failed", "running")]
    told = ", ".join(part for part in parts if not part.startswith("0 "))
    stopped = f" {summary.stopped[:1].upper()}{summary.stopped[1:].rstrip('.')}." if summary.stopped else ""
    return (
        f"{sum(counts.values())} trials ({told or 'none told'}) over {len(summary.space)} settings of the "
        f"{summary.target}, in {format_seconds(summary.seconds)}; they took {format_seconds(summary.cpu_seconds)} of "
        f"CPU and {summary.epochs:,} epochs.{stopped}"
    )


def _figures(summary: StudySummary) -> list[tuple[str, str]]:
    best, default = summary.best_trial, summary.default_trial
    found = []
    for place, name in enumerate(summary.objectives):
        if best is not None and best.values is not None:
            found.append((f"{best.values[place]:.4g}", f"{OBJECTIVES[name]}, trial {best.number}"))
        if default is not None and default.values is not None:
            found.append((f"{default.values[place]:.4g}", "with the settings of the run"))
    if len(summary.objectives) > 1:
        found.append((str(len(summary.front)), "trials on the front"))
    pruned = summary.counts.get("pruned", 0)
    return [*found, (f"{pruned} of {len(summary.trials)}", "trials given up early")]


def _found(summary: StudySummary) -> list[str]:
    """The settings that changed, and how to train with them."""
    if summary.best is None:
        return [lead("No trial is complete and keeps all constraints, so there is nothing to train with.")]
    changes = changed_settings(summary)
    body = [table(("setting", "tuned", "before"), changes)] if changes else []
    same = "" if changes else "The settings of the run itself were best: nothing has to change. "
    several = (
        "Of the trials on the front this is the best in the first objective. " if len(summary.objectives) > 1 else ""
    )
    command = f"polychoir train {summary.best_yaml}"
    return [*body, f'<p class="note">{same}{several}To train with it: <code>{html.escape(command)}</code></p>']


def _held_out(summary: StudySummary, held_out: HeldOut | None) -> list[str]:
    if summary.best is None or not changed_settings(summary):
        return []
    if held_out is None:
        text = (
            "Trials are judged on the rows that chose them, so the best of many looks better than it is. Whether it is "
            "better on rows that chose nothing is not known yet: train both the run and best.yaml, and ask for this "
            "report once more (polychoir tune with the same run, which trains nothing again)."
        )
        return [f'<p class="note">{html.escape(text)}</p>']
    header = (held_out.metric, "test rows", "trained with", "ensemble")
    rows = [
        (f"{held_out.tuned_score:.4f}", f"{held_out.num_rows}", "best.yaml", f"{CODE}{held_out.tuned}"),
        (
            f"{held_out.default_score:.4f}",
            f"{held_out.num_rows}",
            "the run's own settings",
            f"{CODE}{held_out.default}",
        ),
    ]
    return [table(header, rows), f'<p class="note">{html.escape(held_out.sentence)}</p>']


def _importances(summary: StudySummary, plots: dict[str, str]) -> list[str]:
    if "importances" not in plots:
        return []
    two = (
        "Two questions, two answers. PED-ANOVA (Watanabe et al. 2023) compares the best trials with all: what they "
        "have in common matters near the optimum. fANOVA (Hutter et al. 2014) splits the variance of the "
        f"objective over the whole space, bad regions included. Both are of the {OBJECTIVES[summary.objectives[0]]}."
    )
    number = len(best_first(summary))
    few = f" {number} trials are few for either: read them as a first guess." if number < _FEW_TRIALS else ""
    only = [method for method in IMPORTANCES if not summary.importances.get(method)]
    missing = "".join(f" {IMPORTANCES[method].partition(':')[0]} has too few trials to say." for method in only)
    return [plots["importances"], f'<p class="note">{html.escape(two + few + missing)}</p>']


def _slices(summary: StudySummary, slices: Sequence[str]) -> list[str]:
    if not slices:
        return []
    left = len(by_importance(summary)) - len(slices)
    more = f" The {len(slices)} that matter most of {left + len(slices)}." if left > 0 else ""
    note = f"Darker dots are later trials.{more} Values far beyond the median are drawn on the edge."
    return [f'<p class="note">{html.escape(note)}</p>', *_charts(slices)]


def _charts(charts: Sequence[str]) -> list[str]:
    found = "".join(chart for chart in charts if chart)
    return [f'<div class="charts">{found}</div>'] if found else []


def _trials_table(summary: StudySummary, trials: Sequence[TrialRecord]) -> str:
    header, rows = _trial_cells(summary, trials)
    return table(header, rows, [trial.state != "complete" or not trial.feasible for trial in trials])


def _trial_cells(summary: StudySummary, trials: Sequence[TrialRecord]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and cells of a table of trials; of the settings those that varied."""
    paths = [dimension.path for dimension in by_importance(summary)]
    header = ("trial", "state", *(OBJECTIVES[name] for name in summary.objectives), "epochs", "CPU s", *paths)
    rows = [
        (
            str(trial.number),
            _state(trial),
            *(f"{value:.4g}" for value in trial.values or [float("nan")] * len(summary.objectives)),
            str(trial.epochs or len(trial.curve) or "–"),
            f"{trial.cpu_seconds:.1f}",
            *(shown(trial.params[path]) if path in trial.params else "–" for path in paths),
        )
        for trial in trials
    ]
    return header, rows


def _state(trial: TrialRecord) -> str:
    why = trial.error or ", ".join(f"{name} over by {over:.3g}" for name, over in trial.constraints.items() if over > 0)
    notes = [note for note in (trial.enqueued, why) if note]
    return f"{trial.state} ({'; '.join(notes)})" if notes else trial.state


def _space_table(space: Sequence[Dimension]) -> str:
    rows = [
        (
            f"{CODE}{dimension.path}",
            ", ".join(map(str, dimension.choices)) or f"{dimension.low:g} to {dimension.high:g}",
            "logarithmic" if dimension.log else f"in steps of {dimension.step:g}" if dimension.step else "",
            " and ".join(f"{' or '.join(c.paths)} is {' or '.join(map(str, c.values))}" for c in dimension.when),
        )
        for dimension in space
    ]
    return table(("setting", "values", "scale", "only when"), rows)


def _places(summary: StudySummary) -> list[tuple[str, str]]:
    found = [("study", summary.name), ("kept in", summary.storage), ("folder", summary.folder)]
    return found if summary.best is None else [*found, ("best settings", summary.best_yaml)]


def _method(summary: StudySummary) -> str:
    return (
        f"Sampler {summary.sampler}, pruner {summary.pruner}, mode {summary.mode}, seed {summary.seed}. Values are of "
        "rows outside what a trial was trained on; the test split is used for none of this, except under 'On rows held "
        "out'. A trial is given up when a pruner would not let its best validation loss so far pass."
    )
