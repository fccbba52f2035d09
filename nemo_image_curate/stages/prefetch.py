"""Work that goes on beside the model: decoding ahead of it, and batches that a GPU waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import Any

# Batches decoded ahead of the model, and batches that a GPU is given ahead.
_AHEAD = 2


class DeviceQueue:
    """Bounds the batches that a GPU has been given and has not worked on yet.

    Calls return before the GPU has done their work; without a bound, where decoding is faster
    than the model, the pixels of a whole partition would come to lie in its memory.
    """

    def __init__(self, device: str):
        self._on_gpu = device != "cpu"
        self._ends: deque[Any] = deque()

    def wait(self) -> None:
        """Mark the end of a batch, and wait for the end of an earlier one."""
        if not self._on_gpu:
            return
        import torch

        # Blocking: the thread sleeps instead of asking again and again.
        end = torch.cuda.Event(blocking=True)
        end.record()
        self._ends.append(end)
        if len(self._ends) > _AHEAD:
            self._ends.popleft().synchronize()


def ahead(batches: Generator[Any]) -> Generator[Any]:
    """Yield from a generator that runs in a thread of its own, a few items ahead."""
    with closing(batches), ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        waiting: list[Future[Any]] = []
        end = object()
        # Which worker this is, is known to the thread of the task.
        context = copy_context()
        try:
            while True:
                while len(waiting) < _AHEAD:
                    waiting.append(pool.submit(lambda: context.run(next, batches, end)))
                item = waiting.pop(0).result()
                if item is end:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()
