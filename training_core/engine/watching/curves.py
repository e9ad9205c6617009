"""Curves of a training as a picture: every metric over the epochs, training and validation in one plot."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from training_core.artifacts import storage_errors, write_text_atomically
from training_core.engine.loop import History
from training_core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"training": "#2f5d8a", "validation": "#e4572e"}
_OTHER_COLOUR = "#5b7f5b"
_MAX_COLUMNS = 3


def draw_curves(history: History) -> "Figure":
    """A plot per metric, in which those of training and validation that have one name share one. Needs matplotlib.

    The best epoch, where there is one, is marked by a line.

    Raises:
        ConfigError: there is no metric to draw.
    """
    from matplotlib.figure import Figure  # the object interface: no global state, no display

    keys = dict.fromkeys(key for epoch in history.epochs for key in epoch)
    plots: dict[str, list[str]] = {}
    for key in keys:
        family, _, name = key.partition("/")
        plots.setdefault(name if family in _COLOURS else key, []).append(key)
    if not plots:
        raise ConfigError("there is nothing to draw: the history has no metric")
    num_columns = min(_MAX_COLUMNS, len(plots))
    num_rows = -(-len(plots) // num_columns)
    figure = Figure(figsize=(4.2 * num_columns, 3.0 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, (name, members) in zip(grid, plots.items(), strict=False):
        for key in members:
            family = key.partition("/")[0]
            marker = "o" if len(history.epochs) == 1 else None  # a line through one point is invisible
            colour = _COLOURS.get(family, _OTHER_COLOUR)
            axes.plot(*zip(*history.curve(key), strict=True), color=colour, marker=marker, label=family)
        if history.best_epoch is not None:
            axes.axvline(history.best_epoch, color="#9aa4b2", linewidth=1, linestyle="--", label="best epoch")
        axes.set(title=name, xlabel="epoch")
        axes.grid(color="#e3e7ed")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    for axes in grid[len(plots) :]:
        axes.set_visible(False)
    return figure


def write_curves(history: History, path: Path) -> None:
    """Draw the curves into an SVG file, which is there as a whole or not at all; equal histories give equal files.

    Raises:
        ConfigError: the name does not end in `.svg`, or there is no metric to draw.
        StorageError: the file cannot be written.
    """
    import matplotlib as mpl

    if path.suffix != ".svg":
        raise ConfigError(f"curves are drawn as SVG; '{path.name}' should end in .svg")
    picture = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "curves"}):  # else the ids in the file are random
        draw_curves(history).savefig(picture, format="svg", metadata={"Date": None})
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, picture.getvalue())
