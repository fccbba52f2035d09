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
# What shows too little to be told from others: a picture of which a quarter has one level of gray,
# within 7 of 255, and half of whose bits are decided by less than 0.8 levels. Photographs have 2.2
# (median of 1,500 of Flickr8k; 4 of them are as poor as this), pages of text 0.2 to 0.7: of 100
# different ones in one layout 28 to 87 were duplicates of others at 6 bits of pHash, and 0 to 3
# are among those that are left. Of icons, drawings and logos a third to a half is given up, the
# symmetric ones first, whose bits are decided by noise; and all that is nearly of one colour.
MAX_BACKGROUND = 0.25
MIN_DETAIL = 0.8
_BACKGROUND_LEVELS = 7


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

    All are null where an image could not be decoded, and where it shows too little to be told
    from others: when more than a quarter of the 32 x 32 cells has one level of gray, within 7 of
    255, and half of the frequencies are within 0.8 levels of their median. So it is with pictures
    of one colour, with most pages of text, and with icons and drawings of few or symmetric shapes,
    whose bits tell of noise; with 4 of Flickr8k's first 1,500 photographs.

    Examples
    --------
    >>> ds = PerceptualHash()(ds)
    >>> ds = TimmImageEmbedder("offline", image_stages=[PerceptualHash()])(ds)
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
        """The side of the pictures that are hashed, and which show too little."""
        return {
            "side": _SIDE,
            "max_background": MAX_BACKGROUND,
            "min_detail": MIN_DETAIL,
        }

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
        None where an image shows too little to be told from others.
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
    frequencies = _frequencies(cells)
    dull = (_plain(cells) & _poor(frequencies)).tolist()
    bits = {"phash": _phash(frequencies), "dhash": _dhash(wide)}
    if flips:
        mirrored = _frequencies(cells.flip(2))
        bits |= {"phash_flipped": _phash(mirrored), "dhash_flipped": _dhash(wide.flip(2))}
    return {
        name: [None if poor else value for poor, value in zip(dull, pack(hashed), strict=True)]
        for name, hashed in bits.items()
    }


def pack(bits: torch.Tensor) -> list[int]:
    """64 bits each as an integer; the first bit is the most significant."""
    packed: np.ndarray = np.packbits(bits.cpu().numpy(), axis=1)
    values: list[int] = packed.view(">u8")[:, 0].tolist()
    return values


def _plain(cells: torch.Tensor) -> torch.Tensor:
    """Whether more than `MAX_BACKGROUND` of the cells have one level of gray, nearly."""
    import torch

    levels = (cells / _LEVEL).round().flatten(1).long()
    counts = torch.zeros(len(levels), 256 + _BACKGROUND_LEVELS, device=cells.device)
    # Whole numbers: exact in any order.
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float32))
    below = counts.cumsum(1)
    within = below[:, _BACKGROUND_LEVELS:] - below[:, :-_BACKGROUND_LEVELS]
    most = torch.maximum(within.amax(1), below[:, _BACKGROUND_LEVELS - 1])
    return most > MAX_BACKGROUND * levels.shape[1]


def _poor(frequencies: torch.Tensor) -> torch.Tensor:
    """Whether half of the bits are decided by less than `MIN_DETAIL` levels."""
    varying = frequencies[:, 1:]
    off = (varying - varying.median(dim=1, keepdim=True).values).abs().median(dim=1).values
    # What a frequency of one level, root mean square over the cells, comes to.
    unit = _LEVEL * _COSINE_UNIT**2 * _CELLS * (_CELLS / 2)
    return off < MIN_DETAIL * unit


def _frequencies(cells: torch.Tensor) -> torch.Tensor:
    """The lowest 8 x 8 of the DCT, unscaled; shape (n, 64)."""
    cosines = _cosines().to(cells.device)
    return (cosines @ cells @ cosines.T).flatten(1)


def _phash(frequencies: torch.Tensor) -> torch.Tensor:
    # Of 63 values the median is one of them.
    median = frequencies[:, 1:].median(dim=1, keepdim=True).values
    return frequencies > median


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
