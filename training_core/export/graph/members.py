"""Trained learners as torch modules: raw inputs in, probabilities or values out, float64 [N, outputs].

An estimator is read back from the file it was saved in; what its family does with the arrays in it is written here once
more, as operations that a graph can hold.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training_core.engine.trained import TrainedLearner
from training_core.errors import ConfigError
from training_core.export.graph.columns import DenseColumns, DesignState, LinearColumns, Vocabularies
from training_core.export.graph.encoding import MemberEncoding, Raw
from training_core.export.graph.trees import BoostedSum, ForestMean
from training_core.learners import (
    ExtraTreesConfig,
    HistBoostingConfig,
    KernelRidgeConfig,
    LightGBMConfig,
    LinearConfig,
    TfidfLinearConfig,
)
from training_core.learners.design_matrix import TREE_ONE_HOT
from training_core.learners.estimator import FILE_NAME
from training_core.learners.extra_trees import SMALLEST_PROBABILITY
from training_core.learners.saved_state import read_state
from training_core.objectives import activate
from training_core.schema import TaskSpec


class MemberGraph(nn.Module):
    """One learner; rows it cannot answer for get any numbers."""

    def __init__(self, learner: TrainedLearner, folder: Path, vocabularies: Vocabularies) -> None:
        """Take over a learner.

        Args:
            learner: as loaded.
            folder: where it was loaded from.
            vocabularies: those of the whole graph.

        Raises:
            ConfigError: no graph is known for learners of its kind.
            StorageError: its files do not read back.
        """
        super().__init__()
        self.encoding = MemberEncoding(learner.preprocessor, learner.features)
        self.core = learner.model if isinstance(learner.model, nn.Module) else estimator(learner, folder, vocabularies)
        self.is_net = isinstance(learner.model, nn.Module)
        self.task = learner.task
        self.names = learner.modalities
        preprocessor = learner.preprocessor
        regression = self.task.kind == "regression"
        self.register_buffer("mean", _numbers(preprocessor.target_mean) if regression else None)
        self.register_buffer("std", _numbers(preprocessor.target_std) if regression else None)

    def forward(self, raw: Raw) -> Tensor:
        """[N, outputs], in the target's own units."""
        encoded = self.encoding(raw)
        if self.is_net:
            available = torch.stack([raw.available[name] for name in self.names], dim=1)
            answers = activate(self.task, self.core(encoded, available)).double()
        else:
            answers = self.core(encoded, raw)
        return answers if self.mean is None else answers * self.get_buffer("std") + self.get_buffer("mean")


class EstimatorGraph(nn.Module):
    """What `learners.estimator.Estimator` does around its family: constant outputs, a little doubt, bounds."""

    def __init__(self, task: TaskSpec, state: dict[str, Any], active: nn.Module | None) -> None:
        super().__init__()
        self.task = task
        self.num_rows = int(state["num_rows"])
        self.active = active
        chosen = np.zeros((len(state["active"]), task.num_outputs))
        chosen[np.arange(len(state["active"])), state["active"]] = 1.0
        constant = state["constant"].copy()
        constant[state["active"]] = 0.0
        self.register_buffer("chosen", torch.from_numpy(chosen))
        self.register_buffer("constant", torch.from_numpy(constant))
        self.register_buffer("bounds", torch.from_numpy(state["bounds"]) if state["bounds"].shape[1] else None)

    def forward(self, encoded: dict[str, Tensor], raw: Raw) -> Tensor:
        """[N, outputs], regression values standardised."""
        num_rows = next(iter(raw.available.values())).shape[0]
        predicted = self.get_buffer("constant").expand(num_rows, -1)
        if self.active is not None:
            predicted = predicted + self.active(encoded, raw) @ self.get_buffer("chosen")
        if self.task.kind != "regression":
            uniform = 1 / self.task.num_outputs if self.task.kind == "classification" else 0.5
            return (self.num_rows * predicted + uniform) / (self.num_rows + 1)
        if self.bounds is not None:
            bounds = self.get_buffer("bounds")
            predicted = torch.minimum(torch.maximum(predicted, bounds[0]), bounds[1])
        return predicted


