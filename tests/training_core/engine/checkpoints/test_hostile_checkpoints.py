"""Checkpoints made to do harm, with checksums that match: nothing of them is run, and the one before is used."""

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training_core.engine.checkpoints.files import read_state
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.errors import ConfigError, StorageError


class Bomb:
    """Makes a file when it is unpickled by whoever runs what a pickle says."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.evidence),)


def pickle_bomb(file: Path, evidence: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "hooks": [Bomb(evidence)]}, file)


def old_pickle_bomb(file: Path, evidence: Path) -> None:
    torch.save({"model": Bomb(evidence)}, file, _use_new_zipfile_serialization=False)


def packed(file: Path, evidence: Path) -> None:
    """A gigabyte of zeros, packed into a megabyte."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w") as part:
            for _ in range(64):
                part.write(bytes(1 << 20))


def overlapping(file: Path, evidence: Path) -> None:
    """Entries that share their bytes: more is unpacked than there is."""
    torch.save({"w": torch.zeros(100_000)}, file)
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        start = archive.start_dir
    end = content.index(b"PK\x06\x06", start) if b"PK\x06\x06" in content[start:] else content.rindex(b"PK\x05\x06")
    directory = content[start:end]
    copies = 4
    tail = bytearray(content[content.rindex(b"PK\x05\x06") :])
    count = int.from_bytes(tail[8:10], "little") * copies
    tail[8:10] = tail[10:12] = count.to_bytes(2, "little")
    tail[12:16] = (len(directory) * copies).to_bytes(4, "little")
    tail[16:20] = start.to_bytes(4, "little")
    file.write_bytes(content[:start] + directory * copies + bytes(tail))


def greedy(file: Path, evidence: Path) -> None:
    """Asks for a petabyte through a function that torch allows."""

    class Large:
        def __reduce__(self) -> tuple[Any, ...]:
            return bytearray, (1 << 50,)

    torch.save({"model": Large()}, file)


def deep(file: Path, evidence: Path) -> None:
    """A hundred thousand lists in each other."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")


def not_a_dictionary(file: Path, evidence: Path) -> None:
    torch.save([torch.ones(2)], file)


def text(file: Path, evidence: Path) -> None:
    file.write_text("no archive at all")


ATTACKS = (pickle_bomb, old_pickle_bomb, packed, overlapping, greedy, deep, not_a_dictionary, text)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_state_is_refused_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: Any
) -> None:
    evidence = tmp_path / "harm"
    manager = CheckpointManager(tmp_path / "checkpoints")
    manager.save_checkpoint({"model": {"w": torch.ones(2)}}, 1, {})
    folder = Path(manager.save_checkpoint({"model": {"w": torch.zeros(2)}}, 2, {}).path)
    attack(folder / "state.pt", evidence)
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["state.pt"] = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(StorageError, match=folder.name):
        manager.load_checkpoint(folder)
    snapshot = manager.latest()
    assert snapshot is not None
    assert snapshot["model"]["w"].tolist() == [1.0, 1.0]
    assert folder.name in caplog.text
    assert not evidence.exists()


def test_a_pickle_bomb_is_said_to_be_one(tmp_path: Path) -> None:
    pickle_bomb(tmp_path / "state.pt", tmp_path / "harm")
    with pytest.raises(StorageError, match=r"cannot be read as tensors and plain values .*nothing in it was run"):
        read_state(tmp_path / "state.pt")


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_byte_gets_through(tmp_path: Path, seed: int) -> None:
    manager = CheckpointManager(tmp_path)
    folder = Path(manager.save_checkpoint({"model": {"w": torch.ones(50)}}, 1, {}).path)
    content = (folder / "state.pt").read_bytes()
    places = torch.randint(0, len(content), (30,), generator=torch.Generator().manual_seed(seed)).tolist()
    for place in places:
        torn = bytearray(content)
        torn[place] ^= 0x40
        (folder / "state.pt").write_bytes(torn)
        with pytest.raises(StorageError, match=r"'state\.pt' is changed"):
            manager.load_checkpoint(folder)


def test_a_checkpoint_of_another_net_is_refused_with_what_differs(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "checkpoints")
    net = nn.Linear(3, 2)
    manager.save_checkpoint({"model": net, "optimizer": torch.optim.Adam(net.parameters())}, 1, {})
    wide = nn.Linear(4, 2)
    with pytest.raises(
        ConfigError, match=r"part 'model' does not fit the Linear .*weight is \[2, 3\] there and \[2, 4\]"
    ):
        manager.load_checkpoint(model=wide)
    with pytest.raises(ConfigError, match=r"part 'model' does not fit the Sequential .*Missing key"):
        manager.load_checkpoint(model=nn.Sequential(wide))
    with pytest.raises(ConfigError, match=r"part 'optimizer' does not fit the Adam .*group"):
        manager.load_checkpoint(optimizer=torch.optim.Adam([wide.weight]))
