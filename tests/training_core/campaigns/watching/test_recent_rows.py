"""How far back a retraining learns, told by quick learners on a few hundred rows in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.watching.hold_out import Candidates, Recent
from training_core.campaigns.watching.recent_rows import choose_recent
from training_core.data.ingestion.in_memory import create_dataset_from_arrays

NUM_ROWS, NUM_TURNED = 600, 240


def chosen(
    place: Path,
    size: np.ndarray,
    target: np.ndarray,
    order: np.ndarray | None = None,
    since: int = NUM_TURNED,
    **given: Any,
) -> Recent:
    """What is chosen for rows of two numbers with these targets, of which the newest `since` came in lately."""
    dataset = create_dataset_from_arrays(
        "rows",
        {"size": size},
        target,
        task="regression" if target.dtype == float else "classification",
        store=place,
        split={"test": 0.0},
    )
    run = RunConfig.load(dataset=dataset.ref, **given)
    rows = np.arange(len(size))
    return choose_recent(dataset, run, Candidates(rows, rows.astype(float) if order is None else order, since))


def numbers() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(NUM_ROWS, 2))


def turned() -> np.ndarray:
    """-1 for the newest rows, in which the answer turned round, else 1."""
    return np.where(np.arange(NUM_ROWS) < NUM_ROWS - NUM_TURNED, 1.0, -1.0)


def test_a_target_in_small_units_counts_as_much_as_one_in_large_units(tmp_path: Path):
    noise = np.random.default_rng(1).normal(size=(NUM_ROWS, 2))
    stays = 1e4 * (numbers()[:, 0] + noise[:, 0])
    turns = 1e-3 * (numbers()[:, 1] * turned() + 0.1 * noise[:, 1])
    found = chosen(tmp_path, numbers(), np.column_stack([stays, turns]))
    assert found.num_rows == NUM_TURNED, found.why
    assert "older ones mislead" in found.why


def test_a_drift_of_what_comes_in_alone_is_no_reason_to_forget(tmp_path: Path):
    size = numbers() - turned()[:, None]
    label = (size.sum(axis=1) + np.random.default_rng(1).normal(size=NUM_ROWS) > 0).astype(int)
    found = chosen(tmp_path, size, label)
    assert found.num_rows == 0
    assert found.why.startswith("all 600 rows train, since no shorter past is shown to be better")
    assert "linear and lightgbm" in found.why


@pytest.mark.parametrize(
    ("since", "order", "memory_mb", "said"),
    [
        (NUM_ROWS, np.zeros(NUM_ROWS), None, "of one time or group"),
        (20, np.where(np.arange(NUM_ROWS) < 290, 0.0, 1.0), None, "of one time or group"),
        (NUM_TURNED, None, 1.0, "none of the quick learners takes these modalities"),
    ],
)
def test_where_nothing_can_be_compared_all_rows_train(
    tmp_path: Path, since: int, order: np.ndarray | None, memory_mb: float | None, said: str
):
    label = (numbers()[:, 0] * turned() > 0).astype(int)
    found = chosen(tmp_path, numbers(), label, order, since, budget={"memory_mb": memory_mb})
    assert found.num_rows == 0
    assert found.why.startswith("all 600 rows train")
    assert said in found.why


def test_few_rows_that_came_in_lately_are_not_learned_from_alone(tmp_path: Path):
    found = chosen(tmp_path, numbers()[:140], numbers()[:140].sum(axis=1), since=60)
    assert "too few came in lately" in found.why
