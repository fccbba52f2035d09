"""Read the variables of a zipped Keras SavedModel with numpy alone.

A SavedModel keeps its variables in a TensorFlow "tensor bundle": ``variables.index`` is a sorted
string table (:mod:`nemo_image_curate.models.sstable`) from variable names to `BundleEntryProto`
messages, each of which says where in ``variables.data-00000-of-00001`` the values lie. Source of
the field numbers: TensorFlow, ``core/protobuf/tensor_bundle.proto``,
``core/framework/tensor_shape.proto`` and ``types.proto``.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models.sstable import fields, table

_INDEX = "variables/variables.index"
_DATA = "variables/variables.data-00000-of-00001"
# The published heads need 2 kB and 1 MB.
_MAX_INDEX_BYTES = 1 << 20
_MAX_DATA_BYTES = 1 << 28

# types.proto: DT_FLOAT, DT_DOUBLE, DT_INT32, DT_INT64, DT_HALF; other types are no weights.
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """All numeric variables of a zipped Keras SavedModel.

    Parameters
    ----------
    path
        The zip. Its members are read in memory (at most 1 MiB of index and 256 MiB of values);
        nothing is extracted to disk and no code in it is executed.

    Returns
    -------
    dict
        Variable name (without ``/.ATTRIBUTES/VARIABLE_VALUE``) to a read-only array.

    Raises
    ------
    WeightsError
        When the file is no such zip or any part of it is damaged.
    """
    index = _member(path, _INDEX, _MAX_INDEX_BYTES)
    data = _member(path, _DATA, _MAX_DATA_BYTES)
    variables = {}
    try:
        for key, entry in table(index):
            if not key:
                _check_header(entry)
                continue
            array = _array(entry, data)
            if array is not None:
                variables[key.decode("utf-8").removesuffix(_SUFFIX)] = array
    except ValueError as error:
        raise WeightsError(f"{path}: {_INDEX} is damaged: {error}") from error
    return variables


def nsfw_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """LAION's NSFW head (a Keras zip) under the names of its PyTorch conversion.

    ``layer_with_weights-1`` is Keras' Normalization (``mean``, ``variance``), the following ones
    are Dense layers, whose kernels are (in, out) where PyTorch's weights are (out, in).

    Parameters
    ----------
    path
        ``clip_autokeras_binary_nsfw.zip`` (ViT-L/14, four layers) or
        ``clip_autokeras_nsfw_b32.zip`` (ViT-B/32, three layers), as published.

    Returns
    -------
    dict
        ``norm.mean``, ``norm.variance`` (d,), ``linear_<i>.weight`` (out, in) and
        ``linear_<i>.bias`` (out,) for i = 1, 2, ...; float32.

    Raises
    ------
    WeightsError
        When the zip is damaged or holds another model.
    """
    variables = read_variables(path)
    state = {}
    try:
        for name in ("mean", "variance"):
            state[f"norm.{name}"] = variables[f"layer_with_weights-1/{name}"]
        layers = sum(name.endswith("/kernel") for name in variables)
        for layer in range(1, layers + 1):
            source = f"layer_with_weights-{layer + 1}"
            state[f"linear_{layer}.weight"] = variables[f"{source}/kernel"].T.copy()
            state[f"linear_{layer}.bias"] = variables[f"{source}/bias"]
    except KeyError as error:
        raise WeightsError(
            f"{path}: no variable {error.args[0]!r}, so this is not LAION's NSFW head; "
            f"it holds {sorted(variables)}"
        ) from error
    return state


def _member(path: str | Path, ending: str, limit: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if info.filename.endswith(ending)]
            if len(found) != 1:
                raise ValueError(f"it holds {len(found)} members '*/{ending}', expected one")
            if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{ending} is neither stored nor deflated")
            with archive.open(found[0]) as member:
                content = member.read(limit + 1)
    except Exception as error:  # zipfile lets through whatever broken bytes lead it to
        raise WeightsError(f"{path} is not a readable Keras zip: {error}") from error
    if len(content) > limit:
        raise WeightsError(f"{path}: {ending} is larger than {limit} bytes")
    return content


def _check_header(message: bytes) -> None:
    header = dict(fields(message))
    shards, endianness = header.get(1, 0), header.get(2, 0)
    if shards != 1 or endianness != 0:
        raise ValueError(f"{shards!r} data files, endianness {endianness!r}; expected 1 and little")


def _array(message: bytes, data: bytes) -> np.ndarray | None:
    entry: dict[int, int | bytes] = dict(fields(message))
    dtype, shape = entry.get(1, 0), entry.get(2, b"")
    shard, offset, size = entry.get(3, 0), entry.get(4, 0), entry.get(5, 0)
    if not isinstance(dtype, int) or dtype not in _DTYPES:
        return None
    if not isinstance(shape, bytes) or not isinstance(offset, int) or not isinstance(size, int):
        raise ValueError("an entry has a field of the wrong type")
    dims = _dims(shape)
    kind = np.dtype(_DTYPES[dtype])
    if size != math.prod(dims) * kind.itemsize or offset + size > len(data) or shard != 0:
        raise ValueError(f"an entry of shape {dims} claims bytes {offset}+{size} of {len(data)}")
    return np.frombuffer(data, kind, math.prod(dims), offset).reshape(dims)


def _dims(message: bytes) -> tuple[int, ...]:
    dims = []
    for number, value in fields(message):
        if number == 2:
            if not isinstance(value, bytes):
                raise ValueError("a dimension is no message")
            size = dict(fields(value)).get(1, 0)
            if not isinstance(size, int) or size > _MAX_DATA_BYTES:
                raise ValueError(f"a dimension is {size!r}")
            dims.append(size)
    return tuple(dims)
