"""Images per second of a model's forward pass alone, on tensors that are decoded already.

Two shapes are measured, one process with all cores and one process per core, since either may be
the faster; the caller compares with the better one.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any


def _work(model: str, threads: int, batches: int, batch: int, start: Any, results: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    from nemo_image_curate.embedders.timm import TimmImageEmbedder

    forward = TimmImageEmbedder(model).load_embedding_model("cpu")
    pixels = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        forward(pixels)
        start.wait()
        began = time.perf_counter()
        for _ in range(batches):
            forward(pixels)
        results.put((began, time.perf_counter()))


def measure(model: str, images: int, processes: int, batch: int = 32) -> float:
    """Images per second of `processes` processes that share the cores."""
    context = multiprocessing.get_context("spawn")
    cores = len(os.sched_getaffinity(0))
    batches = max(1, images // batch // processes)
    start, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(
            target=_work, args=(model, cores // processes, batches, batch, start, results)
        )
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    times = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(end for _, end in times) - min(began for began, _ in times)
    return processes * batches * batch / float(seconds)


def best(model: str, images: int) -> float:
    """The better of the two shapes."""
    cores = len(os.sched_getaffinity(0))
    return max(measure(model, images, processes) for processes in {1, cores})
