"""Ensembles as scikit-learn estimators: one matrix or table in, its columns dealt out to modalities.

The fitted ensemble is kept in memory as the bytes of its files, so that an estimator can be copied and sent around by
whatever means; no folder outlives the call of `fit`.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from training_core.campaigns.fitted import FittedEnsemble
from training_core.campaigns.run_config import RunConfig
from training_core.errors import ConfigError
from training_core.schema import TaskKind

if TYPE_CHECKING:
    import pandas as pd

Columns = slice | Sequence[int] | Sequence[str]
"""Columns of X: a slice of positions, positions, or names of a data frame's columns."""

_FEWEST_ROWS = 2
_ACCEPTED = ("blank_rows", "conflicting_targets", "dead_features", "label_leakage", "repeated_rows", "shared_content")
"""Findings about data that would stop a preparation: an estimator takes what it is given."""


_OWN: Mapping[str, str] = {
    "seed": "an estimator is given its seed as `random_state`",
    "preset": "an estimator has a parameter `preset` of its own",
    "budget": "an estimator has a parameter `budget` of its own",
    "dataset": "an estimator's data are what `fit` is given",
    "executor": "an estimator trains in processes of this machine, as many as `n_jobs`",
    "cluster": "an estimator trains in processes of this machine, as many as `n_jobs`",
    "trackers": "an estimator records nothing; use `fit_ensemble` or the command line for a run that is tracked",
}
"""Fields of `RunConfig` that are no settings of an estimator, and what is in their place."""


