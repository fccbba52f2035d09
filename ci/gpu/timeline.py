"""A profile of the whole pass: what reads, decodes, computes and writes when, as a picture."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import results
from images import BATCH, warm_up, write_photographs
from setting import BACKEND, DEVICE, LARGE, full, scratch

COLOURS = {"read": "#4c78a8", "decode": "#f58518", "forward": "#54a24b", "write": "#b279a2"}
WIDTH, ROW, LEFT = 1200, 18, 150


class Spans:
    """When which thread did what; the GPU counts as a thread of its own."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, float, float]] = []

    def around(self, stage: str, function: Any) -> Any:
        """The function, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                name = threading.current_thread().name
                self.spans.append((stage, name, began, time.perf_counter()))

        return timed

    def each(self, stage: str, function: Any) -> Any:
        """A function that gives an iterator, whose steps are timed."""

        def timed(*args: Any, **options: Any) -> Any:
            step = self.around(stage, functools.partial(next, function(*args, **options), None))
            return iter(step, None)

        return timed

    def on_gpu(self, stage: str, function: Any) -> Any:
        """The function, with the time that the GPU works for it."""
        import torch

        if DEVICE == "cpu":
            return self.around(stage, function)

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            ends[0].record()
            result = function(*args, **options)
            ends[1].record()
            self._events.append((stage, ends))
            return result

        self._events: list[tuple[str, list[Any]]] = []
        self._zero = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        self._zero.record()
        torch.cuda.synchronize()
        self._zero_at = time.perf_counter()
        return timed

    def finish(self) -> None:
        """Ask the GPU for its times."""
        for stage, ends in getattr(self, "_events", ()):
            ends[1].synchronize()
            times = [self._zero_at + self._zero.elapsed_time(end) / 1000 for end in ends]
            self.spans.append((stage, "GPU", *times))


def timeline() -> None:
    """A pass of ViT-L/14 over four shards with two threads, as a worker has on a GPU."""
    from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder, get_client
    from nemo_image_curate.dataset import saving
    from nemo_image_curate.decode.cpu import CpuDecoder
    from nemo_image_curate.decode.dali import DaliDecoder
    from nemo_image_curate.embedders import base
    from nemo_image_curate.shards.lookup import Tars

    spans = Spans()
    with scratch() as folder:
        data = write_photographs(folder / "data", 4, full(2048, 32))
        embedder = TimmImageEmbedder(LARGE, batch_size=BATCH, num_threads_per_worker=8)
        # In this process, where the functions can be timed.
        with get_client("cpu", n_workers=1, threads_per_worker=2, processes=False):
            dataset = ImageTextPairDataset.from_webdataset(data, backend=BACKEND)
            warm_up(embedder, folder / "warm")
            read = spans.each("read", Tars.image_bytes)
            Tars.image_bytes = read  # type: ignore[method-assign]
            for kind in (CpuDecoder, DaliDecoder):
                kind.decode = spans.around("decode", kind.decode)  # type: ignore[method-assign]
            forward = spans.on_gpu("forward", base._Forward.__call__)
            base._Forward.__call__ = forward  # type: ignore[method-assign]
            saving.write_table = spans.around("write", saving.write_table)
            began = time.perf_counter()
            embedder(dataset).save_metadata(folder / "out")
            seconds = time.perf_counter() - began
    spans.finish()
    picture = results.path().with_name("timeline.svg")
    picture.write_text(drawn(spans.spans, began, seconds))
    for stage in COLOURS:
        times = _joined([(start, end) for label, _, start, end in spans.spans if label == stage])
        busy = sum(end - start for start, end in times) / seconds
        results.record(f"timeline: {stage} is busy", busy, "of the time")


def _joined(spans: list[tuple[float, float]], gap: float = 0.0) -> list[tuple[float, float]]:
    """Spans that overlap, or are at most so far from each other, made one."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def drawn(spans: list[tuple[str, str, float, float]], began: float, seconds: float) -> str:
    """The spans as an SVG: a row for each thread and stage."""
    rows = sorted({(stage, name) for stage, name, _, _ in spans}, key=_place)
    height = (len(rows) + 2) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    scale = (WIDTH - LEFT - 20) / seconds
    for number, (stage, name) in enumerate(rows):
        y = (number + 1) * ROW
        parts.append(f'<text x="4" y="{y + 12}">{stage} ({name[-14:]})</text>')
        busy = [(start, end) for label, who, start, end in spans if (label, who) == (stage, name)]
        for start, end in _joined(busy, gap=0.5 / scale):
            x, wide = LEFT + (start - began) * scale, max(0.3, (end - start) * scale)
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 2}" width="{wide:.1f}" height="{ROW - 4}" '
                f'fill="{COLOURS[stage]}"/>'
            )
    for tenth in range(11):
        x, text = LEFT + tenth * seconds / 10 * scale, f"{tenth * seconds / 10:.2f} s"
        parts.append(f'<text x="{x:.0f}" y="12">{text}</text>')
        parts.append(f'<line x1="{x:.0f}" y1="{ROW}" x2="{x:.0f}" y2="{height}" stroke="#ddd"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _place(row: tuple[str, str]) -> tuple[int, str]:
    return list(COLOURS).index(row[0]), row[1]
