"""Which process a run belongs to, and whether that process still lives: how abandoned runs are recognised."""

import os
import platform
from collections.abc import Mapping

PID, HOST, BORN = "polychoir.pid", "polychoir.host", "polychoir.process_started"


def process_tags() -> dict[str, str]:
    """Tags that identify this process. A pid alone would be given to another process one day."""
    import psutil

    return {PID: str(os.getpid()), HOST: platform.node(), BORN: f"{psutil.Process().create_time():.2f}"}


def is_abandoned(tags: Mapping[str, str]) -> bool:
    """Whether the tags name a process of this machine that has ended. Other machines' runs are never judged."""
    import psutil

    if tags.get(HOST) != platform.node() or not tags.get(PID, "").isdigit():
        return False
    try:
        born = psutil.Process(int(tags[PID])).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return abs(born - float(tags.get(BORN, born))) > 1
