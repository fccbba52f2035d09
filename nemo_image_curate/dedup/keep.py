"""Keep order: which of several duplicates comes first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.vectors.sampling import random_score

KEEP = ("first", "random", "best", "hard", "easy")
# One column, or several of which the next decides where the last ones are equal. A minus before a
# name: the lowest value is the best.
By = str | Sequence[str] | None


def keep_columns(by: By) -> list[str]:
    """The columns that ``best`` goes by."""
    return [name.removeprefix("-") for name in _terms(by)]


def _terms(by: By) -> list[str]:
    return [] if by is None else [by] if isinstance(by, str) else list(by)


def check_keep(keep: str, by: By, policies: tuple[str, ...] = KEEP) -> None:
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
    if by is None:
        return
    is_list = isinstance(by, (list, tuple)) and all(isinstance(term, str) for term in by)
    if not by or not (isinstance(by, str) or is_list):
        raise ConfigError(f"by={by!r} should be a column, or a list of columns.")
    names = keep_columns(by)
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"by={by!r} should name each column once.")


def keep_scores(
    keep: str,
    by: By,
    seed: int,
    table: pa.Table,
    id_col: str,
    home_similarity: np.ndarray | None = None,
) -> list[np.ndarray]:
    """What the keep order goes by, but for ``first``: the highest score first.

    Parameters
    ----------
    keep : {"random", "best", "hard", "easy"}
    by : str, sequence of str, or None
        The columns of numbers or times that ``best`` goes by, the first one first.
    seed : int
        Of ``random``.
    table : pyarrow.Table, n rows
    id_col : str
        Its column of keys.
    home_similarity : numpy.ndarray of float32, shape (n,), optional
        Of each embedding with the centroid of its cluster, which ``easy`` prefers high, ``hard``
        low (Abbas et al. 2023).

    Returns
    -------
    list of numpy.ndarray of float64, shape (n,)
        The next decides where the last ones are equal. NaN, which comes last, where there is none.

    Raises
    ------
    ConfigError
        When `by` holds something else.
    """
    if keep == "random":
        return [random_score(table[id_col], seed)]
    if keep == "best":
        return [
            -_score_of(term[1:], table) if term.startswith("-") else _score_of(term, table)
            for term in _terms(by)
        ]
    assert home_similarity is not None, "only policies of embeddings go by it"
    sign = 1.0 if keep == "easy" else -1.0
    return [sign * home_similarity.astype(float)]


def sort_table(
    scores: Sequence[np.ndarray], keys: pa.Array | pa.ChunkedArray, rows: np.ndarray
) -> pa.Table:
    """A table of what rows are sorted by, in its columns' order; the last are ``key``, ``row``."""
    places = {
        f"place-{number}": pa.array(-score, from_pandas=True) for number, score in enumerate(scores)
    }
    return pa.table(places | {"key": keys, "row": rows})


def keep_sorted(table: pa.Table) -> np.ndarray:
    """The keep order of a `sort_table`: highest scores first, NaN last, ties by key, then row.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        The places of its rows.
    """
    sort_keys = [(name, "ascending") for name in table.column_names]
    order: np.ndarray = pc.sort_indices(table, sort_keys=sort_keys).to_numpy()
    return order


def _score_of(by: str, table: pa.Table) -> np.ndarray:
    kind, values = table.schema.field(by).type, table[by]
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    elif not (pa.types.is_decimal(kind) or pa.types.is_primitive(kind)):
        raise ConfigError(f"by={by!r} should be a column of numbers or times, not of {kind}.")
    # Integers beyond 2^53 are rounded; those that become equal are ordered by key.
    score: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy()
    return score
