"""The data set of the demonstration: scikit-learn's handwritten digits, seen in three ways."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from training_core.artifacts import write_text_atomically

_SOURCE = """\
# 1,797 handwritten digits (UCI, shipped with scikit-learn), seen in three ways.
name: digits
task: {kind: classification, target: {file: labels.csv, column: digit}}
id: {file: labels.csv, column: sample}
modalities:
  pixels:  {kind: image, file: pixels.npy}                  # 8 x 8 grey values, 0 to 16
  fourier: {kind: vector, file: fourier.npz, key: magnitude}   # how much of each spatial frequency, wherever it is
  profile:                                                  # ink per row, column and diagonal
    kind: tabular
    file: profile.csv
    columns: [PROFILE_COLUMNS]
"""


def write_digits_source(folder: Path) -> Path:
    """Write scikit-learn's digits as a source of three modalities; the same files every time.

    - `pixels`: image [1797, 1, 8, 8].
    - `fourier`: vector [1797, 34], magnitudes of the two-dimensional Fourier transform; of each pair that is equal
      because pixels are real, one.
    - `profile`: table of 31 columns, sums over rows, columns and descending diagonals.

    Returns:
        The path of the `source.yaml`.
    """
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    loaded: Any = load_digits()
    images, labels = np.asarray(loaded.images), np.asarray(loaded.target)
    samples = [f"digit-{row:04d}" for row in range(len(images))]
    np.save(folder / "pixels.npy", images[:, None].astype(np.float32))
    np.savez_compressed(folder / "fourier.npz", magnitude=_fourier_magnitudes(images))
    profile = _profile(images)
    _write_csv(folder / "profile.csv", ["sample", *profile], [samples, *profile.values()])
    _write_csv(folder / "labels.csv", ["sample", "digit"], [samples, [int(label) for label in labels]])
    path = folder / "source.yaml"
    write_text_atomically(path, _SOURCE.replace("PROFILE_COLUMNS", ", ".join(profile)))
    return path


def _fourier_magnitudes(images: np.ndarray) -> np.ndarray:
    """Magnitudes [N, 34] of the frequencies (u, v) of 8 x 8 images, without those equal to an earlier (-u, -v).

    Rounded to 1e-4, so that the last bits of another machine's transform do not make another data set version.
    """
    size = images.shape[-1]
    seen: set[tuple[int, int]] = set()
    keep: list[tuple[int, int]] = []
    for u in range(size):
        for v in range(size):
            if (-u % size, -v % size) not in seen:
                keep.append((u, v))
            seen.add((u, v))
    magnitudes = np.abs(np.fft.fft2(images))
    return np.stack([magnitudes[:, u, v] for u, v in keep], axis=1).round(4).astype(np.float32)


def _profile(images: np.ndarray) -> dict[str, list[int]]:
    """Ink per row, column and descending diagonal, by column name; whole numbers."""
    size = images.shape[-1]
    sums = {f"row_{i}": images[:, i].sum(axis=1) for i in range(size)}
    sums |= {f"column_{i}": images[:, :, i].sum(axis=1) for i in range(size)}
    for offset in range(1 - size, size):
        name = f"diagonal_{offset + size - 1}"
        sums[name] = np.trace(images, offset=offset, axis1=1, axis2=2)
    return {name: [int(value) for value in values] for name, values in sums.items()}


def _write_csv(path: Path, names: list[str], columns: list[list]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))
