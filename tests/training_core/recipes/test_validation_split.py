"""How many rows a net of an ensemble holds back of its bag, however uneven the times of these rows are."""

from pathlib import Path

import numpy as np
import pytest

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.learners import TabularMLPConfig
from training_core.recipes.multimodal.config import MultimodalConfig
from training_core.recipes.multimodal.train import member_request

NUM_ROWS, FRACTION = 600, 0.1


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(np.arange(NUM_ROWS), id="all-differ"),
        pytest.param(np.arange(NUM_ROWS) // (NUM_ROWS // 3), id="three-years"),
        pytest.param((np.arange(NUM_ROWS) >= NUM_ROWS // 10).astype(int), id="most-on-one-day"),
    ],
)
def test_about_the_share_is_held_back_whatever_the_times(times: np.ndarray, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    dataset = create_dataset_from_arrays(
        "uneven",
        {"v": draws.normal(size=(NUM_ROWS, 3)).astype(np.float32)},
        draws.integers(2, size=NUM_ROWS),
        task="classification",
        store=tmp_path,
        ids=[f"s{i}" for i in range(NUM_ROWS)],
        times=times.astype(float),
    )
    config = MultimodalConfig.model_validate(
        {"learner": TabularMLPConfig(), "training": {"validation_fraction": FRACTION}}
    )
    rows = np.arange(NUM_ROWS)
    for seed in range(6):
        asked = member_request(config, dataset, ("v",), {}, rows, seed, lambda *_: None, "a net")
        assert asked.validation is not None
        held = len(asked.validation.samples().ids)
        assert held + len(asked.train.samples().ids) == NUM_ROWS
        assert FRACTION / 2 <= held / NUM_ROWS <= 2 * FRACTION
