"""`contrastive_head`: projections of pictures and captions learned by a contrastive loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.learning.heads import Head, affine_unit
from nemo_image_curate.learning.losses import (
    clamp_log_scale,
    info_nce,
    siglip,
)
from nemo_image_curate.learning.pairs import Pairs, Scaling

if TYPE_CHECKING:
    import torch

# Where CLIP begins: a temperature of 0.07.
_FIRST_SCALE = 1 / 0.07
# For SigLIP's loss the scale, and what is taken off beside the logarithm of the number of texts
# that are not an image's own. Its paper's 10 and -10 are for millions of steps: of 1,200 pictures
# R@10 is 0.526 with them after 120 epochs, 0.549 with these.
_SIGLIP_FIRST_SCALE, _SIGLIP_OFF = 20.0, 2.0


def contrastive_head(
    pairs: Pairs,
    *,
    loss: str = "infonce",
    dimensions: int = 256,
    samples_seen: int = 72_000,
    batch_size: int = 600,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    image_dropout: float = 0.7,
    text_dropout: float = 0.3,
    seed: int = 0,
) -> tuple[Head, float]:
    """Learn a head by stochastic gradient descent.

    Parameters
    ----------
    pairs : Pairs
    loss : {"infonce", "siglip"}
    dimensions : int
    samples_seen : int
        Pairs that are shown; pictures come again and again, in one order per epoch.
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
    Head
    float
        The scale that was learned.
    """
    import torch

    batch_size = min(batch_size, len(pairs.images))
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.from_numpy(pairs.images), torch.from_numpy(pairs.texts)
    scale_images, scale_texts = Scaling.of_images(pairs), Scaling.of_texts(pairs)
    image_layer = _linear(images.shape[-1], dimensions, generator)
    text_layer = _linear(texts.shape[-1], dimensions, generator)
    log_scale, bias, objective = _objective(loss, batch_size)
    optimiser = torch.optim.AdamW(
        [
            {"params": [*image_layer, *text_layer], "weight_decay": weight_decay},
            {"params": [log_scale, bias], "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )
    # Of ten steps and less the schedule's rise has no length that it can divide by.
    steps = max(11, samples_seen // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=steps, pct_start=0.1
    )
    for image_rows, views, text_rows in _batches(pairs, batch_size, steps, generator):
        image_batch = _drop(scale_images(images[image_rows, views]), image_dropout, generator)
        text_batch = _drop(scale_texts(texts[text_rows]), text_dropout, generator)
        vectors = affine_unit(image_batch, *image_layer), affine_unit(text_batch, *text_layer)
        value = objective(*vectors, log_scale.exp(), bias)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        clamp_log_scale(log_scale)
    layers = zip((scale_images, scale_texts), (image_layer, text_layer), strict=True)
    learned = [
        tensor
        for scaling, layer in layers
        for tensor in scaling.folded(*(x.detach() for x in layer))
    ]
    return Head(*learned), float(log_scale.detach().exp())


def _objective(
    loss: str, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor, Callable[..., torch.Tensor]]:
    import torch

    is_siglip = loss == "siglip"
    log_scale = torch.tensor(_SIGLIP_FIRST_SCALE if is_siglip else _FIRST_SCALE).log()
    bias = torch.tensor(-math.log(batch_size) - _SIGLIP_OFF, requires_grad=is_siglip)
    log_scale.requires_grad_()
    if is_siglip:
        return log_scale, bias, siglip
    return log_scale, bias, lambda images, texts, scale, _: info_nce(images, texts, scale)


def _linear(
    width: int, dimensions: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's first weight and bias, as torch.nn.Linear has them."""
    import torch

    bound = 1 / math.sqrt(width)
    weight = torch.empty(dimensions, width).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(dimensions).uniform_(-bound, bound, generator=generator)
    return weight.requires_grad_(), bias.requires_grad_()


def _drop(features: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    keep = torch.rand(features.shape, generator=generator) >= rate
    return features * keep / (1 - rate)


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
