"""An ensemble as a served model: a table of inputs in, a table of predictions out, and the package MLflow keeps."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training_core.artifacts import ArtifactRef
from training_core.data.frames import frame_columns, frame_from_samples, samples_from_frame
from training_core.errors import DataError
from training_core.evaluation.predictions import Predictions
from training_core.schema import DataSpec, Samples, TaskSpec
from training_core.tracking import ModelPackage

if TYPE_CHECKING:
    import pandas as pd

_REQUIREMENTS = (
    *("annotated-types", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml"),
    *("safetensors", "scikit-learn", "scipy", "threadpoolctl", "torch"),
)
"""What loading and asking an ensemble imports, directly."""
_EXAMPLE_ROWS = 3


class Predictor(Protocol):
    """What is served: it knows its samples and answers for them."""

    @property
    def spec(self) -> DataSpec:
        """The samples it takes, raw."""
        ...

    def predict(self, samples: Samples) -> Predictions:
        """Answer for every sample, whatever is missing."""
        ...


class ServedEnsemble:
    """Answers tables in the form of `data.frames`, from which whole modalities may be left out."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict_frame(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """One row of predictions per row, under the same index: see `predictions_frame`.

        Raises:
            DataError: no known column is there, or a cell cannot be used; the message names it.
        """
        spec = self._predictor.spec
        if not frame.shape[1]:  # MLflow drops unknown columns, and with the last one the rows
            names = frame_columns(spec)
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise DataError(f"the input has none of the model's columns; expected some of {shown}")
        answer = self._predictor.predict(samples_from_frame(frame, spec))
        return predictions_frame(spec.task, answer, frame.index)


def prediction_columns(task: TaskSpec) -> tuple[str, ...]:
    """The columns of `predictions_frame`, in order."""
    if task.kind != "regression":
        probabilities = (f"probability_{name}" for name in task.classes)
        return ("prediction", "confidence", *probabilities, "prediction_set", "num_learners")
    values = _target_columns("prediction", task)
    doubts = [column for kind in ("std", "lower", "upper") for column in _target_columns(kind, task)]
    return (*values, "confidence", *doubts, "num_learners")


def predictions_frame(task: TaskSpec, predictions: Predictions, index: "pd.Index | None" = None) -> "pd.DataFrame":
    """Predictions as a table with the columns of `prediction_columns(task)`.

    Classification: `prediction` is the most probable class. Multilabel: the labels of at least even probability,
    joined by ", ". Regression: the value, and `std`, its expected error in the target's unit (NaN when not known);
    several targets have a column each, `prediction_<target>` and `std_<target>`. `confidence` is in [0, 1];
    `num_learners` counts those that spoke. `prediction_set`: the classes or labels that cannot be ruled out at the
    promised coverage, the likeliest first, joined by ", "; regression: `lower` and `upper`, between which the value
    lies with that coverage (infinite: nothing can be promised). Empty and NaN where the predictor promises nothing.
    """
    import pandas as pd

    values = predictions.values
    columns: dict[str, np.ndarray | list[str]] = {}
    if task.kind == "regression":
        unknown = np.full_like(values, np.nan)
        columns |= dict(zip(_target_columns("prediction", task), values.T, strict=True))
        for kind, doubt in (("std", predictions.std), ("lower", predictions.lower), ("upper", predictions.upper)):
            columns |= dict(zip(_target_columns(kind, task), (unknown if doubt is None else doubt).T, strict=True))
    else:
        columns |= {f"probability_{name}": values[:, i] for i, name in enumerate(task.classes)}
        columns["prediction_set"] = _set_texts(task, predictions)
        if task.kind == "classification":
            columns["prediction"] = [task.classes[code] for code in values.argmax(axis=1)]
        else:
            columns["prediction"] = [", ".join(np.asarray(task.classes)[row]) for row in values >= 0.5]
    columns |= {"confidence": predictions.confidence, "num_learners": predictions.num_learners}
    return pd.DataFrame({name: columns[name] for name in prediction_columns(task)}, index=index)


def package_ensemble(
    ensemble: ArtifactRef, name: str, spec: DataSpec, samples: Samples, tags: Mapping[str, str] | None = None
) -> ModelPackage:
    """What a tracker needs to log a published ensemble as the model `name`.

    The library goes with it, so that the model loads where Polychoir is not installed (it is on no package index).
    In a process that already runs Polychoir, that process's own modules are used and none is replaced.

    Args:
        ensemble: its published directory.
        name: to register it under.
        spec: of the samples it takes.
        samples: raw; the first few are kept with the model as an example of its input.
        tags: for the model's version.
    """
    return ModelPackage(
        folder=ensemble.path,
        sha256=ensemble.sha256,
        name=name,
        script=Path(__file__).with_name("pyfunc_model.py"),
        example=frame_from_samples(samples.take(np.arange(min(_EXAMPLE_ROWS, len(samples)))), spec),
        outputs=prediction_columns(spec.task),
        requirements=pinned_requirements(),
        code=(Path(__file__).parents[1],),
        tags=tags or {},
    )


def pinned_requirements() -> tuple[str, ...]:
    """The installed versions of what an ensemble needs, for pip: `torch==2.13.0`.

    A local suffix (`+cpu`, `+cu128`) is dropped: no package index has it, and pip accepts an installed one for it.
    """
    return tuple(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS)


def _set_texts(task: TaskSpec, predictions: Predictions) -> list[str]:
    """Each row's set of classes or labels as text; empty texts where there are no sets."""
    if predictions.sets is None:
        return [""] * len(predictions)
    names, order = np.asarray(task.classes, dtype=object), np.argsort(-predictions.values, axis=1, kind="stable")
    inside = np.take_along_axis(predictions.sets, order, axis=1)
    return [", ".join(names[row[kept]]) for row, kept in zip(order, inside, strict=True)]


def _target_columns(kind: str, task: TaskSpec) -> list[str]:
    return [kind] if len(task.targets) == 1 else [f"{kind}_{target}" for target in task.targets]
