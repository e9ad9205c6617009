"""Joining the other ranks, and leaving them: what `torchrun` or `launch` started becomes one group of processes.

    with process_group() as ranks:
        ...

in a script that is run by `torchrun --nproc-per-node 2 script.py`, or by `python script.py`, where it is alone.
"""

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from training_core.engine.device import choose_device
from training_core.engine.distributed.ranks import Ranks
from training_core.errors import ConfigError, TransientError
from training_core.parenthood import end_with_parent

LISTENER = "POLYCHOIR_RENDEZVOUS_FD"
"""Rank 0 of `launch`: the number of an open socket, bound to this machine alone, on which the ranks find each other."""

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class PeerLostError(TransientError):
    """Another rank ended or no longer answers: what this one says is a consequence, not the cause."""


@contextmanager
def process_group(*, timeout_seconds: float = 600.0, device: str | None = None) -> Iterator[Ranks]:
    """Train together with the other ranks inside the block; alone where nobody started several.

    Which rank this is is read from the environment as `torchrun` sets it. Tensors on the CPU are exchanged by gloo,
    those on GPUs by NCCL, one GPU per rank. Where all ranks are on one machine they talk over its loopback interface
    only; the meeting point that `torchrun` itself opens listens on every interface, that of `launch` does not. This
    process ends when the one that started it does, so no rank outlives its launcher. Within a block, another block
    (that of a `Trainer` in a function that was launched) is the same group.

    Args:
        timeout_seconds: how long a rank waits for the others before it gives them up.
        device: where to train: by default this rank's GPU, or the CPU where there is none.

    Yields:
        Who this process is.

    Raises:
        ConfigError: the environment is incomplete, or there are more ranks than GPUs.
        PeerLostError: another rank ended, or did not answer in time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=device or choose_device())
        return
    ranks, single_machine = _read_environment(os.environ, device)
    if dist.is_initialized():
        yield ranks
        return
    end_with_parent()
    if single_machine:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, _loopback())
    on_gpu = ranks.device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(ranks.device)
    timeout = timedelta(seconds=timeout_seconds)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=_loopback_store(ranks, timeout) if single_machine else None,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timeout,
        )
        yield ranks
        ranks.wait()  # rank 0 may hold what the others still ask for
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo/" in str(error)):  # gloo has no exception of its own
            raise
        raise PeerLostError(
            f"{ranks} lost the others: {str(error).splitlines()[0]}; another rank ended first (its own message says "
            f"why) or was silent for {timeout_seconds:g} s; run it again to go on from the last checkpoint"
        ) from error
    finally:
        # NCCL would wait here for exchanges that nobody answers any more; the end of the process frees everything.
        if dist.is_initialized() and not (on_gpu and sys.exc_info()[0] is not None):
            dist.destroy_process_group()


def _read_environment(environment: Mapping[str, str], device: str | None) -> tuple[Ranks, bool]:
    """Who this process is, and whether all ranks are on this machine."""
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} not set; start the ranks with "
            "`torchrun --nproc-per-node N script.py` or `training_core.engine.distributed.launch`, which set them all"
        )
    rank, world_size, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device is None and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local >= count:
            raise ConfigError(
                f"rank {rank} is number {local + 1} on this machine, which has {count} GPUs; start at most {count} "
                "ranks here, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
            )
        device = f"cuda:{local}"
    single = environment.get("LOCAL_WORLD_SIZE", "") == str(world_size)
    return Ranks(rank, world_size, local, device or "cpu"), single


def _loopback_store(ranks: Ranks, timeout: timedelta) -> Store | None:
    """Where ranks of one machine find each other, not to be reached from outside; None: torchrun has one already."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return PrefixStore(
            "polychoir", TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timeout)
        )
    port = int(os.environ["MASTER_PORT"])
    if ranks.rank:
        return TCPStore("127.0.0.1", port, ranks.world_size, False, timeout)
    if LISTENER in os.environ:
        listener = socket.socket(fileno=int(os.environ.pop(LISTENER)))
    else:  # a TCPStore left to itself would listen on every interface
        listener = socket.create_server(("127.0.0.1", port), backlog=ranks.world_size)
    return TCPStore(
        "127.0.0.1",
        port,
        ranks.world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _loopback() -> str:
    """The name of the interface that does not leave this machine."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), names[0])
