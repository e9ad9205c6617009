"""What is asked for in the body of a request, as samples, or refused with one sentence.

Three forms, one of which a body has:

    {"sample": {"photo": [[…]], "meta": {"age": 31, "city": "Bonn"}, "review": "good"}}
    {"samples": [{…}, {…}]}
    {"inputs": {"photo": {"npy": "k05VTVBZ…"}, "meta": {"age": [31, 40], "city": ["Bonn", null]}}}

A modality that is left out or null is missing. Arrays are nested lists, or an .npy file in base64, in which a row of
NaN is missing. Nothing in a body is run as code: .npy files of objects are refused by their header.
"""

import base64
import binascii
import difflib
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from training_core.data.frames import samples_from_arrays
from training_core.errors import DataError
from training_core.schema import DataSpec, ModalitySpec, Samples

FORMS = ("sample", "samples", "inputs")
_TABULAR, _TEXT = "tabular", "text"
_SHOWN_LETTERS = 40
_IN_ARRAYS = {int, float, bool, list}


class RefusedError(DataError):
    """A request that is not answered.

    Attributes:
        status: of the HTTP answer.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def read_request(body: bytes, spec: DataSpec, max_rows: int) -> Samples:
    """The samples that the body of a request holds, raw and without a target.

    Args:
        body: JSON, as the module describes it.
        spec: of the samples.
        max_rows: how many there may be.

    Raises:
        RefusedError: 400 for what is not JSON, 413 for too many rows, 422 for all that does not fit `spec`; the
            message says what was got and expected.
    """
    asked = _parse(body)
    if not isinstance(asked, dict):
        raise RefusedError(f"the body is {_kind(asked)}; expected an object with one of {', '.join(FORMS)}")
    given = [form for form in FORMS if asked.get(form) is not None]
    _refuse_unknown(asked, dict.fromkeys((*FORMS, "ids")), "key")
    if len(given) != 1:
        raise RefusedError(f"the body has {' and '.join(given) or 'none'} of {', '.join(FORMS)}; expected one of them")
    ids = asked.get("ids")
    if given[0] == "inputs":
        inputs = _an_object(asked["inputs"], "inputs")
        _refuse_unknown(inputs, dict.fromkeys(spec.names), "modality")
        num_rows = _num_rows(inputs, spec)
    else:
        rows = [asked["sample"]] if given[0] == "sample" else _a_list(asked["samples"], "samples")
        num_rows = len(rows)
        inputs = {} if num_rows > max_rows else _by_modality(rows, spec)
    _refuse_many(num_rows, max_rows)
    arrays = {
        name: _values(values, spec[name], f"'{name}'")
        for name, values in inputs.items()
        if values is not None  # which is how a missing modality may be written
    }
    num_rows = max([num_rows, *map(len, arrays.values())])
    _refuse_many(num_rows, max_rows)  # of .npy files only now
    try:
        return samples_from_arrays(arrays, spec, None if ids is None else _ids(ids, num_rows), num_rows)
    except DataError as error:
        raise RefusedError(str(error)) from None


def _refuse_many(num_rows: int, max_rows: int) -> None:
    if num_rows > max_rows:
        raise RefusedError(f"there are {num_rows:,} rows; at most {max_rows:,} are answered at once", 413)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise RefusedError("the body is nested too deeply", 400) from None
    except ValueError as error:
        raise RefusedError(f"the body is not JSON: {error}", 400) from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON; write null for what is missing")


def _by_modality(rows: list[Any], spec: DataSpec) -> dict[str, Any]:
    """Samples one by one as values modality by modality; a modality that no sample has is left out."""
    modalities = dict.fromkeys(spec.names)
    for place, row in enumerate(rows):
        _refuse_unknown(_an_object(row, f"sample {place}"), modalities, "modality")
    found: dict[str, Any] = {}
    for modality in spec.modalities:
        own = [row.get(modality.name) for row in rows]
        if all(value is None for value in own):
            continue
        if modality.kind == _TABULAR:
            cells = [{} if value is None else _an_object(value, f"table '{modality.name}'") for value in own]
            names = dict.fromkeys(column.name for column in modality.columns)
            for row in cells:
                _refuse_unknown(row, names, f"column of table '{modality.name}'")
            found[modality.name] = {name: [row.get(name) for row in cells] for name in names}
        else:
            found[modality.name] = own
    return found


def _num_rows(inputs: Mapping[str, Any], spec: DataSpec) -> int:
    """Rows of the longest modality; that they differ is found out later."""
    sizes = [0]
    for name, values in inputs.items():
        if isinstance(values, list):
            sizes.append(len(values))
        elif isinstance(values, dict) and spec[name].kind == _TABULAR:
            sizes += [len(column) for column in values.values() if isinstance(column, list)]
    return max(sizes)


def _values(values: Any, modality: ModalitySpec, what: str) -> Any:
    """One modality's values in the form that `samples_from_arrays` takes."""
    if modality.kind == _TEXT:
        texts = [_text(text, what) for text in _a_list(values, what)]
        made = np.empty(len(texts), object)
        made[:] = texts
        return made
    if modality.kind == _TABULAR:
        return _table(_an_object(values, f"table {what}"), modality)
    if isinstance(values, dict):
        array = _npy(values, what)
        if not array.ndim:
            raise RefusedError(f"{what} is a single number; expected an array of one row for each sample")
        return array
    return _numbers(_a_list(values, what), modality, what)


