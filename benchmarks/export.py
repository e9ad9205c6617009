"""Measure exported bundles: how they compare with their ensembles, how large they are, and how quickly they answer.

Run with one thread: `OMP_NUM_THREADS=1 python benchmarks/export.py [ENSEMBLE-FOLDER …]`. Without a folder an ensemble
of the bundled digits is trained first. Rows are drawn, not real ones. Times are CPU times of the process, medians of
rounds in which the ensemble, the model alone and the bundle with its reading of arrays take turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import training_core as pc
from training_core.artifacts import ArtifactRef, open_published
from training_core.data.ingestion.digits import write_digits_source
from training_core.engine.trained import TrainedLearner
from training_core.export.bundle import export_bundle
from training_core.export.parity import load_runtime, plain_arrays
from training_core.export.probing import probe_samples
from training_core.selection.ensemble import Ensemble

ROUNDS = 40
BATCHES = (1, 256)


def digits(folder: Path) -> ArtifactRef:
    """An ensemble of the digits that ship with scikit-learn, seen as three modalities."""
    fitted = pc.fit_ensemble(str(write_digits_source(folder / "digits")), folder / "store", preset="quick")
    return open_published(fitted.folder)


def cpu_ms(answer: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    began = time.process_time()
    answer()
    return 1e3 * (time.process_time() - began)


def measure(published: ArtifactRef, folder: Path) -> None:
    began = time.process_time()
    report = export_bundle(published, folder / "bundle")
    cpu_seconds = time.process_time() - began
    ensemble = Ensemble.load(published.path)
    runtime = load_runtime(folder / "bundle")
    bundle = runtime.Bundle(folder / "bundle")
    learners = [TrainedLearner.load(published.path / member.folder) for member in ensemble.members]
    kinds = sorted({member.kind for member in ensemble.members})
    (parity,) = report.parity
    print(f"{ensemble.manifest.dataset or ensemble.name}: {len(report.learners)} learners ({', '.join(kinds)})")
    print(f"  off by at most {parity.difference:.1e} under {len(parity.patterns)} patterns")
    print(f"  {report.num_bytes / 1e6:.1f} MB, exported in {cpu_seconds:.0f} s of CPU time")
    print(f"  {'rows':>6} {'ensemble':>12} {'model':>10} {'bundle':>10}   ensemble / bundle")
    for num_rows in BATCHES:
        samples = probe_samples(ensemble.spec, learners, {}, num_rows, seed=1)
        arrays = plain_arrays(samples, ensemble.spec)
        held = bundle._inputs.hold(arrays)
        feed = bundle._inputs.feed(held, slice(None))
        ways: dict[str, Callable[[], object]] = {
            "ensemble": lambda samples=samples: ensemble.predict(samples),
            "model": lambda feed=feed: bundle._session.run(None, feed),
            "bundle": lambda arrays=arrays: bundle.predict(arrays),
        }
        for answer in ways.values():
            answer()
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, answer in ways.items():
                taken[name].append(cpu_ms(answer))
        median = {name: statistics.median(times) for name, times in taken.items()}
        ratio = median["ensemble"] / median["bundle"]
        times = "".join(f" {median[name]:>9.2f} ms" for name in ways)
        print(f"  {num_rows:>6}{times}   {ratio:.1f}")


def measure_given(measure: Callable[[ArtifactRef, Path], None], description: str | None) -> None:
    """Measure each ensemble whose folder the command line names, in a folder of its own; without one, the digits."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ensembles", nargs="*", type=Path, metavar="ENSEMBLE-FOLDER", help="published ensembles")
    ensembles = parser.parse_args().ensembles
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        given = [open_published(ensemble) for ensemble in ensembles] or [digits(folder)]
        for i, published in enumerate(given):
            measure(published, folder / str(i))


if __name__ == "__main__":
    measure_given(measure, __doc__)
