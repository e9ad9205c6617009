"""Answers of an exported ensemble, with numpy and onnxruntime alone.

    python inference.py rows.csv --output predictions.csv    # csv, tsv, jsonl or npz; whole modalities may be absent
    python inference.py --check                              # every file's checksum, then the golden rows

    from inference import Bundle
    answer = Bundle().predict({"photo": photos, "meta": {"age": [31, 40], "city": ["Bonn", None]}})
    answer["values"], answer["confidence"]

This file stands beside `model.onnx` and needs nothing of the library that wrote it. Nothing it reads is run as code.
"""

import argparse
import csv
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bundle_inputs import BundleError, BundleInputs, joined, listed, number_of

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5
BLOCK_ROWS = 1024
"""Rows per call of the model: bounds the memory, whatever the number of rows."""


class Bundle:
    """A bundle that was looked over and is ready to answer.

    Attributes:
        description: what `bundle.json` says: the task, the modalities, the tensors of the model.
    """

    def __init__(self, folder: str | Path = HERE, sha256: str | None = None, num_threads: int = 1) -> None:
        """Compare every file with its checksum, then load the model.

        Args:
            folder: of the bundle.
            sha256: of its `checksums.json`, where the bundle came with one by another way.
            num_threads: for one call of the model.

        Raises:
            BundleError: a file is missing or was changed.
        """
        self.folder = Path(folder)
        _verify(self.folder, sha256)
        self.description: dict[str, Any] = json.loads((self.folder / "bundle.json").read_text(encoding="utf-8"))
        words = self.folder / "vocabulary.json"
        pieces: dict[str, list[str]] = json.loads(words.read_text(encoding="utf-8")) if words.exists() else {}
        self._inputs = BundleInputs(self.description, pieces)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(
            str(self.folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._outputs: list[str] = self.description["outputs"]

    def predict(
        self, arrays: Mapping[str, Any], available: Iterable[str] | Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Answers for rows given modality by modality; one that is left out is missing.

        Args:
            arrays: by modality: numbers [N, …], where a row of NaN is missing; texts [N], None or empty where missing;
                a table as its columns by name, or as an array [N, columns].
            available: the modalities that may be looked at, or bool [N] by modality, which leaves those it does
                not name as they are; None: all that are there.

        Returns:
            values float64 [N, outputs], confidence [N], num_learners int64 [N] and, where the model has them, sets
            bool [N, outputs], or std, lower and upper [N, outputs].

        Raises:
            BundleError: an array is not of the expected form.
        """
        held = self._inputs.hold(arrays, available)
        blocks = [
            self._session.run(self._outputs, self._inputs.feed(held, slice(i, i + BLOCK_ROWS)))
            for i in range(0, len(held.available), BLOCK_ROWS)
        ]
        return {n: np.concatenate([np.asarray(b[i]) for b in blocks]) for i, n in enumerate(self._outputs)}

    def predict_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answers for rows of one flat table, as they stand in a csv or jsonl file; see the README for its columns.

        Raises:
            BundleError: there are no rows, no known column, or a cell cannot be read.
        """
        if not rows:
            raise BundleError("the input has 0 rows")
        given = set().union(*rows)
        arrays: dict[str, Any] = {}
        for name, modality in self._inputs.modalities.items():
            columns: list[str] = modality["flat_columns"]
            have = [column for column in columns if column in given]
            if not have:
                continue
            if modality["kind"] == "tabular":
                own = zip((column["name"] for column in modality["columns"]), columns, strict=True)
                arrays[name] = {label: [row.get(column) for row in rows] for label, column in own if column in given}
            elif modality["kind"] == "text":
                arrays[name] = [joined([row.get(column) for column in have]) for row in rows]
            elif len(have) < len(columns):
                raise BundleError(f"modality '{name}' has {len(have)} of its {len(columns)} columns; give all or none")
            else:
                numbers = np.array([[number_of(row.get(column), column) for column in columns] for row in rows])
                arrays[name] = numbers.reshape(len(rows), *modality["shape"])
        if not arrays:
            known = [column for m in self._inputs.modalities.values() for column in m["flat_columns"]]
            raise BundleError(f"the input has none of the columns of this model; expected some of {listed(known)}")
        return self.readable(self.predict(arrays))

    def readable(self, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """An answer of `predict` as one dictionary per row, with the names of classes, labels and targets."""
        task = self.description["task"]
        names: list[str] = task["targets"] if task["kind"] == "regression" else task["classes"]
        rows = []
        for i, values in enumerate(answer["values"]):
            row: dict[str, Any] = {}
            if task["kind"] == "regression":
                for kind, field in (("prediction", "values"), ("std", "std"), ("lower", "lower"), ("upper", "upper")):
                    if field in answer:
                        many = len(names) > 1
                        row |= {
                            f"{kind}_{n}" if many else kind: float(answer[field][i, k]) for k, n in enumerate(names)
                        }
            elif task["kind"] == "classification":
                row["prediction"] = names[int(values.argmax())]
            else:
                row["prediction"] = ", ".join(n for n, value in zip(names, values, strict=True) if value >= 0.5)
            row["confidence"] = float(answer["confidence"][i])
            if task["kind"] != "regression":
                row |= {f"probability_{name}": float(value) for name, value in zip(names, values, strict=True)}
            if "sets" in answer:
                likely = np.argsort(-values, kind="stable")
                row["prediction_set"] = ", ".join(names[k] for k in likely if answer["sets"][i, k])
            row["num_learners"] = int(answer["num_learners"][i])
            rows.append(row)
        return rows

    def check(self) -> float:
        """Answer the golden rows, all at once and one by one; the greatest difference from what was answered at export.

        Raises:
            BundleError: it is greater than 1e-5.
        """
        with np.load(self.folder / "golden.npz", allow_pickle=False) as file:
            golden = {name: file[name] for name in file.files}
        wanted = {name[4:]: values for name, values in golden.items() if name.startswith("out/")}
        masks = {name[5:]: mask for name, mask in golden.items() if name.startswith("mask/")}
        arrays: dict[str, Any] = {}
        for name, values in golden.items():
            if name.startswith("in/"):
                modality, _, column = name[3:].partition("/")
                if column:
                    arrays.setdefault(modality, {})[column] = values
                else:
                    arrays[modality] = values
        num, units = len(next(iter(wanted.values()))), self.description["units"]
        worst = difference(self.predict(arrays, masks), wanted, units)
        for row in range(min(num, 8)):
            one = slice(row, row + 1)
            part = {m: {c: v[one] for c, v in a.items()} if isinstance(a, dict) else a[one] for m, a in arrays.items()}
            said = self.predict(part, {name: mask[one] for name, mask in masks.items()})
            worst = max(worst, difference(said, {name: values[one] for name, values in wanted.items()}, units))
        if not worst <= TOLERANCE:
            raise BundleError(f"the golden rows are answered {worst:.3g} away from the export; expected {TOLERANCE:g}")
        return worst


def difference(
    said: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], units: Sequence[float] | None = None
) -> float:
    """How far answers are from those wanted: the greatest difference, of large numbers as a share of them.

    `units` [outputs]: what counts as 1, the standard deviations of regression targets; probabilities have none.

    Infinite where a count of learners differs, or a number is infinite or not a number in one of them only. A class
    at the very edge of a prediction set may fall on either side of it; sets are not compared.
    """
    worst = 0.0
    for name, expected in wanted.items():
        got = said[name]
        if got.shape != expected.shape or (name == "num_learners" and (got != expected).any()):
            return math.inf
        if name in {"sets", "num_learners"}:
            continue
        finite = np.isfinite(expected)
        if (np.isfinite(got) != finite).any() or (got[~finite] != expected[~finite]).any():
            return math.inf
        unit = np.asarray(units) if units is not None and expected.ndim == 2 else 1.0
        gap = np.abs(np.where(finite, got, 0.0) - np.where(finite, expected, 0.0))
        worst = max(worst, float((gap / np.maximum(unit, np.abs(np.where(finite, expected, 0.0)))).max(initial=0.0)))
    return worst


def _verify(folder: Path, sha256: str | None) -> None:
    manifest = folder / "checksums.json"
    try:
        text = manifest.read_bytes()
        expected: dict[str, str] = json.loads(text)
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} holds no bundle: {error}") from None
    if sha256 is not None and hashlib.sha256(text).hexdigest() != sha256.lower():
        raise BundleError(f"{manifest} is not the one that was expected ({sha256[:12]}…); fetch the bundle again")
    for name, digest in expected.items():
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise BundleError(f"{manifest} names {name}, which is outside the bundle; fetch the bundle again")
        try:
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError:
            raise BundleError(f"{file} is missing; fetch the bundle again") from None
        if found != digest:
            raise BundleError(f"{file} was changed after the export; fetch the bundle again")


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a csv, tsv or jsonl file."""
    if path.suffix.lower() == ".jsonl":
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def _answer_file(bundle: Bundle, path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() != ".npz":
        if path.suffix.lower() not in {".csv", ".tsv", ".jsonl"}:
            raise BundleError(f"{path} is no csv, tsv, jsonl or npz file")
        return bundle.predict_rows(_read(path))
    with np.load(path, allow_pickle=False) as file:
        return bundle.readable(bundle.predict({name: file[name] for name in file.files}))


def main() -> int:
    """The command line; 0, or 2 with one line where something has to be mended."""
    parser = argparse.ArgumentParser(description="Predict with this bundle.")
    parser.add_argument("input", nargs="?", type=Path, help="csv, tsv, jsonl or npz; whole modalities may be absent")
    parser.add_argument("--output", type=Path, help="write the predictions as csv here instead of to stdout")
    parser.add_argument("--check", action="store_true", help="verify every file and answer the golden rows")
    parser.add_argument("--sha256", help="that checksums.json must have")
    given = parser.parse_args()
    if given.input is None and not given.check:
        parser.error("give a file of rows, or --check")
    try:
        bundle = Bundle(sha256=given.sha256)
        if given.check:
            print(f"{len(bundle.description['modalities'])} modalities; golden rows within {bundle.check():.2g}")
        if given.input is not None:
            rows = _answer_file(bundle, given.input)
            with given.output.open("w", encoding="utf-8", newline="") if given.output else _Stdout() as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    except (BundleError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class _Stdout:
    """Standard output as a file that stays open."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *exception: object) -> None:
        return None


if __name__ == "__main__":
    raise SystemExit(main())
