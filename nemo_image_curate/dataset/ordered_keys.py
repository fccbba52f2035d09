"""Values of columns as whole numbers that are in the same order, and back again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nemo_image_curate.errors import ConfigError

HIGHEST_KEY = (1 << 64) - 1
_SIGN = np.uint64(1 << 63)


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def check_ordered(column: str, kind: pa.DataType) -> None:
    """Refuse a column of values that have no keys here.

    Raises
    ------
    ConfigError
    """
    types = pa.types
    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    if not (_is_time(kind) or any(is_kind(kind) for is_kind in numeric)):
        raise ConfigError(
            f"column {column!r} holds {kind}, which has no threshold: numbers, bools, times and "
            "dates do."
        )


def keys_of(values: pa.Array) -> np.ndarray:
    """Values as numbers that are in the same order; floats by their bits.

    Parameters
    ----------
    values : pyarrow.Array, length n
        Without nulls and NaN, of a type that `check_ordered` takes.

    Returns
    -------
    numpy.ndarray of uint64, shape (n,)
        Equal for equal values, such as 0 and -0.
    """
    kind = values.type
    if pa.types.is_floating(kind):
        # Adding 0 makes 0 of -0, which equals it.
        bits = (values.to_numpy().astype(np.float64) + 0.0).view(np.uint64)
        keys: np.ndarray = np.where(bits >= _SIGN, ~bits, bits | _SIGN)
    elif pa.types.is_null(kind):
        keys = np.empty(0, np.uint64)
    elif pa.types.is_unsigned_integer(kind) or pa.types.is_boolean(kind):
        keys = values.to_numpy(zero_copy_only=False).astype(np.uint64)
    else:
        if _is_time(kind):
            values = values.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
        keys = values.to_numpy().astype(np.int64).view(np.uint64) ^ _SIGN
    return keys


def value_of(key: int, kind: pa.DataType) -> pa.Scalar:
    """The value of a type that has a key; 0 for that of -0."""
    if pa.types.is_floating(kind):
        bits = np.uint64(key)
        bits = bits ^ _SIGN if bits >= _SIGN else ~bits
        return pa.scalar(float(bits.view(np.float64)), kind)
    if pa.types.is_boolean(kind):
        return pa.scalar(bool(key))
    if pa.types.is_unsigned_integer(kind):
        return pa.scalar(key, kind)
    number = key - (1 << 63)
    if _is_time(kind):
        return pa.scalar(number, pa.int64() if kind.bit_width == 64 else pa.int32()).cast(kind)
    return pa.scalar(number, kind)
