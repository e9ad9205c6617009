"""A made-up data set with everything that is known of it, in memory or written as a source."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.artifacts import write_text_atomically
from training_core.data.synthetic.bounds import best_predictions, best_score, draw_answers, draw_latents
from training_core.data.synthetic.config import SyntheticConfig
from training_core.data.synthetic.forms import numbers_of, shown
from training_core.schema import ModalityKind
from training_core.seeding import derive_seed, generator

if TYPE_CHECKING:
    import pandas as pd

PRESENT, MISSING_AT_RANDOM, MISSING_BY_LABEL = 0, 1, 2
"""Why a modality is missing in a row."""
_FIRST_TIME = np.datetime64("2025-01-01T00:00:00", "us")


@dataclass(frozen=True)
class SyntheticWorld:
    """N rows of a made-up data set, what a user would be given of them and what is true."""

    config: SyntheticConfig
    ids: np.ndarray
    """Str objects [N]."""
    modalities: "Mapping[str, np.ndarray | pd.DataFrame | list[str | None]]"
    """As given: arrays whose absent rows are NaN, tables whose absent rows are empty, texts or None."""
    target: np.ndarray
    """As given: class names [N] (str objects), labels of 0 and 1 [N, L], or values [N, K]."""
    groups: np.ndarray | None
    """Str objects [N]."""
    times: np.ndarray | None
    """Datetime64 [N], ascending."""
    clean: np.ndarray
    """The target without label noise, as class codes int64 [N], bool [N, L] or float64 [N, K]."""
    wrong: np.ndarray
    """Where label noise changed the target: bool [N], or [N, L] for labels; for regression the noise [N, K]."""
    latents: Mapping[str, np.ndarray]
    """What each modality that is not a copy tells, [N, K]; see `synthetic.bounds`."""
    missing: Mapping[str, np.ndarray]
    """Per modality why it is missing, int8 [N]: `PRESENT`, `MISSING_AT_RANDOM` or `MISSING_BY_LABEL`."""
    drifted: np.ndarray
    """Rows from the start of the drift on, bool [N]."""
    reversed_concept: np.ndarray
    """Rows whose answer drift changed, bool [N]."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def roles(self) -> dict[str, str]:
        """The role of each modality."""
        return {modality.name: modality.role for modality in self.config.modalities}

    @property
    def kinds(self) -> dict[str, ModalityKind]:
        """The kind of each modality."""
        return {modality.name: modality.kind for modality in self.config.modalities}

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the target columns."""
        if self.config.task == "classification":
            return ("answer",)
        return tuple(f"answer_{k}" for k in range(self.config.num_outputs))

    def available(self) -> dict[str, np.ndarray]:
        """Per modality whether each row has it, bool [N]."""
        return {name: why == PRESENT for name, why in self.missing.items()}

    def best_predictions(self, pattern: Iterable[str] | None = None) -> np.ndarray:
        """The exact posterior of every row given the modalities of `pattern` (all by default), missing or not.

        Probabilities [N, C] or [N, L], or expected values [N, K]; see `synthetic.bounds.best_predictions`.
        """
        return best_predictions(self.config, self.latents, self.roles if pattern is None else pattern)

    def best_score(self, pattern: Iterable[str] | None = None, *, clean: bool = False) -> float:
        """The accuracy or R² that nobody beats with the modalities of `pattern` (all by default).

        Against the answers as given, or against `clean` ones; see `synthetic.bounds.best_score`.
        """
        return best_score(self.config, self.roles if pattern is None else pattern, clean=clean)

    def write(self, folder: Path) -> Path:
        """Write the rows as a source: arrays in one npz, each table as parquet, texts and what is known of rows as csv.

        The same world writes the same bytes. A table leaves out the rows that lack it.

        Returns:
            The path of the `source.yaml`.
        """
        import pandas as pd
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {}
        rows = pd.DataFrame({"sample": self.ids})
        columns = self.target[:, None] if self.target.ndim == 1 else self.target
        rows[list(self.target_names)] = columns
        if self.groups is not None:
            rows["group"] = self.groups
        if self.times is not None:
            rows["time"] = self.times
        described: dict[str, dict[str, Any]] = {}
        for name, values in self.modalities.items():
            if isinstance(values, np.ndarray):
                arrays[name] = values
                described[name] = {"kind": self.kinds[name], "file": "arrays.npz", "key": name}
            elif isinstance(values, list):
                rows[name] = values
                described[name] = {"kind": "text", "file": "rows.csv", "columns": [name]}
            else:
                table = values[self.missing[name] == PRESENT]
                table = pd.concat([pd.Series(self.ids, name="sample").loc[table.index], table], axis=1)
                table.to_parquet(folder / f"{name}.parquet", index=False)
                categorical = [column for column in values if column.startswith("category")]
                described[name] = {"kind": "tabular", "file": f"{name}.parquet", "columns": list(values)}
                described[name] |= {"categorical": categorical} if categorical else {}
        if arrays:
            np.savez(folder / "arrays.npz", **arrays)  # pyright: ignore[reportArgumentType]
        rows.to_csv(folder / "rows.csv", index=False, lineterminator="\n")
        names = list(self.target_names)
        place = {"columns": names} if self.target.ndim == 2 else {"column": names[0]}
        source: dict[str, Any] = {
            "name": self.config.name,
            "task": {"kind": self.config.task, "target": {"file": "rows.csv", **place}},
            "id": {"file": "rows.csv", "column": "sample"},
        }
        for key, given in (("group", self.groups), ("time", self.times)):
            if given is not None:
                source[key] = {"file": "rows.csv", "column": key}
        source["modalities"] = described
        path = folder / "source.yaml"
        write_text_atomically(path, yaml.safe_dump(source, sort_keys=False))
        return path


def make_synthetic(config: SyntheticConfig) -> SyntheticWorld:
    """Draw a world; the same config gives the same world.

    Everything has its own random numbers: a modality that is added, or one whose missingness changes, leaves the
    others as they were.
    """
    num_rows = config.num_rows
    row = np.arange(num_rows)
    drifted = row >= round(config.drift.start * num_rows)
    drifts = config.drift.covariate > 0 or config.drift.concept > 0
    answers = draw_answers(config, num_rows, generator(config.seed, "synthetic", "answers"))
    latents = draw_latents(config, answers, derive_seed(config.seed, "synthetic", "latents"))
    clean = best_predictions(config, latents, config.sources) if config.task == "regression" else answers
    turned = drifted & (generator(config.seed, "synthetic", "concept").random(num_rows) < config.drift.concept)
    clean = _turned(config, clean, turned)
    target, wrong = _with_label_noise(config, clean, generator(config.seed, "synthetic", "label noise"))
    draws = generator(config.seed, "synthetic", "groups")
    group = draws.integers(0, config.num_groups, num_rows) if config.num_groups else None

    missing = _missing(config, clean)
    modalities: dict[str, Any] = {}
    for modality in config.modalities:
        draws = generator(config.seed, "synthetic", "modality", modality.name)
        told = latents.get(modality.copies or modality.name)
        if told is None:
            told = draws.standard_normal((num_rows, config.num_outputs))
        width = modality.width or config.num_outputs
        direction = draws.standard_normal(width)
        shift = config.drift.covariate * direction / np.linalg.norm(direction)
        offset = np.where(drifted[:, None], shift, 0.0)
        if group is not None and config.group_effect > 0:
            offset = offset + config.group_effect * draws.standard_normal((config.num_groups, width))[group]
        numbers = numbers_of(told, modality, offset, draws)
        modalities[modality.name] = shown(numbers, modality, missing[modality.name] != PRESENT, draws)
    return SyntheticWorld(
        config=config,
        ids=np.asarray([f"s{index:0{len(str(num_rows - 1))}d}" for index in row], object),
        modalities=modalities,
        target=target,
        groups=None if group is None else np.asarray([f"g{index}" for index in group], object),
        times=_FIRST_TIME + row * np.timedelta64(1, "h") if config.times else None,
        clean=clean,
        wrong=wrong,
        latents=latents,
        missing=missing,
        drifted=drifted if drifts else np.zeros(num_rows, bool),
        reversed_concept=turned,
    )


def _turned(config: SyntheticConfig, clean: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Answers with another one where the concept has drifted."""
    if config.task == "classification":
        return np.where(turned, (clean + 1) % config.num_outputs, clean)
    if config.task == "multilabel":
        return clean ^ turned[:, None]
    return np.where(turned[:, None], -clean, clean)


