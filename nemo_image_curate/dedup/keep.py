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


def keep_order(
    keep: str,
    by: str | None,
    seed: int,
    table: pa.Table,
    id_col: str,
    home_similarity: np.ndarray | None = None,
) -> np.ndarray:
    """The place of every row in the keep order.

    Parameters
    ----------
    keep : {"first", "random", "best", "hard", "easy"}
    by : str or None
        The column of numbers or times that ``best`` goes by; null comes last.
    seed : int
        Of ``random``.
    table : pyarrow.Table, n rows
        Ties are broken by key, and rows of one key by their order.
    id_col : str
        Its column of keys.
    home_similarity : numpy.ndarray of float32, shape (n,), optional
        Of each embedding with the centroid of its cluster, which ``easy`` prefers high, ``hard``
        low (Abbas et al. 2023); NaN comes last.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        0 for the row that comes first.

    Raises
    ------
    ConfigError
        When `by` holds something else.
    """
    keys = table[id_col]
    if keep == "random":
        return _places(keys, random_score(keys, seed))
    if keep == "best":
        assert by is not None, "check_keep saw to it"
        return _places(keys, _score_of(by, table))
    if keep in ("hard", "easy"):
        assert home_similarity is not None, "only policies of embeddings go by it"
        sign = 1.0 if keep == "easy" else -1.0
        return _places(keys, sign * home_similarity.astype(float))
    return np.arange(len(table), dtype=np.int64)


def _places(keys: pa.ChunkedArray, score: np.ndarray) -> np.ndarray:
    """The place of each row when the highest score comes first, NaN last, ties by key."""
    rows = np.arange(len(keys), dtype=np.int64)
    table = pa.table({"score": pa.array(-score, from_pandas=True), "key": keys, "row": rows})
    order = pc.sort_indices(
        table, sort_keys=[(name, "ascending") for name in table.column_names]
    ).to_numpy()
    places = np.empty_like(rows)
    places[order] = rows
    return places


def _score_of(by: str, table: pa.Table) -> np.ndarray:
    kind, values = table.schema.field(by).type, table[by]
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    elif not (pa.types.is_decimal(kind) or pa.types.is_primitive(kind)):
        raise ConfigError(f"by={by!r} should be a column of numbers or times, not of {kind}.")
    # Integers beyond 2^53 are rounded; those that become equal are ordered by key.
    score: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy()
    return score
