"""Lists of 128-bit uids, as DataComp's resharder takes them: sorted pairs of numbers, ``.npy``.

A uid of 32 hexadecimal digits is a pair of the first and the last 16. One that stands there several
times is a sample that is taken as often (mlfoundations/datacomp, ``resharder.py``).
"""

from __future__ import annotations

import functools
import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import storage
from nemo_image_curate.errors import SchemaError

# The first and the last 16 digits.
PAIR = np.dtype("u8,u8")
_DIGITS = "^[0-9a-fA-F]{32}$"


def is_uid_list(location: str) -> bool:
    """Whether a file is called as one."""
    return location.lower().endswith(".npy")


def are_uids(texts: pa.Array) -> pa.BooleanArray:
    """Which of some texts have 32 hexadecimal digits."""
    return pc.fill_null(pc.match_substring_regex(texts, _DIGITS), False)


def pairs_of(uids: pa.Array) -> np.ndarray:
    """Uids of 32 hexadecimal digits as pairs of numbers, shape (n,)."""
    digits = bytes.fromhex("".join(uids.to_pylist()))
    return np.frombuffer(digits, ">u8").astype(np.uint64).view(PAIR)


def write_uid_list(location: str, pairs: np.ndarray) -> None:
    """Sort pairs, and write them."""
    in_order = pairs[np.lexsort((pairs["f1"], pairs["f0"]))]
    with storage.atomic_write(location) as file:
        np.save(file, in_order)


def read_uid_list(location: str) -> np.ndarray:
    """The pairs of a list, sorted.

    Raises
    ------
    SchemaError
        When it is another array, or none.
    NotFoundError, ForbiddenError, UnavailableError
        When it could not be had.
    """
    content = storage.read_bytes(location)
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        if array.dtype != PAIR or array.ndim != 1:
            raise ValueError(f"an array of {array.dtype} with shape {array.shape}")
    except ValueError as error:
        raise SchemaError(
            f"{location} is no list of uids, an array of u8,u8 with shape (n,), as DataComp's "
            f"resharder takes it, but: {error}. to_selection(..., column=) writes one."
        ) from error
    return array[np.lexsort((array["f1"], array["f0"]))]


@functools.lru_cache(1)
def read_uid_list_once(location: str, digest: str) -> np.ndarray:
    """The same, read once for all partitions that a process works on.

    Parameters
    ----------
    location : str
    digest : str
        Of the file's content.
    """
    return read_uid_list(location)
