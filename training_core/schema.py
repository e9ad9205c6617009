"""What data looks like: the nouns every floor shares, from a source file to a learner's forward pass.

`DataSpec` describes samples; `Samples` holds them in NumPy, as they were given or encoded for a learner; `Batch`
holds encoded ones as tensors on a device. A modality that is absent for a sample is a False in `available`; the
values stored in its place mean nothing and no learner may let them change its answer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from training_core.config import Config
from training_core.errors import DataError
from training_core.quantities import PositiveInt

if TYPE_CHECKING:
    import torch

ModalityKind = Literal["image", "vector", "tabular", "text", "sequence"]
TaskKind = Literal["classification", "multilabel", "regression"]
TaskUnit = Literal["sample", "next_token", "pixel"]
Pattern = frozenset[str]
"""An availability pattern: the names of the modalities that are present."""
MAX_ENUMERATED = 4
"""Up to so many modalities every pattern is judged; of more, the full set and each single modality hidden or alone."""
IGNORED = -100
"""Label of a position that counts for no loss; what `torch.nn.functional.cross_entropy` ignores by default."""


class ColumnSpec(Config):
    """One column of a tabular modality."""

    name: str
    categories: tuple[str, ...] | None = None
    """The known categories, whose positions are the codes; None for a numeric column."""


class ModalitySpec(Config):
    """One modality: what kind it is and what one sample of it looks like."""

    name: str
    kind: ModalityKind
    shape: tuple[PositiveInt, ...] = ()
    """Shape of one sample: image [C, H, W], vector [D], sequence [T, F], tabular [columns]; () for raw text."""
    columns: tuple[ColumnSpec, ...] = ()
    """Tabular: its columns, in order. Text: the columns joined into one string."""
    cardinalities: tuple[PositiveInt, ...] = ()
    """Encoded tabular: the last `len(cardinalities)` columns hold codes in [0, cardinality); code 0 is unknown."""
    vocabulary_size: int = 0
    """Encoded text: token ids are in [0, vocabulary_size) and 0 is padding; 0 while the text is still raw."""

    @property
    def num_features(self) -> int:
        """Numbers in one sample."""
        return int(np.prod(self.shape)) if self.shape else 0

    @property
    def num_numeric(self) -> int:
        """Encoded tabular: how many leading columns are numeric."""
        return self.num_features - len(self.cardinalities)


class TaskSpec(Config):
    """What is to be predicted."""

    kind: TaskKind
    classes: tuple[str, ...] = ()
    """Classification: class names, in the order of the codes. Multilabel: one name per label."""
    targets: tuple[str, ...] = ()
    """Regression: one name per target column."""
    unit: TaskUnit = "sample"
    """Classification: what gets a class, a sample, what comes next at each position of a sequence, or each pixel."""

    @model_validator(mode="after")
    def _has_outputs(self) -> Self:
        if self.kind == "regression" and not self.targets:
            raise ValueError("a regression task names its target columns in `targets`")
        if self.kind == "multilabel" and not self.classes:
            raise ValueError("a multilabel task names its labels in `classes`")
        if self.kind == "classification" and len(self.classes) < 2:
            raise ValueError(f"a classification task needs at least 2 classes, got {len(self.classes)}")
        if self.kind != "classification" and self.unit != "sample":
            raise ValueError(f"only a classification task can have a class for each {self.unit}; this is {self.kind}")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The unit only where it is not the usual one: what is stored of the usual tasks keeps its content hash."""
        written: dict[str, Any] = serialize(self)
        if self.unit == "sample":
            written.pop("unit", None)
        return written

    @classmethod
    def classification(cls, classes: Iterable[str] | int) -> Self:
        """One class out of several per sample: their names, or their number for names from `0` on."""
        return cls(kind="classification", classes=_names(classes))

    @classmethod
    def multilabel(cls, labels: Iterable[str] | int) -> Self:
        """Any number of labels per sample: their names, or their number for names from `0` on."""
        return cls(kind="multilabel", classes=_names(labels))

    @classmethod
    def regression(cls, targets: Iterable[str] | int = ("target",)) -> Self:
        """One or several real numbers per sample: their names, or their number for names from `0` on."""
        return cls(kind="regression", targets=_names(targets))

    @classmethod
    def language_modeling(cls, vocabulary: Iterable[str] | int) -> Self:
        """The next token at each position of a sequence: the tokens in the order of their ids, or their number."""
        return cls(kind="classification", classes=_names(vocabulary), unit="next_token")

    @classmethod
    def segmentation(cls, classes: Iterable[str] | int) -> Self:
        """One class for each pixel of an image: their names, or their number for names from `0` on."""
        return cls(kind="classification", classes=_names(classes), unit="pixel")

    @property
    def num_outputs(self) -> int:
        """Width of a prediction: classes, labels or target columns."""
        return len(self.targets if self.kind == "regression" else self.classes)

    @property
    def metric(self) -> str:
        """The headline score; greater is better for every task."""
        return {"classification": "accuracy", "multilabel": "mean_average_precision", "regression": "r2"}[self.kind]

    def answered(self, target: np.ndarray) -> np.ndarray:
        """Of which rows of `target` (as in `Samples`) the whole answer is known, bool [N]."""
        known = target >= 0 if self.kind == "classification" else np.isfinite(target)
        return np.asarray(known.all(axis=tuple(range(1, known.ndim))))


