"""One pass over the images of a partition: each is read and decoded once, for all who want pixels.

Rows find their bytes by (shard, key), so a partition may hold rows of any shards in any order.
Reading and decoding of the next batches goes on in a thread while the model works on this one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from dask.base import normalize_token, tokenize

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.compute.watched import tell_rows
from nemo_image_curate.dataset.fingerprints import describe
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.decoder import image_decoder
from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS, check_orientation
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.decode.reasons import count_by_kind, may_pass
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.lookup import RowImage, Tars, rows_by_shard
from nemo_image_curate.stages.pass_result import PassResult
from nemo_image_curate.stages.prefetch import DeviceQueue, ahead
from nemo_image_curate.stages.saved_rows import saved_rows

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.stages.base import PixelStage

# Beyond this a CPU's forward pass gains nothing (measured with ViT-B/32: 16 to 128 within 5 %),
# while the first result of a partition comes later.
_CPU_BATCH = 32


@dataclass(frozen=True)
class ImagePass:
    """How images are read, decoded and handed to stages.

    Parameters
    ----------
    stages : tuple of PixelStage
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
    orientation : {"stored", "exif"}
        Whether pictures stay as they are stored, or are turned as EXIF says; the same for all
        stages.
    on_error : {"null", "raise"}
        Whether an image that fails becomes a row of nulls or ends the job.
    load_shard : callable, optional
        Takes a tar's location and yields ``(pixels, keys)``: replaces our reading and decoding.
    """

    stages: tuple[PixelStage, ...]
    preprocessing: Preprocessing | None = None
    batch_size: int = 256
    num_threads: int = 4
    max_pixels: int = DEFAULT_MAX_PIXELS
    use_index_files: bool = False
    orientation: str = "stored"
    on_error: str = "null"
    load_shard: Callable[[str], Iterable[tuple[Any, Sequence[str]]]] | None = field(
        default=None, compare=False
    )

    def check(self) -> None:
        """Refuse unusable settings before any work is done.

        Raises
        ------
        ConfigError
        """
        for name in ("batch_size", "num_threads", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} should be a positive integer.")
        if self.on_error not in ("null", "raise"):
            raise ConfigError(f"on_error={self.on_error!r} should be 'null' or 'raise'.")
        check_orientation(self.orientation)
        for stage in self.stages:
            if stage.orientation != self.orientation:
                raise ConfigError(
                    f"{type(stage).__name__} has orientation={stage.orientation!r}, the pass that "
                    f"it shares {self.orientation!r}; give all stages of a pass the same."
                )
        if self.load_shard is not None and self.orientation != "stored":
            raise ConfigError("load_dataset_shard gives pixels, which are not turned.")
        if self.load_shard is not None and self.thumbnail_sizes():
            raise ConfigError("load_dataset_shard gives pixels only; statistics need our decoding.")
        check_columns(self.stages)

    def columns(self) -> dict[str, pa.DataType]:
        """All columns that the pass adds: ``image_error`` and those of its stages."""
        columns: dict[str, pa.DataType] = {ERROR_COLUMN: pa.string()}
        for stage in self.stages:
            columns |= stage.columns()
        return columns

    def thumbnail_sizes(self) -> tuple[int, ...]:
        """The sides of the thumbnails that stages need."""
        sizes = {stage.thumbnail_size for stage in self.stages}
        return tuple(sorted(size for size in sizes if size is not None))

    def content_token(self) -> list[Any]:
        """All that decides what the pass computes."""
        # The last bits of embeddings depend on the batch size, and "raise" takes over no nulls.
        settings = (self.preprocessing, self.batch_size, self.max_pixels, self.on_error)
        described = [describe(value) for value in (*self.stages, *settings, self.orientation)]
        return ["ImagePass", *described]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the pass's columns, computed when they are needed."""
        for stage in self.stages:
            stage.check()
        self.check()
        frames.require_columns(dataset.metadata, dataset.id_col, SHARD_COLUMN)
        provenance: dict[str, Any] = {}
        for stage in self.stages:
            provenance |= stage.provenance()
        run = _Partition(self, dataset.tars, dataset.id_col)
        return dataset.with_columns(run, self.columns(), provenance)


def check_columns(stages: Iterable[Any]) -> None:
    """Refuse stages of one pass that write the same column, or the pass's own.

    Raises
    ------
    ConfigError
    """
    names: set[str] = set()
    for stage in stages:
        for name in stage.columns():
            if name == ERROR_COLUMN:
                raise ConfigError(f"no stage may write the column {name!r}; choose another name.")
            if name in names:
                raise ConfigError(f"two stages of one pass write the column {name!r}.")
            names.add(name)


