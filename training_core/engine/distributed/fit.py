"""The inner loop on several ranks: `fit` itself, with hooks that stop and save in step with the other ranks."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from training_core.data.streams.batching import EpochStream
from training_core.engine.distributed.ranks import Ranks
from training_core.engine.distributed.sharding import free_gathered, parted, whole
from training_core.engine.distributed.update import DistributedUpdate
from training_core.engine.loop import History, Hook, Snapshot, Stream, TrainingState, fit, hook_states, take_hooks
from training_core.errors import ConfigError, DataError
from training_core.schema import Batch
from training_core.seeding import random_state

SaveSnapshot = Callable[[Snapshot, TrainingState], None]
"""Keeps a snapshot: of the whole training, on rank 0; or on every rank of its part, where nothing is gathered."""

_AGREE_BATCHES = 16  # between two exchanges of a few bytes: often enough for a budget, too seldom to be felt


def fit_across_ranks(
    model: nn.Module,
    stream: Stream[Batch],
    update: DistributedUpdate,
    hooks: Sequence[Hook] = (),
    writers: Sequence[Hook] = (),
    *,
    epochs: int,
    name: str = "model",
    resume: Mapping[str, Any] | None = None,
    save: SaveSnapshot | None = None,
    save_seconds: float = 60.0,
    save_epochs: int | None = None,
    gathers: bool = True,
) -> History:
    """Train `model` on all ranks together; called by each of them with the same arguments. Alone it is `fit`.

        with process_group() as ranks:
            stream = open_stream(rows, preprocessor, ranks.batching(batching), ranks.device)
            update = DistributedUpdate(objective, optimizer, ranks=ranks)
            with ranks.seeded(seed, "training"):
                fit_across_ranks(model, stream, update, [Validation(…)], [ProgressHook(…)], epochs=100)

    What one rank's hooks decide, all do: when a hook stops training anywhere, every rank stops after the same batch.
    A snapshot holds the whole training in the form one process would give it; `resume` takes one from any number of
    ranks, and from plain `fit`. On the same number of ranks training goes on bit for bit; on another number it sees the
    same batches, but what ranks draw for themselves (dropout) differs.

    Args:
        model: on this rank's device, of the same build on all ranks; ends with the trained weights on every rank.
        stream: this rank's share of the rows, see `Ranks.batching`.
        update: how a batch changes the model.
        hooks: who listens on every rank; a validation has to see the same rows on all of them.
        writers: who listens on rank 0 only, after `hooks`.
        epochs: passes at most.
        name: who is trained, for messages.
        resume: a snapshot to go on from, the same on every rank.
        save: keeps a snapshot, as `CheckpointManager.save_checkpoint` does.
        save_seconds: between two snapshots, which are taken between steps; 0: time does not count.
        save_epochs: from one snapshot at the end of an epoch to the next; by default 1 when `save_seconds` is 0, else
            epochs do not count. One more is taken at the end of the last epoch.
        gathers: put shared-out tensors together, so that rank 0 can write an ordinary snapshot; else `save` is called
            on every rank, for `save_parts` to write.

    Raises:
        DivergenceError: as in `fit`, on all ranks.
        ConfigError: the ranks were started with different settings.
        DataError: the ranks have different numbers of batches.
    """
    ranks = update.ranks
    if not ranks.alone and update.distributed.shards_weights:
        trained, device = copy.deepcopy(model), next(model.parameters()).device
        model.cpu()  # makes room for what is gathered
    else:
        trained, device = model, None
    mine = (*hooks, *writers) if ranks.writes else tuple(hooks)
    if save_epochs is None and save_seconds <= 0:
        save_epochs = 1
    together = _Together(mine, update, save, save_seconds, save_epochs, gathers, epochs)
    batches = len(stream) if hasattr(stream, "__len__") else -1  # pyright: ignore[reportArgumentType]
    ranks.agree("the number of batches in an epoch", str(batches), DataError)
    ranks.agree("the settings of training", f"{epochs} epochs, {update.distributed!r}, to be saved: {save is not None}")
    snapshot = None if resume is None else _for_rank(resume, ranks, mine)
    history = fit(trained, stream, update, [together], epochs=epochs, name=name, resume=snapshot)
    if device is not None:
        model.load_state_dict(whole(trained.state_dict()))
        model.to(device)
    return history


class Unrepeated:
    """A share of rows without the repeats that make shares equal: they get weight 0 and teach nothing.

    For streams in memory, whose ranks take turns row by row; a rank then repeats at most its last row of an epoch.
    """

    def __init__(self, stream: EpochStream) -> None:
        """Serve the batches of `stream`."""
        self._stream = stream
        shared, given = stream.batching, stream.num_rows
        each = shared.share(given)
        self._some_repeat = each * shared.world_size > given
        self._repeats = (each - 1) * shared.world_size + shared.rank >= given

    def __len__(self) -> int:
        return len(self._stream)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch; where rows repeat, all have weights, so that all ranks reckon alike."""
        for batch in self._stream:
            if not self._some_repeat:
                yield batch
                continue
            weight = torch.ones(len(batch), device=batch.available.device) if batch.weight is None else batch.weight
            if self._repeats and self._stream.state_dict()["position"] == 0:  # the last one of the epoch
                weight = weight.clone()
                weight[-1] = 0
            yield replace(batch, weight=weight)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._stream.load_state_dict(state)


