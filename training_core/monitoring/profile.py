"""What a model's world looked like: made once from its training rows, kept with it, and free of those rows.

<folder>/profile.json   names, counts, settings
<folder>/profile.npz    the arrays: edges of bins, quantiles, mean features
"""

import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydantic
from pydantic import model_validator

from training_core.artifacts import storage_errors
from training_core.config import Config
from training_core.data.views import RowSource
from training_core.errors import DataError, StorageError
from training_core.monitoring.arrays import (
    ArrayScale,
    Moments,
    covariance_eigenvalues,
    draw_frequencies,
    fourier_features,
    project,
)
from training_core.monitoring.config import ProfileConfig
from training_core.monitoring.observe import (
    PATTERN,
    Columns,
    Predict,
    blocks_of,
    category_names,
    check_same,
    columns_of,
    drawn_rows,
)
from training_core.monitoring.tally import (
    ArrayConfig,
    ArrayTally,
    CategoryTally,
    Numbers,
    ShareTally,
    Tally,
    tally_category,
    tally_number,
)
from training_core.quantities import NonNegativeFloat
from training_core.schema import DataSpec, ModalitySpec, Samples
from training_core.seeding import generator

FORMAT_VERSION = 1
_MOST_PATTERNS = 64


class Scales(ArrayConfig):
    """How rows are measured, so that those of different days can be compared without having them side by side."""

    config: ProfileConfig
    spec: DataSpec
    edges: Mapping[str, Numbers]
    """Edges of the bins of each number, float64, strictly ascending."""
    patterns: tuple[tuple[str, ...], ...]
    """Sets of available modalities, the most frequent first; others count as one."""
    arrays: Mapping[str, ArrayScale]
    """Of each modality that is an array or a text."""

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """Names of the categories by check, without the last, which is any other."""
        names = category_names(self.spec)
        return {**names, PATTERN: tuple(pattern_name(pattern, self.spec.names) for pattern in self.patterns)}


class ReferenceProfile(Config):
    """Scales, and the tally of the reference measured with them."""

    format: int = FORMAT_VERSION
    name: str
    """Of the model or data set it belongs to."""
    scales: Scales
    tally: Tally
    usual: Mapping[str, NonNegativeFloat] = {}
    """By check how far windows without drift are apart, in multiples of the threshold; see `references.calibrate`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.format != FORMAT_VERSION:
            raise ValueError(f"format {self.format} was written by another release, which reads it; make it anew")
        if self.tally.scale != self.scales.content_hash():
            raise ValueError("the tally was not made with these scales")
        for name, number in self.tally.numbers.items():
            if len(number.counts) != len(self.scales.edges[name]) + 1:
                raise ValueError(f"{name} has {len(number.counts)} bins between {len(self.scales.edges[name])} edges")
        return self

    def measure(self, source: RowSource, predict: Predict | None = None) -> Tally:
        """The tally of other rows, in bounded memory: blocks are read once, nothing of them is kept.

        Of more rows than the profile looks at, as many are drawn.

        Args:
            source: rows of the same modalities; one that is missing everywhere is given as unavailable.
            predict: gives the predictions to watch; None leaves predictions and performance out.

        Raises:
            DataError: the modalities or the task are not those of the profile.
            StorageError: a file does not read back.
        """
        check_same(self.scales.spec, source.spec)
        config = self.scales.config
        drawn = drawn_rows(source, config.max_rows, config.max_vector_features, config.seed)
        totals: dict[str, tuple[Any, int]] = {}

        def add(block: Samples) -> None:
            for name, scale in self.scales.arrays.items():
                values = block.inputs[name][block.available[name]]
                if len(values):
                    total, rows = totals.get(name, (0.0, 0))
                    features = scale.features(self.scales.spec[name], values)
                    totals[name] = total + features.sum(axis=0), rows + len(values)

        columns = columns_of(drawn, len(source), config.max_vector_features, predict, add)
        nothing = {name: np.zeros(2 * scale.frequencies.shape[1]) for name, scale in self.scales.arrays.items()}
        arrays = {
            name: ArrayTally(mean=totals[name][0] / totals[name][1], num_rows=totals[name][1])
            if name in totals
            else ArrayTally(mean=nothing[name], num_rows=0)
            for name in self.scales.arrays
        }
        return _tally(self.scales, self.tally.scale, columns, arrays)

    def against(self, tally: Tally) -> "ReferenceProfile":
        """The same scales with another reference, such as `tally.pool` of the windows of a season."""
        return ReferenceProfile(name=self.name, scales=self.scales, tally=tally, usual=self.usual)

    def with_answers(self, judged: "ReferenceProfile") -> "ReferenceProfile":
        """The profile of its own rows, with what `judged` knows of predictions, confidence and performance.

        Of a model's training rows the features are a good reference and the answers are not, for it has seen them.

        Args:
            judged: of rows of the same modalities that the model was not trained on, made with its predictions.
        """

        def answers(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name.startswith("prediction/")}

        edges = {**self.scales.edges, **answers(judged.scales.edges)}
        scales = self.scales.model_copy(update={"edges": edges})
        known, added = self.tally, judged.tally
        tally = known.model_copy(
            update={
                "scale": scales.content_hash(),
                "numbers": {**known.numbers, **answers(added.numbers)},
                "categories": {**known.categories, **answers(added.categories)},
                "shares": {**known.shares, **answers(added.shares)},
                "performance": added.performance,
            }
        )
        return ReferenceProfile(name=self.name, scales=scales, tally=tally, usual=self.usual)

    def save(self, folder: Path) -> None:
        """Write `profile.json` and `profile.npz` into `folder`, which is published together with what else is in it.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        described = _without_arrays(self.model_dump(mode="python"), arrays)
        with storage_errors(folder):
            text = json.dumps(described, indent=1, ensure_ascii=False, default=str)
            (folder / "profile.json").write_text(text, encoding="utf-8")
            np.savez(folder / "profile.npz", **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, folder: Path) -> "ReferenceProfile":
        """The profile in `folder`. Nothing that is read is run.

        Raises:
            StorageError: there is none, it is damaged, or another release wrote it.
        """
        try:
            described = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
            with np.load(folder / "profile.npz", allow_pickle=False) as arrays:
                return cls.model_validate(_with_arrays(described, arrays))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, pydantic.ValidationError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StorageError(f"{folder} holds no profile that can be read: {reason}; make it anew") from error


