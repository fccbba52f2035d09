from __future__ import annotations

import pytest
import torch

from nemo_image_curate.models import offline
from nemo_image_curate.models.encoder_identity import check_quickgelu, encoder_id, timm_config
from nemo_image_curate.models.known_encoders import CLIP_VIT_L_14, ENCODERS, OFFLINE, known_encoder
from nemo_image_curate.models.torchvision_compat import import_timm


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=list(ENCODERS))
def test_the_table_agrees_with_timm(encoder):
    if encoder.timm_name == OFFLINE:
        config = timm_config(offline.OFFLINE_TIMM_NAME)
        assert config.mean == offline.OFFLINE_MEAN
        assert config.std == offline.OFFLINE_STD
        assert config.crop_pct == encoder.crop_pct
        with torch.device("meta"):
            model = import_timm().create_model(offline.OFFLINE_TIMM_NAME)
        assert model.num_features == encoder.embedding_dim
    else:
        config = timm_config(encoder.timm_name)
        assert config.num_classes == encoder.embedding_dim
        with torch.device("meta"):
            model = import_timm().create_model(encoder.timm_name)
        assert "QuickGELU" in {type(module).__name__ for module in model.modules()}
        check_quickgelu(encoder.timm_name)
        assert encoder_id(encoder.timm_name, pretrained=True) == encoder.name
    assert config.input_size[1:] == (encoder.image_size, encoder.image_size)


def test_known_encoder():
    assert known_encoder("vit_large_patch14_clip_quickgelu_224.openai") is ENCODERS[CLIP_VIT_L_14]
    assert known_encoder(OFFLINE) is ENCODERS["offline/tf_efficientnet_lite0"]
    assert known_encoder("vit_large_patch14_clip_224.openai") is None
