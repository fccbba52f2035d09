from __future__ import annotations

import pytest
import torch

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models import offline
from nemo_image_curate.models.known_encoders import ENCODERS
from nemo_image_curate.models.offline import offline_state_dict
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.models.weights import sha256_of
from tests.shared import SHARED, needs_shared


def test_the_offline_weights_fit_timms_model():
    model = import_timm().create_model(offline.OFFLINE_TIMM_NAME)
    state = offline_state_dict()
    assert model.load_state_dict(state) is not None
    assert list(state) == list(model.state_dict())
    assert sha256_of(offline.offline_path()) == ENCODERS["offline/tf_efficientnet_lite0"].sha256


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
