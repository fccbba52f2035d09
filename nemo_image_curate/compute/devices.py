"""What the device of this process can do, and whether its memory is exhausted."""

from __future__ import annotations

import os
import sys

from nemo_image_curate.compute import _dali


def usable_cores() -> int:
    """Cores this process may use: containers and Slurm give fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def has_bfloat16(device: str) -> bool:
    """Whether this process's device multiplies bfloat16 matrices natively, not by emulation."""
    import torch

    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def release_memory() -> None:
    """Return the GPU memory that torch and DALI hold but do not use; each has a pool of its own."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        _dali.release_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the host, has too little memory.

    torch, RMM and DALI each have their own kind, and some only a text; cuDNN finds no engine for a
    convolution when none has room to work (pytorch issue 108645).
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower().replace("_", " ").replace("allocation", "alloc")
    signs = (
        *("out of memory", "bad alloc", "alloc failed", "allocate memory", "can't allocate"),
        "unable to find an engine",
    )
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
