"""What the tests of the index share: its kinds, the true answers, and shards to add."""

import copy
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.index.vector_index import VectorIndex

KINDS = [("flat", True), ("ivf", True), ("ivf", False)]
kinds = pytest.mark.parametrize(("kind", "rerank"), KINDS)


def with_lists(index: VectorIndex, scan_rows: int = 0) -> VectorIndex:
    """The same index; its lists are searched although there are few vectors."""
    index = copy.copy(index)
    index.scan_rows = scan_rows
    return index


def truth(vectors, queries, k, allowed=None):
    """Scores and rows of the nearest, by a sort of everything; equal ones by row."""
    x = np.asarray(vectors, dtype=np.float64)
    q = np.asarray(queries, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ x.T
    if allowed is not None:
        scores[:, np.setdiff1d(np.arange(len(x)), allowed)] = -np.inf
    order = np.argsort(-scores.round(9), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def recall(found, true):
    return np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True)]) / len(
        true[0]
    )


def write_shard(folder: Path, stem: str, vectors, **columns) -> None:
    with tarfile.open(folder / f"{stem}.tar", "w"):
        pass
    keys = [f"{stem}-{number}" for number in range(len(vectors))]
    embeddings = pa.array([one.tolist() for one in vectors], pa.list_(pa.float32()))
    table = pa.table({"key": keys, "image_embedding": embeddings, **columns})
    pq.write_table(table, folder / f"{stem}.parquet")


def opened(folder: Path) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(folder, backend="cpu")
