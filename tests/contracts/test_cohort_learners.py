"""Every net trains in a stack as it trains alone: own weights, rows and settings, the same answers afterwards."""

import importlib
import warnings
from typing import Any

import pytest
import torch
from learner_cases import CLASSES, LABELS, VALUES, every_net, samples_for, spec_for, to_batch
from torch import Tensor, nn

from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.cohort.choice import learner_batch
from training_core.engine.cohort.evaluate import cohort_losses
from training_core.engine.cohort.forms import Form
from training_core.engine.cohort.stacked import StackedModel, why_not_stackable
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.hooks import mean_losses
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.learners import LearnerSettings
from training_core.objectives import Supervised
from training_core.schema import Batch, DataSpec, TaskSpec

pytestmark = pytest.mark.filterwarnings("error")  # no warning may reach the screen

NUM_LEARNERS, NUM_STEPS, NUM_BATCHES, NUM_ROWS = 3, 50, 5, 8
OPTIMIZERS = [OptimizerConfig(kind="adamw", lr=5e-4 * (k + 1), weight_decay=0.1 * k) for k in range(NUM_LEARNERS)]
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"]
)


def in_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) if values.is_floating_point() else values


def rows_of(spec: DataSpec, learner: int, step: int, dtype: torch.dtype) -> Batch:
    """A learner's own eight rows."""
    batch = to_batch(samples_for(spec, NUM_ROWS, seed=100 * learner + step), spec)
    assert batch.target is not None
    inputs = {name: in_dtype(values, dtype) for name, values in batch.inputs.items()}
    return Batch(inputs, batch.available, in_dtype(batch.target, dtype))


def real_rows(learner: int, step: int) -> int:
    """The last batch of an epoch is smaller for one learner, and missing for another."""
    return [NUM_ROWS, 5, 0][learner] if step % NUM_BATCHES == NUM_BATCHES - 1 else NUM_ROWS


def cohort_batch(batches: list[Batch], counts: list[int], dtype: torch.dtype) -> CohortBatch:
    real = torch.arange(NUM_ROWS) < torch.tensor(counts).unsqueeze(1)
    return CohortBatch(
        {name: torch.stack([batch.inputs[name] for batch in batches]) for name in batches[0].inputs},
        torch.stack([batch.available for batch in batches]),
        torch.stack([batch.target for batch in batches if batch.target is not None]),
        real.to(dtype),
        counts=torch.tensor(counts),
    )


def first(batch: Batch, count: int) -> Batch:
    target = None if batch.target is None else batch.target[:count]
    return Batch({name: values[:count] for name, values in batch.inputs.items()}, batch.available[:count], target)


def nets_of(config: Any, spec: DataSpec, dtype: torch.dtype) -> list[nn.Module]:
    # Masks are drawn for all at once: alike in law, not in bits.
    config = config.model_copy(update={name: 0.0 for name in type(config).model_fields if name.endswith("dropout")})
    return [config.build(spec, seed).to(dtype) for seed in range(NUM_LEARNERS)]


def largest_difference(config: Any, task: TaskSpec, dtype: torch.dtype, form: Form = "stacked") -> float:
    """Between the answers of learners trained alone and as a stack."""
    spec, objective = spec_for(config, task), Supervised(task)
    alone, nets = nets_of(config, spec, dtype), nets_of(config, spec, dtype)
    model = StackedModel(nets)
    update = CohortUpdate(objective, OPTIMIZERS, form=form)
    update.start(model)
    updates = [GradientUpdate(objective, optimizer) for optimizer in OPTIMIZERS]
    for own, net in zip(updates, alone, strict=True):
        own.start(net)
    rows = [[rows_of(spec, k, step, dtype) for k in range(NUM_LEARNERS)] for step in range(NUM_BATCHES)]
    for step in range(NUM_STEPS):
        batches = rows[step % NUM_BATCHES]
        counts = [real_rows(k, step) for k in range(NUM_LEARNERS)]
        update.step(model, cohort_batch(batches, counts, dtype))
        for k, count in enumerate(counts):
            if count:
                updates[k].step(alone[k], first(batches[k], count))
    assert update.how == {"stacked": "traced", "compiled": "compiled"}[form]
    assert not update.diverged.any()
    found = 0.0
    for k in range(NUM_LEARNERS):
        model.write_to(k, nets[k])
        batch = rows_of(spec, k, 0, dtype)
        with torch.no_grad():
            answers = [net.eval()(batch.inputs, batch.available) for net in (alone[k], nets[k])]
        found = max(found, float((answers[0] - answers[1]).abs().max()))
    return found


