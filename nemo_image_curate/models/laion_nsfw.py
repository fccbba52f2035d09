"""LAION's two NSFW heads, read from the Keras archives that it published, and from no others.

The values lie in one member of the archive, TensorFlow's "tensor bundle", one tensor after the
other. Which, the archive says in formats of its own (a LevelDB table of protobuf messages); as
these two archives are known to the last byte, it is told here.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from nemo_image_curate.errors import WeightsError

_BUNDLE = "variables/variables.data-00000-of-00001"
# SHA-256 of an archive, and the widths of its head's layers.
_WIDTHS = {
    # clip_autokeras_binary_nsfw.zip, for ViT-L/14
    "905520bb0336accc73ee282c605d926aef90cf14248889d44b9cee50eef71f8a": (768, 64, 512, 256, 1),
    # clip_autokeras_nsfw_b32.zip, for ViT-B/32
    "78715ab9d64485167e8c9ade3b8e6761a17a16c24d114bd47431ac1dab46462b": (512, 32, 32, 1),
}
_LARGEST_BYTES = 1_094_585


def nsfw_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a published NSFW head, under the names of its PyTorch conversion.

    Parameters
    ----------
    path : pathlib.Path
        ``clip_autokeras_binary_nsfw.zip`` or ``clip_autokeras_nsfw_b32.zip``, as published. It is
        read in memory (1.1 MB at most); nothing is extracted to disk, and nothing executed.

    Returns
    -------
    dict of numpy.ndarray of float32
        ``norm.mean``, ``norm.variance`` (d,), ``linear_<i>.weight`` (out, in) and
        ``linear_<i>.bias`` (out,) for i = 1, 2, ...

    Raises
    ------
    WeightsError
        When it is any other file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            archive = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    widths = _WIDTHS.get(hashlib.sha256(archive).hexdigest())
    if widths is None:
        raise WeightsError(
            f"{path} is neither of the two .zip files that are read, "
            "clip_autokeras_binary_nsfw.zip and clip_autokeras_nsfw_b32.zip as LAION published "
            "them (by their SHA-256). Download it again; the tensors of a head of your own can be "
            "given as .safetensors or .pth."
        )
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        [name] = [name for name in members.namelist() if name.endswith(_BUNDLE)]
        bundle = members.read(name)
    state, offset = {}, 0
    for name, shape in _shapes(widths).items():
        values = np.frombuffer(bundle, "<f4", math.prod(shape), offset)
        state[name] = values.reshape(shape).T.copy()  # Keras keeps kernels as (in, out)
        offset += values.nbytes
    del state["norm.count"]
    return state


def _shapes(widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The tensors of a bundle in its order, with Keras' shapes."""
    shapes: dict[str, tuple[int, ...]] = {"norm.mean": widths[:1], "norm.variance": widths[:1]}
    shapes["norm.count"] = (2,)  # one int64, in the place of two float32
    for number, (below, above) in enumerate(pairwise(widths), 1):
        shapes[f"linear_{number}.weight"] = (below, above)
        shapes[f"linear_{number}.bias"] = (above,)
    return shapes
