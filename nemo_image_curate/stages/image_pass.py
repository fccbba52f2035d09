"""One pass over the images of a partition: each is read and decoded once, for all who want pixels.

Rows find their bytes by (shard, key), so a partition may hold rows of any shards in any order.
Reading and decoding of the next batches goes on in a thread while the model works on this one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.decode import image_decoder
from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.errors import ConfigError, DatasetError, ImageError
from nemo_image_curate.shards.lookup import image_bytes, rows_by_shard

ERROR_COLUMN = "image_error"
_MISSING = "missing"
# Batches decoded ahead of the model, and batches that a GPU is given ahead.
_AHEAD = 2
# Beyond this a CPU's forward pass gains nothing (measured with ViT-B/32: 16 to 128 within 5 %),
# while the first result of a partition comes later.
_CPU_BATCH = 32

# What a consumer makes of a batch: a value for each decoded image, by column.
Consume = Callable[[DecodedBatch], Mapping[str, Any]]


class PixelConsumer(Protocol):
    """Something that makes columns from decoded images.

    Attributes
    ----------
    thumbnail_size : int or None
        The side of the whole-image thumbnails it needs, if any.
    """

    thumbnail_size: int | None

    def columns(self) -> dict[str, pa.DataType]:
        """The columns it makes, with their types."""

    def load(self, device: str) -> Consume:
        """What turns a batch into column values; built once per process."""

    def provenance(self) -> dict[str, Any]:
        """How the columns are made, for each column."""


@dataclass(frozen=True)
class ImagePass:
    """How images are read, decoded and handed to consumers.

    Parameters
    ----------
    consumers : tuple of PixelConsumer
    preprocessing : Preprocessing or None
        What the model that wants ``pixels`` was trained with; None without such a model.
    batch_size : int
        Images per forward pass on a GPU; on a CPU at most 32 are taken together.
    num_threads : int
        Decoding threads per worker.
    max_pixels : int
        Larger images are refused unread, as ``too large``.
    use_index_files : bool
        Take members' places from ``STEM.idx``.
    on_error : {"null", "raise"}
        Whether an image that fails becomes a row of nulls or ends the job.
    load_shard : callable, optional
        Takes a tar's location and yields ``(pixels, keys)``: replaces our reading and decoding.
    """

    consumers: tuple[Any, ...]
    preprocessing: Preprocessing | None
    batch_size: int = 256
    num_threads: int = 4
    max_pixels: int = DEFAULT_MAX_PIXELS
    use_index_files: bool = False
    on_error: str = "null"
    load_shard: Callable[[str], Iterable[tuple[Any, Sequence[str]]]] | None = field(
        default=None, compare=False
    )

    def check(self) -> None:
        """Refuse unusable settings before any work is done."""
        for name in ("batch_size", "num_threads", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} should be a positive integer.")
        if self.on_error not in ("null", "raise"):
            raise ConfigError(f"on_error={self.on_error!r} should be 'null' or 'raise'.")
        if self.load_shard is not None and self.thumbnail_sizes():
            raise ConfigError("load_dataset_shard gives pixels only; statistics need our decoding.")
        names = [name for consumer in self.consumers for name in consumer.columns()]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two stages of one pass write the column {name!r}.")

    def columns(self) -> dict[str, pa.DataType]:
        """All columns that the pass adds: ``image_error`` and those of its consumers."""
        made: dict[str, pa.DataType] = {ERROR_COLUMN: pa.string()}
        for consumer in self.consumers:
            made |= consumer.columns()
        return made

    def thumbnail_sizes(self) -> tuple[int, ...]:
        """The sides of the thumbnails that consumers need."""
        return tuple(sorted({one.thumbnail_size for one in self.consumers} - {None}))

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the pass's columns, computed when they are needed."""
        self.check()
        for name in (dataset.id_col, SHARD_COLUMN, ERROR_COLUMN):
            if any(name in consumer.columns() for consumer in self.consumers):
                raise ConfigError(f"no stage may write the column {name!r}; choose another name.")
        frame = dataset.metadata
        frames.require_columns(frame, dataset.id_col, SHARD_COLUMN)
        meta = frames.with_columns(
            frame._meta,
            {name: frames.empty_column(frame, kind) for name, kind in self.columns().items()},
        )
        run = _Partition(self, dataset.path, dataset.id_col)
        made: dict[str, Any] = {}
        for consumer in self.consumers:
            made |= consumer.provenance()
        return dataset.replace(frame.map_partitions(run, meta=meta), made)