class _Partition:
    """Runs the pass over one computed partition."""

    # What Dask's dashboard calls these tasks.
    __name__ = "image-pass"
    reads_tars = True

    def __init__(self, image_pass: ImagePass, tars: Tars, id_col: str, folder: str | None = None):
        self.image_pass = image_pass
        self.tars = tars
        self.id_col = id_col
        # Where its values were saved before, if they are taken over.
        self.folder = folder
        self.scans_tars = not image_pass.use_index_files

    def names(self) -> frozenset[str]:
        """The columns that it writes."""
        return frozenset(self.image_pass.columns())

    def taking_over(self, folder: str) -> _Partition:
        """The same with values that are in a folder already, of all but the rows that failed."""
        return _Partition(self.image_pass, self.tars, self.id_col, folder)

    def content_token(self) -> list[Any]:
        # The root is a place, not a content: a dataset that was moved gives the same result.
        return [*self.image_pass.content_token(), self.id_col, *self.tars.content_token()]

    def __dask_tokenize__(self) -> Any:
        return normalize_token([*self.content_token(), self.folder])

    @functools.cached_property
    def _tokens(self) -> list[str]:
        """What models are kept by; a small partition takes less time than to make them."""
        return [tokenize(stage) for stage in self.image_pass.stages]

    def __call__(self, frame: Any) -> dict[str, Any]:
        image_pass = self.image_pass
        device = frames.device_of(frame)
        result = PassResult(
            frames.column_to_arrow(frame[self.id_col]).to_pylist(),
            frames.column_to_arrow(frame[SHARD_COLUMN]).to_pylist(),
        )
        raising = image_pass.on_error == "raise"
        if len(frame):
            consumers = [
                worker_cache.get_or_build(f"{device} {token}", partial(stage.load, device))
                for token, stage in zip(self._tokens, image_pass.stages, strict=True)
            ]
            # Decoders are not for several threads at once, and Dask may run several partitions.
            owner = threading.get_ident()
            batches = (
                self._loaded(result)
                if image_pass.load_shard
                else self._decoded(result, self._keys_to_read(frame, result), device, owner)
            )
            queue = DeviceQueue(device)
            # One batch is done before a thread for the next ones would have begun.
            batches = ahead(batches) if len(frame) > self._batch_size(device) else batches
            # Closed at once when a batch fails, not when Dask drops the error that holds it.
            with closing(batches) as decoded:
                for row_numbers, batch in decoded:
                    result.note_errors(row_numbers, batch.errors, raising)
                    tell_rows(len(row_numbers), count_by_kind(filter(None, batch.errors)))
                    if batch.decoded:
                        values = [consume(batch) for consume in consumers]
                        result.add([row_numbers[number] for number in batch.decoded], values)
                        queue.wait()
        columns = result.columns(image_pass.columns())
        # Rows that no batch held are missing, too, and of some a model made nothing.
        result.note_errors(range(len(frame)), result.errors, raising)
        return columns

    def _keys_to_read(self, frame: Any, result: PassResult) -> Sequence[str | None]:
        """The keys of the rows whose images are read: null for those that are taken over.

        The last bits of an embedding depend on what else is in its batch, so that batches are
        taken over whole, or not at all.
        """
        names = [*self.image_pass.columns()]
        saved = saved_rows(self.folder, frame, self.id_col, names) if self.folder else None
        if saved is None:
            return result.keys
        errors = saved.column(ERROR_COLUMN, pa.string()).to_pylist()
        is_good = [
            is_there and not (error and may_pass(error))
            for is_there, error in zip(saved.is_there, errors, strict=True)
        ]
        order = self.tars.tar_order(result.keys, result.shards, self.image_pass.use_index_files)
        size = self._batch_size(frames.device_of(frame))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        whole = [row for rows in batches if all(is_good[row] for row in rows) for row in rows]
        result.take_over(whole, saved)
        keys: list[str | None] = list(result.keys)
        for row in whole:
            keys[row] = None
        return keys

    def _batch_size(self, device: str) -> int:
        size = self.image_pass.batch_size
        return min(size, _CPU_BATCH) if device == "cpu" else size

    def _decoded(
        self, result: PassResult, keys: Sequence[str | None], device: str, owner: int
    ) -> Generator[tuple[list[int], DecodedBatch]]:
        import torch

        image_pass = self.image_pass
        size, threads = self._batch_size(device), image_pass.num_threads
        if device == "cpu":
            # A worker's cores are shared with its forward pass; more threads than cores only
            # get in its way.
            threads = min(threads, torch.get_num_threads())
        options: dict[str, Any] = {
            "num_threads": threads,
            "batch_size": size,
            "max_pixels": image_pass.max_pixels,
            "thumbnail_sizes": image_pass.thumbnail_sizes(),
            "orientation": image_pass.orientation,
        }
        decoder = worker_cache.get_or_build(
            tokenize(device, image_pass.preprocessing, options, owner),
            lambda: image_decoder(image_pass.preprocessing, device, **options),
        )
        images: list[RowImage] = []
        for image in self.tars.image_bytes(keys, result.shards, image_pass.use_index_files):
            images.append(image)
            if len(images) == size:
                yield _decode(decoder, images)
                images = []
        if images:
            yield _decode(decoder, images)

    def _loaded(self, result: PassResult) -> Generator[tuple[list[int], DecodedBatch]]:
        load = self.image_pass.load_shard
        assert load is not None
        for shard, shard_rows in rows_by_shard(result.keys, result.shards):
            waiting: dict[str, list[int]] = {}
            for row in shard_rows:
                waiting.setdefault(result.keys[row], []).append(row)
            for pixels, keys in load(storage.join(self.tars.root, shard)):
                if len(pixels) != len(keys):
                    raise DatasetError(
                        f"{shard}: load_dataset_shard gave {len(pixels)} images with {len(keys)} "
                        "keys; each batch needs a key for each image."
                    )
                pairs = [
                    (number, row) for number, key in enumerate(keys) for row in waiting.pop(key, ())
                ]
                if pairs:
                    chosen = pixels[[number for number, _ in pairs]]
                    yield [row for _, row in pairs], _all_good(chosen)


def _decode(decoder: Any, images: Sequence[RowImage]) -> tuple[list[int], DecodedBatch]:
    batch: DecodedBatch = decoder.decode([image.content for image in images])
    for number, image in enumerate(images):
        if image.content is None:
            batch.errors[number] = image.reason
    return [image.row for image in images], batch


def _all_good(pixels: Any) -> DecodedBatch:
    """A batch whose pixels came from elsewhere, where nothing is known of the files."""
    n = len(pixels)
    return DecodedBatch.of(pixels, [None] * n, [None] * n, {})