def _with_label_noise(
    config: SyntheticConfig, clean: np.ndarray, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The target as given, and where or how much it is wrong."""
    if config.task == "classification":
        wrong = draws.random(len(clean)) < config.label_noise
        another = (clean + draws.integers(1, config.num_outputs, len(clean))) % config.num_outputs
        return np.asarray([f"class {code}" for code in np.where(wrong, another, clean)], object), wrong
    if config.task == "multilabel":
        wrong = draws.random(clean.shape) < config.label_noise
        return (clean ^ wrong).astype(np.int64), wrong
    signal = sum(modality.strength**2 for modality in config.informative) + config.joint_strength**2
    std = np.sqrt(signal * config.label_noise / (1 - config.label_noise))
    wrong = std * draws.standard_normal(clean.shape)
    return clean + wrong, wrong


def _missing(config: SyntheticConfig, clean: np.ndarray) -> dict[str, np.ndarray]:
    """Why each modality is missing; a row that would lack them all keeps one, any with the same probability."""
    first = clean if clean.ndim == 1 else clean[:, 0]
    high = first >= config.num_outputs / 2 if config.task == "classification" else first > 0
    missing: dict[str, np.ndarray] = {}
    for modality in config.modalities:
        draws = generator(config.seed, "synthetic", "missing", modality.name)
        at_random = draws.random(len(clean)) < modality.missing
        by_label = high & (draws.random(len(clean)) < modality.missing_by_label)
        reasons = np.where(at_random, MISSING_AT_RANDOM, np.where(by_label, MISSING_BY_LABEL, PRESENT))
        missing[modality.name] = reasons.astype(np.int8)
    nothing = np.flatnonzero(np.all([why != PRESENT for why in missing.values()], axis=0))
    kept = generator(config.seed, "synthetic", "kept").integers(0, len(missing), len(nothing))
    for position, why in enumerate(missing.values()):
        why[nothing[kept == position]] = PRESENT
    return missing
