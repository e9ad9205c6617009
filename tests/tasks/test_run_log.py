"""A run whose worker was killed: nobody reads its log any more, and it goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.catalogue import RUN_SETTINGS

_UNREAD = """
import logging, os, sys, threading
from pathlib import Path
from prefect.logging.configuration import setup_logging

setup_logging()
reading, writing = os.pipe()
os.dup2(writing, 2)
os.close(reading)

def train():
    for number in range(3):
        logging.getLogger("prefect.runs").warning("nobody reads this")
    Path(sys.argv[1]).write_text("trained")

thread = threading.Thread(target=train)
thread.start()
thread.join(60)
"""


@pytest.mark.parametrize("deployed", [True, False])
def test_a_line_that_nobody_reads_does_not_end_who_logs_it(tmp_path: Path, deployed: bool) -> None:
    """It does with Prefect's own handler: when that has changed, ours is not needed any more."""
    outcome = tmp_path / "outcome"
    environment = {**os.environ, **(RUN_SETTINGS if deployed else {})}
    subprocess.run([sys.executable, "-c", _UNREAD, str(outcome)], env=environment, timeout=300, check=True)
    assert outcome.exists() == deployed