class LinearGraph(nn.Module):
    """Linear models of the active outputs; see `learners.linear`."""

    def __init__(self, task: TaskSpec, learnt: dict[str, Any], design: DesignState, words: Vocabularies) -> None:
        super().__init__()
        self.task = task
        saved = [learnt["models"][str(i)] for i in range(len(learnt["models"]))]
        self.models = nn.ModuleList(
            LinearColumns([design], model["coefficients"], model["intercepts"], words) for model in saved
        )
        self.levels = [torch.from_numpy(model["levels"]) if "levels" in model else None for model in saved]

    def forward(self, encoded: dict[str, Tensor], raw: Raw) -> Tensor:
        """[N, active]."""
        parts = []
        for model, levels in zip(self.models, self.levels, strict=True):
            said = model(encoded, raw)
            parts.append(said if levels is None else (said.softmax(dim=1) @ levels).unsqueeze(1))
        return activate(self.task, torch.cat(parts, dim=1))


class ForestGraph(nn.Module):
    """Extremely randomised trees with their sharpened votes; see `learners.extra_trees`."""

    def __init__(self, task: TaskSpec, learnt: dict[str, Any], design: DesignState) -> None:
        super().__init__()
        self.task = task
        self.columns = DenseColumns(design)
        self.forest = ForestMean(learnt["trees"])
        self.sharpness = float(learnt["sharpness"])
        self.register_buffer("centre", torch.from_numpy(learnt["centre"]))

    def forward(self, encoded: dict[str, Tensor], raw: Raw) -> Tensor:
        """[N, active]."""
        values = self.forest(self.columns(encoded, raw))
        if self.task.kind == "regression":
            centre = self.get_buffer("centre")
            return centre + self.sharpness * (values - centre)
        kept = values.clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        if self.task.kind == "classification":
            return (self.sharpness * kept.log()).softmax(dim=1)
        return (self.sharpness * (kept.log() - (1.0 - kept).log())).sigmoid()


class KernelGraph(nn.Module):
    """Kernels of the distances to landmarks, weighted; see `learners.kernel_ridge`."""

    def __init__(self, task: TaskSpec, learnt: dict[str, Any], designs: list[DesignState]) -> None:
        super().__init__()
        self.task = task
        self.columns = nn.ModuleList(DenseColumns(design) for design in designs)
        self.width, self.sharpness = float(learnt["width"]), float(learnt["sharpness"])
        landmarks = learnt["landmarks"].astype(np.float64)
        self.register_buffer("scale", torch.from_numpy(learnt["scale"]))
        self.register_buffer("landmarks", torch.from_numpy(np.ascontiguousarray(landmarks.T)))
        self.register_buffer("squares", torch.from_numpy((landmarks**2).sum(axis=1)))
        self.register_buffer("weights", torch.from_numpy(learnt["weights"]))
        self.register_buffer("centre", torch.from_numpy(learnt["centre"]))

    def forward(self, encoded: dict[str, Tensor], raw: Raw) -> Tensor:
        """[N, active]."""
        rows = torch.cat([columns(encoded, raw) for columns in self.columns], dim=1) * self.get_buffer("scale")
        own = rows.square().sum(dim=1, keepdim=True) + self.get_buffer("squares")
        distance = (own - 2 * rows @ self.get_buffer("landmarks")).clamp(min=0.0)
        scores = (-self.width * distance).exp() @ self.get_buffer("weights") + self.get_buffer("centre")
        return scores if self.task.kind == "regression" else activate(self.task, self.sharpness * scores)


class BoostedGraph(nn.Module):
    """Boosted trees on columns and on what linear models say of texts; see `learners.lightgbm`, `hist_boosting`."""

    def __init__(
        self,
        task: TaskSpec,
        learnt: dict[str, Any],
        design: DesignState,
        texts: "TextColumns | None",
        num_raw: int,
    ) -> None:
        super().__init__()
        self.task = task
        self.columns = DenseColumns(design)
        self.texts = texts
        self.boosted = BoostedSum(
            learnt["trees"], learnt["outputs"], learnt.get("baseline", np.zeros(num_raw)), learnt.get("edges")
        )

    def forward(self, encoded: dict[str, Tensor], raw: Raw) -> Tensor:
        """[N, active]."""
        matrix = self.columns(encoded, raw)
        if self.texts is not None:
            # The trees compare float32 numbers; what is said of texts is rounded to that like there.
            matrix = torch.cat([matrix, self.texts(encoded, raw).float().double()], dim=1)
        said = self.boosted(matrix)
        if self.task.kind == "classification" and said.shape[1] == 1:
            said = torch.cat([torch.zeros_like(said), said], dim=1)
        return activate(self.task, said)


