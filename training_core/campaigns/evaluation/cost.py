"""What a model takes: time per row alone and in a batch, time to load, disk; what its training took, where known."""

import time
from collections.abc import Callable

import numpy as np

from training_core.artifacts import ArtifactRef
from training_core.campaigns.evaluation.outcome import Cost
from training_core.campaigns.summary import RunSummary
from training_core.schema import Samples
from training_core.selection.ensemble import Ensemble

BATCH_ROWS = 1000
_SINGLE_TRIES, _BATCH_TRIES = 30, 3


def measure_cost(artifact: ArtifactRef, samples: Samples, run: RunSummary | None) -> Cost:
    """Load the ensemble afresh and time its answers to some of `samples`, which are repeated where there are few."""
    started = time.perf_counter()
    ensemble = Ensemble.load(artifact.path)
    ensemble.predict(samples.take(np.arange(1)))
    load_seconds = time.perf_counter() - started
    batch = samples.take(np.arange(BATCH_ROWS) % len(samples))
    ensemble.predict(batch)  # the first time reads what the first row did not need
    return Cost(
        milliseconds_single=row_milliseconds(ensemble, samples),
        milliseconds_batch=1e3 * _median_seconds([_asked(ensemble, batch)] * _BATCH_TRIES) / BATCH_ROWS,
        batch_rows=BATCH_ROWS,
        load_seconds=load_seconds,
        size_bytes=sum(path.stat().st_size for path in artifact.path.rglob("*") if path.is_file()),
        num_learners=len(ensemble.members),
        num_kept=len(ensemble.kept),
        cpu_seconds=run.cpu_seconds if run else None,
        seconds=run.seconds if run else None,
        peak_bytes=round(run.peak_mb * 1e6) if run else None,
        run_id=run.run_id if run else None,
    )


def row_milliseconds(ensemble: Ensemble, samples: Samples) -> float:
    """How long an answer to one row takes, in ms, when rows are asked one at a time: the median of some of `samples`.

    Learners are read from their files before the clock starts.
    """
    single = [samples.take(np.array([row % len(samples)])) for row in range(_SINGLE_TRIES)]
    ensemble.predict(samples)
    return 1e3 * _median_seconds([_asked(ensemble, one) for one in single])


def _asked(ensemble: Ensemble, samples: Samples) -> Callable[[], object]:
    return lambda: ensemble.predict(samples)


def _median_seconds(calls: list[Callable[[], object]]) -> float:
    taken = []
    for call in calls:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))
