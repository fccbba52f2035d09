"""Which encoder an embedding came from: the identity that provenance records and compares."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models.known_encoders import (
    ENCODERS,
    OFFLINE,
    Encoder,
    known_encoder,
    plain_name,
)
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.models.weights import sha256_of

if TYPE_CHECKING:
    from pathlib import Path


def check_quickgelu(model_name: str, pretrained: bool = True) -> None:
    """Refuse weights trained with QuickGELU in an architecture that computes the exact GELU.

    OpenAI (and some others) trained with x * sigmoid(1.702 x). timm 1.0 keeps such weights under
    two names, loads them into both without a word, and marks the wrong one only by a note in its
    ``pretrained_cfg``; that note is the source here. Nothing happens for models it does not mark.

    Parameters
    ----------
    model_name
        timm's name; without a tag, that of timm's default weights.
    pretrained
        Whether timm's weights are to be loaded; if not, there is nothing to refuse.

    Raises
    ------
    ConfigError
        Naming the model name to use instead.
    """
    name = plain_name(model_name)
    if not pretrained or name == OFFLINE:
        return
    notes = " ".join(timm_config(name).notes or ())
    if "quickgelu" in notes.lower() and "quickgelu" not in name:
        quickgelu_name = name.replace("_clip_", "_clip_quickgelu_")
        raise ConfigError(
            f"model_name={model_name!r}: these weights were trained with QuickGELU, which this "
            f"architecture does not compute; its embeddings would be wrong. Use {quickgelu_name!r}."
        )


def encoder_id(
    model_name: str,
    pretrained: bool = False,
    checkpoint_path: str | Path | None = None,
    checkpoint_encoder: str | None = None,
) -> str:
    """The identity of an encoder: equal for two embedders exactly if their embeddings compare.

    Parameters
    ----------
    model_name
        timm's name of the architecture, with or without tag, or ``"offline"``.
    pretrained
        Whether timm's published weights are loaded.
    checkpoint_path
        A weights file that is loaded instead.
    checkpoint_encoder
        What the user says the checkpoint is, a key of `ENCODERS`. Needed for copies whose bytes
        differ from the author's file (a conversion to safetensors does).

    Returns
    -------
    str
        A key of `ENCODERS` for these; ``timm/<name>.<tag>`` for other weights that timm
        publishes; ``<name>:sha256:<first 16 digits>`` for a checkpoint; ``<name>:random``.

    Raises
    ------
    ConfigError
        When timm has no such model or tag, or `checkpoint_encoder` is unknown or of another
        architecture.
    OSError
        When the checkpoint cannot be read.
    """
    name = plain_name(model_name)
    if name == OFFLINE:
        if checkpoint_path is not None or checkpoint_encoder is not None:
            raise ConfigError('model_name="offline" brings its own weights, it takes no others')
        return next(encoder.name for encoder in ENCODERS.values() if encoder.timm_name == OFFLINE)
    architecture = name.partition(".")[0]
    if checkpoint_encoder is not None:
        return _declared(checkpoint_encoder, architecture, checkpoint_path)
    if checkpoint_path is not None:
        return _of_checkpoint(architecture, checkpoint_path)
    if not pretrained:
        return f"{architecture}:random"
    config = timm_config(name)
    encoder = known_encoder(f"{architecture}.{config.tag}")
    return encoder.name if encoder else f"timm/{architecture}.{config.tag}"


def open_clip_id(
    model_name: str,
    pretrained: str | None = None,
    weights_sha256: str | None = None,
    checkpoint_encoder: str | None = None,
) -> str:
    """The identity of an OpenCLIP model: an OpenAI one has the name that its timm twin has.

    Parameters
    ----------
    model_name, pretrained
        As ``open_clip.create_model`` takes them (architecture; tag or none). The tag ``openai``
        means QuickGELU, so ``-quickgelu`` in the name makes no difference there.
    weights_sha256
        Hash of a weights file that has no tag.
    checkpoint_encoder
        What the user says that file is, a key of `ENCODERS`.

    Raises
    ------
    ConfigError
        When `checkpoint_encoder` is unknown or of another architecture.
    """
    plain = model_name.replace("/", "-").removesuffix("-quickgelu")
    if checkpoint_encoder is not None:
        if (
            checkpoint_encoder not in ENCODERS
            or ENCODERS[checkpoint_encoder].open_clip_name != plain
        ):
            names = [encoder.name for encoder in ENCODERS.values() if encoder.open_clip_name]
            raise ConfigError(
                f"checkpoint_encoder={checkpoint_encoder!r} is none that {model_name} may be; "
                f"known are {', '.join(names)}."
            )
        return checkpoint_encoder
    if pretrained and pretrained.lower() == "openai":
        for encoder in ENCODERS.values():
            if encoder.open_clip_name == plain:
                return encoder.name
    if weights_sha256 is not None:
        return f"open_clip/{model_name}:sha256:{weights_sha256[:16]}"
    return f"open_clip/{model_name}.{pretrained}" if pretrained else f"{model_name}:random"


def timm_config(model_name: str) -> Any:
    """What timm knows of a model's weights and input, its ``PretrainedCfg``.

    Parameters
    ----------
    model_name
        timm's name; without a tag, the configuration is that of its default weights.

    Raises
    ------
    ConfigError
        When timm has no such model or tag.
    """
    timm = import_timm()
    name = plain_name(model_name)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"timm {timm.__version__} has no model {architecture!r}.{hint}")
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ConfigError(f"timm has no weights {name!r}; it has: {tags}") from error
    if config is None:
        raise ConfigError(f"timm has no configuration for {name!r}")
    return config


def _declared(
    checkpoint_encoder: str, architecture: str, checkpoint_path: str | Path | None
) -> str:
    encoder = ENCODERS.get(checkpoint_encoder)
    if encoder is None or encoder.timm_name == OFFLINE:
        names = (encoder.name for encoder in ENCODERS.values() if encoder.timm_name != OFFLINE)
        raise ConfigError(
            f"no encoder {checkpoint_encoder!r} is known; known are {', '.join(names)}"
        )
    if checkpoint_path is None:
        raise ConfigError(
            f"checkpoint_encoder={checkpoint_encoder!r} describes a checkpoint_path, but none is "
            "given."
        )
    _check_architecture(encoder, architecture)
    return checkpoint_encoder


def _of_checkpoint(architecture: str, checkpoint_path: str | Path) -> str:
    digest = sha256_of(checkpoint_path)
    for encoder in ENCODERS.values():
        if encoder.sha256 == digest and encoder.timm_name != OFFLINE:
            _check_architecture(encoder, architecture)
            return encoder.name
    return f"{architecture}:sha256:{digest[:16]}"


def _check_architecture(encoder: Encoder, architecture: str) -> None:
    expected = encoder.timm_name.partition(".")[0]
    if architecture != expected:
        raise ConfigError(f"{encoder.name} has the architecture {expected!r}, not {architecture!r}")
