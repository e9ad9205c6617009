"""Tuning as one function call, for notebooks and scripts: no flow, no server, no tracker."""

from pathlib import Path
from typing import Any

from training_core.campaigns.library import DEFAULT_STORE, Arrays, launching, run_of, with_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.campaign import Tuner
from training_core.campaigns.tuning.report import write_report
from training_core.campaigns.tuning.summary import StudySummary
from training_core.campaigns.tuning.tuned_run import tuned_run
from training_core.data.storage.store import Dataset
from training_core.isolation import warm_up
from training_core.jobs import DatasetRef, OnEvent


def tune(
    data: str | RunConfig | Dataset | Arrays,
    store: str | Path = DEFAULT_STORE,
    on_event: OnEvent = lambda event: None,
    *,
    target: Any = None,
    name: str = "arrays",
    processes: bool = True,
    **settings: Any,
) -> StudySummary:
    """Search for better settings of a run; the same call again goes on with the study where it stopped.

    Args:
        data: as in `fit_ensemble`.
        store: folder for datasets, learners and studies.
        on_event: told what happens to each trial and learner.
        target: of arrays: classes [N], 0/1 labels [N, L], or numbers [N] or [N, K].
        name: of arrays: what the data set is called.
        processes: train in processes of their own; see `fit_ensemble`.
        settings: fields of `RunConfig`, such as `tuning={"trials": 30, "learner": "tabular_mlp"}`.

    Returns:
        The summary; `best_yaml` in it is a RUN.yaml, and `report` a page.

    Raises:
        ConfigError: a setting is unknown or wrong, or cannot be searched.
        DataError: there is no such dataset, or the arrays do not fit together.
        StorageError: the study cannot be written, or is damaged.
    """
    place = Path(store).resolve()
    if processes:
        warm_up()
    run, dataset = with_dataset(run_of(data, settings), data, place, target=target, name=name)
    return _tune(run, dataset, place, on_event, processes)


def tuned(
    run: RunConfig,
    dataset: DatasetRef,
    store: Path,
    on_event: OnEvent,
    processes: bool = True,
    deadline: float | None = None,
) -> RunConfig:
    """A run with the settings that a study of it finds best; at the deadline what still trains is ended.

    Raises:
        GateError: no trial is complete and within all limits.
    """
    return tuned_run(run, _tune(run, dataset, store, on_event, processes, deadline))


def _tune(
    run: RunConfig,
    dataset: DatasetRef,
    store: Path,
    on_event: OnEvent,
    processes: bool,
    deadline: float | None = None,
) -> StudySummary:
    with launching(run, store, on_event, processes) as launch:
        summary = Tuner(run, dataset, store).tune(launch, on_event, deadline)
    write_report(summary, Path(summary.folder))
    return summary
