"""The file of a state: what goes in comes out, its checksum is its own, and a full disk leaves nothing behind."""

import os
import resource
import signal
import zlib
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training_core.engine.checkpoints.files import read_state, write_state
from training_core.engine.checkpoints.state import PlainState
from training_core.errors import StorageError


def plain(state: object) -> Any:
    return PlainState(own=False).of(state)


def test_a_state_reads_back_as_it_was_written(tmp_path: Path) -> None:
    state = {
        "weights": OrderedDict(a=torch.randn(3, 4), b=torch.arange(5)),
        "half": torch.randn(7).to(torch.bfloat16),
        "plain": [None, True, 3, -0.1, "text", (1, 2.5), {"nested": {1: "one"}}],
        "nothing": torch.empty(0, 3),
    }
    write_state(tmp_path / "state.pt", plain(state))
    read = read_state(tmp_path / "state.pt")
    assert read["plain"] == state["plain"]
    assert torch.equal(read["weights"]["a"], state["weights"]["a"])
    assert torch.equal(read["half"], state["half"])
    assert read["half"].dtype == torch.bfloat16
    assert read["nothing"].shape == (0, 3)


@pytest.mark.parametrize("num_values", [1, 300_000, 9_000_000])
def test_the_checksum_is_that_of_the_file(tmp_path: Path, num_values: int) -> None:
    file = tmp_path / "state.pt"
    written = write_state(file, {"many": torch.randn(num_values), "few": torch.randn(5)})
    assert written.num_bytes == file.stat().st_size
    assert written.checksum == f"crc32:{zlib.crc32(file.read_bytes()):08x}"


def test_torch_s_own_checksums_are_on_again_afterwards(tmp_path: Path) -> None:
    write_state(tmp_path / "state.pt", {"x": torch.ones(2)})
    assert torch.serialization.get_crc32_options()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(0.5), "numpy.float64"),
        (np.ones(2), "numpy.ndarray"),
        (datetime(2026, 1, 1), "datetime.datetime"),
        (Path("x"), "PosixPath"),
        (lambda: None, "function"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place(value: object, kind: str) -> None:
    with pytest.raises(StorageError, match=rf"hooks\[1\]\.when is a .*{kind}"):
        plain({"hooks": [{}, {"when": value}]})
    with pytest.raises(StorageError, match="has the key"):
        plain({"hooks": {("a", "b"): 1}})


def test_a_piece_of_a_large_tensor_does_not_bring_all_of_it_along(tmp_path: Path) -> None:
    large = torch.randn(1_000_000)
    assert write_state(tmp_path / "state.pt", plain({"piece": large[:10]})).num_bytes < 10_000


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    for own in (False, True):
        tied = torch.randn(100_000)
        file = tmp_path / f"{own}.pt"
        assert write_state(file, PlainState(own=own).of({"in": tied, "out": tied})).num_bytes < 600_000
        read = read_state(file)
        assert read["in"].data_ptr() == read["out"].data_ptr()


def test_a_module_s_state_keeps_the_versions_of_its_parts(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    write_state(tmp_path / "state.pt", plain({"model": net.state_dict()}))
    read = read_state(tmp_path / "state.pt")["model"]
    assert read._metadata == dict(net.state_dict()._metadata)  # pyright: ignore[reportAttributeAccessIssue]
    net.load_state_dict(read)


def test_owned_copies_do_not_change_with_training_and_use_their_memory_again() -> None:
    copies = PlainState(own=True)
    live = {"a.b": torch.zeros(4), "a": {"b": torch.ones(4)}}  # two places that could be spelt alike
    first = copies.of(live)
    live["a.b"].fill_(7.0)  # pyright: ignore[reportAttributeAccessIssue]
    assert first["a.b"].tolist() == [0.0] * 4
    assert first["a"]["b"].tolist() == [1.0] * 4
    second = copies.of(live)
    assert second["a.b"].data_ptr() == first["a.b"].data_ptr()
    assert second["a.b"].tolist() == [7.0] * 4
    grown: dict[str, Tensor] = {"a.b": torch.full((6,), 2.0)}
    assert copies.of(grown)["a.b"].tolist() == [2.0] * 6


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    """In a child that may not write files of more than 1 MB: the kernel says so as it says that a disk is full."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            write_state(tmp_path / "state.pt", {"x": torch.zeros(1_000_000)})
        except StorageError as error:
            code = 0 if "no space left" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
