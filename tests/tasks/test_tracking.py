"""What a run's record holds on to."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import tracking
from training_core.artifacts import unshared
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.run_config import RunConfig
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.jobs import DatasetRef


@pytest.mark.parametrize("fails", [False, True])
def test_the_version_of_a_run_is_in_use_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    values = np.random.default_rng(0).normal(size=(60, 2))
    made = create_dataset_from_arrays("world", {"vec": values}, ["a", "b"] * 30, task="classification", store=tmp_path)
    made.close()
    ref = DatasetRef(root=str(tmp_path / "datasets"), name="world", version=made.version, fingerprint=made.fingerprint)
    ended: list[str] = []
    begun = RecordRef.model_construct(run_id="1", location="here")
    monkeypatch.setattr(tracking, "begin_record", lambda *_: begun)
    monkeypatch.setattr(tracking, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(tracking.recording, "end_record", lambda _, state: ended.append(state))

    def is_free() -> Any:
        with unshared(made.path / "manifest.json") as free:
            return free

    try:
        with tracking.recorded(RunConfig.model_construct(), ref, tmp_path):
            assert not is_free()
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert is_free()
    assert ended == ["FAILED" if fails else "FINISHED"]
