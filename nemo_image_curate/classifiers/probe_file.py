"""The file of a linear probe: weights and how they were learned, in safetensors."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models import weights

# The key of the recipe in the file's metadata, and what it says first.
_RECIPE, _KIND = "nemo_image_curate", "LinearProbe"
# What is needed of it to score.
_RECORDED = ("classes", "is_bool", "pred_column", "encoder")


@dataclass(frozen=True)
class ProbeFile:
    """What is in the file of a probe of K classes.

    Attributes
    ----------
    weight : numpy.ndarray, shape (K, d), float32
    bias : numpy.ndarray, shape (K,), float32
    recipe : dict
        Plain values: ``classes``, ``is_bool``, ``pred_column``, ``encoder``, ``report`` and more.
    sha256 : str
        Of the file that it was read from.
    """

    weight: np.ndarray
    bias: np.ndarray
    recipe: dict[str, Any]
    sha256: str = ""

    def write(self, location: str) -> None:
        """Write it, whole or not at all."""
        from safetensors.numpy import save

        recipe = json.dumps({"kind": _KIND, **self.recipe}, ensure_ascii=False)
        tensors = {"weight": self.weight, "bias": self.bias}
        storage.make_dirs(storage.parent(location))
        storage.write_bytes(location, save(tensors, {_RECIPE: recipe}))


def read_probe(path: str | os.PathLike[str]) -> ProbeFile:
    """What a file of a probe holds; read once as long as it stays the same.

    Raises
    ------
    WeightsError
        When there is none, or it is another file.
    """
    location = Path(path).expanduser().absolute()
    try:
        digest = weights.sha256_of(location)
    except OSError as error:
        raise WeightsError(
            f"LinearProbe: cannot read {location}: {error.strerror}. LinearProbe.fit writes such "
            "files, and so does the command probe."
        ) from error
    return _read(str(location), digest)


@functools.lru_cache(16)
def _read(location: str, digest: str) -> ProbeFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(location, "numpy") as file:
            recipe = json.loads((file.metadata() or {}).get(_RECIPE, "{}"))
            if recipe.get("kind") == _KIND:
                for name in _RECORDED:
                    recipe[name]
                weight, bias = (file.get_tensor(name) for name in ("weight", "bias"))
                return ProbeFile(weight, bias, recipe, digest)
    except KeyError as error:
        raise WeightsError(f"LinearProbe: {location} is damaged: it lacks {error}.") from error
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"LinearProbe: {location} is no safetensors file: {error}") from error
    raise WeightsError(
        f"LinearProbe: {location} holds other weights than those of a probe, which LinearProbe.fit "
        "writes."
    )
