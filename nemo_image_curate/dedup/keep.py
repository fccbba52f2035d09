"""Keep order: which of several duplicates comes first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.vectors.sampling import random_score

KEEP = ("first", "random", "best", "hard", "easy")


def check_keep(keep: str, by: str | None, policies: tuple[str, ...] = KEEP) -> None:
    """Refuse a keep policy that does not exist, or that does not go with `by`.

    Raises
    ------
    ConfigError
    """
    if keep not in policies:
        raise ConfigError(f"keep={keep!r} should be one of {', '.join(map(repr, policies))}.")
    if keep == "best" and by is None:
        raise ConfigError("keep='best' needs by=COLUMN, whose highest value is kept.")
    if by is not None and keep != "best":
        raise ConfigError(f"by={by!r} goes with keep='best', not with keep={keep!r}.")


def ranks(keys: pa.ChunkedArray, score: np.ndarray | None) -> np.ndarray:
    """The place of every row in the keep order.

    Parameters
    ----------
    keys : pyarrow.ChunkedArray of string, length n
        Ties in `score` are broken by key, and rows of one key by their order.
    score : numpy.ndarray of float64, shape (n,), optional
        Higher comes first, NaN last. Without it rows keep the order of the dataset.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        0 for the row that comes first.
    """
    n = len(keys)
    if score is None:
        return np.arange(n, dtype=np.int64)
    place = np.arange(n, dtype=np.int64)
    table = pa.table({"score": pa.array(-score, from_pandas=True), "key": keys, "row": place})
    order = pc.sort_indices(
        table, sort_keys=[(name, "ascending") for name in table.column_names]
    ).to_numpy()
    result = np.empty(n, dtype=np.int64)
    result[order] = place
    return result


def keep_score(
    keep: str, by: str | None, seed: int, table: pa.Table, keys: pa.ChunkedArray
) -> np.ndarray | None:
    """What `ranks` sorts by for the policies that look at columns only.

    Returns
    -------
    numpy.ndarray of float64, shape (n,), or None for the order of the dataset
    """
    if keep == "random":
        return random_score(keys, seed)
    if keep == "best":
        kind, values = table.schema.field(by).type, table[by]
        if pa.types.is_temporal(kind):
            values = values.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
        elif not (pa.types.is_decimal(kind) or pa.types.is_primitive(kind)):
            raise ConfigError(f"by={by!r} should be a column of numbers or times, not of {kind}.")
        # Integers beyond 2^53 are rounded; those that become equal are ordered by key.
        score: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy()
        return score
    return None
