from __future__ import annotations

import pytest

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models import known_encoders
from nemo_image_curate.models.encoder_identity import (
    check_quickgelu,
    encoder_id,
    open_clip_id,
    timm_config,
)
from nemo_image_curate.models.known_encoders import CLIP_VIT_L_14, OFFLINE
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.models.weights import sha256_of

QUICK = "vit_large_patch14_clip_quickgelu_224.openai"
PLAIN = "vit_large_patch14_clip_224.openai"


@pytest.mark.parametrize(
    "name", [PLAIN, f"timm/{PLAIN}", "hf-hub:timm/vit_base_patch32_clip_224.openai"]
)
def test_openai_weights_without_quickgelu_are_refused(name):
    right = name.rpartition("/")[2].replace("_clip_", "_clip_quickgelu_")
    with pytest.raises(ConfigError, match=right):
        check_quickgelu(name)
    check_quickgelu(name, pretrained=False)


def test_every_pair_that_timm_marks_is_refused():
    timm = import_timm()
    quick = timm.list_pretrained("*_clip_quickgelu_*")
    assert len(quick) >= 17
    for name in quick:
        check_quickgelu(name)
        with pytest.raises(ConfigError, match=name):
            check_quickgelu(name.replace("_quickgelu", ""))


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch32_clip_224.laion2b",
        "vit_large_patch14_clip_224.openai_ft_in1k",
        "resnet50_clip.openai",
        "resnet50",
        OFFLINE,
    ],
)
def test_other_weights_pass(name):
    check_quickgelu(name)


def test_an_untagged_name_means_timms_default_weights():
    # Not OpenAI's: what timm loads for the bare name is another model.
    bare = encoder_id("vit_large_patch14_clip_quickgelu_224", pretrained=True)
    tag = timm_config("vit_large_patch14_clip_quickgelu_224").tag
    assert bare == f"timm/vit_large_patch14_clip_quickgelu_224.{tag}" != CLIP_VIT_L_14


def test_identities(tmp_path):
    assert encoder_id(QUICK, pretrained=True) == CLIP_VIT_L_14
    assert encoder_id(f"timm/{QUICK}", pretrained=True) == CLIP_VIT_L_14
    assert encoder_id(QUICK) == "vit_large_patch14_clip_quickgelu_224:random"
    assert encoder_id("resnet50.a1_in1k", pretrained=True) == "timm/resnet50.a1_in1k"
    # The same weights in the wrong architecture are another encoder.
    assert encoder_id(PLAIN, pretrained=True) == f"timm/{PLAIN}"
    assert encoder_id(OFFLINE) == "offline/tf_efficientnet_lite0"
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    found = {encoder_id(QUICK, checkpoint_path=path) for path in (one, two)}
    assert found == {
        f"vit_large_patch14_clip_quickgelu_224:sha256:{sha256_of(path)[:16]}" for path in (one, two)
    }


def test_a_published_checkpoint_is_recognised_and_a_copy_can_be_declared(tmp_path, monkeypatch):
    path = tmp_path / "ViT-L-14.pt"
    path.write_bytes(b"stands for 900 MB")
    assert ":sha256:" in encoder_id(QUICK, checkpoint_path=path)
    declared = encoder_id(QUICK, checkpoint_path=path, checkpoint_encoder=CLIP_VIT_L_14)
    assert declared == CLIP_VIT_L_14
    with pytest.raises(ConfigError, match=QUICK.partition(".")[0]):
        encoder_id(PLAIN, checkpoint_path=path, checkpoint_encoder=CLIP_VIT_L_14)
    with pytest.raises(ConfigError, match="known are openai/clip"):
        encoder_id(QUICK, checkpoint_path=path, checkpoint_encoder="openai/clip-large")
    with pytest.raises(ConfigError, match="none is given"):
        encoder_id(QUICK, checkpoint_encoder=CLIP_VIT_L_14)
    entry = known_encoders.Encoder(CLIP_VIT_L_14, QUICK, "ViT-L-14", 768, 224, 1.0, sha256_of(path))
    monkeypatch.setitem(known_encoders.ENCODERS, CLIP_VIT_L_14, entry)
    assert encoder_id(QUICK, checkpoint_path=path) == CLIP_VIT_L_14
    with pytest.raises(ConfigError, match="has the architecture"):
        encoder_id(PLAIN, checkpoint_path=path)


def test_open_clip_names():
    assert open_clip_id("ViT-L-14", "openai") == CLIP_VIT_L_14
    assert open_clip_id("ViT-L-14-quickgelu", "openai") == CLIP_VIT_L_14
    assert open_clip_id("ViT-B/32", "openai") == known_encoders.CLIP_VIT_B_32
    assert open_clip_id("ViT-B-32", "laion2b_e16") == "open_clip/ViT-B-32.laion2b_e16"
    assert open_clip_id("ViT-B-32", None) == "ViT-B-32:random"


def test_names_that_timm_does_not_have():
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        timm_config("resnet5O")
    with pytest.raises(ConfigError, match=r"resnet50\.a1_in1k"):
        timm_config("resnet50.mine")
    with pytest.raises(ConfigError, match="its own weights"):
        encoder_id(OFFLINE, checkpoint_path="x.pth")
