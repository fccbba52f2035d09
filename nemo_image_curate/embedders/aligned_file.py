"""The file of an `AlignedEmbedder`: both projections, and which encoders they stand on."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError, WeightsError
from nemo_image_curate.learning.towers import Towers
from nemo_image_curate.learning.words import Words
from nemo_image_curate.models import weights
from nemo_image_curate.outputs import check_output

if TYPE_CHECKING:
    import torch

MODEL_FILE, RECIPE_FILE = "aligned.safetensors", "recipe.json"
# The key of the file's header; one, since safetensors writes several in no certain order.
_HEADER = "nemo_image_curate"
_FORMAT = 1
# The tensor of the words' weights, and how much they count beside the encoder's vector.
_WORDS, _WORDS_SHARE = "words.weights", 0.5
# What is needed of the encoders' records.
_RECORDED = ("encoder", "weights_sha256", "normalized")
# How a model is named that is kept in the weights' home.
_BY_HASH = "sha256:"


@dataclass(frozen=True)
class AlignedModel:
    """What an embedder loads.

    Attributes
    ----------
    towers : Towers
    image_encoder, text_encoder : mapping
        Records of the encoders whose features the towers take.
    words : Words
        What words of a text count beside the text encoder's vector.
    """

    towers: Towers
    image_encoder: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    words: Words = field(default_factory=lambda: Words.of([]))

    @property
    def kind(self) -> str:
        """``trained``, or ``base`` where the encoders' own space was kept."""
        return "base" if math.isinf(self.towers.base_share) else "trained"


def text_features(vectors: torch.Tensor, texts: Sequence[str], words: Words) -> torch.Tensor:
    """What the towers take of texts: the encoder's vectors, and the words beside them."""
    import torch

    counted = torch.from_numpy(words.vectors(texts)).to(vectors.device)
    return torch.cat([vectors, _WORDS_SHARE * counted], dim=1)


def model_file(path: str) -> Path:
    """The file of a model, which is given by its folder, by itself, or by ``sha256:HASH``."""
    if path.startswith(_BY_HASH):
        return weights.home() / "aligned" / f"{path.removeprefix(_BY_HASH)}.safetensors"
    place = Path(path).expanduser()
    return place / MODEL_FILE if place.is_dir() else place


def model_folder(path: str) -> str:
    """The folder that a model is written to, which holds nothing else.

    Raises
    ------
    ConfigError
    """
    folder = Path(storage.local_path(path, "path", "a model is read from there by its file"))
    check_output(str(folder), is_folder=True)
    is_free = not folder.exists() or not any(folder.iterdir())
    if not is_free and not (folder / MODEL_FILE).is_file():
        raise ConfigError(
            f"path={str(folder)!r} is there already, and is no model: it would be written over. "
            "Name a new folder."
        )
    return str(folder)


def write_model(model: AlignedModel, folder: str, facts: Mapping[str, Any]) -> str:
    """Write the model and what came of its training; the path of the model's file."""
    import torch
    from safetensors.torch import save

    header = {
        "format": _FORMAT,
        "image_encoder": model.image_encoder,
        "text_encoder": model.text_encoder,
        "words": model.words.words,
    }
    text = json.dumps(header, sort_keys=True)
    # Copies: safetensors takes no two that share their memory, and none that is a view.
    plain = {"memory_format": torch.contiguous_format}
    tensors = {name: tensor.clone(**plain) for name, tensor in model.towers.tensors.items()}
    tensors[_WORDS] = torch.from_numpy(model.words.weights)
    storage.make_dirs(folder)
    path = storage.join(folder, MODEL_FILE)
    storage.write_bytes(path, save(tensors, {_HEADER: text}))
    del header["words"]
    recipe = {"kind": model.kind, **header, "weights_sha256": weights.sha256_of(path), **facts}
    content = json.dumps(recipe, indent=1, ensure_ascii=False)
    storage.write_bytes(storage.join(folder, RECIPE_FILE), content.encode())
    return path


def read_model(path: str) -> AlignedModel:
    """A model from its file or folder.

    Raises
    ------
    WeightsError
        When there is none, or it is damaged.
    """
    file = model_file(path)
    if not file.is_file() and path.startswith(_BY_HASH):
        raise WeightsError(
            f"the aligned model {path} is not kept in {weights.home()}: give its folder, as "
            "checkpoint_path= (--checkpoint) where a dataset records it."
        )
    if not file.is_file():
        raise WeightsError(
            f"{path!r} holds no {MODEL_FILE}: give the folder that AlignedEmbedder.fit, or the "
            "command learn, wrote."
        )
    try:
        digest = weights.sha256_of(file)
    except OSError as error:
        raise WeightsError(f"cannot read {file}: {error.strerror}.") from error
    if path.startswith(_BY_HASH) and path != f"{_BY_HASH}{digest}":
        raise WeightsError(
            f"{file} is damaged: what is kept there has another hash. Give the model's folder, as "
            "checkpoint_path= (--checkpoint) where a dataset records it."
        )
    return _read(str(file), digest)


# As long as a file stays the same; some stages ask for their encoder again and again.
@lru_cache(maxsize=8)
def _read(path: str, _: str) -> AlignedModel:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = storage.parse_json((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is no safetensors file: {error}") from error
    written = header.get("format") if isinstance(header, dict) else None
    if written != _FORMAT:
        kind = "other weights" if written is None else f"format {written}"
        raise WeightsError(
            f"{path} holds {kind}, not an aligned model of format {_FORMAT}. Give what "
            "AlignedEmbedder.fit, or the command learn, wrote."
        )
    try:
        encoders = header["image_encoder"], header["text_encoder"]
        for record, name in itertools.product(encoders, _RECORDED):
            record[name]
        words = Words(tuple(header["words"]), tensors.pop(_WORDS).numpy())
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path} is damaged: its header lacks {error}.") from error
    return AlignedModel(Towers(tensors), *encoders, words)


def is_model(path: str) -> bool:
    """Whether there is an aligned model, as a folder or a file."""
    try:
        read_model(path)
    except (WeightsError, OSError):
        return False
    return True


def read_facts(path: str) -> dict[str, Any]:
    """What came of the training, as ``recipe.json`` beside the model says; empty without it.

    Empty, too, where it is of another model: of one that was there before, when writing stopped
    between both files.
    """
    file = model_file(path)
    place = file.with_name(RECIPE_FILE)
    if not place.is_file():
        return {}
    try:
        facts: dict[str, Any] = storage.parse_json(place.read_text("utf-8"))
        is_of_it = facts["weights_sha256"] == weights.sha256_of(file)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(
            f"{place} is no record of a model, or cannot be read: {error}"
        ) from error
    return facts if is_of_it else {}


def name_by_hash(path: str) -> str:
    """A name of the model that holds wherever it lies, for records."""
    return f"{_BY_HASH}{weights.sha256_of(model_file(path))}"


def remember(path: str) -> None:
    """Keep a copy in the weights' home, where it is found by what datasets record."""
    name = name_by_hash(path)
    file, target = model_file(path), model_file(name)
    # A home that cannot be written to does no harm: the model can be given.
    with contextlib.suppress(OSError, DatasetError):
        if target.is_file() and weights.sha256_of(target) == name.removeprefix(_BY_HASH):
            return
        storage.make_dirs(str(target.parent))
        storage.write_bytes(str(target), file.read_bytes())
