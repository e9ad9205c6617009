"""A learner after training: everything it takes to answer for raw samples, in memory or in a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training_core.config import canonical_json
from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.encoded import to_batch
from training_core.errors import ConfigError, StorageError
from training_core.learners import Estimator, LearnerConfig
from training_core.objectives import activate
from training_core.schema import DataSpec, Samples, TaskSpec
from training_core.variants import parse_variant

_DESCRIPTION = "learner.json"
_WEIGHTS = "weights.safetensors"
_MALFORMED = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)  # what reading a changed file may raise
_INFERENCE_ROWS = 256  # rows per forward pass: keeps a device busy, and 64 x 64 images in a few hundred MB


class TrainedLearner:
    """A fitted net or estimator with the encoding it was trained on and the modalities it can do without.

    It takes raw samples of the whole data set and picks its own modalities and columns.
    """

    def __init__(
        self,
        config: LearnerConfig,
        preprocessor: Preprocessor,
        model: nn.Module | Estimator,
        features: Mapping[str, tuple[int, ...]],
        tolerates: frozenset[str],
        device: str = "cpu",
    ) -> None:
        """Put the parts together; a net is moved to `device` and into evaluation mode.

        Args:
            config: what the model was built from.
            preprocessor: fitted on its training rows; its `input_spec` names the modalities it takes.
            model: the trained model.
            features: for each vector or table of which only some columns are used, those columns of the data set.
            tolerates: modalities it was trained to do without.
            device: where a net runs; estimators run on the CPU.
        """
        self.config = config
        self.preprocessor = preprocessor
        self.model = model.to(device).eval() if isinstance(model, nn.Module) else model
        self.features = {name: tuple(columns) for name, columns in features.items()}
        self.tolerates = tolerates
        self.device = device

    @property
    def input_spec(self) -> DataSpec:
        """Its raw samples: its own modalities, cut down to its features."""
        return self.preprocessor.input_spec

    @property
    def task(self) -> TaskSpec:
        """What it predicts."""
        return self.preprocessor.input_spec.task

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it takes, in the data set's order."""
        return self.preprocessor.input_spec.names

    def usable(self, available: Mapping[str, np.ndarray]) -> np.ndarray:
        """For which rows it can answer, bool [N]: it has a modality, and does not lack one it cannot do without.

        Args:
            available: bool [N] for each modality of the data set.
        """
        own = np.stack([available[name] for name in self.modalities])
        needed = [available[name] for name in self.modalities if name not in self.tolerates]
        return np.logical_and.reduce([own.any(axis=0), *needed])

    def predict(self, samples: Samples) -> np.ndarray:
        """Answers for raw samples of the data set.

        Returns:
            float64 [N, num_outputs]: probabilities, or values in the target's own units. Rows that are not `usable`
            are NaN.

        Raises:
            DataError: one of its modalities is not in `samples`, or has another shape.
        """
        rows = np.flatnonzero(self.usable(samples.available))
        out = np.full((len(samples), self.task.num_outputs), np.nan)
        if len(rows):
            # A net's rows go through in pieces from the raw values on, so that memory does not grow with their number.
            size = _INFERENCE_ROWS if isinstance(self.model, nn.Module) else len(rows)
            own = samples.select(self.modalities, self.features)
            for part in (rows[start : start + size] for start in range(0, len(rows), size)):
                out[part] = self._predict_encoded(self.preprocessor.encode(own.take(part)))
        return out

    def save(self, folder: Path) -> None:
        """Write `learner.json` and the weights (safetensors) or the estimator (npz) into an existing `folder`."""
        from safetensors.torch import save as to_safetensors

        description = {
            "config": self.config.model_dump(mode="json"),
            "preprocessor": self.preprocessor.to_dict(),
            "features": self.features,
            "tolerates": sorted(self.tolerates),
        }
        (folder / _DESCRIPTION).write_text(canonical_json(description))
        if isinstance(self.model, nn.Module):
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
            # Written by us, not by safetensors, so that a full disk is an OSError like everywhere else.
            (folder / _WEIGHTS).write_bytes(to_safetensors(weights))
        else:
            self.model.save(folder)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "TrainedLearner":
        """What `save` wrote into `folder`; nothing in it is run as code.

        Raises:
            StorageError: a file is missing, cut off, or not of a learner.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            description: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text())
            config = parse_variant(LearnerConfig, description["config"], f"{folder / _DESCRIPTION}: config")
            preprocessor = Preprocessor.from_dict(description["preprocessor"])
            model = config.build(preprocessor.spec, 0)
            if isinstance(model, nn.Module):
                model.load_state_dict(load_file(folder / _WEIGHTS))
            else:
                model = model.load(folder)
            features = {name: tuple(columns) for name, columns in description["features"].items()}
            tolerates = frozenset(description["tolerates"])
        except (OSError, SafetensorError, ConfigError, *_MALFORMED) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise StorageError(f"{folder} holds no learner that can be read ({reason}); train it again") from error
        return cls(config, preprocessor, model, features, tolerates, device)

    def _predict_encoded(self, samples: Samples) -> np.ndarray:
        if not isinstance(self.model, nn.Module):
            return self.preprocessor.decode_target(self.model.predict(samples))
        batch = to_batch(samples, self.preprocessor.spec, self.device)
        with torch.inference_mode():
            answers = activate(self.task, self.model(batch.inputs, batch.available))
        return self.preprocessor.decode_target(answers.double().cpu().numpy())