def make_profile(
    source: RowSource, name: str, predict: Predict | None = None, config: ProfileConfig | None = None
) -> ReferenceProfile:
    """The profile of the rows a model was trained on, in bounded memory: a sample of them is read twice.

    Args:
        source: the rows: `dataset.subset(dataset.rows("train"))`, or `HeldSamples` of what is in memory.
        name: of the model or data set.
        predict: gives the predictions to watch; of rows the model has *not* been trained on the confidence and
            performance are honest, so give such rows where there are enough.
        config: how much is looked at.

    Raises:
        DataError: there are no rows.
        StorageError: a file does not read back.
    """
    if not len(source):
        raise DataError("a profile needs at least one row, got none; give the rows the model was trained on")
    config = config or ProfileConfig()
    drawn = drawn_rows(source, config.max_rows, config.max_vector_features, config.seed)
    watched = [modality for modality in source.spec.modalities if modality.kind != "tabular"]
    moments = {modality.name: Moments() for modality in watched if modality.kind != "text"}

    def add(block: Samples) -> None:
        for array, found in moments.items():
            values = block.inputs[array][block.available[array]]
            if len(values):
                found.update(source.spec[array], values)

    columns = columns_of(drawn, len(source), config.max_vector_features, predict, add)
    scales_and_tallies = _array_scales(drawn, len(source), watched, moments, config)
    scales = Scales(
        config=config,
        spec=source.spec,
        edges={key: bin_edges(values, config.num_bins) for key, values in columns.numbers.items()},
        patterns=tuple(pattern for pattern, _ in _most_common(columns.patterns)),
        arrays={key: scale for key, (scale, _) in scales_and_tallies.items()},
    )
    arrays = {key: tally for key, (_, tally) in scales_and_tallies.items()}
    return ReferenceProfile(name=name, scales=scales, tally=_tally(scales, scales.content_hash(), columns, arrays))


def pattern_name(pattern: tuple[str, ...], modalities: tuple[str, ...]) -> str:
    """A set of available modalities in few words: `all`, `without photo`, `only facts + left`, `nothing`."""
    missing = [name for name in modalities if name not in pattern]
    if not missing or not pattern:
        return "nothing" if missing else "all"
    return f"only {' + '.join(pattern)}" if len(missing) > len(pattern) else f"without {' + '.join(missing)}"


