"""What a bundle is given, as the tensors its model takes: arrays, tables, texts, the cells of a file."""

import itertools
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

ABSENT_NUMBERS = {"", "na", "n/a", "nan", "null", "none"}
NUM_BUCKETS = 2**15
MAX_TOKENS = 128
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_WORD = re.compile(r"(?u)\b\w+\b")
_SPACES = re.compile(r"\s\s+")


class BundleError(Exception):
    """A file of the bundle, or an input, is not what it has to be; the message says what was expected."""


@dataclass(frozen=True)
class Held:
    """Rows as they are given to the model, block by block: per modality an array or texts, and a mask [N, M]."""

    values: dict[str, Any]
    available: np.ndarray


class BundleInputs:
    """Rows in, tensors out.

    Attributes:
        modalities: by name, as `bundle.json` describes them.
    """

    def __init__(self, description: Mapping[str, Any], pieces: Mapping[str, Sequence[str]]) -> None:
        """Take what `bundle.json` and `vocabulary.json` say."""
        self.modalities: dict[str, dict[str, Any]] = {m["name"]: m for m in description["modalities"]}
        self._wanted: list[dict[str, Any]] = description["inputs"]
        self._numbers = {key: {piece: i for i, piece in enumerate(own, start=1)} for key, own in pieces.items()}

    def hold(self, arrays: Mapping[str, Any], available: Iterable[str] | Mapping[str, Any] | None = None) -> Held:
        """See `inference.Bundle.predict`.

        Raises:
            BundleError: an array is not of the expected form.
        """
        values, masks = self._read(arrays)
        if available is not None:
            named = (available,) if isinstance(available, str) else available
            masked = isinstance(named, Mapping)  # where a mask is given, what is not named is left as it is
            shown = dict(named) if masked else dict.fromkeys(named, True)
            if unknown := [name for name in shown if name not in self.modalities]:
                raise BundleError(f"'{unknown[0]}' is no modality; expected some of {', '.join(self.modalities)}")
            masks = {name: mask & np.asarray(shown.get(name, masked), dtype=bool) for name, mask in masks.items()}
        return Held(values, np.stack(list(masks.values()), axis=1))

    def feed(self, held: Held, rows: slice) -> dict[str, np.ndarray]:
        """The tensors of some rows, by the names of the model's inputs."""
        tensors = {"available": held.available[rows]}
        for wanted in self._wanted:
            name, own = wanted["name"], held.values[wanted["modality"]][rows]
            if wanted["holds"] == "values":
                tensors[name] = own
            elif wanted["holds"] == "tokens":
                tensors[name] = token_ids(own, wanted["shape"][0])
            elif wanted["holds"] == "term_ids":
                key = f"{wanted['modality']}.{wanted['analyzer']}"
                tensors[name], tensors[f"{key}.counts"] = terms_of(own, wanted["analyzer"], self._numbers[key])
        return tensors

    def _read(self, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Every modality's values and mask; what is not given is missing in every row."""
        given = {name: values for name, values in arrays.items() if values is not None}
        if unknown := [name for name in given if name not in self.modalities]:
            raise BundleError(f"'{unknown[0]}' is no modality; expected some of {', '.join(self.modalities)}")
        lengths = {name: num_rows_of(name, values) for name, values in given.items()}
        if not lengths or min(lengths.values()) == 0:
            raise BundleError(f"there are no rows of any modality; expected some of {', '.join(self.modalities)}")
        if len(set(lengths.values())) > 1:
            raise BundleError(f"modalities differ in length: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
        num = next(iter(lengths.values()))
        values: dict[str, Any] = {}
        masks: dict[str, np.ndarray] = {}
        for name, modality in self.modalities.items():
            if modality["kind"] == "text":
                texts = [None] * num if name not in given else [text_of(text) for text in given[name]]
                masks[name] = np.array([text is not None for text in texts])
                values[name] = [text or "" for text in texts]
            elif modality["kind"] == "tabular":
                values[name] = table_of(modality, given.get(name, {}), num)
                masks[name] = ~np.isnan(values[name]).all(axis=1)
            else:
                values[name], masks[name] = array_of(modality, given.get(name), num)
        return values, masks


def num_rows_of(name: str, values: Any) -> int:
    """Rows of a modality, given as an array or as columns."""
    if isinstance(values, Mapping):
        sizes = {len(column) for column in values.values()}
        if len(sizes) != 1:
            raise BundleError(f"the columns of '{name}' differ in length: {sorted(sizes)}")
        return sizes.pop()
    return len(values)


def array_of(modality: Mapping[str, Any], given: Any, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as float32 and the rows that are there; absent rows are 0."""
    name, shape = modality["name"], tuple(modality["shape"])
    if given is None:
        return np.zeros((num, *shape), np.float32), np.zeros(num, bool)
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BundleError(f"modality '{name}' is not numbers: {error}") from None
    allowed = [shape, shape[1:]] if modality["kind"] == "image" and shape[0] == 1 else [shape]
    if numbers.shape[1:] not in allowed:
        raise BundleError(f"modality '{name}' has shape {list(numbers.shape)}, expected [N, {listed(shape)}]")
    numbers = numbers.reshape(num, *shape)
    flat = numbers.reshape(num, -1)
    absent = np.isnan(flat)
    if np.isinf(flat).any():
        raise BundleError(f"modality '{name}' is infinite in row {int(np.flatnonzero(np.isinf(flat).any(axis=1))[0])}")
    available = np.asarray(~absent.all(axis=1))
    if (absent.any(axis=1) & available).any():
        row = int(np.flatnonzero(absent.any(axis=1) & available)[0])
        raise BundleError(f"modality '{name}' is partly empty in row {row}; fill it in, or empty the whole row")
    numbers[~available] = 0.0
    return numbers, available


def table_of(modality: Mapping[str, Any], given: Any, num: int) -> np.ndarray:
    """Numbers, and categories as their positions, float64 [N, columns]; NaN for absent cells and unknown categories."""
    columns: list[dict[str, Any]] = modality["columns"]
    if not isinstance(given, Mapping):
        cells = np.asarray(given) if isinstance(given, np.ndarray) else np.asarray(given, dtype=object)
        if cells.ndim != 2 or cells.shape[1] != len(columns):
            shape = list(cells.shape)
            raise BundleError(f"table '{modality['name']}' has shape {shape}, expected [N, {len(columns)}]")
        given = {column["name"]: cells[:, i] for i, column in enumerate(columns)}
    known = {column["name"] for column in columns}
    if unknown := [name for name in given if name not in known]:
        raise BundleError(f"table '{modality['name']}' has no column '{unknown[0]}'; it has {listed(sorted(known))}")
    out = np.full((num, len(columns)), np.nan)
    for i, column in enumerate(columns):
        cells = given.get(column["name"])
        if cells is None:
            continue
        if column["categories"] is None:
            out[:, i] = [number_of(cell, column["name"]) for cell in cells]
        else:
            codes = {category: float(code) for code, category in enumerate(column["categories"])}
            out[:, i] = [codes.get(text_of(cell) or "", math.nan) for cell in cells]
    return out


def number_of(cell: Any, column: str) -> float:
    """A cell as a number, NaN where it is absent."""
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        word = cell.strip().lower()
        if word in ABSENT_NUMBERS:
            return math.nan
        cell = {"true": "1", "false": "0"}.get(word, word)
    try:
        number = float(cell)
    except (TypeError, ValueError):
        raise BundleError(
            f"column '{column}': {str(cell)[:60]!r} is not a number; correct it or leave it empty"
        ) from None
    if math.isinf(number):
        raise BundleError(f"column '{column}' is infinite; replace it or leave it empty")
    return number


def text_of(cell: Any) -> str | None:
    """A cell as text, None where it is absent; whole numbers without a decimal point."""
    if cell is None or (isinstance(cell, float | np.floating) and math.isnan(cell)):
        return None
    if isinstance(cell, float | np.floating) and math.isfinite(cell) and cell == int(cell):
        cell = int(cell)
    text = str(cell)
    return text if text.strip() else None


def joined(cells: Iterable[Any]) -> str:
    """The texts of several cells as one, absent ones left out."""
    return " ".join(text for text in map(text_of, cells) if text is not None)


def token_ids(texts: Sequence[str], num_tokens: int) -> np.ndarray:
    """Hashed words, then word pairs, then letter triples, int64 [N, num_tokens], padded with 0."""
    out = np.zeros((len(texts), num_tokens), np.int64)
    for row, text in enumerate(texts):
        ids = _hashed(text)[:num_tokens]
        out[row, : len(ids)] = ids
    return out


@lru_cache(maxsize=4096)
def _hashed(text: str) -> tuple[int, ...]:
    words = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())[: 4 * MAX_TOKENS]
    letters = [word.encode("utf-8", "surrogatepass") for word in words]
    ids = dict.fromkeys(_bucket(b"w " + word) for word in letters)
    if len(ids) < MAX_TOKENS:
        ids |= dict.fromkeys(_bucket(b"w " + a + b" " + b) for a, b in itertools.pairwise(letters))
    for word in words:
        if len(ids) >= MAX_TOKENS:
            break
        marked = f"<{word[:MAX_TOKENS]}>"
        triples = (marked[i : i + 3].encode("utf-8", "surrogatepass") for i in range(len(marked) - 2))
        ids |= dict.fromkeys(_bucket(b"c " + triple) for triple in triples)
    return tuple(ids)[:MAX_TOKENS]


def _bucket(piece: bytes) -> int:
    return 1 + zlib.crc32(piece) % NUM_BUCKETS


def terms_of(texts: Sequence[str], analyzer: str, numbers: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the known pieces of each text, int64 [N, K], and how often they occur, float64 [N, K]; else 0."""
    cut = _words if analyzer == "words" else _characters
    found = [Counter(numbers[piece] for piece in cut(text.lower()) if piece in numbers) for text in texts]
    width = max([1, *map(len, found)])
    ids, counts = np.zeros((len(texts), width), np.int64), np.zeros((len(texts), width))
    for row, pieces in enumerate(found):
        for place, (number, count) in enumerate(sorted(pieces.items())):
            ids[row, place], counts[row, place] = number, count
    return ids, counts


def _words(text: str) -> Iterator[str]:
    """Words and pairs of neighbouring words."""
    words = _WORD.findall(text)
    yield from words
    for first, second in itertools.pairwise(words):
        yield f"{first} {second}"


def _characters(text: str) -> Iterator[str]:
    """2 to 5 characters within words, each word with a space on either side."""
    for word in _SPACES.sub(" ", text).split():
        padded = f" {word} "
        for length in range(2, 6):
            if length >= len(padded):  # the whole word, once
                yield padded
                break
            yield from (padded[i : i + length] for i in range(len(padded) - length + 1))


def listed(names: Iterable[Any], limit: int = 8) -> str:
    """Some of many names, for a message."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
