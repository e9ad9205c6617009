"""Batches for training and inference, from memory, memory-mapped files, chunks on disk, or any iterable."""

from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.choice import open_stream
from training_core.data.streams.chunked import ChunkStream
from training_core.data.streams.encoded import OneBatch, encode_to_disk, encode_to_memory, to_batch
from training_core.data.streams.iterable import IterableStream
from training_core.data.streams.resident import DeviceStream

__all__ = [
    "Batching",
    "ChunkStream",
    "DeviceStream",
    "EpochStream",
    "IterableStream",
    "OneBatch",
    "encode_to_disk",
    "encode_to_memory",
    "open_stream",
    "to_batch",
]
