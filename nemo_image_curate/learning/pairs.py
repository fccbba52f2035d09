"""`Pairs`: the features of pictures and of their captions, in memory; and how they are scaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Features that are copied at once, in float32: 64 MiB.
_MOST_AT_ONCE = 2**24


@dataclass(frozen=True)
class Pairs:
    """What frozen encoders make of pictures and of their captions, in memory.

    Attributes
    ----------
    images : numpy.ndarray of float32, shape (n, views, d_image)
        Each picture in one or more views, such as as it is and mirrored; one of them is drawn
        whenever the picture is.
    texts : numpy.ndarray of float32, shape (m, d_text)
    image_numbers : numpy.ndarray of int64, shape (m,)
        Which picture each text belongs to, ascending; each picture has one at least.
    """

    images: np.ndarray
    texts: np.ndarray
    image_numbers: np.ndarray

    def of(self, image_numbers: np.ndarray) -> Pairs:
        """The pairs of some pictures alone, in their order."""
        starts = np.searchsorted(self.image_numbers, image_numbers)
        counts = np.searchsorted(self.image_numbers, image_numbers, "right") - starts
        rows = np.concatenate([np.arange(s, s + c) for s, c in zip(starts, counts, strict=True)])
        owners = np.repeat(np.arange(len(image_numbers)), counts)
        return Pairs(self.images[image_numbers], self.texts[rows], owners)

    def mean_per_image(self, text_rows: np.ndarray) -> np.ndarray:
        """The mean of the rows of each picture's texts, (n, d) of (m, d)."""
        starts = np.searchsorted(self.image_numbers, np.arange(len(self.images)))
        counts = np.diff(starts, append=len(text_rows))
        sums: np.ndarray = np.add.reduceat(text_rows, starts, axis=0)
        return sums / counts[:, None].astype(np.float32)


@dataclass(frozen=True)
class Scaling:
    """What is done to features before they are learned from: minus `mean`, divided by `size`.

    Attributes
    ----------
    mean, size : torch.Tensor of float32, shape (d,)
    """

    mean: torch.Tensor
    size: torch.Tensor

    @classmethod
    def of_images(cls, pairs: Pairs) -> Scaling:
        """Each feature by its standard deviation: layers of a network differ in size."""
        mean, deviation = _moments(pairs.images.reshape(-1, pairs.images.shape[-1]))
        return cls(mean, deviation)

    @classmethod
    def of_texts(cls, pairs: Pairs) -> Scaling:
        """All features by one number: a rare word should not weigh as much as a common one."""
        mean, deviation = _moments(pairs.texts)
        return cls(mean, deviation.square().mean().sqrt().expand_as(mean))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Features, scaled."""
        return (features - self.mean) / self.size

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer on scaled features as one on features that are not."""
        scaled = weight / self.size
        return scaled, bias - scaled @ self.mean


def _blocks(rows: np.ndarray) -> Iterator[torch.Tensor]:
    """Rows of features, some at a time."""
    import torch

    step = max(1, _MOST_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), step):
        yield torch.from_numpy(np.ascontiguousarray(rows[start : start + step]))


def _moments(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature; of one that never changes 1."""
    import torch

    mean = torch.stack([block.double().sum(0) for block in _blocks(rows)]).sum(0) / len(rows)
    squares = [(block - mean).square().sum(0) for block in _blocks(rows)]
    deviation = (torch.stack(squares).sum(0) / len(rows)).sqrt()
    return mean.float(), torch.where(deviation > 0, deviation, 1.0).float()
