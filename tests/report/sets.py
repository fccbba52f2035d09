"""Small datasets with duplicates, clusters and leaks whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import ImageTextPairDataset
from tests.make_data import jpeg, write_sidecar, write_tar

GROUPS, COPIES, DIM = 20, 3, 24
WORDS = ("dog", "snow", "car")


def vectors() -> np.ndarray:
    """Unit vectors: each of some directions three times, the second and third ever farther off.

    Returns
    -------
    numpy.ndarray of float32, shape (GROUPS * COPIES, DIM)
        One row after the other; of a few the vector is not finite.
    """
    rng = np.random.default_rng(5)
    first = rng.normal(size=(GROUPS, DIM))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    other = rng.normal(size=(GROUPS, COPIES, DIM)) / np.sqrt(DIM)
    every = first[:, None] + other * np.array([0, 0.2, 0.5])[None, :, None]
    return (every / np.linalg.norm(every, axis=2, keepdims=True)).reshape(-1, DIM).astype("float32")


def rows() -> list[dict[str, Any]]:
    """A row for each vector; those of a direction are of one group, the first is kept."""
    every = vectors()
    made = []
    for number, vector in enumerate(every):
        group, copy = divmod(number, COPIES)
        first = every[group * COPIES]
        made.append(
            {
                "key": f"{number:04d}",
                "image_embedding": None if number == 7 else vector.tolist(),
                "caption": f"a {WORDS[group % 3]} <b>here</b>",
                "sharpness": float(100 - number),
                "cluster": group % 3,
                "is_duplicate": copy > 0,
                "dedup_error": None,
                "duplicate_of": f"{group * COPIES:04d}" if copy else None,
                "duplicate_similarity": float(first @ vector) if copy else None,
                "selected": number % 2 == 0,
            }
        )
    return made


_KINDS = {
    "image_embedding": pa.list_(pa.float32()),
    "cluster": pa.int32(),
    "sharpness": pa.float32(),
    "duplicate_similarity": pa.float32(),
    "is_duplicate": pa.bool_(),
    "selected": pa.bool_(),
    "is_leak": pa.bool_(),
    "leak_similarity": pa.float32(),
    "count": pa.int64(),
}


def write(root: Path, every: list[dict[str, Any]], shards: int) -> ImageTextPairDataset:
    """Rows spread over shards one by one, with a picture each."""
    shard_of = {row["key"]: f"{number % shards:05d}.tar" for number, row in enumerate(every)}
    for shard in range(shards):
        own = [dict(row) for row in every[shard::shards]]
        for row in own:
            row["duplicate_of_shard"] = shard_of.get(row["duplicate_of"])
        write_tar(
            root / f"{shard:05d}.tar", [(f"{r['key']}.jpg", jpeg(int(r["key"]))) for r in own]
        )
        fields = [(name, _KINDS.get(name, pa.string())) for name in own[0]]
        table = pa.Table.from_pylist(own, schema=pa.schema(fields))
        write_sidecar(root / f"{shard:05d}.parquet", table)
    return ImageTextPairDataset.from_webdataset(root, backend="cpu")
