"""Datasets of embeddings alone: semantic deduplication looks at no image."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import ImageTextPairDataset


def write_embeddings(
    folder: Path,
    vectors: Sequence[Any] | np.ndarray,
    per_shard: int = 100,
    backend: str = "cpu",
    **columns: Sequence[Any],
) -> ImageTextPairDataset:
    """A dataset with these embeddings (None: no embedding), and further columns."""
    folder.mkdir(parents=True)
    rows = [None if one is None else np.asarray(one, np.float32).tolist() for one in vectors]
    columns = {"key": [f"{number:06d}" for number in range(len(rows))], **columns}
    for shard, start in enumerate(range(0, max(1, len(rows)), per_shard)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w"):
            pass
        part = {name: values[start : start + per_shard] for name, values in columns.items()}
        embeddings = pa.array(rows[start : start + per_shard], pa.list_(pa.float32()))
        table = pa.table({**part, "image_embedding": embeddings})
        if not len(rows):
            table = table.cast(table.schema.set(0, pa.field("key", pa.string())))
        pq.write_table(table, folder / f"{shard:05d}.parquet")
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def planted(
    n: int, dim: int = 32, copies: float = 0.3, centres: int = 12, seed: int = 0
) -> np.ndarray:
    """Clustered unit vectors, a share of which are copies moved by up to 0.33 of their length."""
    chance = np.random.default_rng(seed)
    middle = chance.standard_normal((centres, dim))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    base = n - int(n * copies)
    noise = chance.standard_normal((n, dim)) / np.sqrt(dim)
    vectors = np.empty((n, dim))
    vectors[:base] = middle[chance.integers(0, centres, base)] + 0.9 * noise[:base]
    vectors[:base] /= np.linalg.norm(vectors[:base], axis=1, keepdims=True)
    source = chance.integers(0, max(1, base), n - base)
    vectors[base:] = vectors[source] + noise[base:] * chance.uniform(0, 0.33, (n - base, 1))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[chance.permutation(n)].astype(np.float32)


def brute_force(
    vectors: np.ndarray, order: Sequence[int], eps: float, rule: str
) -> dict[int, int | None]:
    """What a rule makes of all pairs: for each row the row that stands for it, written plainly."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = unit @ unit.T >= 1 - eps - 1e-6
    stands: dict[int, int | None] = {}
    if rule == "components":
        for row in order:
            if row in stands:
                continue
            stands[row] = None
            reached = [row]
            while reached:
                for other in np.flatnonzero(near[reached.pop()]).tolist():
                    if other not in stands:
                        stands[other] = row
                        reached.append(other)
        return stands
    for place, row in enumerate(order):
        earlier = [other for other in order[:place] if near[row, other]]
        if rule == "greedy":
            earlier = [other for other in earlier if stands[other] is None]
        stands[row] = earlier[0] if earlier else None
    return stands
