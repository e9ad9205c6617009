"""Snapshots of which every rank writes its own part, for models that no rank could hold as a whole.

A snapshot is a directory: the shared-out tensors as torch's distributed checkpoint (DCP) writes them, everything else
in one file, and the SHA-256 of every file. DCP reads its own table of contents by unpickling it, which runs code, so no
file is opened before its digest was compared; give `load_parts` the digest from where snapshots are recorded, for a
digest that lies beside a file protects from damage only, not from people.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training_core.artifacts import (
    ArtifactRef,
    finish_directory,
    open_published,
    unfinished_directory,
    verify_published,
)
from training_core.engine.checkpoints.files import read_state, write_state
from training_core.engine.distributed.ranks import Ranks
from training_core.engine.loop import Snapshot
from training_core.errors import StorageError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_PART = "shared-out tensor"
_REST = "rest.pt"
_PARTS = "parts"


def save_parts(folder: Path, snapshot: Snapshot, ranks: Ranks) -> ArtifactRef:
    """Write a snapshot, of which every rank has its part, as the new directory `folder`. All ranks together.

    Args:
        folder: on a disk that all ranks see; it appears when all is written.
        snapshot: as `fit_across_ranks` gives it to `save` when it does not gather.
        ranks: who writes.

    Returns:
        The directory, with the digest to keep.

    Raises:
        StorageError: it is there already, the disk is full or the place cannot be written.
    """
    parts: dict[str, Tensor] = {}
    rest = _without_parts(snapshot, "", parts)
    ranks.agree("what is shared out", ", ".join(sorted(parts)), StorageError)
    if ranks.yes_of_first(folder.exists()):
        raise StorageError(f"{folder} is there already; give every snapshot a directory of its own")
    if not ranks.writes:
        _write_parts(Path(ranks.texts_of_all("")[0]), parts, ranks)
        ranks.wait()
        return ArtifactRef.model_validate_json(ranks.texts_of_all("")[0])
    with unfinished_directory(folder.parent, folder.name) as unfinished:
        ranks.texts_of_all(str(unfinished.resolve()))
        write_state(unfinished / _REST, rest)
        _write_parts(unfinished, parts, ranks)
        ranks.wait()  # all have written
        finish_directory(unfinished, folder)  # everything sealed with its SHA-256
    written = open_published(folder)
    ranks.texts_of_all(written.model_dump_json())
    return written


def load_parts(folder: Path, ranks: Ranks, sha256: str | None = None) -> Snapshot:
    """The snapshot in `folder`, every rank with its part of it, for any number of ranks. All ranks together.

    Args:
        folder: written by `save_parts`.
        ranks: who reads.
        sha256: the digest that `save_parts` returned; None trusts whoever can write to `folder`.

    Returns:
        For `resume` of `fit_across_ranks` under zero2 or zero3; alone, an ordinary snapshot.

    Raises:
        StorageError: a file is missing, or is not what was written. On all ranks.
    """
    problem: str | None = None
    if ranks.writes:
        try:
            found = open_published(folder)
            verify_published(found if sha256 is None else ArtifactRef(uri=found.uri, sha256=sha256))
        except StorageError as error:
            problem = str(error)
    if (problem := ranks.first_of_all(problem)) is not None:
        raise StorageError(problem)
    rest = read_state(folder / _REST)
    parts: dict[str, Tensor] = {}
    mesh = None if ranks.alone else _mesh(ranks)
    snapshot = _with_parts(rest, parts, mesh)
    if parts:
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        load(parts, storage_reader=FileSystemReader(folder / _PARTS), no_dist=ranks.alone)
    return snapshot


def _write_parts(folder: Path, parts: dict[str, Tensor], ranks: Ranks) -> None:
    """Every rank writes its own files. All ranks together."""
    if parts:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        save(parts, storage_writer=FileSystemWriter(folder / _PARTS), no_dist=ranks.alone)


def _without_parts(value: Any, path: str, parts: dict[str, Tensor]) -> Any:
    """The state with every shared-out tensor moved to `parts` and described in its place."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        parts[path] = value.detach()
        return {_PART: path, "shape": list(value.shape), "dtype": value.dtype}
    if isinstance(value, Mapping):
        return {key: _without_parts(one, f"{path}/{key}", parts) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_parts(one, f"{path}/{number}", parts) for number, one in enumerate(value))
    return value


def _with_parts(value: Any, parts: dict[str, Tensor], mesh: "DeviceMesh | None") -> Any:
    """The state with room for every shared-out tensor, which `parts` lists; in one piece without a mesh."""
    if isinstance(value, Mapping) and _PART in value:
        shape, dtype = value["shape"], value["dtype"]
        if mesh is None:
            room = torch.zeros(shape, dtype=dtype)
        else:
            from torch.distributed.tensor import Shard, zeros

            room = zeros(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])  # as `fully_shard` shares out
        parts[value[_PART]] = room
        return room
    if isinstance(value, Mapping):
        return {key: _with_parts(one, parts, mesh) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_parts(one, parts, mesh) for one in value)
    return value


def _mesh(ranks: Ranks) -> "DeviceMesh":
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(ranks.device.partition(":")[0], (ranks.world_size,))
