"""What every update promises: it makes a simple problem's error smaller, and it never hides a number gone wild."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.encoded import OneBatch, to_batch
from training_core.data.streams.resident import DeviceStream
from training_core.engine.loop import fit
from training_core.engine.updates.estimator_update import EstimatorUpdate
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import build_schedule
from training_core.errors import DivergenceError
from training_core.objectives import Loss
from training_core.schema import Batch, DataSpec, ModalitySpec, Samples, TaskSpec

SPEC = DataSpec(
    modalities=(ModalitySpec(name="x", kind="vector", shape=(3,)),),
    task=TaskSpec.regression(["y"]),
)
OPTIMIZERS = [
    OptimizerConfig(kind="adamw", lr=0.1),
    OptimizerConfig(kind="adam", lr=0.1),
    OptimizerConfig(kind="radam", lr=0.1),
    OptimizerConfig(kind="sgd", lr=0.02),
    OptimizerConfig(kind="lion", lr=0.01),
    OptimizerConfig(kind="sophia", lr=1.0),  # each number of a step is at most 0.01 · lr
]


class LinearNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layer(inputs["x"])


class LeastSquares:
    """An estimator with the closed-form solution."""

    def __init__(self) -> None:
        self.weight = np.zeros((3, 1))

    def fit(self, samples: Samples, weight: np.ndarray | None = None) -> None:
        assert samples.target is not None
        x, y = samples.inputs["x"], samples.target
        root = np.ones((len(x), 1)) if weight is None else np.sqrt(weight)[:, None]
        self.weight = np.linalg.pinv(x * root) @ (y * root) if np.isfinite(x).all() else np.full((3, 1), np.nan)

    def predict(self, samples: Samples) -> np.ndarray:
        return samples.inputs["x"] @ self.weight


def squared_error(model: nn.Module, batch: Batch) -> Loss:
    assert batch.target is not None
    return Loss((model(batch.inputs, batch.available) - batch.target).square().mean(), {})


def plane(bad: bool = False) -> Samples:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    y = x @ np.array([[1.0], [-2.0], [0.5]])
    if bad:
        x[40, 1] = np.inf
    return Samples({"x": x}, {"x": np.ones(64, bool)}, np.arange(64).astype(str), y)


def error(predicted: np.ndarray, samples: Samples) -> float:
    assert samples.target is not None
    return float(np.square(predicted - samples.target).mean())


def train_net(samples: Samples, optimizer: OptimizerConfig, epochs: int) -> np.ndarray:
    torch.manual_seed(0)
    net = LinearNet()
    stream = DeviceStream(to_batch(samples, SPEC), Batching(16))
    # Down to nothing: a step of lion is never shorter than its learning rate, so at a constant one it hovers.
    num_updates = epochs * len(stream)
    schedule = build_schedule("linear", total_updates=num_updates, updates_per_epoch=len(stream))
    fit(
        net,
        stream,
        GradientUpdate(squared_error, optimizer, clip_norm=100.0, schedule=schedule),
        epochs=epochs,
        name="net",
    )
    return net.layer(torch.tensor(samples.inputs["x"], dtype=torch.float32)).detach().numpy()


def train_estimator(samples: Samples, update: EstimatorUpdate | None = None) -> np.ndarray:
    estimator = LeastSquares()
    history = fit(estimator, OneBatch(samples), update or EstimatorUpdate(), epochs=1, name="least squares")
    assert history.num_steps == 1
    return estimator.predict(samples)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda config: config.kind)
def test_gradient_steps_solve_a_quadratic(optimizer: OptimizerConfig) -> None:
    samples = plane()
    epochs = 200 if optimizer.kind in {"lion", "sophia"} else 60  # their steps are no longer where the slope is steep
    assert error(train_net(samples, optimizer, epochs), samples) < 1e-3 < error(np.zeros((64, 1)), samples)


def test_an_estimator_s_step_solves_a_quadratic() -> None:
    samples = plane()
    assert error(train_estimator(samples), samples) < 1e-20


def test_an_estimator_s_step_passes_the_weights_on() -> None:
    samples = plane()
    assert samples.target is not None
    samples.target[32:] += 5.0  # rows that do not count
    weight = np.repeat([1.0, 0.0], 32)
    predicted = train_estimator(samples, EstimatorUpdate(weight))
    assert error(predicted[:32], samples.take(np.arange(32))) < 1e-20


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda config: config.kind)
def test_gradient_steps_never_hide_a_number_gone_wild(optimizer: OptimizerConfig) -> None:
    with pytest.raises(DivergenceError, match="net: loss became"):
        train_net(plane(bad=True), optimizer, epochs=1)


def test_an_estimator_s_step_never_hides_a_number_gone_wild() -> None:
    with pytest.raises(DivergenceError, match=r"least squares: after epoch 1 its predictions .* are not finite"):
        train_estimator(plane(bad=True))
