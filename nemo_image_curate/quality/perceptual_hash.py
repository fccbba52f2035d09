"""`PerceptualHash`: 64-bit fingerprints that resizing and recompression hardly change.

All sums are of integers below 2**53, held in floating point: they are exact in whatever order a
device adds them, so the same thumbnail has the same hashes on every device and in every batch.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.quality.luma import LUMA_THOUSANDTHS
from nemo_image_curate.stages.base import Consume, PixelStage

if TYPE_CHECKING:
    import torch

# The side of the thumbnails, and of what the DCT is of.
_SIDE = 64
_CELLS = 32
_PIXELS = _SIDE // _CELLS
# A cell is the sum of its 2 x 2 pixels' luma, so a level of luma is 4.
_LEVEL = _PIXELS**2
# The DCT's cosines are rounded to multiples of 2**-14. So no sum exceeds 2**52: cells are below
# 2**10, and the 32 cosines of a row, twice, below 2**19.
_COSINE_UNIT = 2.0**14
# Levels of 255. Photographs reach 12 and more (Flickr8k, 1,500); with their contrast lowered to
# about 2.5 a JPEG quality of 75 changes more than 6 bits of pHash in 3 % of them, at 1.5 in 12 %.
MIN_CONTRAST = 2.0


@dataclass(eq=False)
class PerceptualHash(PixelStage):
    """Adds two perceptual hashes of each image, for `PerceptualDedup` or for queries of your own.

    Call it with a dataset, or hand it to an embedder's `image_stages`, where it shares the
    decoding with the model and with `ImageStatistics`.

    Parameters
    ----------
    flips : bool, default False
        Add the hashes of the mirrored image, too.
    num_threads_per_worker : int, default 4
        Threads that decode images in each worker.
    use_index_files : bool, default False
        Find images with the ``STEM.idx`` files of DALI's ``wds2idx``.
    orientation : {"stored", "exif"}
        Whether pictures stay as they are stored, or are turned as EXIF says.

    Columns
    -------
    phash : uint64
        The luma of the whole image as 32 x 32 cells, its two-dimensional DCT-II, and of the
        lowest 8 x 8 frequencies whether each is above their median (Zauner, "Implementation and
        Benchmarking of Perceptual Image Hash Functions", 2010; the frequencies are those of
        Krawetz, "Looks Like It", 2011, who starts at zero). The median leaves out the constant
        term. The first bit is the most significant; each row of 8 has one vertical frequency.
    dhash : uint64
        The luma as 8 rows of 9 cells, and whether each cell is brighter than the one to its left
        (Krawetz, "Kind of Like That", 2013).
    phash_flipped, dhash_flipped : uint64
        Those of the image mirrored left to right.

    All are null where an image could not be decoded, and where it shows nothing: when the
    standard deviation of the 32 x 32 cells is below 2 of 255 levels, the bits would tell of
    compression noise, and pictures of one colour would all be alike.

    Examples
    --------
    >>> ds = PerceptualHash()(ds)  # doctest: +SKIP
    >>> ds = TimmImageEmbedder("offline", image_stages=[PerceptualHash()])(ds)  # doctest: +SKIP
    """

    flips: bool = False

    thumbnail_size = _SIDE

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        names = ["phash", "dhash"]
        if self.flips:
            names += ["phash_flipped", "dhash_flipped"]
        return dict.fromkeys(names, pa.uint64())

    def config(self) -> dict[str, Any]:
        """The side of the pictures that are hashed, and what is too flat."""
        return {"side": _SIDE, "min_contrast": MIN_CONTRAST}

    def load(self, device: str) -> Consume:
        """The function from a decoded batch to column values."""
        return functools.partial(_of_batch, flips=self.flips)


def _of_batch(batch: DecodedBatch, flips: bool) -> dict[str, list[int | None]]:
    return hashes(batch.thumbnails[_SIDE], flips)


def hashes(images: torch.Tensor, flips: bool = False) -> dict[str, list[int | None]]:
    """The hashes of thumbnails.

    Parameters
    ----------
    images : torch.Tensor, shape (n, 3, 64, 64), uint8
    flips : bool
        Those of the mirrored images, too.

    Returns
    -------
    dict of str to list of int or None, length n
        None where an image is too flat to be told from others.
    """
    import torch

    n = len(images)
    # Sums of 2 rows, at most 510, added as bytes are: a sum over a dimension takes four times
    # as long. Then luma times 1,000: exact in float32, too.
    rows = images.view(n, 3, _CELLS, _PIXELS, _SIDE).unbind(3)
    summed = rows[0].to(torch.int16)
    for row in rows[1:]:
        summed += row
    red, green, blue = summed.float().unbind(1)
    weights = LUMA_THOUSANDTHS
    strips = weights[0] * red + weights[1] * green + weights[2] * blue
    # At most 1,020,000: still exact in float32.
    sums = strips.view(n, _CELLS, _CELLS, _PIXELS).sum(3).double()
    cells = (sums / sum(weights)).round()
    wide = strips.view(n, 8, 4, _SIDE).sum(2).double()
    flat = _flat(cells).tolist()
    bits = {"phash": _phash(cells), "dhash": _dhash(wide)}
    if flips:
        bits |= {"phash_flipped": _phash(cells.flip(2)), "dhash_flipped": _dhash(wide.flip(2))}
    return {
        name: [None if dull else value for dull, value in zip(flat, pack(hashed), strict=True)]
        for name, hashed in bits.items()
    }


def pack(bits: torch.Tensor) -> list[int]:
    """64 bits each as an integer; the first bit is the most significant."""
    packed: np.ndarray = np.packbits(bits.cpu().numpy(), axis=1)
    values: list[int] = packed.view(">u8")[:, 0].tolist()
    return values


def _flat(cells: torch.Tensor) -> torch.Tensor:
    """Whether the standard deviation of the cells is below `MIN_CONTRAST`, for each image."""
    values = cells.flatten(1)
    count = values.shape[1]
    spread = count * (values * values).sum(1) - values.sum(1) ** 2
    return spread < (count * _LEVEL * MIN_CONTRAST) ** 2


def _phash(cells: torch.Tensor) -> torch.Tensor:
    cosines = _cosines().to(cells.device)
    low = (cosines @ cells @ cosines.T).flatten(1)
    # Of 63 values the median is one of them.
    median = low[:, 1:].median(dim=1, keepdim=True).values
    return low > median


def _dhash(wide: torch.Tensor) -> torch.Tensor:
    cells = wide @ _ninths().to(wide.device)
    return cells[:, :, 1:].flatten(1) > cells[:, :, :-1].flatten(1)


@functools.cache
def _cosines() -> torch.Tensor:
    """The DCT-II's first 8 cosines at 32 places, in units of 2**-14; float64, shape (8, 32).

    Unscaled: a factor for each frequency would only matter for the median.
    """
    import torch

    rows = [
        [round(_COSINE_UNIT * math.cos(math.pi * (2 * i + 1) * k / 64)) for i in range(_CELLS)]
        for k in range(8)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@functools.cache
def _ninths() -> torch.Tensor:
    """How many ninths of each of 64 pixels belong to each of 9 cells; float64, shape (64, 9)."""
    import torch

    edges = torch.arange(_SIDE)[:, None] * 9
    start = torch.arange(9)[None] * _SIDE
    shared = torch.minimum(edges + 9, start + _SIDE) - torch.maximum(edges, start)
    return shared.clamp(min=0).double()
