"""Geometry and configuration against torchvision's and timm's real transforms."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models.torchvision_compat import import_timm

HALF = (0.5, 0.5, 0.5)


def preprocessing(**changes: Any) -> Preprocessing:
    fields: dict[str, Any] = {
        "size": 224,
        "resize_mode": "shortest",
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": HALF,
        "std": HALF,
    }
    return Preprocessing(**fields | changes)


@settings(max_examples=300)
@given(
    size=st.integers(1, 640),
    crop_pct=st.one_of(st.sampled_from([0.875, 0.9, 0.95, 1.0]), st.floats(0.2, 1.0)),
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    mode=st.sampled_from(["center", "squash"]),
)
@example(size=224, crop_pct=0.875, height=375, width=500, mode="center")
@example(size=224, crop_pct=0.9, height=1, width=9000, mode="center")
@example(size=1, crop_pct=1.0, height=1, width=1, mode="squash")
def test_geometry_is_that_of_timms_transform(
    size: int, crop_pct: float, height: int, width: int, mode: str
) -> None:
    import_timm()
    from timm.data import create_transform
    from torchvision.transforms.functional import _compute_resized_output_size

    config = {"input_size": (3, size, size), "crop_pct": crop_pct, "crop_mode": mode}
    ours = Preprocessing.from_timm(config)
    resize, crop = create_transform(**config).transforms[:2]

    one_side = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    nh, nw = _compute_resized_output_size((height, width), one_side)
    assert ours.resized(height, width) == (nh, nw)
    assert tuple(crop.size) == (size, size)
    assert ours.crop_offset(nh, nw) == _crop_by_torchvision(nh, nw, size)


def _crop_by_torchvision(height: int, width: int, size: int) -> tuple[int, int]:
    """Where torchvision's center_crop cuts, told by the real function on a picture of one row."""
    import torch
    from torchvision.transforms.functional import center_crop

    # Views without memory: a picture whose pixels are their own row or column.
    rows = torch.arange(height).view(1, height, 1).expand(1, height, width)
    columns = torch.arange(width).view(1, 1, width).expand(1, height, width)
    return int(center_crop(rows, [size, size])[0, 0, 0]), int(
        center_crop(columns, [size, size])[0, 0, 0]
    )


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (97, 101), (64, 64)])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_sizes_are_those_of_pictures_through_the_transform(
    height: int, width: int, mode: str
) -> None:
    import_timm()
    from timm.data import create_transform

    config = {"input_size": (3, 96, 96), "crop_pct": 0.9, "crop_mode": mode}
    resized = create_transform(**config).transforms[0](Image.new("RGB", (width, height)))
    assert Preprocessing.from_timm(config).resized(height, width) == resized.size[::-1]


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "vit_base_patch32_clip_224.openai", "resnet50.a1_in1k"]
)
def test_from_timm_of_real_models(name: str) -> None:
    timm = import_timm()
    from timm.data import resolve_data_config

    config = timm.get_pretrained_cfg(name).to_dict()
    resolved = resolve_data_config({}, pretrained_cfg=config)
    ours = Preprocessing.from_timm(config)
    assert ours.size == resolved["input_size"][-1]
    assert ours.crop_pct == resolved["crop_pct"]
    assert ours.interpolation == resolved["interpolation"]
    assert (ours.mean, ours.std) == (tuple(resolved["mean"]), tuple(resolved["std"]))


def test_what_the_configuration_leaves_out_is_what_timm_takes() -> None:
    import_timm()
    from timm.data import resolve_data_config

    resolved = resolve_data_config({}, pretrained_cfg={"num_classes": 0})
    assert Preprocessing.from_timm({}) == Preprocessing.from_timm(resolved)


def test_a_mean_of_zero_is_kept() -> None:
    assert Preprocessing.from_timm({"mean": (0.0, 0.0, 0.0)}).mean == (0.0, 0.0, 0.0)
    assert Preprocessing.from_timm({"mean": (0, 0, 0)}).mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": (3, 224, 192)}, r"input_size=\(3, 224, 192\)"),
        ({"input_size": (1, 28, 28)}, r"input_size=\(1, 28, 28\)"),
        ({"crop_mode": "border"}, "crop_mode='border'"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos'"),
        ({"interpolation": "random"}, "interpolation='random'"),
        ({"crop_border_pixels": 4}, "crop_border_pixels"),
        ({"crop_pct": 1.2}, "crop_pct=1.2"),
        ({"mean": (0.5,)}, "mean="),
        ({"std": (0.5, 0.0, 0.5)}, "std="),
    ],
)
def test_what_cannot_be_expressed_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_timm(config)


@pytest.mark.parametrize(
    "changes", [{"size": 0}, {"crop_pct": 0.0}, {"resize_mode": "longest"}, {"std": (1.0, 1.0)}]
)
def test_unusable_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        preprocessing(**changes)


def test_a_crop_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="100 x 300 is smaller than the crop of 224"):
        preprocessing().crop_offset(100, 300)


def test_to_dict_survives_json_and_the_value_is_hashable_and_picklable() -> None:
    one = preprocessing()
    fields = json.loads(json.dumps(one.to_dict()))
    assert fields == one.to_dict()
    restored = Preprocessing(
        **fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    )
    assert restored == one == pickle.loads(pickle.dumps(one))
    assert hash(restored) == hash(one)
