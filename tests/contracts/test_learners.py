"""What every learner promises, and every net beyond that: one checklist for all members of the union."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_cases import (
    CLASSES,
    IMAGE,
    SEQUENCE,
    TABLE,
    TASKS,
    TOKENS,
    VECTOR,
    every_learner,
    every_net,
    kind,
    samples_for,
    spec_for,
    spoil_absent,
    to_batch,
)
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from training_core.errors import ConfigError
from training_core.learners import LearnerConfig, LearnerSettings
from training_core.objectives import Supervised
from training_core.schema import Batch, DataSpec, ModalitySpec, TaskSpec

pytestmark = pytest.mark.filterwarnings("error")  # no warning may reach the screen


def answer(net: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return net.eval()(batch.inputs, batch.available)


# every learner


@every_learner
def test_config_survives_json(config: Any) -> None:
    assert TypeAdapter(LearnerConfig).validate_json(config.to_json()) == config


@every_learner
def test_settings_have_a_section_of_its_kind(config: Any) -> None:
    assert isinstance(getattr(LearnerSettings(), kind(config)), type(config))


@every_learner
def test_it_says_what_it_does_not_support(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    assert config.supports(spec) is None
    nothing = spec.model_copy(update={"modalities": ()})
    assert config.supports(nothing)
    with pytest.raises(ConfigError, match=f"learner '{kind(config)}' cannot learn"):
        config.build(nothing, 0)
    for modality in (VECTOR, TABLE, IMAGE, SEQUENCE, TOKENS):
        if modality.kind not in config.modality_kinds:
            reason = config.supports(spec.model_copy(update={"modalities": (modality,)}))
            assert modality.name in reason and modality.kind in reason


@every_learner
def test_cost_grows_with_rows_and_is_known_before_encoding(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    raw = [m.model_copy(update={"cardinalities": (), "vocabulary_size": 0}) for m in spec.modalities]
    raw = [m.model_copy(update={"shape": ()}) if m.kind == "text" else m for m in raw]
    for known in (spec, spec.model_copy(update={"modalities": tuple(raw)})):
        work, memory = config.estimate_cost(known, 1_000, 10)
        more_work, more_memory = config.estimate_cost(known, 10_000, 10)
        assert 0 < work < more_work and 0 < memory <= more_memory


# nets


@every_net
def test_same_seed_same_weights(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    torch.manual_seed(1)
    first = config.build(spec, 5).state_dict()
    torch.manual_seed(2)
    second, other = config.build(spec, 5).state_dict(), config.build(spec, 6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@TASKS
@every_net
def test_gradients_reach_every_parameter(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    net = config.build(spec, 0)
    Supervised(task)(net, to_batch(samples_for(spec), spec)).total.backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@TASKS
@every_net
def test_it_overfits_eight_samples(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    net = config.build(spec, 0)
    batch = to_batch(samples_for(spec, 8), spec)
    objective, optimizer = Supervised(task), torch.optim.Adam(net.parameters(), lr=2e-2)
    first = objective(net.eval(), batch).total.item()
    net.train()
    torch.manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        objective(net, batch).total.backward()
        optimizer.step()
    assert objective(net.eval(), batch).total.item() < 0.1 * first


@every_net
def test_state_round_trip_gives_equal_answers(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, CLASSES)
    batch = to_batch(samples_for(spec), spec)
    net = config.build(spec, 0)
    torch.save(net.state_dict(), tmp_path / "state")
    other = config.build(spec, 1)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(answer(net, batch), answer(other, batch))


@every_net
def test_values_where_a_modality_is_absent_do_not_matter(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    samples = replace(samples, available={name: np.arange(90) % 3 != 0 for name in spec.names})
    net = config.build(spec, 0)
    clean = answer(net, to_batch(samples, spec))
    assert torch.isfinite(clean).all()
    assert torch.equal(clean, answer(net, to_batch(spoil_absent(samples), spec)))


@every_net
def test_gradients_stay_finite_when_absent_values_are_not(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    samples = replace(samples, available={name: np.arange(90) % 3 != 0 for name in spec.names})
    net = config.build(spec, 0)
    Supervised(CLASSES)(net, to_batch(spoil_absent(samples), spec)).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@every_net
def test_which_modality_is_absent_matters(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    net = config.build(spec, 0)
    full = answer(net, to_batch(replace(samples, available={n: np.ones(90, dtype=bool) for n in spec.names}), spec))
    for name in spec.names:
        mask = {n: np.full(90, n != name) for n in spec.names}
        assert not torch.allclose(full, answer(net, to_batch(replace(samples, available=mask), spec)))


@every_net
def test_an_answer_does_not_depend_on_the_other_samples(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    net = config.build(spec, 0)
    whole, part = answer(net, to_batch(samples, spec)), answer(net, to_batch(samples.take(np.arange(5)), spec))
    assert torch.allclose(whole[:5], part, atol=1e-5)


@TASKS
@every_net
def test_a_stack_of_nets_trains_like_each_of_them(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    batch = to_batch(samples_for(spec, 16), spec)
    nets = [config.build(spec, seed).eval() for seed in (1, 2)]
    parameters, buffers = stack_module_state(nets)

    def loss_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        def model(inputs: dict[str, Tensor], available: Tensor) -> Tensor:
            return functional_call(nets[0], (parameters, buffers), (inputs, available))

        return Supervised(task)(model, batch).total  # pyright: ignore[reportArgumentType]

    gradients = torch.func.vmap(torch.func.grad(loss_of))(parameters, buffers)
    for i, net in enumerate(nets):
        Supervised(task)(net, batch).total.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(gradients[name][i], parameter.grad, atol=1e-5), name


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 15, 9), (3, 32, 32), (1, 64, 64)])
def test_images_of_many_sizes_fit(shape: tuple[int, ...]) -> None:
    image = ModalitySpec(name="photo", kind="image", shape=shape)
    spec = DataSpec(modalities=(image,), task=CLASSES)
    for section in ("image_cnn", "fusion_net"):
        net = getattr(LearnerSettings(), section).build(spec, 0)
        out = net({"photo": torch.randn(2, *shape)}, torch.ones(2, 1, dtype=torch.bool))
        assert out.shape == (2, 3)


def test_an_image_too_small_for_convolutions_is_refused() -> None:
    spec = DataSpec(modalities=(ModalitySpec(name="dot", kind="image", shape=(1, 2, 9)),), task=CLASSES)
    assert "too small" in str(LearnerSettings().image_cnn.supports(spec))


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of `num_heads`"):
        type(LearnerSettings().fusion_net).parse({"width": 10, "num_heads": 4}, "test")
