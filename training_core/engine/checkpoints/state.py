"""What a checkpoint may hold: tensors and plain values, so that reading one back never runs code."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training_core.errors import StorageError

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_KEYS = (str, int, bool, float)
_MOST_SLACK = 2  # a tensor is cut out of a storage this many times its size; the file would hold all of that


class PlainState:
    """Makes checked copies of states: only tensors and plain values, all tensors on the CPU.

    With `own` the tensors are copies, which training may not change any more, in memory that is used again for the
    next state: to write to fresh memory takes several times as long as to write to memory already there. Else they
    are the state's own wherever that is possible.
    """

    def __init__(self, *, own: bool) -> None:
        self._own = own
        self._spare: list[Tensor] = []
        self._num_copied = 0
        self._seen: dict[tuple[Any, ...], Tensor] = {}

    def of(self, state: object) -> Any:
        """A checked copy; the copy made before is overwritten when tensors are owned.

        Raises:
            StorageError: a value is neither a tensor nor plain; the message says where in the tree it is.
        """
        self._num_copied = 0
        try:
            return self._plain(state, "")
        finally:
            self._seen.clear()

    def _plain(self, value: object, path: str) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is Tensor or kind is nn.Parameter:
            return self._tensor(value, path)  # pyright: ignore[reportArgumentType]
        if kind is dict or kind is OrderedDict:
            return self._mapping(value, path)  # pyright: ignore[reportArgumentType]
        if kind is list or kind is tuple or kind is set:
            items = [self._plain(item, f"{path}[{i}]") for i, item in enumerate(value)]  # pyright: ignore[reportArgumentType]
            return items if kind is list else kind(items)  # pyright: ignore[reportCallIssue]
        if kind is torch.Size:
            return value
        raise StorageError(
            f"cannot be kept in a checkpoint: {path or 'the state'} is a {kind.__module__}.{kind.__qualname__}; "
            "expected tensors and plain values (numbers, texts, lists, dictionaries): convert it in `state_dict()`"
        )

    def _mapping(self, value: dict[Any, Any], path: str) -> dict[Any, Any]:
        for key in value:
            if type(key) not in _KEYS:
                raise StorageError(
                    f"cannot be kept in a checkpoint: {path or 'the state'} has the key {key!r}, a "
                    f"{type(key).__module__}.{type(key).__qualname__}; expected a text or a number"
                )
        items = {key: self._plain(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if type(value) is dict:
            return items
        ordered = OrderedDict(items)
        # Modules keep the version of their state's format there, and read it when they load.
        versions = getattr(value, "_metadata", None)
        if versions is not None:
            ordered._metadata = self._plain(versions, f"{path}._metadata")  # pyright: ignore[reportAttributeAccessIssue]
        return ordered

    def _tensor(self, value: Tensor, path: str) -> Tensor:
        tensor = value.detach()
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise StorageError(
                f"cannot be kept in a checkpoint: {path or 'the state'} is a tensor of layout {tensor.layout} on "
                f"{tensor.device}; expected an ordinary dense tensor: convert it in `state_dict()`"
            )
        # Tied weights are one tensor under two names: written once, and tied again when read.
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in self._seen:
            return self._seen[key]
        if self._own:
            plain = self._room_for(tensor).copy_(tensor)
        elif tensor.device.type != "cpu":
            plain = tensor.cpu()
        else:
            slack = tensor.untyped_storage().nbytes() >= _MOST_SLACK * tensor.nbytes
            plain = tensor.clone() if slack else tensor
        self._seen[key] = plain
        return plain

    def _room_for(self, tensor: Tensor) -> Tensor:
        """Memory of the tensor that had the same place in the state before, when it was alike."""
        place, self._num_copied = self._num_copied, self._num_copied + 1
        if place == len(self._spare):
            self._spare.append(torch.empty(tensor.shape, dtype=tensor.dtype))
        spare = self._spare[place]
        if spare.shape != tensor.shape or spare.dtype != tensor.dtype:
            spare = self._spare[place] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return spare


def tensors_of(state: object) -> Iterator[Tensor]:
    """Every tensor in a plain state."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, list | tuple | set):
        for value in state:
            yield from tensors_of(value)
