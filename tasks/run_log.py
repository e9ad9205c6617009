"""The log of a deployed run that its worker keeps, beside the one that the Prefect server has."""

import logging
from contextlib import suppress

from prefect.logging.handlers import PrefectConsoleHandler


class WorkersLog(PrefectConsoleHandler):
    """Writes to the worker's log, and no more once the worker was killed: the run itself goes on.

    Rich, which writes for Prefect, ends whichever thread happens to log when nobody reads any more.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if anybody reads it."""
        with suppress(SystemExit):
            super().emit(record)
