"""Which rows are a window: those that came after the model and were in no earlier window, or those it is told.

Answers may come later than rows. A row whose answer is unknown (set aside by the data set for that, or in a file, which
holds none) is watched without its performance; once a version of the data set knows its answer, it counts for the
performance of that window, and not a second time for anything else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training_core.artifacts import file_sha256
from training_core.campaigns.evaluation.subject import training_version
from training_core.campaigns.watching.state import SeenRows, digests_of
from training_core.data.frames import read_samples
from training_core.data.recoding import recoded
from training_core.data.source import TABLE_SUFFIXES
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.data.views import HeldSamples, RowSource
from training_core.errors import DataError
from training_core.selection.ensemble import Ensemble

WhichRows = Literal["new", "all", "test"]
_VERSION_DIGITS = 8


@dataclass(frozen=True)
class WindowRows:
    """The rows of a window.

    Attributes:
        rows: what is new, as the model knows samples.
        late: rows of earlier windows whose answers have become known since; None where there are none.
        digests: of the ids of both, uint64 [N]; empty where rows have no ids.
        labelled: whether the answer of each of them is known, bool [N].
    """

    rows: RowSource
    late: RowSource | None
    digests: np.ndarray
    labelled: np.ndarray


def is_file_of_rows(name: str) -> bool:
    """Whether what is to be watched is a file, not a data set."""
    return Path(name).suffix.lower() in {*TABLE_SUFFIXES, ".npz"}


def source_of(request_dataset: str, ensemble: Ensemble, store: Path) -> Dataset | Path:
    """The version of a data set, or the file, that a window is taken from; by default the model's data, as of now.

    Raises:
        DataError: there is no such data set, version or file.
    """
    if request_dataset and is_file_of_rows(request_dataset):
        path = Path(request_dataset)
        if not path.is_file():
            raise DataError(f"there is no file {path}; give one of rows, or a data set")
        return path
    return DatasetStore(store / "datasets").open(request_dataset or ensemble.manifest.dataset.partition("@")[0])


def usual_label(source: Dataset | Path, which: WhichRows) -> str:
    """What a window is called when nobody says: equal for equal rows, so that a repeated run changes nothing."""
    if isinstance(source, Path):
        return f"{source.name}@{file_sha256(source)[:_VERSION_DIGITS]}"
    return source.ref if which == "new" else f"{source.ref} {which}"


def rows_of(source: Dataset | Path, which: WhichRows, ensemble: Ensemble, store: Path, seen: SeenRows) -> WindowRows:
    """The rows of a window. Those of a file all count, whatever `which` says.

    Raises:
        DataError: the rows are not such as the model knows, or it is not known which it was trained on.
    """
    if isinstance(source, Path):
        return _rows_of_file(source, ensemble)
    labelled = source.spec.task.answered(source.target())
    served = source.split() != "quarantined"
    usable = served | ~labelled  # what was set aside though its answer is known has another fault
    digests = digests_of(source.ids())
    late = np.zeros(len(digests), bool)
    if which == "test":
        usable &= source.split() == "test"
    elif which == "new":
        after = usable & ~np.isin(digests, _trained_with(ensemble, source, store))
        usable = after & ~seen.known(digests)
        late = after & labelled & seen.without_label(digests)
    chosen = np.flatnonzero(usable | late)
    names = [name for name in source.spec.names if name in ensemble.spec.names]

    def part(rows: np.ndarray) -> RowSource:
        return recoded(source.subset(np.flatnonzero(rows), names), ensemble.spec)

    return WindowRows(
        rows=part(usable),
        late=part(late) if late.any() else None,
        digests=digests[chosen],
        labelled=labelled[chosen],
    )


def _rows_of_file(path: Path, ensemble: Ensemble) -> WindowRows:
    samples = read_samples(path, ensemble.spec)
    numbered = list(samples.ids) == [str(row) for row in range(len(samples))]  # no ids: rows cannot be known again
    digests = np.empty(0, np.uint64) if numbered else digests_of(samples.ids)
    held = HeldSamples(samples, ensemble.spec)
    return WindowRows(rows=held, late=None, digests=digests, labelled=np.zeros(len(digests), bool))


def _trained_with(ensemble: Ensemble, source: Dataset, store: Path) -> np.ndarray:
    """Digests of the rows of the version the model was trained on, whatever split they were in.

    Raises:
        DataError: it is not in this store any more.
    """
    if ensemble.manifest.dataset.partition("@")[0] != source.name:
        return np.empty(0, np.uint64)
    known = training_version(ensemble, DatasetStore(store / "datasets"))
    if known is None:
        raise DataError(
            f"{ensemble.manifest.dataset}, which the model was trained on, is not in this store any more, so nobody "
            "can say which rows are new; give `rows: all`, or a file of rows"
        )
    return digests_of(known.ids())