class _Partition:
    """Runs the pass over one computed partition; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "image-pass"

    def __init__(self, image_pass: ImagePass, root: str, id_col: str):
        self.image_pass = image_pass
        self.root = root
        self.id_col = id_col

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # The root is a place, not a content: a dataset that was moved gives the same result.
        from dask.base import normalize_token

        return ("ImagePass", self.id_col, *map(normalize_token, _configuration(self.image_pass)))

    def __call__(self, frame: Any) -> Any:
        work = self.image_pass
        device = frames.device_of(frame)
        keys = frames.column_to_arrow(frame[self.id_col]).to_pylist()
        shards = frames.column_to_arrow(frame[SHARD_COLUMN]).to_pylist()
        result = _Result(keys, shards)
        if keys:
            consumers = [
                worker_cache.get_or_build(_token(device, consumer), partial(consumer.load, device))
                for consumer in work.consumers
            ]
            # Decoders are not for several threads at once, and Dask may run several partitions.
            owner = threading.get_ident()
            batches = (
                self._loaded(result) if work.load_shard else self._decoded(result, device, owner)
            )
            queue = _Queue(device)
            # Closed at once when a batch fails, not when Dask drops the error that holds it.
            with closing(_ahead(batches)) as decoded:
                for rows, batch in decoded:
                    result.note_errors(rows, batch.errors, raising=work.on_error == "raise")
                    if batch.kept:
                        values = [consume(batch) for consume in consumers]
                        result.add([rows[kept] for kept in batch.kept], values)
                        queue.wait()
            # Rows that no batch held are missing, too.
            everything = list(range(len(keys)))
            result.note_errors(everything, result.errors, raising=work.on_error == "raise")
        return frames.with_columns(frame, result.finish(work.columns()))

    def _decoded(
        self, result: _Result, device: str, owner: int
    ) -> Generator[tuple[list[int], DecodedBatch]]:
        import torch

        work = self.image_pass
        size, threads = work.batch_size, work.num_threads
        if device == "cpu":
            # A worker's cores are shared with its forward pass; more threads than cores only
            # get in its way.
            size, threads = min(size, _CPU_BATCH), min(threads, torch.get_num_threads())
        thumbnails = work.thumbnail_sizes()
        decoder = worker_cache.get_or_build(
            _token(device, work.preprocessing, size, threads, work.max_pixels, thumbnails, owner),
            lambda: image_decoder(
                work.preprocessing,
                device,
                num_threads=threads,
                batch_size=size,
                max_pixels=work.max_pixels,
                thumbnail_sizes=thumbnails,
            ),
        )
        rows: list[int] = []
        data: list[bytes | None] = []
        contents = image_bytes(self.root, result.keys, result.shards, work.use_index_files)
        for row, content in contents:
            rows.append(row)
            data.append(content)
            if len(rows) == size:
                yield rows, decoder.decode(data)
                rows, data = [], []
        if rows:
            yield rows, decoder.decode(data)

    def _loaded(self, result: _Result) -> Generator[tuple[list[int], DecodedBatch]]:
        load = self.image_pass.load_shard
        assert load is not None
        for shard, rows in rows_by_shard(result.keys, result.shards):
            waiting: dict[str, list[int]] = {}
            for row in rows:
                waiting.setdefault(result.keys[row], []).append(row)
            for pixels, keys in load(storage.join(self.root, shard)):
                if len(pixels) != len(keys):
                    raise DatasetError(
                        f"{shard}: load_dataset_shard gave {len(pixels)} images with {len(keys)} "
                        "keys; each batch needs a key for each image."
                    )
                pairs = [(n, row) for n, key in enumerate(keys) for row in waiting.pop(key, ())]
                if pairs:
                    wanted = pixels[[n for n, _ in pairs]]
                    yield [row for _, row in pairs], _all_good(wanted)


class _Result:
    """Column values of a partition's rows, gathered batch by batch."""

    def __init__(self, keys: list[str], shards: list[str | None]):
        self.keys = keys
        self.shards = shards
        self.errors: list[str | None] = [_MISSING] * len(keys)
        self._rows: list[int] = []
        self._values: dict[str, list[Any]] = {}

    def note_errors(self, rows: list[int], errors: list[str | None], raising: bool) -> None:
        """Record why images failed, or raise the first reason."""
        for row, reason in zip(rows, errors, strict=True):
            self.errors[row] = reason
            if raising and reason is not None:
                raise ImageError(
                    f"{self.shards[row]}: sample {self.keys[row]!r}: {reason}. "
                    "Use on_error='null' to go on with such rows marked in image_error."
                )

    def add(self, rows: list[int], values: Iterable[Mapping[str, Any]]) -> None:
        """Take the values that the consumers made for some rows."""
        self._rows += rows
        for made in values:
            for name, column in made.items():
                self._values.setdefault(name, []).append(column)

    def finish(self, kinds: dict[str, pa.DataType]) -> dict[str, Any]:
        """All columns, null where a row has no value."""
        order = np.argsort(np.asarray(self._rows, dtype=np.int64), kind="stable")
        kept = np.asarray(self._rows, dtype=np.int64)[order]
        columns: dict[str, Any] = {ERROR_COLUMN: pa.array(self.errors, pa.string())}
        for name, kind in kinds.items():
            if name != ERROR_COLUMN:
                parts = self._values.get(name)
                columns[name] = _column(parts, order, kept, len(self.keys), kind)
        return columns


