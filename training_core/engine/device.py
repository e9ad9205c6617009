"""Which device to train on, and what makes its arithmetic repeatable."""

import os

import torch


def choose_device() -> str:
    """`cuda:0` when this process sees a GPU that torch can use, else `cpu`."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def use_one_thread() -> None:
    """Make the same seed give the same bits, for the rest of this process.

    The number of threads decides the order in which the CPU adds, so it is part of a result: it is fixed to one. On a
    GPU torch is told to use its deterministic kernels; an operation that has none warns and runs. Call this before
    the GPU is first used: cuBLAS reads its workspace setting only then.
    """
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Deterministic mode also fills every new tensor with NaN, a debugging aid that costs a pass over memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark = False