class DataSpec(Config):
    """The modalities of a sample, in a fixed order, and the task."""

    modalities: tuple[ModalitySpec, ...]
    task: TaskSpec

    @property
    def names(self) -> tuple[str, ...]:
        """Modality names, in order: the columns of every availability mask."""
        return tuple(modality.name for modality in self.modalities)

    def __getitem__(self, name: str) -> ModalitySpec:
        """The modality called `name`.

        Raises:
            DataError: there is none; the known names are listed.
        """
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise DataError(f"no modality '{name}'; this data has {', '.join(self.names)}")

    def select(self, names: Iterable[str], features: Mapping[str, tuple[int, ...]] | None = None) -> "DataSpec":
        """The spec of some modalities (in this spec's order), vectors and tables cut down to `features` columns."""
        wanted = [self[name].name for name in names]
        chosen = []
        for modality in self.modalities:
            if modality.name not in wanted:
                continue
            keep = (features or {}).get(modality.name)
            if keep is not None:
                columns = tuple(modality.columns[i] for i in keep) if modality.columns else ()
                modality = modality.model_copy(update={"shape": (len(keep),), "columns": columns})
            chosen.append(modality)
        return self.model_copy(update={"modalities": tuple(chosen)})


@dataclass(frozen=True)
class Samples:
    """Rows of data in NumPy, as given or encoded.

    `inputs` per modality: image [N, C, H, W], vector [N, D], sequence [N, T, F] and tabular [N, columns] as floats
    (a category as its code, an absent cell as NaN); text [N] as str objects, or [N, T] token ids once encoded.
    `available` per modality: bool [N]. `target`: class codes int64 [N], labels float32 [N, L], or values
    float64 [N, K]; None when unknown. `ids`: [N] str objects. `groups`: [N] str objects or None.
    """

    inputs: Mapping[str, np.ndarray]
    available: Mapping[str, np.ndarray]
    ids: np.ndarray
    target: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray | slice) -> "Samples":
        """The samples at positions `rows` (repeats allowed); those of a slice are not copied."""
        return replace(
            self,
            inputs={name: values[rows] for name, values in self.inputs.items()},
            available={name: mask[rows] for name, mask in self.available.items()},
            ids=self.ids[rows],
            target=None if self.target is None else self.target[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def select(self, names: Iterable[str], features: Mapping[str, tuple[int, ...]] | None = None) -> "Samples":
        """Only some modalities, vectors and tables cut down to `features` columns."""
        features = features or {}
        kept = {n: self.inputs[n][:, list(features[n])] if n in features else self.inputs[n] for n in names}
        return replace(self, inputs=kept, available={name: self.available[name] for name in kept})

    def without(self, missing: Iterable[str]) -> "Samples":
        """The same samples as if the modalities `missing` were absent from every one of them."""
        absent = set(missing)
        blank = {n: np.zeros_like(mask) if n in absent else mask for n, mask in self.available.items()}
        return replace(self, available=blank)

    def availability(self, names: Iterable[str] | None = None) -> np.ndarray:
        """Availability as one bool array [N, M], columns in the order of `names`."""
        return np.stack([self.available[name] for name in names or self.available], axis=1)


@dataclass(frozen=True)
class Batch:
    """Encoded samples as tensors on one device, in the order and shapes of a `DataSpec`.

    `inputs` as in `Samples`, floats as float32 and token ids as int64; `available` bool [B, M], columns in the
    spec's order; `target` int64 [B] | float32 [B, L] | float32 [B, K]; `weight` float32 [B], 1 when not given.
    """

    inputs: dict[str, "torch.Tensor"]
    available: "torch.Tensor"
    target: "torch.Tensor | None" = None
    weight: "torch.Tensor | None" = None
    rows: "torch.Tensor | None" = field(default=None, repr=False)
    """Positions of the samples in the stream's data, int64 [B]."""
    present: "torch.Tensor | None" = field(default=None, repr=False)
    """What is really there, bool [B, M], where `available` is only what a net is shown of it in this step; None where
    nothing is hidden, or nobody asked."""

    def __len__(self) -> int:
        return len(self.available)

    def clone(self) -> "Batch":
        """The same batch in memory of its own: a stream may overwrite what it handed out."""
        return Batch(
            inputs={name: values.clone() for name, values in self.inputs.items()},
            available=self.available.clone(),
            target=None if self.target is None else self.target.clone(),
            weight=None if self.weight is None else self.weight.clone(),
            rows=None if self.rows is None else self.rows.clone(),
            present=None if self.present is None else self.present.clone(),
        )


def _names(given: Iterable[str] | int) -> tuple[str, ...]:
    """Names as they are given, or so many made up."""
    return tuple(map(str, range(given))) if isinstance(given, int) else tuple(given)


def patterns_to_judge(names: Iterable[str], max_enumerated: int = MAX_ENUMERATED) -> list[Pattern]:
    """The availability patterns a report shows, the full set first.

    Up to `max_enumerated` modalities: every non-empty pattern. More: the full set, each single modality absent,
    and each single modality alone; their number grows linearly instead of doubling.
    """
    names = tuple(names)
    if len(names) <= max_enumerated:
        subsets = [frozenset(n for i, n in enumerate(names) if code >> i & 1) for code in range(1, 2 ** len(names))]
    else:
        full = frozenset(names)
        subsets = [full, *(full - {n} for n in names), *(frozenset({n}) for n in names)]
    order = {n: i for i, n in enumerate(names)}
    return sorted(dict.fromkeys(subsets), key=lambda p: (-len(p), sorted(order[n] for n in p)))


def pattern_key(pattern: Iterable[str], names: Iterable[str]) -> str:
    """A pattern as text, modalities in the spec's order: `pix+fou`."""
    present = set(pattern)
    return "+".join(name for name in names if name in present)
