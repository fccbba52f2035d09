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


def hash_bits(texts: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """`random_score` of each text as an integer that begins with its 53 bits.

    Parameters
    ----------
    texts : pyarrow.Array of string, length n

    Returns
    -------
    numpy.ndarray of uint64, shape (n,)
    """
    bits: np.ndarray = (random_score(texts, seed) * 2.0**53).astype(np.uint64) << np.uint64(11)
    return bits


def hash_bits_of_few(texts: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """`hash_bits` where most texts are the same, such as names of shards."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = whole.dictionary_encode()
    bits: np.ndarray = hash_bits(encoded.dictionary, seed)[encoded.indices.to_numpy()]
    return bits
