"""Twenty CPU steps of each way to train, against the losses they had when they were last looked at.

A table that is missing is written, and the test fails once saying so. One that is to change is deleted and written
anew; the commit then says so ("numeric intent: yes"), and docs/LOG.md gets a line.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.storage.dataset import Dataset
from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic
from training_core.engine.loop import History
from training_core.engine.prepare import LearnerRequest
from training_core.engine.train import train_learners
from training_core.engine.training import TrainingConfig
from training_core.learners import FusionNetConfig, ImageCNNConfig, LearnerConfig, TabularMLPConfig
from training_core.objectives.denoising import OBJECTIVES, DenoisingConfig

FOLDER = Path(__file__).parent
TOLERANCE = 1e-6
OTHER_ARITHMETIC = 2e-3
"""Relative, where torch adds in another order than when the table was written: a wider vector unit, another version.
Steps amplify a last digit: between AVX2 and AVX-512 the denoised net differs by 2.5e-4, the others by less."""
SHOWN = ("training/loss", "training/gradient_norm", "validation/loss")

WORLD = SyntheticConfig(
    name="golden",
    num_rows=120,
    modalities=(
        SyntheticModality(name="photo", kind="image", size=8, missing=0.1),
        SyntheticModality(name="facts", kind="tabular", size=8, strength=1.0, missing=0.1),
        SyntheticModality(name="words", kind="text", size=4),
    ),
    label_noise=0.05,
    seed=7,
)
BASE = {"epochs": 10, "batch_size": 32, "lr": 0.003, "stacking": "never", "checkpoint_seconds": 0.0}
EVERYTHING = ("photo", "facts", "words")
FUSION = FusionNetConfig(width=16)

RUNS: dict[str, tuple[LearnerConfig, tuple[str, ...], dict[str, object], int]] = {
    "fusion_net": (FUSION, EVERYTHING, {}, 1),
    "tabular_mlp": (TabularMLPConfig(width=16), ("facts",), {}, 1),
    "image_cnn": (ImageCNNConfig(channels=4), ("photo",), {}, 1),
    "fusion_net_cohort": (FUSION, EVERYTHING, {"stacking": "always"}, 3),
    "fusion_net_scheduled": (
        FUSION,
        EVERYTHING,
        {"schedule": "one_cycle", "warmup_epochs": 1.0, "accumulation": 2, "batch_size": 16, "ema_decay": 0.9},
        1,
    ),
    "fusion_net_denoised": (FUSION, EVERYTHING, {"modality_dropout": 0.9, "modality_dropout_schedule": "uniform"}, 1),
}
"""By name: the learner, its modalities, its settings over the base, and how many of it are trained."""
DENOISED = DenoisingConfig(enabled=True, objectives=OBJECTIVES, strategy="adaptive")
"""What a run called denoised learns beside its target."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    world = make_synthetic(WORLD)
    split = np.where(np.arange(len(world)) < 64, "train", np.where(np.arange(len(world)) < 96, "validation", "test"))
    return create_dataset_from_arrays(
        "golden", world.modalities, world.target, task="classification", kinds=world.kinds, split=split,
        store=tmp_path_factory.mktemp("golden"),
    )  # fmt: skip


def train(name: str, dataset: Dataset) -> list[History]:
    learner, modalities, settings, copies = RUNS[name]
    training = TrainingConfig.model_validate({**BASE, **settings})
    requests = [
        LearnerRequest(
            learner,
            dataset.subset(dataset.rows("train"), modalities),
            dataset.subset(dataset.rows("validation"), modalities),
            dataset.spec.select(modalities),
            {},
            training,
            seed,
            denoising=DENOISED if "denoised" in name else DenoisingConfig(),
        )
        for seed in range(copies)
    ]
    outcomes = train_learners(requests)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome.trained_as.startswith("stacked" if copies > 1 else "alone")
    return [outcome.history for outcome in outcomes if not isinstance(outcome, Exception)]


def arithmetic() -> str:
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def table(histories: list[History]) -> str:
    lines = [f"# {arithmetic()}", "learner epoch " + " ".join(f"{name:>24}" for name in SHOWN)]
    for learner, history in enumerate(histories):
        for epoch, metrics in enumerate(history.epochs, start=1):
            lines.append(f"{learner:>7} {epoch:>5} " + " ".join(f"{metrics[name]:>24.16g}" for name in SHOWN))
    return "\n".join(lines) + "\n"


def numbers(text: str) -> np.ndarray:
    return np.array([[float(cell) for cell in line.split()] for line in text.splitlines()[2:]])


@pytest.mark.parametrize("name", RUNS)
def test_training_descends_as_it_did(name: str, dataset: Dataset) -> None:
    torch.set_num_threads(1)
    histories = train(name, dataset)
    assert {history.num_steps for history in histories} == {40 if "accumulation" in RUNS[name][2] else 20}
    found, path = table(histories), FOLDER / f"{name}.txt"
    if not path.exists():
        path.write_text(found)
        pytest.fail(f"there was no {path.name}: it is written now; look at it, and commit it")
    kept = path.read_text()
    same = kept.splitlines()[0] == found.splitlines()[0]
    np.testing.assert_allclose(
        numbers(found), numbers(kept), rtol=TOLERANCE if same else OTHER_ARITHMETIC,
        err_msg=f"{name} no longer trains as it did; if that is meant, delete {path.name} and run this again",
    )  # fmt: skip


def test_a_golden_run_says_the_same_twice(dataset: Dataset) -> None:
    assert table(train("tabular_mlp", dataset)) == table(train("tabular_mlp", dataset))


def test_no_table_is_left_of_a_run_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} <= set(RUNS)
