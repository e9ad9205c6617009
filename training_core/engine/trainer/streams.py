"""Streams of items and loaders, and how what users have as a batch becomes one of ours."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.collate import LanguageModelling, SequenceClassification, Vision
from training_core.data.streams.memory import map_batch
from training_core.errors import DataError
from training_core.schema import IGNORED, Batch, TaskSpec

Collate = Callable[[Sequence[Any]], Batch]
"""Makes a batch of a list of items."""

_TARGETS = ("target", "labels", "label")


class ItemStream(EpochStream):
    """Batches of items that are fetched by number, in an exactly shuffled order."""

    def __init__(self, items: Any, collate: Collate, batching: Batching, device: torch.device) -> None:
        """Fetch nothing yet."""
        super().__init__(len(items), batching)
        self._items, self._collate, self._device = items, collate, device

    def describe(self) -> str:
        """How many items there are and how they are shuffled, as a sentence."""
        how = "exactly shuffled" if self.batching.shuffle else "in order"
        return f"{self.num_rows:,} items, fetched one by one, {how}"

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        order = self.batching.order(self.num_rows, epoch).split(self.batching.batch_size)
        for chosen in order[first : len(self)]:
            batch = self._collate([self._items[number] for number in chosen.tolist()])
            yield map_batch(batch, lambda values: values.to(self._device))


@dataclass
class LoaderStream:
    """The batches of a `DataLoader`, converted.

    Training that goes on in the middle of an epoch draws the order of that epoch again, as it was, and skips what was
    taken. Workers that draw at random for themselves draw anew.
    """

    loader: Any
    task: TaskSpec
    device: str
    _start: dict[str, Any] = field(default_factory=dict, init=False)
    _position: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        first = self._position
        if first:
            batches = self._begun_again()
        else:
            self._start = self._generators()
            batches = iter(self.loader)
        for number, raw in enumerate(batches, start=first + 1):
            self._position = number % len(self)
            yield map_batch(to_batch(raw, self.task), lambda values: values.to(self.device, non_blocking=True))
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the epoch were taken, and what its order was drawn from."""
        return {"position": self._position, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next iteration, where `state` was taken."""
        self._position, self._start = int(state["position"]), dict(state["start"])

    def _generators(self) -> dict[str, Any]:
        """Where the generators stand that an order is drawn from."""
        own = self.loader.generator
        return {"global": torch.get_rng_state(), "own": None if own is None else own.get_state()}

    def _begun_again(self) -> Iterator[Any]:
        """The epoch's batches from the position on; the global generator is left as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._start["global"])
            if self._start["own"] is not None:
                self.loader.generator.set_state(self._start["own"])
            batches = iter(self.loader)
            for _ in range(self._position):
                next(batches)
        return batches


def to_batch(raw: Any, task: TaskSpec) -> Batch:
    """What a loader, or a user, has as a batch of samples, as a `Batch` with one modality that all samples have.

    Args:
        raw: a batch; (inputs, target) or (inputs, target, weight), the inputs an array or arrays by name; or a mapping
            with `labels`, `label` or `target` beside the inputs. Token ids are their own labels where a language model
            has no others, except where `attention_mask` is 0.
        task: what is predicted.

    Raises:
        DataError: it is none of these, or its parts have different numbers of rows.
    """
    if isinstance(raw, Batch):
        return raw
    target = weight = None
    if isinstance(raw, Mapping):
        key = next((name for name in _TARGETS if name in raw), None)
        target = None if key is None else raw[key]
        given: Any = {name: values for name, values in raw.items() if name != key}
    elif isinstance(raw, tuple | list) and 1 <= len(raw) <= 3:
        given, target, weight = (*raw, None, None)[:3]
    elif is_array_like(raw):
        given = {"input_ids": raw} if task.unit == "next_token" else raw
    else:
        raise DataError(f"a batch is {type(raw).__name__}; expected (inputs, target) or a mapping with `labels`")
    inputs = {str(name): _tensor(v) for name, v in (given if isinstance(given, Mapping) else {"x": given}).items()}
    if target is None and task.unit == "next_token" and "input_ids" in inputs:
        target = inputs["input_ids"]
        if "attention_mask" in inputs:
            target = target.masked_fill(inputs["attention_mask"] == 0, IGNORED)
    batch = Batch(
        inputs=inputs,
        available=torch.ones((len(next(iter(inputs.values()))), 1), dtype=torch.bool),
        target=None if target is None else _target(_tensor(target), task),
        weight=None if weight is None else _tensor(weight).float(),
    )
    sizes = {name: len(values) for name, values in [*inputs.items(), ("target", batch.target), ("weight", batch.weight)]
             if values is not None}  # fmt: skip
    if len(set(sizes.values())) > 1:
        raise DataError(f"the parts of a batch have different numbers of rows: {sizes}")
    return batch


def _target(target: Tensor, task: TaskSpec) -> Tensor:
    """As the task's loss wants it: whole numbers for classes, else float32, a single column as [B, 1].

    Raises:
        DataError: class codes are not whole numbers from 0 to the number of classes.
    """
    if task.kind != "classification":
        return target.float().unsqueeze(1) if target.ndim == 1 else target.float()
    if target.is_floating_point() and bool((target != target.round()).any()):
        raise DataError(f"class codes are {target.dtype} with fractions; expected whole numbers".replace("torch.", ""))
    codes = target.long()
    real = codes[codes != IGNORED] if task.unit != "sample" else codes
    if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < task.num_outputs:
        raise DataError(
            f"class codes go from {int(real.min())} to {int(real.max())}; the task has {task.num_outputs} classes, "
            f"whose codes are 0 to {task.num_outputs - 1}"
        )
    return codes


def _tensor(values: Any) -> Tensor:
    """Values as a tensor; float64 and half as float32, which is what nets calculate in."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise DataError(f"{type(values).__name__} cannot be made a tensor: {error}") from None
    return tensor.float() if tensor.is_floating_point() else tensor


def guess_collate(item: Any, task: TaskSpec) -> Collate:
    """What makes batches of items like this one."""
    if isinstance(item, Mapping):
        if "input_ids" in item:
            return LanguageModelling() if task.unit == "next_token" else SequenceClassification()
        if "image" in item and task.unit == "sample":
            return Vision()
        return lambda items: to_batch({name: _stacked([one[name] for one in items]) for name in items[0]}, task)
    if task.unit == "next_token" and not isinstance(item, tuple):
        return LanguageModelling()
    if isinstance(item, tuple | list):
        return lambda items: to_batch(tuple(_stacked(column) for column in zip(*items, strict=True)), task)
    raise DataError(
        f"the first item is {type(item).__name__}; expected (input, target) or a mapping, or give `collate`"
    )


def is_array_like(values: Any) -> bool:
    """Whether it is an array, or arrays by name."""
    if isinstance(values, Mapping):
        return bool(values) and all(is_array_like(inner) for inner in values.values())
    return isinstance(values, Tensor | np.ndarray)


def _stacked(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: _stacked([one[name] for one in values]) for name in values[0]}
    return torch.stack([torch.as_tensor(value) for value in values])