def _column(
    parts: list[Any] | None, order: np.ndarray, kept: np.ndarray, rows: int, kind: pa.DataType
) -> Any:
    if not parts:
        return pa.nulls(rows, kind)
    if pa.types.is_list(kind):
        if getattr(parts[0], "is_cuda", False):
            import torch

            return frames.embedding_column(torch.cat(parts)[torch.from_numpy(order)], kept, rows)
        return frames.embedding_column(np.concatenate(parts)[order], kept, rows)
    values = [value for part in parts for value in _plain(part)]
    return frames.scatter([values[position] for position in order], kept, rows, kind)


def _all_good(pixels: Any) -> DecodedBatch:
    """A batch whose pixels came from elsewhere, where nothing is known of the files."""
    n = len(pixels)
    return DecodedBatch.of(pixels, [None] * n, [None] * n, {})


def _plain(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _configuration(image_pass: ImagePass) -> list[Any]:
    """All that decides what the pass computes."""
    return [
        list(image_pass.consumers),
        image_pass.preprocessing,
        image_pass.batch_size,
        image_pass.max_pixels,
        image_pass.on_error,
    ]


def _token(*parts: Any) -> str:
    from dask.base import tokenize

    return tokenize(*parts)


class _Queue:
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


def _ahead(batches: Generator[Any]) -> Generator[Any]:
    """Yield from a generator that runs in a thread of its own, a few items ahead."""
    with closing(batches), ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        waiting: list[Future[Any]] = []
        end = object()
        try:
            while True:
                while len(waiting) < _AHEAD:
                    waiting.append(pool.submit(next, batches, end))
                item = waiting.pop(0).result()
                if item is end:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()