class _PolychoirEstimator(BaseEstimator):
    """What the classifier and the regressor share.

    Parameters are stored as they are given and looked at in `fit`, as scikit-learn wants it.
    """

    _task: TaskKind

    def __init__(
        self,
        modalities: Mapping[str, Columns] | None = None,
        preset: str = "tiny",
        budget: float | Mapping[str, Any] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.modalities = modalities
        self.preset = preset
        self.budget = budget
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.settings = settings

    def _fit(self, X: np.ndarray, y: np.ndarray, task: TaskKind) -> None:
        """Train on checked data and keep the ensemble as bytes."""
        from training_core.campaigns.library import fit_ensemble

        settings = dict(self.settings or {})
        if taken := [name for name in _OWN if name in settings]:
            raise ConfigError(f"got `{taken[0]}` in `settings`; {_OWN[taken[0]]}")
        self._parts = _parts(self.modalities, X.shape[1], getattr(self, "feature_names_in_", None))
        limits = {"seconds": self.budget} if isinstance(self.budget, int | float) else dict(self.budget or {})
        processes = self.n_jobs not in (None, 1)
        if processes and self.n_jobs is not None and self.n_jobs > 0:
            limits = {"workers": self.n_jobs, **limits}
        elif not processes:
            limits = {"workers": 1, **limits}
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        run = RunConfig.load(dataset="estimator", preset=self.preset, seed=seed, budget=limits, trackers=(), **settings)
        with tempfile.TemporaryDirectory(prefix="polychoir-") as folder:
            ensemble = fit_ensemble(
                self._tables(X),
                folder,
                target=y,
                task=task,
                processes=processes,
                source={"quality": {"accept": _ACCEPTED}},
                **run.model_dump(exclude={"dataset"}, exclude_unset=True),
            )
            self.ensemble_files_ = {
                path.relative_to(ensemble.folder).as_posix(): path.read_bytes()
                for path in ensemble.folder.rglob("*")
                if path.is_file()
            }
            self._loaded: FittedEnsemble | None = _in_memory(ensemble)

    def _ensemble(self) -> FittedEnsemble:
        """The ensemble, its learners in memory."""
        if getattr(self, "_loaded", None) is None:
            with _unpacked(self.ensemble_files_) as folder:
                self._loaded = _in_memory(FittedEnsemble(folder))
        assert self._loaded is not None
        return self._loaded

    def _tables(self, X: np.ndarray) -> "dict[str, pd.DataFrame]":
        """A table per modality, of its columns: a table may have absent cells."""
        import pandas as pd

        return {
            name: pd.DataFrame(X[:, columns], columns=[f"column {i}" for i in columns])
            for name, columns in self._parts.items()
        }

    def _inputs(self, X: Any) -> "dict[str, pd.DataFrame]":
        """Checked rows, dealt out to the modalities."""
        checked = np.asarray(validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan"))
        return self._tables(checked)

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_loaded"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class PolychoirClassifier(ClassifierMixin, _PolychoirEstimator):
    """A multimodal ensemble for classification.

    Args:
        modalities: which columns of X belong to which modality, such as {"left": slice(0, 8), "right": slice(8, 16)};
            by default all are one. NaN in all columns of a modality: the row lacks it. NaN in some: absent cells.
        preset: tiny, quick, balanced or best.
        budget: seconds that `fit` may take, or settings such as {"learners": 8}.
        n_jobs: processes that train; None or 1: in this process.
        random_state: a seed, or a generator, for everything random.
        settings: further fields of `RunConfig`, such as {"training": {"epochs": 20}}; those that have a parameter here,
            or mean nothing here, are refused by `fit`.

    Attributes:
        classes_: the classes, sorted.
        n_features_in_: columns of X.
        ensemble_files_: the fitted ensemble, as the bytes of its files by name.
    """

    _task = "classification"

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X [N, columns] and classes y [N]."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) == 1:  # nothing to learn
            self._parts, self.ensemble_files_ = _parts(self.modalities, X.shape[1], None), {}
            return self
        rows = _enough_of_each(codes)
        self._fit(X[rows], codes[rows], "classification")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float64 [N, C], in the order of `classes_`."""
        check_is_fitted(self)
        inputs = self._inputs(X)
        if not self.ensemble_files_:
            return np.ones((len(next(iter(inputs.values()))), 1))
        ensemble = self._ensemble()
        found = ensemble.predict_proba(inputs)
        return found[:, np.argsort([int(name) for name in ensemble.task.classes])]

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row [N]."""
        probabilities = self.predict_proba(X)
        return self.classes_[np.argmax(probabilities, axis=1)]


class PolychoirRegressor(RegressorMixin, _PolychoirEstimator):
    """A multimodal ensemble for regression; takes what `PolychoirClassifier` takes.

    Attributes:
        n_features_in_: columns of X.
        ensemble_files_: the fitted ensemble, as the bytes of its files by name.
    """

    _task = "regression"

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X [N, columns] and numbers y [N] or [N, K]."""
        X, y = validate_data(
            self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2, multi_output=True,
            y_numeric=True,
        )  # fmt: skip
        self._fit(X, np.asarray(y, np.float64), "regression")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values float64 [N] or [N, K]."""
        check_is_fitted(self)
        inputs = self._inputs(X)
        return np.asarray(self._ensemble().predict(inputs).labels)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _parts(
    modalities: Mapping[str, Columns] | None, num_columns: int, names: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The positions of each modality's columns, int64.

    Raises:
        ConfigError: a column is not there, or a modality has none.
    """
    if modalities is None:
        return {"all": np.arange(num_columns)}
    found: dict[str, np.ndarray] = {}
    for name, columns in modalities.items():
        if isinstance(columns, slice):
            positions = np.arange(num_columns)[columns]
        elif all(isinstance(column, str) for column in columns):
            known = [] if names is None else list(names)
            if unknown := [column for column in columns if column not in known]:
                have = ", ".join(map(str, known[:8])) or "no names: it is no data frame"
                raise ConfigError(f"modality '{name}' names column '{unknown[0]}'; X has {have}")
            positions = np.array([known.index(column) for column in columns], np.int64)
        else:
            positions = np.asarray(columns, np.int64)
        if not len(positions) or positions.min() < 0 or positions.max() >= num_columns:
            raise ConfigError(f"modality '{name}' has columns {columns!r}; X has {num_columns}")
        found[name] = positions
    return found


def _enough_of_each(codes: np.ndarray) -> np.ndarray:
    """Positions of all rows; those of a class with a single row twice, so that bags can be drawn by class."""
    counts = np.bincount(codes)
    lonely = np.flatnonzero(np.isin(codes, np.flatnonzero(counts < _FEWEST_ROWS)))
    return np.concatenate([np.arange(len(codes)), lonely])


def _in_memory(ensemble: FittedEnsemble) -> FittedEnsemble:
    """The same ensemble with every learner read, so that its folder is not needed any more."""
    for member in ensemble.members:
        ensemble.learner(member.name)
    return ensemble


@contextmanager
def _unpacked(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder with these files, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="polychoir-") as place:
        for name, content in files.items():
            path = Path(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(place)
