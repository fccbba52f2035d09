"""What a model's pixels are: size, crop, interpolation, mean, deviation; as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from nemo_image_curate.errors import ConfigError

# What timm's transform takes for what a model's configuration leaves out (timm/data/constants.py).
_TIMM_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input, with exactly torchvision's geometry.

    Parameters
    ----------
    size : int
        Side of the square output.
    resize_mode : {"shortest", "squash"}
        Whether the shorter side is brought to ``floor(size / crop_pct)`` and the aspect ratio
        kept, or both sides are. Then the centre is cropped.
    crop_pct : float
        Above 0, at most 1.
    interpolation : {"bicubic", "bilinear"}
        Both with antialiasing, as Pillow does it.
    mean, std : tuple of 3 float
        Of RGB values in 0 to 1.

    Examples
    --------
    >>> half = (0.5, 0.5, 0.5)
    >>> p = Preprocessing(224, "shortest", 0.875, "bicubic", half, half)
    >>> p.resized(375, 500)
    (256, 341)
    >>> p.crop_offset(256, 341)
    (16, 58)
    """

    size: int
    resize_mode: Literal["shortest", "squash"]
    crop_pct: float
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size={self.size} should be a positive integer.")
        # Above 1 the crop would be larger than the picture, and the rest filled with black.
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct={self.crop_pct} should be above 0 and at most 1.")
        if self.resize_mode not in ("shortest", "squash"):
            raise ConfigError(f"resize_mode={self.resize_mode!r} should be 'shortest' or 'squash'.")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ConfigError(
                f"interpolation={self.interpolation!r} should be 'bicubic' or 'bilinear'."
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise ConfigError(f"{name}={getattr(self, name)} should be three numbers.")
        if not all(self.std):
            raise ConfigError(f"std={self.std} should not hold a zero.")

    @classmethod
    def from_timm(cls, pretrained_cfg: Mapping[str, Any]) -> Preprocessing:
        """What timm's evaluation transform does for a model's ``pretrained_cfg``.

        Parameters
        ----------
        pretrained_cfg : mapping
            As in ``model.pretrained_cfg`` or from ``timm.data.resolve_data_config``.

        Raises
        ------
        ConfigError
            The configuration asks for what cannot be expressed here, such as ``border``.
        """
        settings = {name: pretrained_cfg.get(name) for name in _TIMM_DEFAULTS}
        config = {name: value or _TIMM_DEFAULTS[name] for name, value in settings.items()}
        # 0 is a mean like any other; only None means that the configuration does not say.
        if settings["mean"] is not None:
            config["mean"] = settings["mean"]
        channels, height, width = config["input_size"]
        if channels != 3 or height != width:
            raise ConfigError(f"input_size={config['input_size']} should be (3, S, S).")
        if config["crop_mode"] not in ("center", "squash"):
            raise ConfigError(f"crop_mode={config['crop_mode']!r} should be 'center' or 'squash'.")
        if pretrained_cfg.get("crop_border_pixels"):
            raise ConfigError("crop_border_pixels is not supported.")
        return cls(
            size=int(height),
            resize_mode="squash" if config["crop_mode"] == "squash" else "shortest",
            crop_pct=float(config["crop_pct"]),
            interpolation=config["interpolation"],
            mean=_triple(config["mean"]),
            std=_triple(config["std"]),
        )

    @classmethod
    def from_open_clip(cls, preprocess_cfg: Mapping[str, Any]) -> Preprocessing:
        """What OpenCLIP's evaluation transform does for a model's ``preprocess_cfg``.

        Parameters
        ----------
        preprocess_cfg : mapping
            As in ``model.visual.preprocess_cfg``: size, mean, std, interpolation, resize_mode.

        Raises
        ------
        ConfigError
            The configuration asks for what cannot be expressed here, such as ``longest``.
        """
        size = preprocess_cfg["size"]
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise ConfigError(f"size={size} should be that of a square.")
        return cls(
            size=int(height),
            resize_mode=preprocess_cfg["resize_mode"],
            crop_pct=1.0,
            interpolation=preprocess_cfg["interpolation"],
            mean=_triple(preprocess_cfg["mean"]),
            std=_triple(preprocess_cfg["std"]),
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop, as ``torchvision.transforms.Resize`` computes them."""
        short = math.floor(self.size / self.crop_pct)
        if self.resize_mode == "squash":
            return short, short
        if width <= height:
            return int(short * height / width), short
        return short, int(short * width / height)

    def crop_offset(self, height: int, width: int) -> tuple[int, int]:
        """Top and left of the crop, as ``torchvision.transforms.CenterCrop`` computes them.

        Halves go to the even neighbour. Raises `ConfigError` where the picture is smaller than
        the crop, which sizes from `resized` never are.
        """
        if min(height, width) < self.size:
            raise ConfigError(f"{height} x {width} is smaller than the crop of {self.size}.")
        return round((height - self.size) / 2.0), round((width - self.size) / 2.0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON keeps them."""
        fields = asdict(self)
        return fields | {"mean": list(self.mean), "std": list(self.std)}


def _triple(values: Any) -> tuple[float, float, float]:
    return cast("tuple[float, float, float]", tuple(float(value) for value in values))
