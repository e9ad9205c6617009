"""Whether the workers of a cluster can train for a run is found out before it begins."""

import platform
from collections.abc import Mapping
from pathlib import Path

import pytest

from training_core.campaigns import workers
from training_core.campaigns.workers import Ask, Sight, check_workers, look
from training_core.errors import ConfigError, StorageError

HERE = platform.node()


def answering(*sights: Sight | BaseException) -> Ask:
    """Workers that share the store, except for what they say themselves."""

    def ask(mark: str, token: str) -> Mapping[str, Sight | BaseException]:
        look(mark, token)
        return {f"tcp://{index}": sight for index, sight in enumerate(sights)}

    return ask


@pytest.fixture
def sight(tmp_path: Path) -> Sight:
    (tmp_path / "driver").write_text("token")
    return look(str(tmp_path), "token")


def test_workers_that_share_everything_may_train(tmp_path: Path, sight: Sight) -> None:
    assert sight.problem == ""
    kind = check_workers(lambda mark, token: {"a": look(mark, token), "b": look(mark, token)}, tmp_path)
    assert kind == sight.device
    assert check_workers(answering(sight.model_copy(update={"device": "cuda"})), tmp_path) == "cuda"
    assert list((tmp_path / "probes").iterdir()) == [], "nothing is left behind"


def test_a_worker_that_does_not_see_the_store_is_named_with_this_host(tmp_path: Path) -> None:
    elsewhere = look(str(tmp_path / "not mounted"), "token").model_copy(update={"host": "gpu-7"})
    with pytest.raises(ConfigError, match=rf"not shared: what {HERE} wrote there, gpu-7 cannot use \(No such file"):
        check_workers(answering(elsewhere), tmp_path)


def test_a_worker_whose_own_store_it_is_is_found_out(
    tmp_path: Path, sight: Sight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_PATIENCE_SECONDS", 0.0)
    other = sight.model_copy(update={"host": "gpu-7"})
    with pytest.raises(ConfigError, match=rf"what gpu-7 wrote there, {HERE} does not see"):
        check_workers(answering(other), tmp_path)


def test_other_code_other_devices_no_answer_and_no_workers_are_refused(tmp_path: Path, sight: Sight) -> None:
    with pytest.raises(ConfigError, match="runs another Polychoir"):
        check_workers(answering(sight.model_copy(update={"core": "0" * 64})), tmp_path)
    with pytest.raises(ConfigError, match=r"has a GPU and .* has none"):
        check_workers(answering(*(sight.model_copy(update={"device": kind}) for kind in ("cpu", "cuda"))), tmp_path)
    with pytest.raises(ConfigError, match=r"tcp://0 cannot train for .*No module named"):
        check_workers(answering(ModuleNotFoundError("No module named 'training_core'")), tmp_path)
    with pytest.raises(ConfigError, match="no workers"):
        check_workers(answering(), tmp_path)


def test_a_store_that_cannot_be_written_is_the_stores_fault(tmp_path: Path) -> None:
    (tmp_path / "probes").write_text("a file in the way")
    with pytest.raises(StorageError, match="probes"):
        check_workers(answering(), tmp_path)
