import os

import pytest
import torch

from training_core.engine.device import choose_device, use_one_thread
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError


@pytest.mark.parametrize(("has_gpu", "device"), [(False, "cpu"), (True, "cuda:0")])
def test_the_first_gpu_is_chosen_when_there_is_one(monkeypatch: pytest.MonkeyPatch, has_gpu: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert choose_device() == device


def test_one_thread_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        use_one_thread()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_with_a_gpu_deterministic_kernels_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.get_num_threads()
    try:
        use_one_thread()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        torch.set_num_threads(before)


def test_the_settings_of_training_survive_json() -> None:
    config = TrainingConfig(epochs=7, optimizer="radam", lr=3e-4, modality_dropout=0.0)
    assert TrainingConfig.model_validate_json(config.to_json()) == config


def test_the_settings_describe_the_optimizer() -> None:
    optimizer = TrainingConfig(optimizer="sgd", lr=0.5, weight_decay=0.25).optimizer_config()
    assert (optimizer.kind, optimizer.lr, optimizer.weight_decay) == ("sgd", 0.5, 0.25)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("clip_norm", -1.0), ("patience", 0), ("validation_fraction", 1.0)],
)
def test_a_setting_out_of_bounds_is_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"run.yaml: '{setting}' is {value}"):
        TrainingConfig.parse({setting: value}, "run.yaml")


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="unknown key 'learning_rate'; known keys here: epochs, batch_size, optimizer"
    ):
        TrainingConfig.parse({"learning_rate": 0.1}, "run.yaml")
