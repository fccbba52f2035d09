"""Random choices that depend on keys and a seed alone, not on how rows lie in partitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa


def random_score(keys: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each key that depends on the key and the seed alone.

    Parameters
    ----------
    keys : pyarrow.Array of string, length n
    seed : int

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        53 bits of pandas' SipHash, whose key the seed is.
    """
    texts = keys.cast("string").to_numpy(zero_copy_only=False).astype(object)
    hash_key = f"{seed % 10**16:016d}"
    hashed: np.ndarray = pd.util.hash_array(texts, hash_key=hash_key, categorize=False)
    return (hashed >> 11) / 2.0**53
