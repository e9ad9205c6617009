"""What decides the bits of a training besides its state: kept with every checkpoint, compared when training goes on."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from training_core.config import Config
from training_core.errors import ConfigError
from training_core.quantities import PositiveInt

_log = logging.getLogger(__name__)

_MAX_NAMED = 8  # differing settings named in a message: enough to see what happened, few enough to be read


class Environment(Config):
    """Where and how a training runs. Equal environments and equal states go on with equal bits."""

    torch_version: str
    device: str
    """Its type, and the model of the GPU or the vector instructions of the CPU."""
    num_threads: PositiveInt
    """Threads torch computes with: their number decides the order in which the CPU adds (pytorch issue 88718)."""
    deterministic: bool
    """Whether torch was told to use deterministic kernels only."""
    matmul_precision: str
    """`highest`, or one of the faster and coarser forms of float32 products."""
    world_size: PositiveInt = 1
    """Processes that train together."""
    code: str = ""
    """Fingerprint of the code that trains; empty: not known."""
    config: Mapping[str, Any] | None = None
    """Settings of the training as JSON-able values; None: not known."""

    @classmethod
    def here(
        cls,
        device: str | torch.device = "cpu",
        *,
        config: Config | Mapping[str, Any] | None = None,
        code: str = "",
        world_size: int = 1,
    ) -> "Environment":
        """The environment of this process.

        Args:
            device: where is trained.
            config: the settings that decide the result; a checkpoint of other settings is refused.
            code: a fingerprint of the code that trains.
            world_size: processes that train together.
        """
        return cls(
            torch_version=str(torch.__version__),
            device=_describe(torch.device(device)),
            num_threads=torch.get_num_threads(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            matmul_precision=torch.get_float32_matmul_precision(),
            world_size=world_size,
            code=code,
            config=config.model_dump(mode="json") if isinstance(config, Config) else config,
        )

    def differences(self, kept: "Environment") -> list[str]:
        """Why a training kept in `kept` would not end with the same bits here, in words; its settings left aside."""
        found: list[str] = []
        for name in type(self).model_fields:
            old, new = getattr(kept, name), getattr(self, name)
            known = old != "" and new != ""
            if name != "config" and known and old != new:
                found.append(f"{name} was {_short(old)} and is {_short(new)}")
        return found

    def accept(self, kept: "Environment", where: str) -> None:
        """Let a training kept in `kept` go on here, with a warning when its bits will not be the same.

        Args:
            kept: the environment of the checkpoint.
            where: the checkpoint, for messages.

        Raises:
            ConfigError: it was trained with other settings; the message names them.
        """
        if self.config is not None and kept.config is not None:
            old, new = dict(_flat(kept.config)), dict(_flat(self.config))
            changed = [
                f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}"
                for key in sorted(old.keys() | new.keys())
                if (key in old) != (key in new) or old.get(key) != new.get(key)
            ]
            if changed:
                more = f" and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
                raise ConfigError(
                    f"{where} is of a training with other settings: {'; '.join(changed[:_MAX_NAMED])}{more}; set them "
                    "back to go on from it, or train anew in another directory"
                )
        if differences := self.differences(kept):
            _log.warning("not bit-exact: going on from %s although %s", where, "; ".join(differences))


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type


def _flat(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, by their path; lists are leaves, and tuples are lists, as in JSON."""
    if isinstance(value, Mapping) and value:
        for key, nested in value.items():
            yield from _flat(nested, f"{path}.{key}" if path else str(key))
    else:
        yield path, _as_json(value)


def _as_json(value: object) -> object:
    """`value` with tuples as lists, which is how they read back from JSON."""
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
