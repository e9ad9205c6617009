"""Configurations of the trainer: presets, steps, files, and errors that say what there is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from training_core.engine.trainer.builder import PRESETS, TrainingConfigBuilder
from training_core.engine.trainer.config import TrainerConfig
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError
from training_core.learners import TabularMLPConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_differs_from_all_others(preset: str) -> None:
    config = getattr(TrainingConfigBuilder, preset)().build()
    others = [getattr(TrainingConfigBuilder, other)().build() for other in PRESETS if other != preset]
    assert config != TrainerConfig() and config not in others


def test_presets_are_what_their_names_say() -> None:
    assert TrainingConfigBuilder.quick_prototype().build().training.epochs == 3
    assert TrainingConfigBuilder.production().build().checkpoints.directory is not None
    assert TrainingConfigBuilder.distributed().build().hardware.devices == 4
    low = TrainingConfigBuilder.low_memory().build().training
    assert (low.batch_size, low.accumulation, low.gradient_checkpointing) == (2, 8, True)


def test_steps_stand_over_the_preset_and_leave_the_rest_of_it() -> None:
    config = (
        TrainingConfigBuilder.baseline()
        .with_training(epochs=30, batch_size=8, seed=3)
        .with_optimizer(accumulation=4, lr=5e-5)
        .with_hardware(device="cpu", precision="bf16", compression="bf16")
        .with_checkpoints(keep_best_k=1)
        .with_logging(run_name="custom", notes="first try")
        .with_model("tabular_mlp", width=32)
        .build()
    )
    assert (config.training.epochs, config.training.batch_size, config.training.accumulation) == (30, 8, 4)
    assert (config.training.precision, config.hardware.device, config.seed) == ("bf16", "cpu", 3)
    assert config.hardware.distributed.compression == "bf16"
    assert config.training.schedule == "one_cycle" and config.checkpoints.directory == "checkpoints"
    assert config.checkpoints.keep_best_k == 1 and config.logging.notes == "first try"
    assert isinstance(config.model, TabularMLPConfig) and config.model.width == 32


def test_a_builder_is_not_changed_by_its_steps() -> None:
    base = TrainingConfigBuilder.baseline()
    before = base.build()
    base.with_training(epochs=99)
    assert base.build() == before and base.with_training(epochs=99).build().training.epochs == 99


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_configuration_survives_its_file(tmp_path: Path, suffix: str) -> None:
    config = TrainingConfigBuilder.production().with_model("fusion_net").with_training(stages=[{"epochs": 2}]).build()
    path = config.save(tmp_path / "deep" / f"config{suffix}")
    assert TrainerConfig.load(path) == config
    assert TrainerConfig.load(str(path)).content_hash() == config.content_hash()


def test_equal_settings_have_equal_hashes_and_others_do_not() -> None:
    one, two = TrainingConfigBuilder.baseline().build(), TrainingConfigBuilder.baseline().build()
    assert one.content_hash() == two.content_hash()
    assert one.content_hash() != TrainingConfigBuilder.baseline().with_training(seed=1).build().content_hash()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainerConfig().seed = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda b: b.with_training(learning_rate=1),
            "with_training has no setting 'learning_rate'; it has epochs, batch",
        ),
        (lambda b: b.with_optimizer(epochs=1), "with_optimizer has no setting 'epochs'"),
        (lambda b: b.with_hardware(gpus=1), "with_hardware has no setting 'gpus'; it has device, devices, strategy"),
        (lambda b: b.with_logging(wandb_project="x"), "with_logging has no setting 'wandb_project'"),
        (lambda b: b.with_checkpoints(path="x"), "with_checkpoints has no setting 'path'"),
        (lambda b: b.with_training(epochs=0).build(), r"training settings: 'training\.epochs' is 0"),
        (lambda b: b.with_model("gpt").build(), "training settings: 'model' is"),
        (lambda b: b.with_training(batch_size=30).with_hardware(devices=4).build(), "4 devices cannot share equally"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(TrainingConfigBuilder())  # pyright: ignore[reportCallIssue]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot read"),
        ("a.json", "[1]", "holds list"),
        ("a.yaml", "training: {epoch: 3}", "unknown key 'training.epoch'; known keys here: epochs"),
        ("a.toml", "", "kept in .yaml, .yml or .json"),
        ("absent.json", None, "cannot read"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainerConfig.load(tmp_path / name)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    TrainerConfig(seed=0).save(path)
    script = (
        "import itertools, sys\n"
        "from training_core.engine.trainer.config import TrainerConfig\n"
        "print('ready', flush=True)\n"
        "for seed in itertools.count(1): TrainerConfig(seed=seed).save(sys.argv[1])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(0.3)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]
    assert TrainerConfig.load(path).training == TrainingConfig()
