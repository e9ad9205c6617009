"""Which stream a learner's rows come from: the fastest that memory allows, decided from sizes, never from a setting.

1. On the device, when the encoded rows take no more than half of a GPU's free memory.
2. In memory, when they take no more than a quarter of what is available: a job shares a machine with others.
3. Memory-mapped, when the disk has room for them and half of the machine's memory would hold them: the system then
   keeps them in its page cache.
4. Chunk-shuffled from the data set's own files, whatever their size.

The first three shuffle exactly and alike, so what is free at the moment does not change what is learned; whether rows
are shuffled exactly or in chunks depends on the size of the machine's memory, which is the same when a job is repeated.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from training_core.artifacts import unfinished_directory
from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.chunked import RING_BYTES, ChunkStream
from training_core.data.streams.encoded import encode_to_disk, encode_to_memory, encoded_bytes
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import RowSource, View
from training_core.errors import StorageError
from training_core.quantities import format_bytes

_OF_DEVICE = 0.5
_OF_MEMORY = 0.25
_OF_MACHINE = 0.5
_OF_DISK = 0.9
_CGROUP = Path("/sys/fs/cgroup")


def open_stream(
    source: RowSource,
    preprocessor: Preprocessor,
    batching: Batching,
    device: str | torch.device = "cpu",
    *,
    weight: np.ndarray | None = None,
    memory_bytes: int | None = None,
    folder: Path | None = None,
) -> EpochStream:
    """The fastest stream of the rows of `source` that memory allows; its `describe` says which and why.

    Args:
        source: raw rows.
        preprocessor: fitted; its modalities are those of the batches.
        batching: how rows are cut into batches.
        device: where batches are handed out.
        weight: weight of each row, float [N].
        memory_bytes: take this for the memory there is and that is free, on the device too, instead of asking the
            system.
        folder: where memory-mapped files are made, and gone again when the stream is; by default that of the data set
            (that of the system may be in memory), or the system's for rows that are of none.

    Raises:
        DataError: there would be no batch.
        StorageError: rows cannot be read, or there is neither memory nor disk for them.
    """
    device = torch.device(device)
    needed = encoded_bytes(preprocessor, len(source))
    size = format_bytes(needed)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] if memory_bytes is None else memory_bytes
        if needed <= _OF_DEVICE * free:
            place = f"on {device} ({size}; half of the free {format_bytes(free)} may be used)"
            return DeviceStream(encode_to_memory(source, preprocessor, device, weight), batching, place=place)
    available = available_memory() if memory_bytes is None else memory_bytes
    have = format_bytes(available)
    if needed <= _OF_MEMORY * available:
        place = f"in memory ({size}; a quarter of the available {have} may be used)"
        return DeviceStream(encode_to_memory(source, preprocessor, weight=weight), batching, device, place)
    total = total_memory() if memory_bytes is None else memory_bytes
    if folder is None:
        folder = source.dataset.path.parent if isinstance(source, View) else Path(tempfile.gettempdir())
    disk = shutil.disk_usage(folder).free
    in_chunks = isinstance(source, View) and any(m.kind not in {"tabular", "text"} for m in source.spec.modalities)
    fits_disk = needed <= _OF_DISK * disk
    if fits_disk and (needed <= _OF_MACHINE * total or not in_chunks):
        with unfinished_directory(folder, "encoded") as inside:
            # Mapped files live on without their names, and are gone with the process whatever ends it.
            data = encode_to_disk(source, preprocessor, inside, weight)
        place = f"in memory-mapped files ({size}; more than a quarter of the available {have} of memory)"
        return DeviceStream(data, batching, device, place)
    if not in_chunks:
        raise StorageError(
            f"{size} of encoded rows fit neither into memory ({have} available) nor on the disk of {folder} "
            f"({format_bytes(disk)} free); make room there"
        )
    reason = f"half of the memory of {format_bytes(total)}" if fits_disk else f"the disk of {folder} has room for"
    ring_bytes = min(RING_BYTES, int(_OF_MEMORY * total))
    place = f"read from disk in chunks (encoded they take {size}, more than {reason})"
    return ChunkStream(source, preprocessor, batching, device, weight=weight, ring_bytes=ring_bytes, place=place)


def available_memory() -> int:
    """Bytes that this process can still use without anything being swapped out or killed.

    What the kernel calls available, or less where a container's limit is nearer.
    """
    known = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        known += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
            stats = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
            # Pages of files that were not used of late are counted as used, but are given back when asked for.
            known.append(int(limit) - used + int(stats.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass
    return max(0, min(known)) if known else total_memory() // 2


def total_memory() -> int:
    """Bytes of memory this machine, or the container this process is in, has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical
