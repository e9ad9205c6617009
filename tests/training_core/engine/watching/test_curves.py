"""Curves of training as pictures."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from training_core.engine.loop import History
from training_core.engine.watching.curves import draw_curves, write_curves
from training_core.errors import ConfigError, StorageError


def history(*epochs: dict[str, float], best_epoch: int | None = None) -> History:
    return History(epochs=epochs, num_steps=1, stop_reason="done", best_epoch=best_epoch)


def test_training_and_validation_share_a_plot_and_gaps_are_left_out() -> None:
    figure = draw_curves(
        history(
            {"training/loss": 3.0, "training/gradient_norm": 1.0},
            {"training/loss": 2.0, "training/gradient_norm": 1.0, "validation/loss": 2.5},
            {"training/loss": 1.0, "training/gradient_norm": 1.0, "validation/loss": 2.6, "gradients/max_norm": 4.0},
            best_epoch=2,
        )
    )
    plots = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert list(plots) == ["loss", "gradient_norm", "gradients/max_norm"]
    curves = {str(line.get_label()): list(line.get_xdata()) for line in plots["loss"].get_lines()}  # pyright: ignore[reportArgumentType]
    assert curves == {"training": [1, 2, 3], "validation": [2, 3], "best epoch": [2, 2]}


def test_a_file_is_whole_and_equal_histories_give_equal_files(tmp_path: Path) -> None:
    done = history(*({"training/loss": 1.0 / epoch} for epoch in range(1, 9)))
    write_curves(done, tmp_path / "a.svg")
    write_curves(done, tmp_path / "new" / "b.svg")
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "new" / "b.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_one_epoch_is_a_point_and_a_metric_that_is_nan_is_drawn_around() -> None:
    figure = draw_curves(history({"training/loss": float("nan"), "training/kl": 1.0}))
    assert [line.get_marker() for axes in figure.axes for line in axes.get_lines()] == ["o", "o"]


def test_nothing_to_draw_another_format_and_a_place_that_is_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_curves(history())
    with pytest.raises(ConfigError, match=r"'a\.png' should end in \.svg"):
        write_curves(history({"training/loss": 1.0}), tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        write_curves(history({"training/loss": 1.0}), tmp_path / "file" / "folder" / "a.svg")
