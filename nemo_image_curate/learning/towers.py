"""`fit_towers`: two projections that bring pictures and their captions into one space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate.learning.losses import (
    FIRST_LOG_SCALE,
    SIGLIP_FIRST_BIAS,
    SIGLIP_FIRST_LOG_SCALE,
    clamp_log_scale,
    info_nce,
    siglip,
)

if TYPE_CHECKING:
    import torch


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


@dataclass(frozen=True)
class Towers:
    """Two affine maps into one space, for one or several members whose vectors lie side by side.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
        ``image.weight`` (members, d, d_image), ``image.bias`` (members, d), the same of ``text``,
        and ``log_scale``, a scalar.
    """

    tensors: dict[str, torch.Tensor]

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, members * d) of features (n, d_image)."""
        return self._embed("image", features)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, members * d) of features (n, d_text)."""
        return self._embed("text", features)

    def _embed(self, side: str, features: torch.Tensor) -> torch.Tensor:
        import torch

        weight, bias = self.tensors[f"{side}.weight"], self.tensors[f"{side}.bias"]
        vectors = torch.einsum("ni,mdi->nmd", features, weight) + bias
        unit = torch.nn.functional.normalize(vectors, dim=-1) / math.sqrt(len(weight))
        return unit.flatten(1)


def fit_towers(
    pairs: Pairs,
    *,
    loss: str = "infonce",
    dimensions: int = 256,
    members: int = 1,
    samples_seen: int = 72_000,
    batch_size: int = 600,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    image_dropout: float = 0.7,
    text_dropout: float = 0.3,
    seed: int = 0,
) -> Towers:
    """Learn the projections by a contrastive loss.

    Parameters
    ----------
    pairs : Pairs
    loss : {"infonce", "siglip"}
    dimensions : int
        Of each member.
    members : int
        Trained one after another from different starts.
    samples_seen : int
        Pairs that each member is shown; pictures come again and again, in one order per epoch.
    batch_size : int
        Pairs that are compared with each other; at most all.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises over a tenth of the steps and falls to zero (Smith and Topin,
        "Super-Convergence", 2018).
    image_dropout, text_dropout : float
        Shares of the features that are zeroed.
    seed : int

    Returns
    -------
    Towers
    """
    import torch

    fitted = [
        _fit_member(
            pairs,
            loss,
            dimensions,
            samples_seen,
            min(batch_size, len(pairs.images)),
            learning_rate,
            weight_decay,
            (image_dropout, text_dropout),
            seed + member,
        )
        for member in range(members)
    ]
    return Towers({name: torch.stack([one[name] for one in fitted]) for name in fitted[0]})


def _fit_member(
    pairs: Pairs,
    loss: str,
    dimensions: int,
    samples_seen: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    dropout: tuple[float, float],
    seed: int,
) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.from_numpy(pairs.images), torch.from_numpy(pairs.texts)
    scaling = [_scaling(images.flatten(0, 1)), _scaling(texts)]
    sides = [_linear(features.shape[-1], dimensions, generator) for features in (images, texts)]
    log_scale, bias, objective = _objective(loss)
    parameters = [tensor for side in sides for tensor in side]
    optimiser = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": weight_decay},
            {"params": [log_scale, bias], "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )
    steps = max(1, samples_seen // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=steps, pct_start=0.1
    )
    for image_rows, views, text_rows in _batches(pairs, batch_size, steps, generator):
        batch = images[image_rows, views], texts[text_rows]
        vectors = [
            _unit(_drop((features - mean) / deviation, rate, generator), side)
            for features, (mean, deviation), rate, side in zip(
                batch, scaling, dropout, sides, strict=True
            )
        ]
        value = objective(*vectors, log_scale.exp(), bias)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        clamp_log_scale(log_scale)
    return _folded(sides, scaling) | {"log_scale": log_scale.detach()}


def _objective(loss: str) -> tuple[torch.Tensor, torch.Tensor, Callable[..., torch.Tensor]]:
    import torch

    first_scale = FIRST_LOG_SCALE if loss == "infonce" else SIGLIP_FIRST_LOG_SCALE
    log_scale = torch.tensor(first_scale, requires_grad=True)
    bias = torch.tensor(SIGLIP_FIRST_BIAS, requires_grad=loss == "siglip")
    if loss == "siglip":
        return log_scale, bias, siglip
    return log_scale, bias, lambda images, texts, scale, _: info_nce(images, texts, scale)


def _linear(width: int, dimensions: int, generator: torch.Generator) -> tuple[Any, Any]:
    """A layer's first weight and bias, as torch.nn.Linear has them."""
    import torch

    bound = 1 / math.sqrt(width)
    weight = torch.empty(dimensions, width).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(dimensions).uniform_(-bound, bound, generator=generator)
    return weight.requires_grad_(), bias.requires_grad_()


def _scaling(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature; of one that never changes 1."""
    import torch

    deviation = features.std(0, correction=0)
    return features.mean(0), torch.where(deviation > 0, deviation, 1.0)


def _drop(features: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    keep = torch.rand(features.shape, generator=generator) >= rate
    return features * keep / (1 - rate)


def _unit(features: torch.Tensor, side: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(torch.nn.functional.linear(features, *side), dim=-1)


def _batches(
    pairs: Pairs, batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Pictures without one twice in a batch, a view of each, and one of its texts."""
    import torch

    count, views = pairs.images.shape[:2]
    firsts = torch.from_numpy(np.searchsorted(pairs.image_numbers, np.arange(count)))
    counts = torch.from_numpy(np.bincount(pairs.image_numbers, minlength=count))
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(waiting) < batch_size:
            waiting = torch.randperm(count, generator=generator)
        rows, waiting = waiting[:batch_size], waiting[batch_size:]
        drawn = torch.rand(len(rows), generator=generator) * counts[rows]
        view = torch.randint(views, (len(rows),), generator=generator)
        yield rows, view, firsts[rows] + drawn.long()


def _folded(sides: Any, scaling: Any) -> dict[str, torch.Tensor]:
    """The layers, with the scaling of features in their weights."""
    tensors = {}
    for name, (weight, bias), (mean, deviation) in zip(
        ("image", "text"), sides, scaling, strict=True
    ):
        scaled = weight.detach() / deviation
        tensors[f"{name}.weight"] = scaled
        tensors[f"{name}.bias"] = bias.detach() - scaled @ mean
    return tensors