class TextColumns(nn.Module):
    """What linear models say of each text and of all together, NaN without; see `learners.text_scores`."""

    def __init__(self, learnt: dict[str, Any], designs: dict[str, DesignState], words: Vocabularies) -> None:
        super().__init__()
        names = tuple(designs)
        self.groups = [(name,) for name in names] + ([] if len(names) == 1 else [names])
        keys = [f"text {name}" for name in names] + ([] if len(names) == 1 else ["all texts"])
        self.models = nn.ModuleList(
            LinearColumns([designs[name] for name in group], model["coefficients"], model["intercepts"], words)
            for group, model in zip(self.groups, (learnt["models"][key] for key in keys), strict=True)
        )

    def forward(self, encoded: dict[str, Tensor], raw: Raw) -> Tensor:
        """[N, outputs of every model]."""
        parts = []
        for group, model in zip(self.groups, self.models, strict=True):
            there = torch.stack([raw.available[name] for name in group]).any(dim=0).unsqueeze(1)
            said = model(encoded, raw)
            parts.append(torch.where(there, said, torch.full_like(said, float("nan"))))
        return torch.cat(parts, dim=1)


def term_lists(learner: TrainedLearner, folder: Path) -> dict[tuple[str, str], list[str]]:
    """The pieces of text a learner knows, by text and analyzer; nothing for one that takes no text as strings.

    Raises:
        StorageError: its file does not read back.
    """
    if not isinstance(learner.config, TfidfLinearConfig | LightGBMConfig):
        return {}
    learnt = read_state(folder / FILE_NAME)["learnt"]
    analyzer = learner.config.text.analyzer
    designs = learnt["texts"]["designs"].values() if "texts" in learnt else [learnt.get("design", {"texts": {}})]
    found = {name: saved for design in designs for name, saved in design["texts"].items()}
    return {(name, analyzer): saved["terms"].split("\n") if saved["terms"] else [] for name, saved in found.items()}


def estimator(learner: TrainedLearner, folder: Path, words: Vocabularies) -> EstimatorGraph:
    """The graph of an estimator saved in `folder`.

    Raises:
        ConfigError: no graph is known for its kind.
        StorageError: its file does not read back.
    """
    state = read_state(folder / FILE_NAME)
    task, num_active = learner.task, len(state["active"])
    config = learner.config
    make = next((make for kind, make in _FAMILIES.items() if isinstance(config, kind)), None)
    if make is None:
        raise ConfigError(f"a learner of kind '{config.kind}' cannot be exported yet; leave it out of `learners`")
    active = make(learner, state["learnt"], num_active, words) if num_active else None
    return EstimatorGraph(task, state, active)


def _linear(learner: TrainedLearner, learnt: dict[str, Any], num_active: int, words: Vocabularies) -> nn.Module:
    text = learner.config.text.analyzer if isinstance(learner.config, TfidfLinearConfig) else ""
    design = DesignState(learner.preprocessor.spec, learnt["design"], analyzer=text)
    return LinearGraph(learner.task, learnt, design, words)


def _forest(learner: TrainedLearner, learnt: dict[str, Any], num_active: int, words: Vocabularies) -> nn.Module:
    design = DesignState(learner.preprocessor.spec, learnt["design"], TREE_ONE_HOT)
    return ForestGraph(learner.task, learnt, design)


def _kernel(learner: TrainedLearner, learnt: dict[str, Any], num_active: int, words: Vocabularies) -> nn.Module:
    spec = learner.preprocessor.spec
    designs = [DesignState(spec.select([name]), learnt["blocks"][name]) for name in spec.names]
    return KernelGraph(learner.task, learnt, designs)


def _boosted(learner: TrainedLearner, learnt: dict[str, Any], num_active: int, words: Vocabularies) -> nn.Module:
    spec, texts = learner.preprocessor.spec, None
    design = DesignState(
        spec.select(m.name for m in spec.modalities if m.kind != "text"), learnt["design"], TREE_ONE_HOT, True
    )
    if isinstance(learner.config, LightGBMConfig) and "texts" in learnt:
        saved, analyzer = learnt["texts"], learner.config.text.analyzer
        names = [m.name for m in spec.modalities if m.kind == "text"]
        designs = {n: DesignState(spec.select([n]), saved["designs"][n], analyzer=analyzer) for n in names}
        texts = TextColumns(saved, designs, words)
    shared = learner.task.kind == "classification" and num_active == 2
    return BoostedGraph(learner.task, learnt, design, texts, 1 if shared else num_active)


_FAMILIES: dict[type, Callable[[TrainedLearner, dict[str, Any], int, Vocabularies], nn.Module]] = {
    LinearConfig: _linear,
    TfidfLinearConfig: _linear,
    ExtraTreesConfig: _forest,
    KernelRidgeConfig: _kernel,
    HistBoostingConfig: _boosted,
    LightGBMConfig: _boosted,
}


def _numbers(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
