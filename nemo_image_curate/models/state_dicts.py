"""Read a weights file into tensors without executing anything in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models.laion_nsfw import nsfw_state_dict

if TYPE_CHECKING:
    import torch


def load_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, on the CPU, under their names.

    Parameters
    ----------
    path
        ``.safetensors``; ``.pth``, ``.pt``, ``.bin`` (only tensors and plain containers are
        unpickled, ``weights_only=True``); ``.zip``: one of LAION's published NSFW heads. A
        checkpoint that keeps its tensors under ``"state_dict"`` is unwrapped.

    Returns
    -------
    dict
        Name to tensor, in the order of the file.

    Raises
    ------
    WeightsError
        When the file cannot be read, is of another kind, or holds anything but tensors.
    """
    path = Path(path)
    readers = {
        ".safetensors": _safetensors,
        ".pth": _pickled,
        ".pt": _pickled,
        ".bin": _pickled,
        ".zip": _laion_nsfw,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"{path}: weights are read from {', '.join(readers)} files only")
    if not path.is_file():
        raise WeightsError(f"{path} is not a file")
    return _tensors(path, reader(path))


def _safetensors(path: Path) -> Any:
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path, device="cpu")
    except Exception as error:  # the library's own class, or what broken bytes lead torch to
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _pickled(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own classes
        # Not torch's own text: it advises weights_only=False, which would run code in the file.
        raise WeightsError(
            f"{path} is broken or holds more than tensors, which is never unpickled "
            f"({type(error).__name__}); save it as safetensors"
        ) from error


def _laion_nsfw(path: Path) -> Any:
    import torch

    return {name: torch.from_numpy(array) for name, array in nsfw_state_dict(path).items()}


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor")
    return {name: value.detach() for name, value in content.items()}
