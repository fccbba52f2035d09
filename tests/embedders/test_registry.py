"""Embedders built again from what a dataset records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nemo_image_curate import (
    ConseEmbedder,
    ImageTextPairDataset,
    TimmImageEmbedder,
    embedder_of,
)
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models.torchvision_compat import import_timm
from tests.make_data import jpeg, write_tar
from tests.make_embedders import ThumbEmbedder


def record(tmp_path, embedder):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1))])
    return embedder(ImageTextPairDataset.from_webdataset(tmp_path)).provenance["image_embedding"]


def test_a_checkpoint_is_asked_for_and_compared(tmp_path):
    torch.manual_seed(3)
    for name in ("right", "wrong"):
        model = import_timm().create_model("test_vit", num_classes=0)
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    right, wrong = str(tmp_path / "right.safetensors"), str(tmp_path / "wrong.safetensors")
    embedder = TimmImageEmbedder("test_vit", checkpoint_path=right)
    made = record(tmp_path, embedder)
    again = embedder_of(made, right)
    assert np.array_equal(again.embed_images([jpeg(2)])[0], embedder.embed_images([jpeg(2)])[0])
    for path in (None, wrong):
        with pytest.raises(ConfigError, match="--checkpoint"):
            embedder_of(made, path)


def test_models_of_ones_own_are_not_guessed(tmp_path):
    with pytest.raises(ConfigError, match="made by 'ThumbEmbedder'; give the embedder"):
        embedder_of(record(tmp_path, ThumbEmbedder()))
    with pytest.raises(ConfigError, match="of unknown origin"):
        embedder_of({})
    with pytest.raises(ConfigError, match="made by 'TimmImageEmbedder'; give the embedder"):
        embedder_of({"stage": "TimmImageEmbedder", "encoder": "x"})


def test_other_weights_under_the_name_of_the_offline_pair():
    made = {"stage": "ConseEmbedder", **ConseEmbedder().config()}
    assert embedder_of(made).encoder() == "offline/conse"
    with pytest.raises(ConfigError, match="with other weights"):
        embedder_of({**made, "weights_sha256": "0" * 64})
