"""How blurry a picture is, as CleanVision has it: by its edges at 64 pixels along the longer side.

CleanVision resizes the picture. Here it is a product with matrices of weights, of pictures that
were squashed to a square before; so a batch with pictures of all shapes is one product. Weights are
multiples of 2**-10 and pixels whole numbers: every device gives the same sums, also in TF32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nemo_image_curate.quality.measures import histograms, luma_levels

if TYPE_CHECKING:
    import torch

# The longer side (CleanVision 0.3.7, utils/constants.py).
SIDE = 64
_WEIGHT_UNIT = 2.0**10
# Parameters of CleanVision's score; issue_managers/image_property_issue_manager.py.
_NORMALISE, _LEAST_SPREAD = 0.01, 0.18


def blurry_scores(images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[float]:
    """CleanVision's ``blurry_score``: near 0 for blurry pictures, 1 for others.

    Parameters
    ----------
    images : torch.Tensor, shape (n, 3, S, S), uint8
        Whole pictures squashed to squares.
    sizes : sequence of (int, int), length n
        Width and height of the pictures before that.

    Notes
    -----
    1 - exp(-s / 100) of the standard deviation s of the picture's edges, and, where that is over
    0.18, the same of the standard deviation of the luma's 256 counts, up to 1 in sum. Edges are
    eight times a pixel less its eight neighbours, within 0 and 255; on the rim the luma itself, as
    Pillow's ``FIND_EDGES`` leaves it.
    """
    sizes = [_size(*size) for size in sizes]
    edges, counts = edges_and_counts(images, sizes)
    scores = []
    for (width, height), (total, squares), count_squares in zip(
        sizes, edges.tolist(), counts.tolist(), strict=True
    ):
        n = width * height
        deviation = math.sqrt(max(0, n * squares - total * total)) / n
        count_deviation = math.sqrt(count_squares / 256 - (n / 256) ** 2)
        spread = -math.expm1(-_NORMALISE * count_deviation)
        scores.append(
            min(1.0, -math.expm1(-_NORMALISE * deviation) + spread * (spread > _LEAST_SPREAD))
        )
    return scores


def _size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which edges are looked for; pictures are not enlarged."""
    ratio = max(1.0, max(width, height) / SIDE)
    return max(int(width // ratio), 1), max(int(height // ratio), 1)


def edges_and_counts(
    images: torch.Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over pictures resized to their sizes.

    Returns
    -------
    torch.Tensor, shape (n, 2), int64
        The sum of the edges, and of their squares.
    torch.Tensor, shape (n,), int64
        The sum of the squares of how often each level of luma occurs.
    """
    import torch

    levels, inside = resized_luma(images, sizes)
    # Of a pixel's eight neighbours and itself, by rows and then by columns.
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = slice(1, -1)
    has_neighbours = inside[:, 2:, 2:]
    edges = levels * inside
    sharp = (9 * levels[:, inner, inner] - around).clamp_(0, 255)
    edges[:, inner, inner] = torch.where(has_neighbours, sharp, edges[:, inner, inner])
    # Sums of a row are below 2**24, which float32 holds in any order.
    sums = torch.stack([edges.sum(2), (edges * edges).sum(2)], dim=2).long().sum(1)
    # What is outside of the picture is put behind the last level.
    sorted_in = torch.where(inside, levels, 256.0).flatten(1)[:, None]
    counts = histograms(sorted_in, 257)[:, 0, :256]
    return sums, (counts * counts).sum(1)


def resized_luma(
    images: torch.Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole levels of luma of pictures resized to some sizes.

    Returns
    -------
    levels : torch.Tensor, shape (n, 64, 64), float32
    inside : torch.Tensor, shape (n, 64, 64), bool
        Which of them belong to the picture: its first rows and columns.
    """
    import torch

    # Of every second row, sums of two pixels; two bytes at a time, which takes half as long.
    pairs = images[:, :, ::2].contiguous().view(torch.int16)
    sums = pairs >> 8
    sums &= 255
    sums += pairs & 255
    luma = luma_levels(sums.float().mul_(0.5))
    device = images.device
    widths, heights = torch.tensor(sizes, device=device).unbind(1)
    table = _weights(luma.shape[1], str(device))
    across, down = table[widths], table[heights]
    # Rounded in between, as Pillow does.
    squashed = _levels(torch.bmm(luma, across.transpose(1, 2)))
    levels = _levels(torch.bmm(down, squashed))
    places = torch.arange(SIDE, device=device)
    inside = (places < heights[:, None])[:, :, None] & (places < widths[:, None])[:, None]
    return levels, inside


def _levels(sums: torch.Tensor) -> torch.Tensor:
    return sums.div_(_WEIGHT_UNIT).round_().clamp_(0, 255)


@functools.lru_cache(maxsize=4)
def _weights(side: int, device: str) -> torch.Tensor:
    """What each of `side` pixels gives to each of up to 64; float32, shape (65, 64, side).

    By the wanted number: bicubic with antialiasing, which is Pillow's default.
    """
    import torch

    table = torch.zeros(SIDE + 1, SIDE, side)
    identity = torch.eye(side, dtype=torch.float64)[None, None]
    for size in range(1, SIDE + 1):
        resized = torch.nn.functional.interpolate(
            identity, (size, side), mode="bicubic", antialias=True
        )
        table[size, :size] = (_WEIGHT_UNIT * resized[0, 0]).round()
    return table.to(device)
