"""Text as numbers without a vocabulary to learn or download: hashed words, word pairs and letter triples."""

import re
import unicodedata
import zlib
from functools import lru_cache
from itertools import pairwise

import numpy as np

NUM_BUCKETS = 2**15
VOCABULARY_SIZE = NUM_BUCKETS + 1
"""Ids are 1 … `NUM_BUCKETS`; 0 is padding."""
MAX_TOKENS = 128
"""Ids kept per text: words come first, so a longer text loses its letter triples, then its word pairs."""

_WORD = re.compile(r"\w+|[^\w\s]+")  # runs of punctuation and emoji are words too: "!!!" and "🙂" carry meaning


def token_ids(texts: np.ndarray, num_tokens: int) -> np.ndarray:
    """The hashed n-grams of texts [N] as int64 ids [N, num_tokens], padded with 0.

    Each n-gram counts once per text. A text's ids are its words, then its pairs of neighbouring words, then the
    letter triples of `<word>` for each word, cut at `num_tokens`. The hash is CRC-32, the same on every machine.
    """
    out = np.zeros((len(texts), num_tokens), np.int64)
    for row, text in enumerate(texts):
        ids = np.frombuffer(_ids(text), np.int32)[:num_tokens]
        out[row, : len(ids)] = ids
    return out


def count_tokens(texts: np.ndarray) -> int:
    """Ids the longest of `texts` has, from 1 to `MAX_TOKENS`."""
    longest = 1
    for text in texts:
        longest = max(longest, len(_ids(text)) // 4)
        if longest == MAX_TOKENS:
            break
    return longest


@lru_cache(maxsize=2**15)
def _ids(text: str) -> bytes:
    """The distinct n-gram ids of one text in order of appearance, at most `MAX_TOKENS`, as int32.

    Remembered (half a kilobyte each), because every learner of an ensemble encodes the same texts.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    words = words[: 4 * MAX_TOKENS]  # later ones get in only where the first hundreds repeat themselves
    hashes = [_word_hash(word) for word in words]
    ids = dict.fromkeys([_bucket(word_hash) for word_hash, _ in hashes])
    if len(ids) < MAX_TOKENS:
        for (first, _), (_, second) in pairwise(hashes):
            ids[_bucket(zlib.crc32(second, first))] = None
    for word in words:
        if len(ids) >= MAX_TOKENS:
            break
        ids.update(dict.fromkeys(_letter_triples(word)))
    return np.fromiter(ids, np.int32, len(ids))[:MAX_TOKENS].tobytes()


@lru_cache(maxsize=2**16)
def _word_hash(word: str) -> tuple[int, bytes]:
    """The hash of a word, and the bytes that extend the hash of the word before it to that of the pair."""
    letters = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(b"w " + letters), b" " + letters


@lru_cache(maxsize=2**16)
def _letter_triples(word: str) -> tuple[int, ...]:
    """The ids of the letter triples of `<word>`; the first `MAX_TOKENS` of them are all that can be used."""
    marked = f"<{word[:MAX_TOKENS]}>"
    return tuple(
        _bucket(zlib.crc32(b"c " + marked[i : i + 3].encode("utf-8", "surrogatepass"))) for i in range(len(marked) - 2)
    )


def _bucket(value: int) -> int:
    return 1 + value % NUM_BUCKETS