def bin_edges(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Edges, strictly ascending float64, of bins that hold about equally many of `values` [N] (NaN is left out).

    A value that at least 1 in `num_bins` rows have gets a bin of its own, so that a constant that moves is seen: plain
    quantiles would leave it in the outermost bin.
    """
    finite = np.sort(values[np.isfinite(values)].astype(np.float64))
    if not len(finite):
        return np.empty(0)
    distinct, count = np.unique(finite, return_counts=True)
    heavy = distinct[count * num_bins >= len(finite)]
    rest = finite[~np.isin(finite, heavy)]
    inner = np.linspace(0, 1, num_bins + 1)[1:-1]
    quantiles = np.quantile(rest, inner, method="inverted_cdf") if len(rest) >= num_bins else np.empty(0)
    return np.unique(np.concatenate([heavy, np.nextafter(heavy, np.inf), quantiles]))


def _array_scales(
    drawn: RowSource,
    num_rows: int,
    watched: list[ModalitySpec],
    moments: Mapping[str, Moments],
    config: ProfileConfig,
) -> dict[str, tuple[ArrayScale, ArrayTally]]:
    """Second look at the rows: arrays are projected now that the spread of their channels is known."""
    projected: dict[str, list[np.ndarray]] = {modality.name: [] for modality in watched}
    known = {name: found.found() for name, found in moments.items()}
    none = np.empty(0)
    if watched:
        for block in blocks_of(drawn, num_rows):
            for modality in watched:
                values = block.inputs[modality.name][block.available[modality.name]]
                mean, std = known.get(modality.name, (none, none))
                if len(values):
                    projected[modality.name].append(project(modality, values, mean, std, config.num_projections))
    found = {}
    for name, parts in projected.items():
        rows = np.concatenate(parts) if parts else np.zeros((0, config.num_projections))
        mean, std = known.get(name, (none, none)) if parts else (none, none)
        frequencies = draw_frequencies(rows, config.num_frequencies, generator(config.seed, "frequencies", name))
        kernel_mean, eigenvalues, count = covariance_eigenvalues(fourier_features(p, frequencies) for p in parts)
        scale = ArrayScale(
            num_projections=config.num_projections,
            mean=mean,
            std=std,
            frequencies=frequencies,
            eigenvalues=eigenvalues,
        )
        empty = np.zeros(2 * config.num_frequencies)
        found[name] = scale, ArrayTally(mean=kernel_mean if count else empty, num_rows=count)
    return found


def _tally(scales: Scales, digest: str, columns: Columns, arrays: Mapping[str, ArrayTally]) -> Tally:
    categories: dict[str, CategoryTally] = {}
    names = scales.categories
    for name, codes in columns.categories.items():
        categories[name] = tally_category(codes, len(names[name]))
    if scales.patterns:
        counts = [columns.patterns[pattern] for pattern in scales.patterns]
        others = sum(columns.patterns.values()) - sum(counts)
        categories[PATTERN] = CategoryTally(counts=np.array([*counts, others], np.int64), missing=0)
    nothing = np.empty(0)
    return Tally(
        scale=digest,
        num_rows=columns.num_rows,
        measured_rows=columns.measured_rows,
        numbers={
            name: tally_number(columns.numbers.get(name, nothing), edges)
            for name, edges in scales.edges.items()
            if name in columns.numbers
        },
        categories=categories,
        shares={name: ShareTally(hits=hits, num_rows=rows) for name, (hits, rows) in columns.shares.items()},
        arrays=dict(arrays),
        performance=columns.performance,
    )


def _most_common(patterns: Counter[tuple[str, ...]]) -> list[tuple[tuple[str, ...], int]]:
    return sorted(patterns.items(), key=lambda item: (-item[1], item[0]))[:_MOST_PATTERNS]


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` with every array put into `arrays` and its key in its place."""
    if isinstance(value, np.ndarray):
        key = f"a{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, Mapping):
        return {key: _without_arrays(inner, arrays) for key, inner in value.items()}
    return [_without_arrays(inner, arrays) for inner in value] if isinstance(value, tuple | list) else value


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"} and isinstance(value["array"], str):  # a modality may be called so; it is no text
            return np.asarray(arrays[value["array"]])
        return {key: _with_arrays(inner, arrays) for key, inner in value.items()}
    return [_with_arrays(inner, arrays) for inner in value] if isinstance(value, list) else value
