"""The model that answers now: it follows its name to a new version, and is never without one.

The old model answers until the new one is read, checked and has answered a test of its own. A version that fails is
reported and tried again later, ever more rarely; the old one goes on.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training_core.errors import PolychoirError, StorageError
from training_core.schema import DataSpec, Samples
from training_core.selection.ensemble import Ensemble

LOGGER = logging.getLogger(__name__)
_LONGEST_PAUSE_SECONDS = 600.0


class ModelSource(Protocol):
    """Where a model comes from."""

    def newest(self) -> str:
        """What the model's name stands for now: a version's URI, or a folder. Asked often, so it reads no model.

        Raises:
            PolychoirError: nobody can say.
        """
        ...

    def load(self, uri: str) -> Ensemble:
        """The model of one version, its files compared with their checksums.

        Raises:
            PolychoirError: it is not there, or damaged.
        """
        ...


@dataclass(frozen=True)
class Served:
    """A model that answers."""

    uri: str
    ensemble: Ensemble
    since: float
    """When it began to answer, in seconds since the epoch."""


class CurrentModel:
    """Which model answers; changed by `refresh` alone, and read by any thread at any time."""

    def __init__(self, source: ModelSource) -> None:
        """Load the model that `source` names now.

        Raises:
            PolychoirError: it cannot be loaded, or fails its test.
        """
        self._source = source
        uri = source.newest()
        self._served = Served(uri, _loaded(source, uri), time.time())
        self._failed = ""
        self._failures = 0
        self._next_try = 0.0
        self._problem: str | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.num_changes = 0
        self.num_failures = 0

    @property
    def now(self) -> Served:
        """The model that answers; to be read once per request."""
        return self._served

    @property
    def problem(self) -> str | None:
        """Why the model that answers is not the one its name stands for; None: it is."""
        return self._problem

    def refresh(self) -> bool:
        """Look up what the name stands for now, and change to it.

        Returns:
            Whether another model answers from now on.
        """
        try:
            uri = self._source.newest()
        except Exception as error:  # whatever it is, the next look is not to be missed
            self._note(f"it is not known which version is to answer: {_told(error)}")
            return False
        if uri == self._served.uri:
            self._problem, self._failed, self._failures = None, "", 0
            return False
        if uri == self._failed and time.monotonic() < self._next_try:
            return False
        if uri != self._failed:
            self._failures = 0
        try:
            served = Served(uri, _loaded(self._source, uri), time.time())
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            self._failed, self._failures = uri, self._failures + 1
            self._next_try = time.monotonic() + min(10.0 * 2.0**self._failures, _LONGEST_PAUSE_SECONDS)
            self.num_failures += 1
            self._note(f"{uri} cannot be served: {_told(error)}")
            return False
        LOGGER.info("%s answers from now on, in place of %s", served.uri, self._served.uri)
        self._served, self._problem, self._failed, self._failures = served, None, "", 0
        self.num_changes += 1
        return True

    def follow(self, seconds: float) -> None:
        """Refresh every so many seconds, in a thread of its own, until `stop`."""

        def watch() -> None:
            while not self._stopped.wait(seconds):
                self.refresh()

        self._thread = threading.Thread(target=watch, name="follow-model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `follow` began; a model that is being read is not waited for."""
        self._stopped.set()

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            LOGGER.warning("%s; %s goes on answering", problem, self._served.uri)
        self._problem = problem


def check_answers(ensemble: Ensemble) -> None:
    """Read every learner and ask it something: all modalities there, each alone, and none.

    Raises:
        StorageError: a learner does not read back, or those that have a say say nothing that is a number.
    """
    for name in ensemble.kept:
        ensemble.learner(name)
    names = ensemble.spec.names
    predictions = ensemble.predict(_blank_samples(ensemble.spec))
    patterns = [frozenset(names), *(frozenset({name}) for name in names)]  # of all rows but the last
    silent = [bool(ensemble.rule(pattern).weights) for pattern in patterns] & (predictions.num_learners[:-1] == 0)
    if silent.any() or not np.isfinite(predictions.values).all():
        raise StorageError(f"the learners of {ensemble.name} answer with numbers that are none; train it again")


def _told(error: Exception) -> str:
    """What may be told of an error: of one that is not ours only its name, since /health shows it."""
    return str(error) if isinstance(error, PolychoirError) else type(error).__name__


def _loaded(source: ModelSource, uri: str) -> Ensemble:
    ensemble = source.load(uri)
    check_answers(ensemble)
    return ensemble


def _blank_samples(spec: DataSpec) -> Samples:
    """A row with everything, one for each modality alone, and one with nothing; of zeros, first categories, a word."""
    num_rows = len(spec.names) + 2
    inputs: dict[str, np.ndarray] = {}
    available: dict[str, np.ndarray] = {}
    for place, modality in enumerate(spec.modalities, start=1):
        if modality.kind == "text":
            inputs[modality.name] = np.array(["word"] * num_rows, dtype=object)
        else:
            kind = np.float64 if modality.kind == "tabular" else np.float32
            inputs[modality.name] = np.zeros((num_rows, *modality.shape), kind)
        available[modality.name] = np.isin(np.arange(num_rows), (0, place))
    return Samples(inputs=inputs, available=available, ids=np.array([str(i) for i in range(num_rows)], dtype=object))
