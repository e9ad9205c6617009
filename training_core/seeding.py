"""One root seed, as many independent random generators as there are names to ask for.

A generator depends on the root seed and on its own name only, never on what was drawn before it, so adding a
learner, or running learners in another order or process, changes nobody else's numbers.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(root: int, *names: str | int) -> int:
    """A seed in [0, 2**63) for the path `names` below `root`: the first 63 bits of a SHA-256.

    Names are joined by a separator that cannot occur in them after `repr`, so ("ab",) and ("a", "b") differ.
    """
    text = repr((int(root), *names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(root: int, *names: str | int) -> np.random.Generator:
    """The NumPy generator named `names` below `root`."""
    return np.random.Generator(np.random.PCG64(derive_seed(root, *names)))


def torch_generator(root: int, *names: str | int) -> "torch.Generator":
    """The torch (CPU) generator named `names` below `root`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(root, *names))


@contextmanager
def torch_seeded(root: int, *names: str | int) -> Iterator[None]:
    """Within the block torch's global generators are those of `names`; afterwards they are as they were before."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(root, *names))
        yield


def random_state() -> dict[str, Any]:
    """Where the global generators of Python, NumPy and torch (CPU and every GPU) stand: tensors and plain values."""
    import torch

    numpy: tuple[Any, ...] = np.random.get_state(legacy=True)  # pyright: ignore[reportAssignmentType]
    name, keys, position, has_gauss, gauss = numpy
    version, internal, gauss_next = random.getstate()
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_random_state(state: Mapping[str, Any]) -> None:
    """Put the global generators where `random_state` found them. GPUs this process does not have are left out."""
    import torch

    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, kept in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(kept.cpu(), device)
