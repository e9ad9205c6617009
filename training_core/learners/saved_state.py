"""The file an estimator is saved in: arrays and plain values in one npz archive, nothing in it ever run as code."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from training_core.config import canonical_json
from training_core.errors import StorageError

MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What making sense of a state may raise when its file was changed."""
_TEXT = "state.json"


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, nested dictionaries of arrays and of what JSON can say; equal states give equal bytes.

    The archive holds `state.json`, in which an array is only named, and the arrays as npy files.
    """
    members: dict[str, bytes] = {}

    def without_arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_arrays(value[name]) for name in sorted(value)}
        if isinstance(value, np.ndarray):
            name = f"{len(members)}.npy"
            npy = io.BytesIO()
            np.lib.format.write_array(npy, value, allow_pickle=False)
            members[name] = npy.getvalue()
            return {"array": name}
        return value

    members[_TEXT] = canonical_json(without_arrays(state)).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            # A ZipInfo says 1980 unless it is told: the bytes do not depend on when they are written. The quickest
            # level makes trees hardly larger than the others.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote. Anything in it may be missing or of another type if the file was changed on purpose.

    Raises:
        StorageError: the file is missing, or damaged.
    """
    arrays: dict[str, np.ndarray] = {}

    def with_arrays(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if set(value) == {"array"} and isinstance(value["array"], str):
            return arrays[value["array"]]
        return {name: with_arrays(inner) for name, inner in value.items()}

    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}  # compared with their checksums
        text = json.loads(members.pop(_TEXT))
        for name, content in members.items():
            arrays[name] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        return with_arrays(text)
    except Exception as error:  # what zipfile, zlib, NumPy and json raise on damaged bytes is not documented
        raise StorageError(f"{path} cannot be read as a saved estimator ({error}); train it again") from error


def read_array(state: dict[str, Any], name: str, dtype: type, *shape: int | None) -> np.ndarray:
    """The array called `name`, which must be of `dtype` and `shape` (None for any length).

    Raises:
        LookupError: there is no such name.
        ValueError: something else is called so.
    """
    array = state[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is not an array")
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if array.dtype != dtype or not fits:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    return array


def read_number(state: dict[str, Any], name: str, at_least: float = -np.inf) -> float:
    """The finite number called `name`.

    Raises:
        LookupError: there is no such name.
        ValueError: something else is called so.
    """
    value = state[name]
    if not isinstance(value, int | float) or not (np.isfinite(value) and value >= at_least):
        raise ValueError(f"{name} is {value!r}, expected a number of at least {at_least}")
    return value
