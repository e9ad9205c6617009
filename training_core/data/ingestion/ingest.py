"""From a source to a published data set version: read, align, check, split, publish, block by block.

What is missing stays missing: an absent id, an all-NaN row, a text without words or a table row without cells means
that the modality is not available for that sample. What is ambiguous is refused, naming the rows, or set aside when
the source says so. Memory grows with the number of samples (ids, targets, masks), not with what the modalities hold.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.artifacts import unfinished_directory, write_text_atomically
from training_core.data.ingestion.alignment import AlignedFiles, name_some
from training_core.data.ingestion.appending import check_alike, check_fits, extended_modality
from training_core.data.ingestion.modalities import ModalityReader, open_modality
from training_core.data.ingestion.row_index import Rejected, RowIndex, read_index, target_codes, task_spec
from training_core.data.quality import (
    Known,
    Profile,
    ProfileSummary,
    QualityReport,
    RowProblem,
    check_quality,
    write_html,
)
from training_core.data.source import SourceConfig, load_source
from training_core.data.splitting.splits import SET_ASIDE, check_given_split, draw_split, extend_split
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.parts import Block, PartWriter
from training_core.data.storage.store import DatasetStore, Described, StaleBaseError
from training_core.errors import DataError
from training_core.schema import DataSpec, TaskSpec

if TYPE_CHECKING:
    from training_core.data.sources import ArraySource, TableSource

_BLOCK_BYTES = 32 << 20
_MAX_BLOCK_ROWS = 1 << 16


def prepare_dataset(source_yaml: Path, store: DatasetStore, overrides: Mapping[str, Any] | None = None) -> Dataset:
    """Read what a SOURCE.yaml describes, check it, and publish it as a version.

    Args:
        source_yaml: the description.
        store: where to publish.
        overrides: values that stand over those of the description, nested like it.

    Raises:
        ConfigError: the description is wrong; the key is named.
        DataError: the data are not as described, or do not pass the quality gate; the file, column, rows or ids are
            named.
        StorageError: the disk is full or cannot be written. Nothing is published on any error.
    """
    config, folder = load_source(source_yaml, overrides)
    return ingest(config, folder, store)


def append_to_dataset(source_yaml: Path, store: DatasetStore, overrides: Mapping[str, Any] | None = None) -> Dataset:
    """Add the rows a SOURCE.yaml describes to the latest version of its data set; what is there is not written again.

    The new version lists the parts of the old one and one more. Rows keep the split they had; see
    `splits.extend_split` for the new ones. Appending the same rows again changes nothing.

    Raises:
        ConfigError: the description is wrong.
        DataError: there is no such data set, an id is in it already, the modalities or the task differ from its own,
            or as for `prepare_dataset`.
        StorageError: the disk is full or cannot be written. Nothing is published on any error.
    """
    config, folder = load_source(source_yaml, overrides)
    return ingest(config, folder, store, base=store.open(config.name))


def ingest(
    config: SourceConfig,
    folder: Path,
    store: DatasetStore,
    *,
    given: "Mapping[str, TableSource | ArraySource] | None" = None,
    base: Dataset | None = None,
) -> Dataset:
    """Publish what `config` describes: as a version of its own, or as rows added to the version `base`.

    Args:
        config: the description.
        folder: what its file names are relative to.
        store: where to publish.
        given: tables and arrays in memory that take the place of files, by file name.
        base: the version to extend.
    """
    if base is not None:
        check_alike(base, config)
    with _staging(store.root / config.name) as staging:
        files = AlignedFiles(config, folder, staging, given or {})
        if not len(files.ids):
            if base is not None:
                return base
            raise DataError(f"{config.task.target.file} has column names but 0 rows; a data set needs at least one")
        rejected = Rejected(files.ids, config.quality.quarantine)
        index = read_index(config, files, rejected)
        readers = [open_modality(name, source, files, rejected) for name, source in config.modalities.items()]
        with store.new_part(config.name, config.compression) as part:
            task = task_spec(config.task, index, base.spec.task if base else None)
            profile, available = _write(part, readers, index, task, rejected)
            if base is not None and part.digest in {listed["digest"] for listed in base.manifest["parts"]}:
                return base
            _reject_empty(available, rejected, base)
            while True:
                described = _describe(config, files, readers, index, available, profile, rejected, base, store)
                try:
                    return store.publish(config.name, part, described, base=base)
                except StaleBaseError:  # another process appended meanwhile: on top of that, then
                    base = store.open(config.name)


@contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """A folder to work in, on the disk the data set goes to; a source that is refused leaves no folder behind."""
    fresh = [folder for folder in (place / "parts", place, place.parent) if not folder.exists()]
    try:
        with unfinished_directory(place, "staging") as staging:
            yield staging
    finally:
        for folder in fresh:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _write(
    part: PartWriter, readers: Sequence[ModalityReader], index: RowIndex, task: TaskSpec, rejected: Rejected
) -> tuple[Profile, dict[str, np.ndarray]]:
    """Write all rows; returns their profile, and for each modality who has it, bool [N]."""
    import pyarrow as pa

    num_rows = len(index.ids)
    available = {reader.spec.name: np.zeros(num_rows, bool) for reader in readers}
    profile = Profile(DataSpec(modalities=tuple(reader.spec for reader in readers), task=task))
    row_bytes = sum(reader.row_bytes for reader in readers) + 256
    step = int(np.clip(_BLOCK_BYTES // row_bytes, 1, _MAX_BLOCK_ROWS))
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        cells: dict[str, Any] = {name: cells.slice(start, stop - start) for name, cells in index.cells.items()}
        arrays: dict[str, np.ndarray] = {}
        for reader in readers:
            name, read = reader.spec.name, reader.read(start, stop)
            available[name][start:stop] = read.available
            cells |= {f"{name}.{column}": values for column, values in read.columns.items()}
            if read.array is not None:
                arrays[name] = read.array
        masks = {f"__available__.{name}": mask[start:stop] for name, mask in available.items()}
        part.write(Block(table=pa.table(cells | masks), arrays=arrays))
        usable = ~rejected.mask[start:stop]  # what is set aside does not count in the statistics
        profile.update(Block(table=pa.table(cells | {n: m & usable for n, m in masks.items()}), arrays=arrays))
    part.finish()
    return profile, available


def _reject_empty(available: Mapping[str, np.ndarray], rejected: Rejected, base: Dataset | None) -> None:
    """Rows that have no modality at all are of no use; a modality that no row has is a mistake, but for added rows."""
    for name, mask in available.items():
        if base is None and not mask.any():
            raise DataError(
                f"modality '{name}' is not available for any sample; fill it in or remove it from the source"
            )
    nothing = np.flatnonzero(~np.logical_or.reduce(list(available.values())))
    if len(nothing):
        problem = f"every modality is missing for {name_some(rejected.ids[nothing])}"
        rejected.add("no_modality", nothing, problem, "remove such samples from the source")


def _describe(
    config: SourceConfig,
    files: AlignedFiles,
    readers: Sequence[ModalityReader],
    index: RowIndex,
    available: Mapping[str, np.ndarray],
    profile: Profile,
    rejected: Rejected,
    base: Dataset | None,
    store: DatasetStore,
) -> Described:
    """Everything the new version says of its rows, once it has passed the quality gate."""
    if base is not None:
        check_fits(base, config, index)
    kept = ~rejected.mask
    if not kept.any():
        raise DataError(f"all {len(kept)} rows were set aside ({_counted(rejected.counts())}); correct the source")
    task = task_spec(config.task, index, base.spec.task if base else None, kept)
    codes = target_codes(task, index.target)
    own = {reader.spec.name: reader.spec for reader in readers}
    modalities = (
        tuple(own.values())
        if base is None
        else tuple(extended_modality(known, own[known.name]) for known in base.spec.modalities)
    )
    spec = DataSpec(modalities=modalities, task=task)
    split = np.full(len(kept), SET_ASIDE, object)
    split[kept] = _split(config, index, codes, kept, base)
    if base is None:
        _check_trainable(config, spec, codes, available, split, files.ids)
    embargoed = np.flatnonzero(kept & (split == SET_ASIDE))
    near = RowProblem("embargo", embargoed, "closer in time to rows of another part than the embargo allows")
    report = check_quality(
        profile,
        Known(
            spec=spec,
            target_names=index.target_names,
            target=codes,
            split=split,
            groups=index.groups,
            times=index.times,
            ids=files.ids,
            unmatched=files.unmatched,
            rejected=[*rejected.problems, *([near] if len(embargoed) else [])],
            base=_profile_of(base) if base else None,
            base_spec=base.spec if base else None,
            accept=config.quality.accept,
        ),
    )
    _pass_gate(report, config, store)
    before = base.manifest["lineage"].get("set_aside", {}) if base else {}
    aside = Counter(before) + Counter(rejected.counts()) + Counter({"embargo": len(embargoed)})
    lineage = {
        "rows": len(files.ids),
        "action": "append" if base else "prepare",
        "parent": base.version if base else None,
        "source": config.model_dump(mode="json"),
        "files": files.fingerprints(),
        "matched": dict(files.matched),
        "rows_without_sample": dict(files.unmatched),
        "set_aside": dict(aside),
    }
    return Described(
        spec=spec,
        target_names=index.target_names,
        split=split if base is None else np.concatenate([base.split(), split]),
        lineage=lineage,
        files={"quality.json": report.to_json(), "quality.html": write_html(report, _titled(config, base))},
    )


def _profile_of(base: Dataset) -> ProfileSummary | None:
    """What was seen in the rows that `base` was given last."""
    kept = base.quality()
    return None if kept is None else QualityReport.model_validate(kept).profile


def _split(
    config: SourceConfig, index: RowIndex, codes: np.ndarray, kept: np.ndarray, base: Dataset | None
) -> np.ndarray:
    """The split of the rows that are kept: given and checked, or drawn; rows added to `base` go by its split."""
    groups = None if index.groups is None else index.groups[kept]
    times = None if index.times is None else index.times[kept]
    rule = config.split
    if index.split is not None:
        where = f"{rule.file}, split column '{rule.column}'"
        return check_given_split(index.split[kept], groups, where, base=base)
    strata = None if config.task.kind == "regression" else codes[kept]
    if base is not None:
        return extend_split(base, groups=groups, times=times, strata=strata, num_rows=int(kept.sum()), rule=rule)
    if config.task.kind == "classification" and groups is None and times is None and rule.test > 0:
        counts = np.bincount(codes[kept])
        if len(single := np.flatnonzero(counts == 1)):
            row = index.ids[np.flatnonzero(codes == single[0])[:1]]
            raise DataError(
                f"{len(single)} class(es) have a single row (the first: {name_some(row)}), which "
                "cannot be split by class into training and test rows; remove or merge them, or give the split"
            )
    return draw_split(
        test=rule.test,
        validation=rule.validation,
        seed=rule.seed,
        num_rows=int(kept.sum()),
        strata=strata,
        groups=groups,
        times=times,
        embargo=rule.embargo,
    )


def _check_trainable(
    config: SourceConfig,
    spec: DataSpec,
    codes: np.ndarray,
    available: Mapping[str, np.ndarray],
    split: np.ndarray,
    ids: np.ndarray,
) -> None:
    """Training rows have every modality and something to learn; a source without test rows is not for training.

    Raises:
        DataError: they have not.
    """
    training = np.flatnonzero(split == "train")
    if not (split == "test").any():
        return
    for name, mask in available.items():
        if not mask[training].any():
            raise DataError(
                f"modality '{name}' is not available for any training row; fill it in or remove it from the source"
            )
    file = config.task.target.file
    if spec.task.kind == "classification":
        if len(present := np.unique(codes[training])) < 2:
            only = spec.task.classes[present[0]]
            raise DataError(
                f"all training rows are of class '{only}'; a classifier needs at least 2 classes to train on"
            )
        return
    for i, name in enumerate(config.task.target.names):
        if codes[training, i].min() == codes[training, i].max():
            value = codes[training[0], i]
            raise DataError(
                f"{file}, target column '{name}' is {value:g} in every row; there is nothing to learn, remove it"
            )


def _pass_gate(report: QualityReport, config: SourceConfig, store: DatasetStore) -> None:
    """Let the data through, or write the report down and refuse them.

    Raises:
        DataError: there is an error that was not accepted, or with `strict` a warning.
    """
    blocking = [*report.errors, *(report.warnings if config.quality.strict else ())]
    path = store.root / config.name / "refused.html"
    if not blocking:
        path.unlink(missing_ok=True)  # of an earlier attempt
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, write_html(report, config.name))
    found = " | ".join(f"{finding.code} {finding.subject}: {finding.message}" for finding in blocking[:3])
    more = f" | and {len(blocking) - 3} more" if len(blocking) > 3 else ""
    raise DataError(
        f"the quality gate refuses '{config.name}': {found}{more}. Mend the source, or list what is meant to be under "
        f"quality.accept as {blocking[0].code}:{blocking[0].subject}; all findings are in {path}"
    )


def _titled(config: SourceConfig, base: Dataset | None) -> str:
    return config.name if base is None else f"{config.name}: rows added to {base.ref}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in counts.items())