def _table(columns: Mapping[str, Any], modality: ModalitySpec) -> Any:
    import pandas as pd

    known = dict.fromkeys(column.name for column in modality.columns)
    _refuse_unknown(columns, known, f"column of table '{modality.name}'")
    given = {name: _a_list(cells, f"column '{name}'") for name, cells in columns.items() if cells is not None}
    if len({len(cells) for cells in given.values()}) > 1:
        lengths = ", ".join(f"{name} {len(cells)}" for name, cells in given.items())
        raise RefusedError(f"the columns of table '{modality.name}' differ in length: {lengths}")
    if not given:
        raise RefusedError(f"table '{modality.name}' has no columns; leave it out or write null to have it missing")
    categorical = {column.name: column.categories is not None for column in modality.columns}
    made: dict[str, pd.Series] = {}
    for name, cells in given.items():
        if categorical[name]:
            made[name] = pd.Series([_text(cell, f"column '{name}'", numbers=True) for cell in cells], dtype=object)
        else:
            made[name] = pd.Series([_number(cell, f"column '{name}'") for cell in cells], dtype="float64")
    return pd.DataFrame(made)


def _numbers(rows: list[Any], modality: ModalitySpec, what: str) -> np.ndarray:
    """Rows of an array as float64 [N, …]; a row of NaN where it is missing."""
    present = [place for place, row in enumerate(rows) if row is not None]
    arrays = [_npy(rows[i], f"{what}, row {i}") if isinstance(rows[i], dict) else rows[i] for i in present]
    try:
        usable = all(map(_holds_numbers, arrays))
        values = np.asarray(arrays if usable else [])
        usable = usable and (values.dtype.kind in "biuf" or not present)  # integers too large for any are objects
    except ValueError:  # rows of different shapes
        values, usable = np.empty(0), False
    if not usable:
        for place, row in zip(present, arrays, strict=True):
            _refuse_row(row, modality, f"{what}, row {place}")
        raise RefusedError(f"{what} is not numbers of one shape; expected {_expected(modality)} in every row")
    out = np.full((len(rows), *values.shape[1:]), np.nan) if present else np.full((len(rows), *modality.shape), np.nan)
    out[present] = values if present else np.nan
    return out


def _holds_numbers(row: Any) -> bool:
    """Whether a row is an array, or nested lists with nothing but numbers in them.

    Known before NumPy sees it: one long text among numbers would make every one of them as long.
    """
    if isinstance(row, np.ndarray):
        return True
    waiting = [[row]]
    while waiting:
        cells = waiting.pop()
        kinds = set(map(type, cells))
        if not kinds <= _IN_ARRAYS:
            return False
        if list in kinds:
            waiting.extend(cell for cell in cells if type(cell) is list)
    return True


