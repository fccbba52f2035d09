"""Random batches of pairs, in files, that every row is put into."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.selection.prepared import gathered_once
from nemo_image_curate.stages.gathered import Gathered, gather
from nemo_image_curate.tables import content_digest, serialised
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


class Batch:
    """Pairs of unit vectors that a row is compared with, beside its own.

    Attributes
    ----------
    files : list of list of Path
        Of each column, ``.npy``, shape (n_i, d), float32.
    spares : list of Path or None
        Of each column, ``.npy``, shape (d,), float32: the pair that takes a row's place in the
        batch if the row is in the files. None: all rows are in the files.
    names : Path or None
        An Arrow file of the keys and shards of the rows in the files.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(
        self,
        files: list[list[Path]],
        spares: list[Path] | None = None,
        names: Path | None = None,
    ):
        self.files = files
        self.spares = spares
        self.names = names

    def has(self, keys: pa.Array, shards: pa.Array) -> np.ndarray:
        """Whether rows are in the files; shape (n,), bool."""
        if self.names is None:
            return np.ones(len(keys), dtype=bool)
        with pa.memory_map(str(self.names)) as file:
            names = pa.ipc.open_file(file).read_all()
        known = _joined(names["key"].combine_chunks(), names["shard"].combine_chunks())
        is_in = pc.is_in(_joined(keys, shards), value_set=known)
        return np.asarray(is_in.to_numpy(zero_copy_only=False))


class Batches:
    """What rows are compared with, one batch for each repeat.

    Attributes
    ----------
    folder : Path
    digest : str
        A hash of the rows and vectors of all.
    id_col : str
        The dataset's column of keys.
    """

    def __init__(self, folder: Path, batches: list[Batch], digest: str, id_col: str):
        self.folder = folder
        self.digest = digest
        self.id_col = id_col
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


def all_pairs(dataset: ImageTextPairDataset, columns: list[str], folder: Path) -> Batches:
    """One batch of all rows.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    columns : list of str
        Of embeddings; rows that lack one are in no batch.
    folder : Path
    """
    pairs = gathered_once(lambda place: gather(dataset, columns, place), folder)
    return _of_all(pairs, dataset.id_col)


def _of_all(pairs: Gathered, id_col: str) -> Batches:
    files = [pairs.files(column) for column in pairs.columns]
    return Batches(pairs.folder, [Batch(files)], pairs.digest, id_col)


def drawn_pairs(
    dataset: ImageTextPairDataset,
    columns: list[str],
    batch_size: int,
    repeats: int,
    seed: int,
    folder: Path,
) -> Batches:
    """Batches that were drawn by a hash of the seed and the rows' keys.

    Rows are put in order by that hash. Each repeat takes the next `batch_size` of them; when too
    few are left, all are put in order anew with the next seed. The first ``batch_size - 1`` of
    these are in the files, the last one is the spare.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    columns : list of str
        Of embeddings; rows that lack one are in no batch.
    batch_size : int
        At least 2. With no more rows than that there is one batch, of all.
    repeats : int
    seed : int
    folder : Path
    """
    # One more, which tells whether there are more than a batch.
    count = batch_size * repeats + 1
    pool = gathered_once(lambda place: gather(dataset, columns, place, count, seed), folder)
    if len(pool) <= batch_size:
        return _of_all(pool, dataset.id_col)
    place = folder / f"batches-{fingerprint(pool.folder.name, batch_size, repeats)[:24]}"
    storage.make_dirs(str(place))
    draw = dask.delayed(_draw, pure=False)
    numbers = range(repeats)
    chosen = _chosen(pool.names(np.arange(len(pool))), batch_size, repeats, seed)
    digests = jobs.compute_all(
        [draw(pool, rows, place, number) for number, rows in enumerate(chosen)],
        [f"batch {number}" for number in numbers],
        "draw batches",
    )
    shutil.rmtree(pool.folder)
    batches = [
        Batch(
            [[_vectors_file(place, number, side)] for side in range(len(columns))],
            [_spare_file(place, number, side) for side in range(len(columns))],
            _names_file(place, number),
        )
        for number in numbers
    ]
    return Batches(place, batches, fingerprint(digests), dataset.id_col)


def _chosen(names: pa.Table, batch_size: int, repeats: int, seed: int) -> list[np.ndarray]:
    """The row numbers of each batch, in the order of their hashes."""
    orders: list[np.ndarray] = []
    of_order = len(names) // batch_size
    chosen = []
    for repeat in range(repeats):
        if repeat % of_order == 0:
            scores = pa.array(random_score(names["key"], seed + len(orders)))
            # Keys may be the same in two shards.
            table = names.append_column("score", scores)
            by = [(name, "ascending") for name in ("score", "key", "shard")]
            orders.append(pc.sort_indices(table, sort_keys=by).to_numpy().astype(np.int64))
        start = repeat % of_order * batch_size
        chosen.append(orders[-1][start : start + batch_size])
    return chosen


def _draw(pool: Gathered, row_numbers: np.ndarray, folder: Path, number: int) -> str:
    """Write a batch's files, and give a hash of what they hold; runs on a worker."""
    pairs = [_take(pool, column, row_numbers) for column in pool.columns]
    names = pool.names(row_numbers)
    for side, vectors in enumerate(pairs):
        _save(_vectors_file(folder, number, side), vectors[:-1])
        _save(_spare_file(folder, number, side), vectors[-1])
    storage.write_bytes(
        str(_names_file(folder, number)), serialised(names.slice(0, len(names) - 1))
    )
    return content_digest(names, *pairs)


def _take(pool: Gathered, column: str, row_numbers: np.ndarray) -> np.ndarray:
    taken = np.empty((len(row_numbers), 0), dtype=np.float32)
    start = 0
    for path in pool.files(column):
        vectors = np.load(path, mmap_mode="r")
        places = np.flatnonzero((row_numbers >= start) & (row_numbers < start + len(vectors)))
        if not taken.shape[1]:
            taken = np.empty((len(row_numbers), vectors.shape[1]), dtype=np.float32)
        taken[places] = vectors[row_numbers[places] - start]
        start += len(vectors)
    return taken


def _save(path: Path, array: np.ndarray) -> None:
    with storage.atomic_write(str(path)) as file:
        np.save(file, array)


def _vectors_file(folder: Path, number: int, side: int) -> Path:
    return folder / f"batch-{number:04d}-{side}.npy"


def _spare_file(folder: Path, number: int, side: int) -> Path:
    return folder / f"batch-{number:04d}-{side}-spare.npy"


def _names_file(folder: Path, number: int) -> Path:
    return folder / f"batch-{number:04d}-names.arrow"


def _joined(keys: pa.Array, shards: pa.Array) -> pa.Array:
    """Keys and shards as one text each."""
    texts = [column.cast(pa.large_string()) for column in (shards, keys)]
    return pc.binary_join_element_wise(*texts, pa.scalar("\n", pa.large_string()))
