"""Measure how long a served model takes: beside the ensemble in the process, and the exported bundle in the process.

Run with one thread: `OMP_NUM_THREADS=1 python benchmarks/serving.py [ENSEMBLE-FOLDER …]`. Without a folder an ensemble
of the bundled digits is trained first. Rows are drawn, not real ones. Wall time of one request after another, over one
connection that is kept; the ways take turns.
"""

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from export import measure_given

from training_core.artifacts import ArtifactRef
from training_core.engine.trained import TrainedLearner
from training_core.export.bundle import export_bundle
from training_core.export.parity import load_runtime, plain_arrays
from training_core.export.probing import probe_samples
from training_core.selection.ensemble import Ensemble

ROUNDS = 40
BATCHES = (1, 16, 256)


@contextmanager
def served(folder: Path, store: Path) -> Iterator[http.client.HTTPConnection]:
    """A server in a process of its own, and a connection to it."""
    command = [sys.executable, "-m", "flows.cli", "serve", str(folder), "--port", "0", "--json", "--store", str(store)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["url"].removeprefix("http://")
        yield http.client.HTTPConnection(address, timeout=120)
        process.send_signal(signal.SIGTERM)


def body_of(arrays: dict[str, Any], as_npy: bool) -> bytes:
    """The arrays of many samples as a request: numbers as nested lists, or as .npy files."""

    def value(given: Any) -> Any:
        if isinstance(given, dict):
            return {name: cells_of(column) for name, column in given.items()}
        if given.dtype.kind not in "biuf":
            return given.tolist()
        if not as_npy:
            return given.tolist()
        file = io.BytesIO()
        np.save(file, given, allow_pickle=False)
        return {"npy": base64.b64encode(file.getvalue()).decode()}

    return json.dumps({"inputs": {name: value(given) for name, given in arrays.items()}}).encode()


def cells_of(column: np.ndarray) -> list[Any]:
    """A column of a table as JSON: no NaN."""
    return [None if isinstance(cell, float) and np.isnan(cell) else cell for cell in column.tolist()]


def ask(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status == 200, said


def measure(published: ArtifactRef, folder: Path) -> None:
    export_bundle(published, folder / "bundle")
    ensemble = Ensemble.load(published.path)
    bundle = load_runtime(folder / "bundle").Bundle(folder / "bundle")
    learners = [TrainedLearner.load(published.path / member.folder) for member in ensemble.members]
    name = ensemble.manifest.dataset or ensemble.name
    print(f"{name}: {len(learners)} learners, {', '.join(ensemble.spec.names)}")
    print("| rows | ensemble | bundle | HTTP, lists | HTTP, npy |\n|---|---|---|---|---|")
    with served(published.path, folder / "served") as connection:
        for num_rows in BATCHES:
            samples = probe_samples(ensemble.spec, learners, {}, num_rows, seed=1)
            arrays = plain_arrays(samples, ensemble.spec)
            lists, npy = body_of(arrays, as_npy=False), body_of(arrays, as_npy=True)
            ways: dict[str, Callable[[], object]] = {
                "ensemble": lambda samples=samples: ensemble.predict(samples),
                "bundle": lambda arrays=arrays: bundle.predict(arrays),
                "lists": lambda body=lists: ask(connection, body),
                "npy": lambda body=npy: ask(connection, body),
            }
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for round_number in range(ROUNDS + 1):
                for way, answer in ways.items():
                    began = time.perf_counter()
                    answer()
                    if round_number:  # the first is for warming up
                        taken[way].append(1e3 * (time.perf_counter() - began))
            cells = [f"{np.median(times):.1f} / {np.quantile(times, 0.95):.1f}" for times in taken.values()]
            print(f"| {num_rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    measure_given(measure, __doc__)