def _refuse_row(row: Any, modality: ModalitySpec, what: str) -> None:
    """Say what is wrong with one row, if it is this one."""
    numeric = _holds_numbers(row)
    try:
        values = np.asarray(row if numeric else [])
    except ValueError:
        raise RefusedError(f"{what} is ragged; expected {_expected(modality)}") from None
    if not numeric or values.dtype.kind not in "biuf":
        raise RefusedError(
            f"{what} holds something that is no number; expected {_expected(modality)}, or null for the whole row"
        )
    if values.shape != modality.shape:
        raise RefusedError(f"{what} has shape {list(values.shape)}; expected {_expected(modality)}")


def _npy(given: Mapping[str, Any], what: str) -> np.ndarray:
    """The array in `{"npy": base64}`: read by its header, never by what might run code."""
    if set(given) != {"npy"} or not isinstance(given["npy"], str):
        raise RefusedError(f'{what} is an object; expected a list, or {{"npy": "…"}} with an .npy file in base64')
    try:
        raw = base64.b64decode(given["npy"], validate=True)
        file = io.BytesIO(raw)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except (binascii.Error, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise RefusedError(f"{what} is no .npy file in base64: {str(error).splitlines()[0][:120]}") from None
    if dtype.kind not in "biuf":
        raise RefusedError(f"{what} holds {dtype}; expected numbers")
    rest = memoryview(raw)[file.tell() :]
    if math.prod(shape) * dtype.itemsize != len(rest) or min(shape, default=0) < 0:
        raise RefusedError(f"{what} says it is {dtype} {list(shape)}, which {len(rest):,} bytes are not")
    if not len(rest):
        raise RefusedError(f"{what} is empty, {list(shape)}")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran_order else "C")


def _ids(given: Any, num_rows: int) -> np.ndarray:
    ids = _a_list(given, "ids")
    if wrong := [one for one in ids if isinstance(one, bool) or not isinstance(one, str | int)]:
        raise RefusedError(f"ids hold {_shown(wrong[0])}; expected texts or whole numbers")
    if len(ids) != num_rows:
        raise RefusedError(f"there are {len(ids)} ids; expected one for each of {num_rows} rows")
    return np.array([_text(one, "ids", numbers=True) for one in ids], dtype=object)


def _text(cell: Any, what: str, numbers: bool = False) -> str | int | float | None:
    """A cell that may be looked at as text; `numbers` are texts, too, where categories may be.

    Raises:
        RefusedError: it is something else, or holds half of a character.
    """
    if cell is None or (numbers and isinstance(cell, int | float) and not _is_endless(cell)):
        return cell
    if not isinstance(cell, str):
        raise RefusedError(f"{what} holds {_shown(cell)}; expected text or null")
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"{what} holds half of a character (a lone surrogate); send whole ones") from None
    return cell


def _number(cell: Any, what: str) -> float:
    """A cell as a number, NaN where it is missing; texts that stand for one are refused, since JSON has numbers."""
    if cell is None:
        return math.nan
    if not isinstance(cell, int | float):
        raise RefusedError(f"{what} holds {_shown(cell)}; expected a number or null")
    if _is_endless(cell):
        raise RefusedError(f"{what} is infinite, or greater than a number can be; correct it or write null")
    return float(cell)


def _is_endless(number: float) -> bool:
    try:
        return math.isinf(float(number))
    except OverflowError:
        return True


def _refuse_unknown(given: Iterable[str], known: Mapping[str, None], what: str) -> None:
    """Refuse a name that is none of `known`: an ordered set, made once for all that is held against it."""
    for name in given:
        if name not in known:
            names = list(known)
            near = difflib.get_close_matches(name[:_SHOWN_LETTERS], names, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise RefusedError(f"{_shown(name)} is no {what}; expected some of {', '.join(names[:8])}{rest}{hint}")


def _an_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(f"{what} is {_kind(value)}; expected an object")
    return value


def _a_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RefusedError(f"{what} is {_kind(value)}; expected a list with a value for each row")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    """A value as it may stand in a message: short, on one line."""
    if isinstance(value, dict | list):
        return _kind(value)
    text = repr(value)
    return text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 1]}…"


def _expected(modality: ModalitySpec) -> str:
    return f"numbers of shape {list(modality.shape)}"
