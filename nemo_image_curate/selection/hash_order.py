"""Vectors of a dataset in files that are the same however its rows lie in partitions.

They go by a hash of their keys: so k-means, whose result depends on how vectors lie in files, does
not depend on partitions.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.tables import content_digest
from nemo_image_curate.vectors.sampling import random_score
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Vectors of a file, on average, and files at most.
_ROWS = 1 << 14
_FILES = 512


def usable_vectors(frame: Any, column: str, normalize: bool) -> tuple[torch.Tensor, np.ndarray]:
    """The vectors of a computed partition, and their rows.

    Parameters
    ----------
    frame : pandas.DataFrame or cudf.DataFrame
    column : str
    normalize : bool
        Bring them to length 1, and leave out those that have none; else those are left out that
        hold NaN or infinity.

    Returns
    -------
    vectors : torch.Tensor, shape (m, d), float32
        On the frame's device.
    row_numbers : numpy.ndarray of int64, shape (m,)
    """
    import torch

    values, embedded_rows = frames.embedding_array(frame[column])
    device = frames.device_of(frame)
    if normalize:
        vectors, rows = unit_vectors(values, device)
        return vectors, embedded_rows[rows]
    vectors = torch.as_tensor(values.copy(), device=device)
    is_finite = vectors.isfinite().all(dim=1)
    return vectors[is_finite], embedded_rows[is_finite.cpu().numpy()]


class HashOrder:
    """The vectors of a dataset's column, told by how many they are and what they hold.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
    normalize : bool
    progress : bool or None

    Attributes
    ----------
    count : int
        Rows that have a usable vector.
    dim : int
        Its length; 0 when there are none.
    digest : str
        A hash of keys and vectors.

    Raises
    ------
    DatasetError
        When vectors differ in length.
    """

    def __init__(
        self, dataset: ImageTextPairDataset, column: str, normalize: bool, progress: bool | None
    ):
        self.id_col = dataset.id_col
        self.column = column
        self.normalize = normalize
        self.progress = progress
        self._frame = dataset.metadata[[dataset.id_col, SHARD_COLUMN, column]]
        options = (column, normalize)
        measured = partitions.run(
            self._frame,
            _measure,
            [options] * self._frame.npartitions,
            what="read",
            progress=progress,
        )
        dims = sorted({dim for _, dim, _ in measured} - {0})
        if len(dims) > 1:
            raise DatasetError(
                f"column {column!r}: embeddings of different lengths ({dims[0]} and {dims[-1]}) in "
                "different partitions: they are of different models."
            )
        self.count = sum(count for count, _, _ in measured)
        self.dim = dims[0] if dims else 0
        self.digest = fingerprint([digest for _, _, digest in measured])

    def write(self, folder: Path, most: int, seed: int) -> list[Path]:
        """Write the vectors, or about `most` of them, those whose keys have the lowest hashes.

        Parameters
        ----------
        folder : Path
            On a file system that all workers share. What an interrupted run left is used.
        most : int
        seed : int

        Returns
        -------
        list of Path
            ``.npy`` files, shape (m, d), float32, by hash of key, then key, then shard.
        """
        storage.make_dirs(str(folder))
        share = min(1.0, most / max(1, self.count))
        files = min(_FILES, max(1, math.ceil(min(most, self.count) / _ROWS)))
        paths = [folder / f"vectors-{number:05d}.npy" for number in range(files)]
        todo = [number for number, path in enumerate(paths) if not path.exists()]
        if todo:
            exchange = Exchange(folder / "sent", "vectors", self._frame.npartitions, files)
            storage.make_dirs(str(exchange.folder))
            options = (exchange, self.id_col, self.column, self.normalize, share, seed, self.dim)
            numbers = [n for n in range(exchange.senders) if not exchange.path(n).exists()]
            partitions.run(
                self._frame,
                _send,
                [(number, *options) for number in numbers],
                what="gather",
                numbers=numbers,
                progress=self.progress,
            )
            call = dask.delayed(_receive, pure=False)
            jobs.compute_all(
                [call(exchange, number, paths[number]) for number in todo],
                [paths[number].name for number in todo],
                "gather",
                self.progress,
            )
        shutil.rmtree(folder / "sent", ignore_errors=True)
        return paths


def _measure(frame: Any, column: str, normalize: bool) -> tuple[int, int, str]:
    """Count the usable vectors of a partition, and hash all columns; runs on a worker."""
    vectors, _ = usable_vectors(frame, column, normalize)
    values, embedded_rows = frames.embedding_array(frame[column])
    names = [name for name in frame.columns if name != column]
    texts = pa.table({name: frames.column_to_arrow(frame[name]) for name in names})
    digest = content_digest(texts, embedded_rows, frames.host(values))
    return len(vectors), (vectors.shape[1] if len(vectors) else 0), digest


def _send(
    frame: Any,
    number: int,
    exchange: Exchange,
    id_col: str,
    column: str,
    normalize: bool,
    share: float,
    seed: int,
    dim: int,
) -> None:
    """Write a partition's vectors for the files that they belong to; runs on a worker."""
    vectors, rows = usable_vectors(frame, column, normalize)
    texts = {
        name: frames.column_to_arrow(frame[of]).take(rows)
        for name, of in (("key", id_col), ("shard", SHARD_COLUMN))
    }
    score = random_score(texts["key"], seed)
    leaves = pa.array(vectors.cpu().numpy().reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(leaves, max(dim, 1))
    table = pa.table({"score": score, **texts, "vector": lists}).filter(score < share)
    file = table["score"].to_numpy() / share * exchange.receivers
    exchange.write(number, table, np.minimum(file.astype(np.int64), exchange.receivers - 1))


def _receive(exchange: Exchange, number: int, path: Path) -> None:
    """Write a file of vectors; runs on a worker."""
    table = exchange.read(number)
    by = [(name, "ascending") for name in ("score", "key", "shard")]
    lists = table["vector"].combine_chunks().take(pc.sort_indices(table, sort_keys=by))
    vectors = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    if not len(table):
        vectors = np.empty((0, lists.type.list_size), dtype=np.float32)
    with storage.atomic_write(str(path)) as file:
        np.save(file, vectors)
