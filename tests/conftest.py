"""What every test needs: one thread, no telemetry, nothing written outside temporary folders."""

import atexit
import os
import shutil
import tempfile

import pytest

_CACHE = tempfile.mkdtemp(
    prefix="polychoir-cache-"
)  # what is remembered of this machine is none of the tests' business
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    XDG_CACHE_HOME=_CACHE,
    NO_PROXY="127.0.0.1,localhost",  # a proxy for the rest of the world has no part in any test
    no_proxy="127.0.0.1,localhost",
)
for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is for nights is slow as well."""
    for item in items:
        if item.get_closest_marker("nightly") and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.slow)
