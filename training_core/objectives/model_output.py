"""What models give back, whatever form it has: a tensor, a tuple, a mapping, a dataclass, an object with logits."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from training_core.errors import DataError

_LOGITS = ("logits", "prediction", "predictions", "output", "outputs")  # in order of preference
_HIDDEN = ("hidden_states", "hidden", "last_hidden_state")


@dataclass(frozen=True)
class ModelOutput:
    """The answer of a model, in one form."""

    logits: Tensor
    """Raw outputs, one row per sample."""
    loss: Tensor | None = None
    """The loss, where the model computed it itself; a scalar."""
    hidden_states: Any = None
    """What it thought on the way, as the model gives it."""

    @classmethod
    def from_raw(cls, raw: Any) -> Self:
        """Understand what a model returned.

        - a tensor: the logits;
        - a tuple or list: logits first, unless its first is a scalar: then that is the loss, and logits come second.
          Of named tuples the names count;
        - a mapping, a dataclass or an object with attributes: `logits` (or `prediction`, `output`), `loss` and
          `hidden_states`; of a mapping or dataclass with none of these names, its only tensor that is no scalar.

        Raises:
            DataError: no logits can be told from the rest; says what was got.
        """
        if isinstance(raw, cls):
            return raw
        if isinstance(raw, Tensor):
            return cls(raw)
        named = _named(raw)
        if named is None and isinstance(raw, tuple | list):
            return cls._from_sequence(raw)
        if named is None:
            raise DataError(f"a model returned {type(raw).__name__}; {_EXPECTED}")
        logits = next((named[name] for name in _LOGITS if isinstance(named.get(name), Tensor)), None)
        if logits is None:
            arrays = [value for value in named.values() if isinstance(value, Tensor) and value.ndim > 0]
            if len(arrays) != 1:
                raise DataError(f"a model returned {type(raw).__name__} with {_listed(named)}; {_EXPECTED}")
            logits = arrays[0]
        loss = named.get("loss")
        hidden = next((named[name] for name in _HIDDEN if named.get(name) is not None), None)
        return cls(logits, loss if isinstance(loss, Tensor) else None, hidden)

    @classmethod
    def _from_sequence(cls, raw: tuple[Any, ...] | list[Any]) -> Self:
        first, *rest = raw or (None,)
        if isinstance(first, Tensor) and first.ndim > 0:
            return cls(first, None, tuple(rest) or None)
        if isinstance(first, Tensor) and rest and isinstance(rest[0], Tensor) and rest[0].ndim > 0:
            return cls(rest[0], first, tuple(rest[1:]) or None)
        inside = ", ".join(_described(value) for value in raw) or "nothing"
        raise DataError(f"a model returned a {type(raw).__name__} of {inside}; {_EXPECTED}")


_EXPECTED = "expected a tensor, a tuple (logits, …) or (loss, logits, …), or something with `logits`"


def _named(raw: Any) -> Mapping[str, Any] | None:
    """The parts of `raw` by name; None when they have none."""
    if isinstance(raw, Mapping):
        return {str(name): value for name, value in raw.items()}
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        return {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return dict(zip(raw._fields, raw, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    if any(hasattr(raw, name) for name in _LOGITS):
        return {name: getattr(raw, name, None) for name in ("loss", *_LOGITS, *_HIDDEN)}
    return None


def _listed(named: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_described(value)}" for name, value in named.items()) or "nothing in it"


def _described(value: Any) -> str:
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
