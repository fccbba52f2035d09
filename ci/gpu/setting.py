"""What the steps share: where they run, how long they take, what they are given.

With REHEARSAL set all steps run on a CPU, on a hundredth of the data: their figures mean nothing,
but mistakes in them show without a GPU.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from distributed import Client

REHEARSAL = bool(os.environ.get("REHEARSAL"))
DEVICE = "cpu" if REHEARSAL else "cuda"
BACKEND: Literal["cpu", "gpu"] = "cpu" if REHEARSAL else "gpu"
# CLIP ViT-L/14, the encoder of LAION's classifiers; B/32, which is ten times as fast.
LARGE = "vit_large_patch14_clip_quickgelu_224.openai"
SMALL = "vit_base_patch32_clip_quickgelu_224.openai"
if REHEARSAL:
    LARGE = SMALL = "vit_tiny_patch16_224"

# Photographs and shards for benchmarks, and vectors with planted duplicates.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

# Bytes that must be free in memory for files: a million vectors, and what is made of them.
_ROOM = 16e9

T = TypeVar("T")


def full(value: T, rehearsed: T) -> T:
    """A size: on a GPU, and in a rehearsal."""
    return rehearsed if REHEARSAL else value


def wait() -> None:
    """Until the GPU has done all it was given."""
    import torch

    if not REHEARSAL:
        torch.cuda.synchronize()


def rate(work: Callable[[], Any], count: int, least_seconds: float = 3.0) -> float:
    """Items per second of `work`, which does `count` of them, after a warm-up."""
    work()
    wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < full(least_seconds, 0.0) or not done:
        work()
        done += count
        wait()
    return done / (time.perf_counter() - began)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the local disk."""
    with TemporaryDirectory(prefix="gpu-bench-") as folder:
        yield Path(folder)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in the machine's memory, where there is such a file system with room."""
    shared = Path("/dev/shm")
    has_room = shared.is_dir() and shutil.disk_usage(shared).free > _ROOM
    with TemporaryDirectory(prefix="gpu-bench-", dir=shared if has_room else None) as folder:
        yield Path(folder)


def client() -> Client:
    """The client that users start, without a limit of the host's memory on a GPU machine.

    Where memory grows as it is used workers see little as they start, and would soon pause.
    """
    from nemo_image_curate import get_client

    options: dict[str, Any] = full({"memory_limit": 0}, {})
    return get_client(BACKEND, **options)


def device_memory() -> int:
    """Bytes of the GPU in use, by all processes."""
    import torch

    if REHEARSAL:
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free
