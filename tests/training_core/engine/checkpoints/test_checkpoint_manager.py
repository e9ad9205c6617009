"""Checkpoints are whole or not there, the right ones are kept, and the newest good one is found."""

import logging
import math
import os
import resource
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training_core.engine.checkpoints.environment import Environment
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.errors import ConfigError, StorageError


def state(value: float, size: int = 4) -> dict[str, Any]:
    return {"model": {"w": torch.full((size,), value)}, "update": {"optimizer": {"m": torch.zeros(size)}}}


def save(manager: CheckpointManager, epoch: int, loss: float | None = None) -> str:
    metrics = {} if loss is None else {"validation/loss": loss}
    return manager.save_checkpoint(state(float(epoch)), epoch, metrics, step=10 * epoch).name


def value_of(snapshot: Mapping[str, Any] | None) -> float:
    assert snapshot is not None
    return float(snapshot["model"]["w"][0])


def epochs_kept(manager: CheckpointManager) -> list[int]:
    return [kept.epoch for kept in manager.checkpoints()]


def damage(folder: Path, how: str) -> None:
    file = folder / "state.pt"
    match how:
        case "cut off":
            os.truncate(file, file.stat().st_size // 2)
        case "empty":
            os.truncate(file, 0)
        case "a flipped bit":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "no state":
            file.unlink()
        case "no checksums":
            (folder / "checksums.json").unlink()
        case "odd checksums":
            (folder / "checksums.json").write_text("[]")
        case "changed metadata":
            metadata = folder / "metadata.json"
            metadata.write_text(metadata.read_text().replace('"epoch":2', '"epoch":9'))
        case "an added file":
            (folder / "extra.pt").write_bytes(b"")
        case _:
            raise AssertionError(how)


def test_what_was_saved_is_told_and_read_back(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    saved = manager.save_checkpoint(
        state(1.0), 3, {"validation/loss": 0.5, "training/loss": 0.7}, {"why": "a test"}, step=30
    )
    folder = Path(saved.path)
    assert sorted(file.name for file in folder.iterdir()) == ["checksums.json", "metadata.json", "state.pt"]
    assert (saved.epoch, saved.step, saved.is_best) == (3, 30, True)
    assert saved.size_bytes == (folder / "state.pt").stat().st_size
    assert saved.optimizer_state_bytes == 16
    assert saved.notes == {"why": "a test"}
    assert saved.timestamp.endswith("+00:00")
    again = CheckpointManager(tmp_path / "new")
    assert again.checkpoints() == [saved]
    assert value_of(again.latest()) == 1.0
    assert value_of(again.load_checkpoint()) == 1.0
    assert value_of(again.load_checkpoint(saved.path)) == 1.0


def test_parts_are_asked_for_their_state_and_take_it_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    manager = CheckpointManager(tmp_path)
    saved = manager.save_checkpoint({"model": net, "optimizer": optimizer}, 1, {})
    assert saved.optimizer_state_bytes == 2 * (6 + 2) * 4 + 2 * 4  # both moments, and a step count per parameter
    other = nn.Linear(3, 2)
    other_optimizer = torch.optim.Adam(other.parameters())
    manager.load_checkpoint(model=other, optimizer=other_optimizer)
    assert torch.equal(other.weight, net.weight)
    assert str(other_optimizer.state_dict()) == str(optimizer.state_dict())
    with pytest.raises(StorageError, match="no part 'scheduler'; it has model, optimizer"):
        manager.load_checkpoint(scheduler=optimizer)


def test_the_best_and_the_newest_are_kept(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_best_k=2, keep_last_n=2)
    for epoch, loss in enumerate([0.3, 0.1, 0.5, 0.1, 0.9, 0.8, float("nan"), None], start=1):
        save(manager, epoch, loss)
    assert epochs_kept(manager) == [2, 4, 7, 8]
    assert epochs_kept(CheckpointManager(tmp_path)) == [2, 4, 7, 8]
    best = manager.get_best_checkpoint()
    assert best is not None
    assert value_of(manager.load_checkpoint(best)) == 2.0  # of equals the earlier


def test_higher_can_be_better(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_best_k=1, keep_last_n=1, monitor="accuracy", mode="max")
    is_best = [manager.save_checkpoint(state(e), e, {"accuracy": a}).is_best for e, a in ((1, 0.5), (2, 0.9), (3, 0.7))]
    assert is_best == [True, True, False]
    assert epochs_kept(manager) == [2, 3]


def test_a_new_training_in_the_same_directory_is_newer_whatever_its_epoch(tmp_path: Path) -> None:
    save(CheckpointManager(tmp_path), 9)
    save(CheckpointManager(tmp_path), 1)
    assert value_of(CheckpointManager(tmp_path).latest()) == 1.0


def test_nothing_to_go_on_from_is_not_an_error_unless_it_is_asked_for(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "none")
    assert manager.latest() is None
    assert manager.get_best_checkpoint() is None
    assert manager.history().empty
    with pytest.raises(StorageError, match="no checkpoint that can be used"):
        manager.load_checkpoint()
    with pytest.raises(StorageError, match="not there"):
        manager.load_checkpoint(tmp_path / "none" / "x")


@pytest.mark.parametrize(
    "how",
    ["cut off", "empty", "a flipped bit", "no state", "no checksums", "odd checksums", "changed metadata",
     "an added file"],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1, 0.5)
    torn = save(manager, 2, 0.4)
    damage(tmp_path / torn, how)
    with pytest.raises(StorageError, match=torn):
        CheckpointManager(tmp_path).load_checkpoint(tmp_path / torn)
    again = CheckpointManager(tmp_path, keep_last_n=1, keep_best_k=0)
    with caplog.at_level(logging.WARNING):
        assert value_of(again.latest()) == 1.0
    assert torn in caplog.text
    assert epochs_kept(again) == [1]
    assert save(again, 3).startswith("00000003-")  # its number is not given twice
    assert epochs_kept(again) == [3]


def test_when_all_are_damaged_training_starts_anew(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for epoch in (1, 2):
        damage(tmp_path / save(manager, epoch), "cut off")
    assert manager.latest() is None


def test_the_best_that_is_damaged_is_not_the_best(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    good, torn = save(manager, 1, 0.5), save(manager, 2, 0.1)
    damage(tmp_path / torn, "a flipped bit")
    assert manager.get_best_checkpoint() == tmp_path / good


def test_history_tells_of_those_that_are_gone_and_survives_a_torn_line(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_best_k=1, keep_last_n=1)
    for epoch, loss in ((1, 0.62), (2, 0.42)):
        save(manager, epoch, loss)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('\n{"name":"00000003-ep')
    save(manager, 3, 0.51)
    frame = manager.get_checkpoint_history()
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["validation/loss"].tolist() == [0.62, 0.42, 0.51]
    assert frame["is_best"].tolist() == [False, True, False]
    assert frame["kept"].tolist() == [False, True, True]
    (tmp_path / "history.jsonl").unlink()
    assert manager.history()["epoch"].tolist() == [2, 3]


def test_metrics_that_are_not_finite_are_told_and_never_the_best(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for epoch, loss in enumerate((math.nan, -math.inf, 0.5), start=1):
        save(manager, epoch, loss)
    frame = CheckpointManager(tmp_path).get_checkpoint_history()
    assert frame["validation/loss"].tolist() == pytest.approx([math.nan, -math.inf, 0.5], nan_ok=True)
    assert frame["is_best"].tolist() == [False, False, True]


def test_a_full_disk_leaves_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    before = sorted(tmp_path.rglob("*"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            manager.save_checkpoint(state(2.0, size=100_000), 2, {})
        except StorageError as error:
            code = 0 if "no space left" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert value_of(manager.latest()) == 1.0


def test_a_state_that_is_not_plain_leaves_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    with pytest.raises(StorageError, match=r"hooks\[0\] is a builtins.object"):
        manager.save_checkpoint({"hooks": [object()]}, 2, {})
    assert epochs_kept(manager) == [1]


def test_two_processes_on_one_directory_lose_nothing(tmp_path: Path) -> None:
    """Four processes save at once while this one loads: all find whole checkpoints, and no two numbers clash."""
    save(CheckpointManager(tmp_path, keep_last_n=3, keep_best_k=1), 1, 1.0)
    children: list[int] = []
    for worker in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                manager = CheckpointManager(tmp_path, keep_last_n=3, keep_best_k=1)
                for turn in range(6):
                    manager.save_checkpoint(state(float(worker)), turn + 1, {"validation/loss": 2.0 + turn})
                    assert manager.latest() is not None
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    reader = CheckpointManager(tmp_path, keep_last_n=3, keep_best_k=1)
    for _ in range(20):
        assert reader.latest() is not None
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len(reader.checkpoints()) == 4  # three newest and the best
    assert not list(tmp_path.glob(".*damaged*")) + list(tmp_path.glob(".unfinished*"))
    assert len(reader.history()) == 25
    assert [int(name) for name in reader.history()["path"].str.extract(r"/(\d+)-epoch")[0]] == list(range(1, 26))


def test_a_directory_that_may_only_be_read_can_be_read(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    damage(tmp_path / save(manager, 2), "cut off")
    tmp_path.chmod(0o555)
    try:
        assert value_of(CheckpointManager(tmp_path).latest()) == 1.0
    finally:
        tmp_path.chmod(0o755)


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep_last_n is 0; it must be at least 1"):
        CheckpointManager(tmp_path, keep_last_n=0)
    with pytest.raises(ConfigError, match="keep_best_k is -1"):
        CheckpointManager(tmp_path, keep_best_k=-1)
    with pytest.raises(ConfigError, match="save_interval_epochs is 0"):
        CheckpointManager(tmp_path, save_interval_epochs=0)
    with pytest.raises(ConfigError, match="mode is 'lowest'"):
        CheckpointManager(tmp_path, mode="lowest")  # pyright: ignore[reportArgumentType]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    def manager(**training: object) -> CheckpointManager:
        settings = {"training": {"lr": 0.1, "stages": (), **training}}
        return CheckpointManager(tmp_path, environment=Environment.here(config=settings))

    save(manager(), 1)
    assert value_of(manager().latest()) == 1.0
    assert value_of(CheckpointManager(tmp_path).latest()) == 1.0
    with pytest.raises(ConfigError, match=r"training\.lr was 0\.1 and is 0\.2"):
        manager(lr=0.2).latest()
    with pytest.raises(ConfigError, match=r"training\.epochs was 'not set' and is 3"):
        manager(epochs=3).load_checkpoint()


def test_another_environment_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = Environment.here(code="a")
    there = here.model_copy(update={"torch_version": "1.0", "num_threads": here.num_threads + 1, "code": "b"})
    save(CheckpointManager(tmp_path, environment=there), 1)
    with caplog.at_level(logging.WARNING):
        assert value_of(CheckpointManager(tmp_path, environment=here).latest()) == 1.0
    assert "not bit-exact" in caplog.text
    for name in ("torch_version was 1.0", "num_threads was", "code was b and is a"):
        assert name in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        CheckpointManager(tmp_path, environment=there.model_copy(update={"code": ""})).latest()
    assert not caplog.text


@pytest.mark.parametrize("where", ["a folder", "memory"])
def test_a_mirror_brings_back_what_is_lost_here(tmp_path: Path, where: str) -> None:
    url = str(tmp_path / "mirror") if where == "a folder" else f"memory://{tmp_path.name}"
    manager = CheckpointManager(tmp_path / "here", keep_best_k=1, keep_last_n=2, mirror=url)
    names = [save(manager, epoch, loss) for epoch, loss in ((1, 0.1), (2, 0.5), (3, 0.4), (4, 0.3))]
    manager.flush()
    elsewhere = CheckpointManager(tmp_path / "there", keep_best_k=1, keep_last_n=2, mirror=url)
    assert value_of(elsewhere.latest()) == 4.0
    assert epochs_kept(elsewhere) == [4]
    save(elsewhere, 5, 0.2)
    elsewhere.flush()
    assert elsewhere._mirror is not None
    assert [int(name[:8]) for name in elsewhere._mirror.names()] == [1, 4, 5]  # the best of all, though not here
    damage(tmp_path / "here" / names[-1], "cut off")
    assert value_of(CheckpointManager(tmp_path / "here", mirror=url).latest()) == 5.0


def test_a_damaged_checkpoint_is_mended_from_the_mirror(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "here", mirror=str(tmp_path / "mirror"))
    for epoch in (1, 2):
        torn = save(manager, epoch)
    manager.flush()
    damage(tmp_path / "here" / torn, "a flipped bit")
    assert value_of(CheckpointManager(tmp_path / "here", mirror=str(tmp_path / "mirror")).latest()) == 2.0


def test_a_damaged_mirror_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = CheckpointManager(tmp_path / "here", mirror=str(tmp_path / "mirror"))
    names = [save(manager, epoch) for epoch in (1, 2)]
    manager.flush()
    damage(tmp_path / "mirror" / names[1], "a flipped bit")
    (tmp_path / "mirror" / names[0] / "checksums.json").write_text('{"../../outside": "0"}')
    with caplog.at_level(logging.WARNING):
        assert CheckpointManager(tmp_path / "empty", mirror=str(tmp_path / "mirror")).latest() is None
    assert "is changed" in caplog.text
    assert "../../outside" in caplog.text


def test_a_mirror_that_fails_warns_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "occupied").write_text("a file, where a folder is needed")
    manager = CheckpointManager(tmp_path / "here", mirror=str(tmp_path / "occupied" / "mirror"))
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2, 3):
            save(manager, epoch)
        manager.flush()
        assert value_of(manager.latest()) == 3.0
    assert caplog.text.count("cannot take a checkpoint") == 1
    unknown = CheckpointManager(tmp_path / "other", mirror="noprotocol://x")
    save(unknown, 1)
    unknown.flush()
    assert value_of(unknown.latest()) == 1.0


def test_a_mirror_that_hangs_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path / "here", mirror=str(tmp_path / "mirror"))
    assert manager._mirror is not None
    release = threading.Event()
    monkeypatch.setattr(manager._mirror, "_copy", lambda folder: release.wait())
    save(manager, 1)
    save(manager, 2)
    with caplog.at_level(logging.WARNING):
        manager.flush(0.05)
    release.set()
    manager.flush()
    assert "still behind" in caplog.text


def test_a_checkpoint_that_is_removed_while_it_is_copied_leaves_no_part_at_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path / "here", mirror=str(tmp_path / "mirror"))
    mirror = manager._mirror
    assert mirror is not None
    files, _ = mirror._opened()
    put = files.put_file

    def put_late(source: str, target: str) -> None:
        if source.endswith("state.pt"):
            shutil.rmtree(Path(source).parent)
        put(source, target)

    monkeypatch.setattr(files, "put_file", put_late)
    save(manager, 1)
    manager.flush()
    assert not list((tmp_path / "mirror").iterdir())
    assert not mirror._warned
