"""What the ensemble is compared with: plain models out of scikit-learn, and AutoGluon in a process of its own.

Every rival sees the raw samples of the training split, and is asked for predictions of raw samples of which some
modalities may be hidden. Numbers that are missing are set to the training mean; a text that is missing is empty. A late
fusion asks only the models whose modality is there.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from training_core.schema import DataSpec, ModalitySpec, Samples

Predict = Callable[[Samples], np.ndarray]
"""Raw samples to predictions as `Predictions.values`."""


@dataclass(frozen=True)
class Rival:
    """A trained rival."""

    name: str
    predict: Predict
    note: str = ""


class Columns:
    """One modality as a matrix, learned on training rows."""

    def __init__(self, spec: ModalitySpec, samples: Samples) -> None:
        self._spec = spec
        values = self._raw(samples)
        if spec.kind == "text":
            self._parts: list[Any] = [TfidfVectorizer(min_df=2, ngram_range=(1, 2), sublinear_tf=True).fit(values)]
            return
        scaled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
        self._coded = [i for i, column in enumerate(spec.columns) if column.categories is not None]
        self._numeric = [i for i in range(values.shape[1]) if i not in self._coded]
        self._parts = [scaled.fit(values[:, self._numeric])] if self._numeric else []
        if self._coded:
            self._parts.append(OneHotEncoder(handle_unknown="ignore").fit(values[:, self._coded]))

    def matrix(self, samples: Samples) -> sparse.csr_matrix:
        """[N, columns]."""
        values = self._raw(samples)
        if self._spec.kind == "text":
            return sparse.csr_matrix(self._parts[0].transform(values))
        made = []
        if self._numeric:
            made.append(sparse.csr_matrix(self._parts[0].transform(values[:, self._numeric])))
        if self._coded:
            made.append(self._parts[-1].transform(values[:, self._coded]))
        return sparse.csr_matrix(sparse.hstack(made))

    def _raw(self, samples: Samples) -> np.ndarray:
        return blanked(self._spec, samples)


def blanked(spec: ModalitySpec, samples: Samples) -> np.ndarray:
    """Raw values of a modality, flat: NaN, or an empty text, where it is not available."""
    there, values = samples.available[spec.name], samples.inputs[spec.name]
    if spec.kind == "text":
        return np.where(there, values, "").astype(object)
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    return np.where(there[:, None], flat, np.nan)


def train_rivals(spec: DataSpec, train: Samples, seed: int) -> list[Rival]:
    """Majority, best single modality, best single learner (both chosen without the test), early and late fusion."""
    columns = {modality.name: Columns(modality, train) for modality in spec.modalities}
    target = _target(spec, train)
    linear: Any = LogisticRegression(max_iter=2000) if spec.task.kind == "classification" else Ridge(3.0)
    trees: Any = (
        ExtraTreesClassifier(200, random_state=seed)
        if spec.task.kind == "classification"
        else ExtraTreesRegressor(100, random_state=seed, min_samples_leaf=2)
    )

    def matrix(samples: Samples, names: Sequence[str]) -> sparse.csr_matrix:
        return sparse.csr_matrix(sparse.hstack([columns[name].matrix(samples) for name in names]))

    def learned(model: Any, names: Sequence[str]) -> tuple[float, Predict]:
        """Its score in 3-fold cross-validation on the training rows that have a modality, and how it predicts."""
        rows = np.flatnonzero(np.any([train.available[name] for name in names], axis=0))
        inputs = matrix(train.take(rows), names)
        quality = float(np.mean(cross_val_score(clone(model), inputs, target[rows], cv=3)))
        fitted = clone(model).fit(inputs, target[rows])
        return quality, lambda samples: _answer(spec, fitted, matrix(samples, names))

    single = {name: learned(linear, [name]) for name in spec.names}
    early = learned(linear, spec.names)
    forest = learned(trees, spec.names)
    best = max(single, key=lambda name: single[name][0])
    everyone = {**{f"linear on {name}": found for name, found in single.items()}, "linear": early, "trees": forest}
    winner = max(everyone, key=lambda name: everyone[name][0])
    prior = _prior(spec, target)
    models = {name: predict for name, (_, predict) in single.items()}
    return [
        Rival("majority", lambda samples: np.tile(prior, (len(samples), 1))),
        Rival("best single modality", models[best], best),
        Rival("best single learner", everyone[winner][1], winner),
        Rival("early fusion, linear", early[1]),
        Rival("late fusion, mean", _late(models, prior, product=False)),
        Rival("late fusion, product", _late(models, prior, product=True)),
    ]


def _late(models: Mapping[str, Predict], prior: np.ndarray, product: bool) -> Predict:
    """The mean, or the normalised product, of what the models of the available modalities say."""

    def predict(samples: Samples) -> np.ndarray:
        votes = np.stack([models[name](samples) for name in models])
        there = np.stack([samples.available[name] for name in models])[..., None]
        number = np.maximum(there.sum(axis=0), 1)
        if product and len(prior) > 1 and np.isclose(prior.sum(), 1):
            logs = np.where(there, np.log(np.clip(votes, 1e-9, 1)), 0.0).sum(axis=0)
            raised = np.exp(logs - logs.max(axis=1, keepdims=True))
            found = raised / raised.sum(axis=1, keepdims=True)
        else:
            found = np.where(there, votes, 0.0).sum(axis=0) / number
        return np.where(there.any(axis=0), found, prior)

    return predict


def _target(spec: DataSpec, samples: Samples) -> np.ndarray:
    assert samples.target is not None
    return samples.target[:, 0] if spec.task.kind == "regression" else samples.target


def _prior(spec: DataSpec, target: np.ndarray) -> np.ndarray:
    if spec.task.kind == "regression":
        return np.array([target.mean()])
    return np.bincount(target, minlength=spec.task.num_outputs) / len(target)


def _answer(spec: DataSpec, model: Any, inputs: sparse.csr_matrix) -> np.ndarray:
    if spec.task.kind == "regression":
        return np.asarray(model.predict(inputs)).reshape(-1, 1)
    answer = np.zeros((inputs.shape[0], spec.task.num_outputs))
    answer[:, model.classes_] = model.predict_proba(inputs)
    return answer


def flat_frame(spec: DataSpec, samples: Samples) -> pd.DataFrame:
    """All modalities side by side, as a tool for one table is given them."""
    columns: dict[str, Any] = {}
    for modality in spec.modalities:
        values = blanked(modality, samples)
        if modality.kind == "text":
            columns[modality.name] = pd.Series(np.where(values == "", None, values), dtype=object)
            continue
        for i in range(values.shape[1]):
            categories = modality.columns[i].categories if modality.columns else None
            column = values[:, i].astype(np.float32)
            if categories is not None:
                known = [None if np.isnan(code) else f"category {int(code)}" for code in column]
                columns[f"{modality.name}_{i}"] = pd.Series(known, dtype=object)
            else:
                columns[f"{modality.name}_{i}"] = column
    return pd.DataFrame(columns)


def train_autogluon(
    python: Path, preset: str, seconds: float, spec: DataSpec, train: Samples, asked: Sequence[Samples], folder: Path
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Let the Python of another environment train AutoGluon and predict every one of `asked`.

    Returns:
        The predictions, and what it says of itself: `cpu_seconds`, `seconds`, `error` when it gave no predictor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = flat_frame(spec, train)
    table["__target__"] = _target(spec, train)
    table.to_parquet(folder / "train.parquet")
    for number, samples in enumerate(asked):
        flat_frame(spec, samples).to_parquet(folder / f"asked_{number:03d}.parquet")
    order = {"preset": preset, "seconds": seconds, "kind": spec.task.kind, "num_outputs": spec.task.num_outputs}
    (folder / "order.json").write_text(json.dumps({**order, "num_asked": len(asked)}))
    started = time.monotonic()
    worker = Path(__file__).with_name("autogluon_worker.py")
    done = subprocess.run([str(python), str(worker), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [], {"error": last, "seconds": time.monotonic() - started}
    answers = [np.load(folder / f"answer_{number:03d}.npy") for number in range(len(asked))]
    return answers, json.loads((folder / "told.json").read_text())
