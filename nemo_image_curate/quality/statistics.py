"""`ImageStatistics`: what can be told of a picture without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.quality.luma import LUMA_THOUSANDTHS
from nemo_image_curate.stages.base import Consume, PixelStage

if TYPE_CHECKING:
    import torch

# Of an image that was read, what is odd about its file.
WARNING_COLUMN = "image_warning"
_SIDE = 256
_LUMA = tuple(weight / 1000 for weight in LUMA_THOUSANDTHS)


@dataclass(eq=False)
class ImageStatistics(PixelStage):
    """Adds size, format, brightness, contrast, sharpness and colorfulness of each image.

    Call it with a dataset, or hand it to an embedder's `image_stages`: then it costs no decoding
    of its own. All but size and format are measured on the whole image scaled to 256 x 256, so
    that they compare across resolutions.

    Columns
    -------
    width, height : int32
        Pixels: of the picture as it is stored, or with ``orientation="exif"`` as it is shown.
    image_format : string
        What the bytes are, such as ``jpeg``, whatever the extension says.
    image_warning : string
        What is wrong with a file whose pixels are all there: a JPEG without its end marker. Else
        null; what has no pixels has its reason in ``image_error``.
    brightness : float32
        Mean luma (ITU-R BT.601), 0 to 255.
    contrast : float32
        Standard deviation of luma, 0 to 127.5.
    sharpness : float32
        Variance of the luma's Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield
        microscopy", 2000): low values mean blur.
    colorfulness : float32
        Hasler and Suesstrunk, "Measuring colourfulness in natural images", 2003: 0 for gray,
        above 60 for vivid pictures.

    Examples
    --------
    >>> ds = ImageStatistics()(ds)
    >>> ds = ds.filter("width >= 256 and height >= 256 and sharpness > 50")
    """

    thumbnail_size = _SIDE

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        measured = ("brightness", "contrast", "sharpness", "colorfulness")
        sizes = {"width": pa.int32(), "height": pa.int32(), "image_format": pa.string()}
        sizes[WARNING_COLUMN] = pa.string()
        return sizes | dict.fromkeys(measured, pa.float32())

    def config(self) -> dict[str, Any]:
        """The side of the pictures that are measured."""
        return {"side": _SIDE}

    def load(self, device: str) -> Consume:
        """The function from a decoded batch to column values."""
        return _statistics


def _statistics(batch: DecodedBatch) -> dict[str, Any]:
    values: dict[str, Any] = {
        "width": [batch.widths[row] for row in batch.decoded],
        "height": [batch.heights[row] for row in batch.decoded],
        "image_format": [batch.formats[row] for row in batch.decoded],
        WARNING_COLUMN: [batch.warnings[row] for row in batch.decoded],
    }
    return values | measure(batch.thumbnails[_SIDE])


def measure(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Brightness, contrast, sharpness and colorfulness.

    Parameters
    ----------
    images : torch.Tensor, shape (n, 3, H, W), uint8

    Returns
    -------
    dict of str to torch.Tensor, shape (n,), float32
    """
    import torch

    rgb = images.float()
    red, green, blue = rgb.unbind(1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    # No convolution: a GPU would round the luma to TF32's 10 bits first.
    inner = slice(1, -1)
    around = luma[:, :-2, inner] + luma[:, 2:, inner] + luma[:, inner, :-2] + luma[:, inner, 2:]
    laplacian = around - 4 * luma[:, inner, inner]
    opponent = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    deviation = opponent.var(dim=(2, 3), correction=0).sum(1).sqrt()
    distance = opponent.mean(dim=(2, 3)).norm(dim=1)
    return {
        "brightness": luma.mean(dim=(1, 2)),
        "contrast": luma.std(dim=(1, 2), correction=0),
        "sharpness": laplacian.var(dim=(1, 2), correction=0),
        "colorfulness": deviation + 0.3 * distance,
    }
