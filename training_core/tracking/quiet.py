"""Silence for libraries that talk: their log lines and warnings are held back while one of our calls runs."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = ("mlflow", "alembic", "sqlalchemy", "urllib3", "git")
_turn = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what the libraries behind tracking log and warn; what they raise is not affected.

    One thread at a time: the levels belong to the whole process, and two threads that each restored what they found
    would leave the loggers silent for good. Levels and warning filters are put back as they were.
    """
    with _turn:
        loggers = [logging.getLogger(name) for name in _TALKATIVE]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            with warnings.catch_warnings(record=True):  # filters would not do: MLflow sets its own before it warns
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
