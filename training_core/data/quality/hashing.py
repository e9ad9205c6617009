"""64-bit content hashes, so that equal rows are found without keeping the rows.

A hash depends on the bytes alone: not on the process, the block a row came in, or how many rows there are.
Two different rows get the same hash with a chance of about 2^-64.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

ABSENT = np.uint64(0x9E3779B97F4A7C15)
"""The hash of an absent cell or modality: an arbitrary constant, the same everywhere."""
_PIECE_BYTES = 1 << 20  # rows hashed at a time: the intermediate results stay in the processor's cache


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambled uint64 of the same shape: the finaliser of SplitMix64 (Steele et al. 2014), a bijection."""
    mixed = values.astype(np.uint64, copy=True)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def row_keys(start: int, stop: int) -> np.ndarray:
    """A pseudo-random uint64 for each row number in [start, stop): rows with the smallest form a fixed sample."""
    return mix(np.arange(start, stop, dtype=np.uint64) + ABSENT)


def hash_numbers(values: np.ndarray) -> np.ndarray:
    """Hashes [n] of numbers [n] by their value: 1, 1.0 and True agree; NaN is `ABSENT`."""
    numbers = np.asarray(values, np.float64) + 0.0  # -0.0 becomes 0.0
    hashes = mix(numbers.view(np.uint64))
    hashes[np.isnan(numbers)] = ABSENT
    return hashes


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Hashes [n] of texts."""
    digests = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def hash_rows(values: np.ndarray) -> np.ndarray:
    """Hashes [n] of the rows of an array [n, …], by their bytes."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    row_bytes = flat.shape[1] * flat.dtype.itemsize
    num_words = -(-row_bytes // 8)
    keys = mix(np.arange(1, num_words + 1, dtype=np.uint64) * ABSENT)
    hashes = np.empty(len(flat), np.uint64)
    step = max(1, _PIECE_BYTES // (num_words * 8))
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        if row_bytes % 8:
            words = np.zeros((len(piece), num_words * 8), np.uint8)
            words[:, :row_bytes] = piece.view(np.uint8).reshape(len(piece), row_bytes)
            words = words.view(np.uint64)
        else:
            words = piece.view(np.uint64).reshape(len(piece), num_words)
        # a key per position first, so that the order counts; then high bits into low ones, which a product never moves
        scrambled = words + keys
        scrambled ^= scrambled >> np.uint64(32)
        scrambled *= np.uint64(0xBF58476D1CE4E5B9)
        scrambled ^= scrambled >> np.uint64(29)
        scrambled *= keys | np.uint64(1)
        hashes[start : start + step] = scrambled.sum(axis=1, dtype=np.uint64)
    return mix(hashes)


def combine(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """One hash [n] per row out of several [n] each; their order counts."""
    combined = np.full(len(hashes[0]), ABSENT, np.uint64)
    for part in hashes:
        combined = mix((combined << np.uint64(1) | combined >> np.uint64(63)) + part)
    return combined
