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
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models import weights

# The key of the recipe in the file's metadata, and what it says first.
_RECIPE, _KIND = "nemo_image_curate", "LinearProbe"
# What is needed of it to score.
_RECORDED = ("classes", "is_bool", "pred_column", "encoder")
# Columns of every dataset, which a probe would replace.
OTHER_COLUMNS = ("key", SHARD_COLUMN, ERROR_COLUMN)


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
            recipe = storage.parse_json((file.metadata() or {}).get(_RECIPE, "{}"))
            if not isinstance(recipe, dict) or recipe.get("kind") != _KIND:
                raise WeightsError(
                    f"LinearProbe: {location} holds other weights than those of a probe, which "
                    "LinearProbe.fit writes."
                )
            weight, bias = (file.get_tensor(name) for name in ("weight", "bias"))
    # The last for types that NumPy does not have.
    except (SafetensorError, ValueError, TypeError) as error:
        raise WeightsError(f"LinearProbe: {location} is no safetensors file: {error}") from error
    if problem := _problem(recipe, weight, bias):
        raise WeightsError(
            f"LinearProbe: {location} is damaged: {problem}. Write it again with LinearProbe.fit, "
            "or with the command probe."
        )
    return ProbeFile(weight, bias, recipe, digest)


def _problem(recipe: dict[str, Any], weight: np.ndarray, bias: np.ndarray) -> str | None:
    """What is wrong with the parts of a probe; None where they fit together."""
    for name in _RECORDED:
        if name not in recipe:
            return f"it lacks {name!r}"
    classes, is_bool, pred_column, encoder = (recipe[name] for name in _RECORDED)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return "its classes are no list of names"
    if len(set(classes)) < len(classes):
        return "two of its classes have one name"
    if not isinstance(is_bool, bool) or (is_bool and len(classes) != 2):
        return f"is_bool={is_bool!r} does not suit its {len(classes)} classes"
    if not isinstance(pred_column, str) or not pred_column or pred_column in OTHER_COLUMNS:
        return f"pred_column={pred_column!r} is no name for its column"
    if not isinstance(encoder, (str, type(None))):
        return f"its encoder is {encoder!r}, no name"
    if weight.ndim != 2 or len(weight) != len(classes) or bias.shape != (len(classes),):
        shapes = f"{weight.shape} and {bias.shape}"
        return f"its weights, of shapes {shapes}, are not those of {len(classes)} classes"
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in (weight, bias)):
        return "its weights are not finite numbers in float32"
    return None
