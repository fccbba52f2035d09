"""Centroids of clusters that a column names: sums of their rows' unit vectors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.selection.hash_order import usable_vectors
from nemo_image_curate.tables import conform, serialised

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Sums are made of integers, multiples of this, so that their order does not matter; there is room
# for 2^31 rows of length 1.
_UNIT = 2.0**-32
# Rows whose integers are held at once, and tasks that add up.
_ROWS = 8192
_TASKS = 32


def centroid_sums(
    dataset: ImageTextPairDataset, cluster_column: str, embedding_column: str, folder: Path
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Count and sum of the unit vectors of each cluster, of rows that have both.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    cluster_column, embedding_column : str
    folder : Path
        For files of one run, of as many sums as a partition has clusters each; removed at the end.

    Returns
    -------
    clusters : pyarrow.Array, length k
        Sorted.
    counts : numpy.ndarray of int64, shape (k,)
    sums : numpy.ndarray of float64, shape (k, d)
        The same for any partitions.

    Raises
    ------
    DatasetError
        When embeddings differ in length.
    """
    shutil.rmtree(folder, ignore_errors=True)
    storage.make_dirs(str(folder))
    frame = dataset.metadata[[cluster_column, embedding_column]]
    paths = [folder / f"sums-{number:05d}.arrow" for number in range(frame.npartitions)]
    options = (cluster_column, embedding_column)
    arguments = [(path, *options) for path in paths]
    dims = set(partitions.run(frame, _write_sums, arguments, what="centroids")) - {0}
    if len(dims) > 1:
        raise DatasetError(
            f"column {embedding_column!r}: embeddings of different lengths ({min(dims)} and "
            f"{max(dims)}) in different partitions: they are of different models."
        )
    call = dask.delayed(_add_files, pure=False)
    tasks = [paths[start::_TASKS] for start in range(min(_TASKS, len(paths)))]
    labels = [f"files {number}" for number in range(len(tasks))]
    parts = jobs.compute_all([call(task) for task in tasks], labels, "centroids", None)
    shutil.rmtree(folder)
    table = _added_up([part for part in parts if len(part)] or parts[:1])
    clusters = table["cluster"].combine_chunks()
    return clusters, table["count"].to_numpy(), _matrix(table["sum"]) * _UNIT


def _write_sums(frame: Any, path: Path, cluster_column: str, embedding_column: str) -> int:
    """Write the sums of a partition's clusters, and tell the width; runs on a worker."""
    import torch

    vectors, rows = usable_vectors(frame, embedding_column, normalize=True)
    clusters = frames.column_to_arrow(frame[cluster_column]).take(rows)
    has_cluster = np.flatnonzero(clusters.is_valid().to_numpy(zero_copy_only=False))
    encoded = clusters.take(has_cluster).dictionary_encode()
    codes = torch.from_numpy(encoded.indices.to_numpy().astype(np.int64)).to(vectors.device)
    dim = vectors.shape[1] if len(has_cluster) else 0
    sums = torch.zeros(len(encoded.dictionary), dim, dtype=torch.int64, device=vectors.device)
    for start in range(0, len(codes), _ROWS):
        part = vectors[torch.from_numpy(has_cluster[start : start + _ROWS]).to(vectors.device)]
        whole = (part.double() / _UNIT).round().long()
        sums.index_add_(0, codes[start : start + _ROWS], whole)
    counts = torch.bincount(codes, minlength=len(sums))
    table = _table(encoded.dictionary, counts.cpu().numpy(), sums.cpu().numpy())
    storage.write_bytes(str(path), serialised(table))
    return dim


def _table(clusters: pa.Array, counts: np.ndarray, sums: np.ndarray) -> pa.Table:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(sums.reshape(-1)), max(1, sums.shape[1]))
    return pa.table({"cluster": clusters, "count": counts, "sum": lists})


def _matrix(lists: pa.ChunkedArray) -> np.ndarray:
    flat = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: np.ndarray = flat.reshape(len(lists), -1) if len(lists) else flat.reshape(0, 0)
    return matrix


def _add_files(paths: Sequence[Path]) -> pa.Table:
    """Add up the sums of some partitions; runs on a worker."""
    total: pa.Table | None = None
    for path in paths:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        # One of no rows does not know how wide vectors are.
        if total is None or not len(total):
            total = table
        elif len(table):
            total = _added_up([total, table])
    assert total is not None, "each task has files"
    return total


def _added_up(tables: Sequence[pa.Table]) -> pa.Table:
    schema = tables[0].schema
    table = pa.concat_tables([conform(part, schema) for part in tables])
    encoded = table["cluster"].combine_chunks().dictionary_encode()
    codes, clusters = encoded.indices.to_numpy(), encoded.dictionary
    matrix = _matrix(table["sum"])
    sums = np.zeros((len(clusters), matrix.shape[1]), dtype=np.int64)
    np.add.at(sums, codes, matrix)
    counts = np.zeros(len(clusters), dtype=np.int64)
    np.add.at(counts, codes, table["count"].to_numpy())
    order = pc.sort_indices(clusters).to_numpy()
    return _table(clusters.take(order), counts[order], sums[order])
