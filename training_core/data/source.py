"""SOURCE.yaml: how a user describes where the modalities, the target and the split of a data set are."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from training_core.addresses import holds_login
from training_core.config import Config
from training_core.data.splitting.embargo import Embargo
from training_core.quantities import PositiveInt, Rate, Seed
from training_core.schema import ModalityKind, TaskKind
from training_core.settings import merged, read_yaml

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ARRAY_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".zarr")
KEYED_SUFFIXES = (".npz", ".h5", ".hdf5", ".mat", ".zarr")
SUFFIXES = (*TABLE_SUFFIXES, *ARRAY_SUFFIXES)


def is_url(file: str) -> bool:
    """Whether a file is named by a URL, such as `s3://bucket/photos.zarr`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*::|[A-Za-z][A-Za-z0-9+.-]+://", file) is not None


def suffix_of(file: str) -> str:
    """The ending of a file's name, in lower case; of a folder without one, or written with a slash at its end, ""."""
    if is_url(file):
        file = next(link for link in file.split("::") if "://" in link) if "://" in file else file
        protocol, _, path = file.partition("://")
        path = re.split(r"[?#]", path, maxsplit=1)[0]
        has_host = "/" in path or protocol not in {"zip", "tar", "memory", "file"}
        file = path.partition("/")[2] if has_host else path  # a bucket or a host has no ending
    suffix = Path(file).suffix.lower()
    return "" if file.endswith("/") and suffix not in SUFFIXES else suffix


def _readable(file: str) -> str:
    if not file.strip():
        raise ValueError("a file needs a name")
    suffix = suffix_of(file)
    if suffix and suffix not in SUFFIXES:
        raise ValueError(
            f"files ending in '{suffix}' cannot be read; use one of {', '.join(SUFFIXES)}, "
            "or a folder of images or parquet files"
        )
    if is_url(file):
        if holds_login(file):
            raise ValueError("a password does not belong here, it would be kept with the data; use the environment")
        return file
    # one file has one name, whoever asks whether two are the same; the slash says that photos-1.5/ is a folder
    return os.path.normpath(file) + ("/" if file.endswith("/") and Path(file).suffix and not suffix else "")


def _table(file: str) -> str:
    file = _readable(file)
    if suffix_of(file) in ARRAY_SUFFIXES:
        raise ValueError(
            f"a column is looked for here, so the file has to be one of {', '.join(TABLE_SUFFIXES)}, or a folder"
        )
    return file


def is_dataset_name(name: str) -> bool:
    """Whether `name` can name a data set, and so a folder."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def _dataset_name(name: str) -> str:
    if not is_dataset_name(name):
        raise ValueError("a dataset is named by up to 100 letters, digits, '.', '_' and '-', a letter or digit first")
    return name


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value  # one is written without brackets


def _without_slashes(key: str) -> str:
    return key.strip("/")  # HDF5 calls /x what others call x


def _modality_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,49}", name):
        raise ValueError("a modality's name is up to 50 letters, digits, '_' and '-', and starts with a letter")
    return name


DatasetName = Annotated[str, AfterValidator(_dataset_name)]
ModalityName = Annotated[str, AfterValidator(_modality_name)]
ArrayKey = Annotated[str, AfterValidator(_without_slashes)]
AnyFile = Annotated[str, AfterValidator(_readable)]
TableFile = Annotated[str, AfterValidator(_table)]


class ColumnSource(Config):
    """One column of a table."""

    file: TableFile
    """A table, or a folder of images, which has the columns `file`, `id` (the file without its ending) and `folder`."""
    column: str


class TargetSource(Config):
    """The column or columns to predict."""

    file: TableFile
    column: str | None = None
    """Classification or a single real number."""
    columns: tuple[str, ...] = ()
    """Multilabel (one column of 0 and 1 per label), or several real numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, however they were given."""
        return self.columns if self.column is None else (self.column,)


class TaskSource(Config):
    """What is to be predicted, and where it stands."""

    kind: TaskKind
    target: TargetSource

    @model_validator(mode="after")
    def _has_columns_for_its_kind(self) -> Self:
        target = self.target
        if (target.column is None) == (not target.columns):
            raise ValueError("`target` needs either `column` (one) or `columns` (a list)")
        if self.kind == "classification" and target.column is None:
            raise ValueError("a classification target is one `column`; for several labels use kind: multilabel")
        if self.kind == "multilabel" and not target.columns:
            raise ValueError("a multilabel target is a list of `columns`, one per label")
        _refuse_repeats(target.columns, "target column")
        return self


class SplitSource(Config):
    """Which rows are kept for the test: a column that says so, or fractions to draw."""

    file: TableFile | None = None
    column: str | None = None
    """Column holding `train`, `test` or `validation` for every row."""
    test: Rate = 0.3
    """Fraction of all rows to test on; at 0 all rows are for training: data to score, to append or to watch."""
    validation: Rate = 0.0
    """Fraction of all rows to stop early on; at 0 every learner keeps back rows of its own."""
    seed: Seed = 0
    embargo: Embargo = 0.0
    """With `time`: how long before the test (or validation) rows training has to end, such as `7d`."""

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.file is None) != (self.column is None):
            raise ValueError("a given split needs both `file` and `column`")
        drawn = sorted(self.model_fields_set & {"test", "validation", "seed", "embargo"})
        if self.file is not None and drawn:
            raise ValueError(f"the split is given by a column, so {', '.join(drawn)} would have no effect; remove one")
        if self.test + self.validation >= 1:
            raise ValueError("`test` and `validation` leave nothing to train on; their sum has to be below 1")
        return self


class QualitySource(Config):
    """What the checks of a data set's quality do about what they find."""

    strict: bool = False
    """Warnings stop the preparation as errors do."""
    quarantine: bool = False
    """Rows that cannot be used are set aside, not refused."""
    accept: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    """Findings that are known and meant, each as `<code>` or `<code>:<subject>`."""