class _Together(Hook):
    """All hooks of a rank as one, which makes of what they do on their own something all ranks do together."""

    def __init__(
        self,
        hooks: Sequence[Hook],
        update: DistributedUpdate,
        save: SaveSnapshot | None,
        save_seconds: float,
        save_epochs: int | None,
        gathers: bool,
        num_epochs: int,
    ) -> None:
        self._hooks = hooks
        self._update = update
        self._ranks = update.ranks
        self._save = save
        self._save_seconds = save_seconds
        self._save_epochs = save_epochs
        self._gathers = gathers
        self._num_epochs = num_epochs
        self._saved_at = time.monotonic()
        self._due = False
        self._stop: str | None = None

    def on_training_start(self, state: TrainingState, model: nn.Module) -> None:
        self._tell("on_training_start", state, model)

    def on_epoch_start(self, state: TrainingState, model: nn.Module) -> None:
        self._free(model)
        self._tell("on_epoch_start", state, model)

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        state.step_metrics = self._update.step_metrics
        self._tell("on_batch_end", state, model)
        self._stop, state.stop_reason = self._stop or state.stop_reason, None
        if state.batch % _AGREE_BATCHES == 0:
            state.stop_reason = self._ranks.first_of_all(self._stop)
            self._due = self._due or self._is_due()
        if self._due and not self._update.in_window:
            self._take(state)

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        self._tell("on_epoch_end", state, model)
        self._free(model)
        state.stop_reason = self._ranks.first_of_all(self._stop or state.stop_reason)
        over = state.stop_reason is not None or state.epoch >= self._num_epochs
        interval_over = self._save_epochs is not None and state.epoch % self._save_epochs == 0
        if (self._is_due() or over or interval_over) and self._save is not None:
            self._take(state)

    def on_training_end(self, state: TrainingState, model: nn.Module) -> None:
        self._tell("on_training_end", state, model)
        self._free(model)

    def state_dict(self) -> dict[str, Any]:
        return hook_states(self._hooks)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        take_hooks(self._hooks, state, lambda kept, hook: parted(kept, hook.state_dict()))

    def _tell(self, event: str, state: TrainingState, model: nn.Module) -> None:
        """Call the hooks. None of them may take a snapshot: the other ranks would not take part."""
        snapshot, state.snapshot = state.snapshot, _refuse
        for hook in self._hooks:
            getattr(hook, event)(state, model)
        state.snapshot = snapshot

    def _is_due(self) -> bool:
        """Whether it is time to save, by the clock of rank 0. All ranks together."""
        late = time.monotonic() - self._saved_at >= self._save_seconds
        return self._save is not None and self._save_seconds > 0 and self._ranks.yes_of_first(late)

    def _take(self, state: TrainingState) -> None:
        """Save: every rank gives its part, rank 0 writes. All ranks together."""
        self._due = False
        assert self._save is not None and state.snapshot is not None
        snapshot = _of_all(state.snapshot(), self._update, whole if self._gathers else lambda state: state)
        if self._ranks.writes or not self._gathers:
            self._save(snapshot, state)
        self._saved_at = time.monotonic()

    def _free(self, model: nn.Module) -> None:
        """Hooks may have gathered weights, and changed them after."""
        if self._update.distributed.shards_weights and not self._ranks.alone:
            free_gathered(model)


def _of_all(snapshot: Snapshot, update: DistributedUpdate, gathered: Callable[[Any], Any]) -> Snapshot:
    """The snapshot `fit` would give if one process did the work of all, from those of all ranks. All together."""
    ranks = update.ranks
    return {
        **gathered({**snapshot, **snapshot["hooks"][0]}),
        "metrics": update.merged_metrics().state_dict(),
        "of_ranks": ranks.states_of_all({"random": random_state(), "metrics": update.seen.state_dict()}),
    }


def _for_rank(snapshot: Mapping[str, Any], ranks: Ranks, hooks: Sequence[Hook]) -> Snapshot:
    """A snapshot of the whole training as this rank has to load it. All ranks together."""
    where = snapshot["state"]
    ranks.agree("the snapshot to go on from", f"epoch {where['epoch']}, step {where['step']}")
    everyone = snapshot.get("of_ranks", [{"random": snapshot["random"], "metrics": snapshot["metrics"]}])
    if len(everyone) == ranks.world_size:
        own = everyone[ranks.rank]
    elif ranks.writes:  # another number of ranks: rank 0 goes on for all, the others draw from the seeds they have
        own = {"random": snapshot["random"], "metrics": snapshot["metrics"]}
    else:
        own = {"random": random_state(), "metrics": {}}
    if "hook_names" in snapshot:  # those of rank 0 come after those of every rank
        num_kept = None if ranks.writes else sum(hook.kept_as is not None for hook in hooks)
        kept = {name: snapshot[name][:num_kept] for name in ("hooks", "hook_names")}
    else:
        kept = {"hooks": snapshot["hooks"][: len(hooks)]}
    return {
        **snapshot,
        "update": {**snapshot["update"], "seen": own["metrics"]},
        "metrics": {},
        "hooks": [kept],
        "hook_names": [_Together.__name__],
        "random": own["random"],
    }


def _refuse() -> Snapshot:
    raise ConfigError("a hook cannot take a snapshot of one of several ranks; give `save` to `fit_across_ranks`")