@DTYPES
@every_net
def test_fifty_steps_together_are_fifty_steps_alone(config: Any, dtype: torch.dtype, tolerance: float) -> None:
    assert largest_difference(config, CLASSES, dtype) <= tolerance


def with_rates(config: Any, rate: float) -> Any:
    return config.model_copy(update={name: rate for name in type(config).model_fields if name.endswith("dropout")})


def trained_in_company(config: Any, rates: dict[int, float]) -> tuple[dict[int, Tensor], str]:
    """The weights of learners, by their seeds, with dropout at these rates; and how the steps were run."""
    spec, seeds = spec_for(config, CLASSES), list(rates)
    model = StackedModel([with_rates(config, rates[seed]).build(spec, seed) for seed in seeds], seeds)
    update = CohortUpdate(Supervised(CLASSES), [OPTIMIZERS[seed] for seed in seeds])
    update.start(model)
    for step in range(NUM_STEPS // 5):
        rows = [rows_of(spec, seed, step, torch.float32) for seed in seeds]
        update.step(model, cohort_batch(rows, [real_rows(seed, step) for seed in seeds], torch.float32))
    return {seed: model.flat[row].clone() for row, seed in enumerate(seeds)}, update.how


@every_net
def test_each_net_of_a_stack_drops_at_its_own_rate_by_its_own_draws(config: Any) -> None:
    mixed, how = trained_in_company(config, {0: 0.0, 1: 0.5, 2: 0.1})
    still, _ = trained_in_company(config, {0: 0.0, 1: 0.0, 2: 0.0})
    other, _ = trained_in_company(config, {2: 0.1, 1: 0.5})
    assert how == "traced"
    torch.testing.assert_close(mixed[0], still[0], atol=1e-5, rtol=0)  # at rate 0 nothing is dropped
    for seed in (1, 2):  # whoever trains beside it
        torch.testing.assert_close(mixed[seed], other[seed], atol=1e-5, rtol=0)
        assert (mixed[seed] - still[seed]).abs().max() > 1e-4


@every_net
def test_rates_of_dropout_are_no_structure_of_a_net(config: Any) -> None:
    rates = {name for name in type(config).model_fields if name.endswith("dropout")}
    assert config.own_in_stack == rates
    spec = spec_for(config, CLASSES)
    nets = [with_rates(config, rate).build(spec, 0) for rate in (0.0, 0.3)]
    assert why_not_stackable(nets) is None


@pytest.mark.parametrize("task", [LABELS, VALUES], ids=lambda task: task.kind)
def test_labels_and_values_are_learned_alike_too(task: TaskSpec) -> None:
    config = LearnerSettings().tabular_mlp.model_copy(update={"width": 32})
    assert largest_difference(config, task, torch.float64) <= 1e-10


@pytest.mark.slow
@DTYPES
def test_fifty_compiled_steps_are_fifty_steps_alone(dtype: torch.dtype, tolerance: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler uses what torch advises against
        importlib.import_module("torch._inductor.compile_fx")
    config = LearnerSettings().tabular_mlp.model_copy(update={"width": 32})
    assert largest_difference(config, CLASSES, dtype, form="compiled") <= tolerance


@every_net
def test_losses_of_a_stack_are_those_of_its_members(config: Any) -> None:
    spec, objective = spec_for(config, CLASSES), Supervised(CLASSES)
    nets = [config.build(spec, seed) for seed in range(NUM_LEARNERS)]
    batches = [rows_of(spec, k, 0, torch.float32) for k in range(NUM_LEARNERS)]
    joined = cohort_batch(batches, [8, 5, 8], torch.float32)
    found = cohort_losses(StackedModel(nets), objective, [joined])["loss"]
    for k, net in enumerate(nets):
        assert found[k].item() == pytest.approx(
            mean_losses(net, objective, [learner_batch(joined, k)])["loss"], rel=1e-5
        )


@every_net
def test_nets_of_different_shapes_do_not_share_a_stack(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    other = spec.model_copy(update={"task": TaskSpec.classification(("ash", "elm", "oak", "yew"))})
    reason = why_not_stackable([config.build(spec, 0), config.build(other, 0)])
    assert reason is not None and "net 1 differs from net 0" in reason
    assert why_not_stackable([config.build(spec, 0), config.build(spec, 1)]) is None