class ModalitySource(Config):
    """Where one modality stands."""

    kind: ModalityKind
    file: AnyFile
    key: ArrayKey | None = None
    """Name of the array in an npz, HDF5, MATLAB or Zarr file; not needed when it holds only one."""
    columns: tuple[str, ...] = ()
    """Columns of a table: those of a tabular modality, those joined to a text, or the features of a vector."""
    categorical: tuple[str, ...] = ()
    """Columns of a tabular modality that hold categories; the others hold numbers."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width to which the images of a folder are resized; without it they have to be of one size."""

    @model_validator(mode="after")
    def _fits_its_file(self) -> Self:
        suffix = suffix_of(self.file)
        is_table, is_folder = suffix in TABLE_SUFFIXES, not suffix
        if is_table and self.kind in {"image", "sequence"}:
            raise ValueError(f"{self.kind} is an array; give it in one of {', '.join(ARRAY_SUFFIXES)}")
        if is_folder and self.kind == "sequence":
            raise ValueError(
                f"a folder holds images or parquet files; give a sequence in one of {', '.join(ARRAY_SUFFIXES)}"
            )
        if suffix in ARRAY_SUFFIXES and self.kind in {"tabular", "text"}:
            raise ValueError(f"{self.kind} is read from columns; give it in one of {', '.join(TABLE_SUFFIXES)}")
        if (is_table or (is_folder and self.kind != "image")) and not self.columns:
            raise ValueError(f"`columns` is missing: the columns of {self.file} this modality is made of")
        if (suffix in ARRAY_SUFFIXES or self.kind == "image") and self.columns:
            raise ValueError(f"{self.file} has no columns; remove `columns`")
        if self.key is not None and suffix not in KEYED_SUFFIXES:
            raise ValueError(
                f"`key` names an array of one of {', '.join(KEYED_SUFFIXES)}, and {self.file} is none; remove it"
            )
        if self.size is not None and not (is_folder and self.kind == "image"):
            raise ValueError(f"`size` is for folders of images, and {self.file} is none; remove it")
        if self.categorical and self.kind != "tabular":
            raise ValueError(f"`categorical` is for tabular modalities, this one is {self.kind}; remove it")
        if unknown := [name for name in self.categorical if name not in self.columns]:
            raise ValueError(f"`categorical` names {', '.join(unknown)}, which `columns` does not list")
        _refuse_repeats(self.columns, "column")
        return self


class SourceConfig(Config):
    """A data set as its owner has it; files are named relative to the folder of the YAML file, or by URL."""

    name: DatasetName
    task: TaskSource
    id: ColumnSource | None = None
    """Names the samples; tables that have a column of this name are aligned by it, all other files row by row."""
    group: ColumnSource | None = None
    """Rows of one group are never split."""
    time: ColumnSource | None = None
    """With it the last rows are tested on, not random ones."""
    split: SplitSource = SplitSource()
    modalities: dict[ModalityName, ModalitySource]
    quality: QualitySource = QualitySource()
    compression: Literal["none", "lz4"] = "none"
    """Of the stored arrays: none is the fastest to train from, lz4 smaller where the arrays repeat themselves."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not self.modalities:
            raise ValueError("`modalities` is empty; describe at least one")
        target = self.task.target
        for name, modality in self.modalities.items():
            if modality.file == target.file and (leaked := set(modality.columns) & set(target.names)):
                raise ValueError(
                    f"modality '{name}' has the target column {', '.join(sorted(leaked))} as an input; remove it"
                )
        return self

    def files(self) -> tuple[str, ...]:
        """Every file that is read, each once, sorted."""
        columns = [ref.file for ref in (self.id, self.group, self.time) if ref]
        given_split = [self.split.file] if self.split.file else []
        inputs = [modality.file for modality in self.modalities.values()]
        return tuple(sorted({self.task.target.file, *columns, *given_split, *inputs}))


def load_source(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[SourceConfig, Path]:
    """Read a SOURCE.yaml, with `overrides` (nested like the file) on top.

    Returns:
        The description, and the folder its file names are relative to.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, repeated or wrong; the key is named.
    """
    data = merged(read_yaml(path), overrides or {})
    modalities = data.get("modalities")
    if isinstance(modalities, dict):  # one by one, so that a mistake in one lists the keys of a modality
        for name, modality in modalities.items():
            if isinstance(modality, dict):
                ModalitySource.parse(modality, f"{path}: modalities.{name}")
    return SourceConfig.parse(data, str(path)), path.resolve().parent


def _refuse_repeats(names: tuple[str, ...], what: str) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} {', '.join(repeated)} is listed twice")
