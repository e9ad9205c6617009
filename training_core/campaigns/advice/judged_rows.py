"""From a run's ensemble and its data set to the rows that a domain report is made from."""

from collections.abc import Mapping, Sequence

import numpy as np

from training_core.data.storage.store import Dataset
from training_core.errors import DataError
from training_core.evaluation.domains.judged import JudgedRows
from training_core.schema import patterns_to_judge
from training_core.selection.conclude import MAX_LEARNED
from training_core.selection.ensemble import Ensemble


def judged_rows(
    ensemble: Ensemble,
    dataset: Dataset,
    split: str = "test",
    table_columns: Sequence[str] = (),
    columns: Mapping[str, np.ndarray] | None = None,
) -> JudgedRows:
    """What an ensemble says of a split, under every availability pattern, and what else is known of its rows.

    Rows have a column `group` and a column `time` where the data set has them.

    Args:
        ensemble: that predicts.
        dataset: version of the data set it was trained on, or of another that looks the same.
        split: of the data set; one whose rows the ensemble never saw.
        table_columns: columns of tables to bring along, as `modality.column`.
        columns: further ones, [N] each in the order of the split's rows, by name.

    Raises:
        DataError: the split is empty, a column is absent or has another number of rows.
    """
    rows = dataset.rows(split)
    if not len(rows):
        raise DataError(f"{dataset.ref} has no rows in its {split} split; name another one")
    samples = dataset.samples(rows, ensemble.spec.names)
    under = ensemble.under_patterns(samples)
    known = {"group": dataset.groups(rows), "time": dataset.times(rows)}
    found = {name: values for name, values in known.items() if values is not None}
    found |= {name: _table_column(dataset, name, rows) for name in table_columns}
    full = frozenset(ensemble.spec.names)
    patterns = [p for p in patterns_to_judge(ensemble.spec.names, MAX_LEARNED) if p != full]
    return JudgedRows(
        task=ensemble.task,
        target=dataset.target(rows),
        predictions=under.predict(),
        modalities=ensemble.spec.names,
        patterns={pattern: under.predict(pattern) for pattern in patterns},
        columns={**found, **(columns or {})},
    )


def _table_column(dataset: Dataset, name: str, rows: np.ndarray) -> np.ndarray:
    modality, _, column = name.partition(".")
    frame = dataset.frame(dataset.spec[modality].name, rows)
    if column not in frame:
        raise DataError(f"no column '{column}' in '{modality}'; it has {', '.join(map(str, frame.columns))}")
    return frame[column].to_numpy(copy=True)
