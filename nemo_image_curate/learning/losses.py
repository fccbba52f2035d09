"""Losses that pull images to their own texts: InfoNCE, and SigLIP's sigmoid loss.

Both take the vectors of a batch and never hold its whole matrix of similarities: they look at some
images at a time, and look at them again when gradients are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What CLIP keeps the logarithm of its scale below (Radford et al., "Learning Transferable Visual
# Models From Natural Language Supervision", 2021, 2.5).
MAX_LOG_SCALE = math.log(100)
# Similarities that are held at once, in float32: 128 MiB.
_MOST_AT_ONCE = 2**25


def info_nce(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, group: Any = None
) -> torch.Tensor:
    """Symmetric InfoNCE: each image finds its text among all texts, and each text its image.

    Parameters
    ----------
    images, texts : torch.Tensor, shape (n, d)
        Of unit length; row i of one belongs to row i of the other.
    scale : torch.Tensor, scalar
        What cosines are multiplied by: the exponential of what is learned.
    group : torch.distributed.ProcessGroup, optional
        Others whose rows are compared, too, n of each; ``torch.distributed.group.WORLD`` is all.
        Each process then has the loss of its own rows, and gradients go back to all: averaged over
        the processes, as DistributedDataParallel does, they are those of the whole batch.

    Returns
    -------
    torch.Tensor, scalar

    Notes
    -----
    The mean of two cross entropies (van den Oord et al., "Representation Learning with Contrastive
    Predictive Coding", 2018; CLIP's figure 3). Equal to open_clip's ``ClipLoss`` with
    ``local_loss`` and ``gather_with_grad``.
    """
    all_images, all_texts = _gathered(images, group), _gathered(texts, group)
    first = _rank(group) * len(images)
    return (
        _by_rows(partial(_softmax_part, first), images, all_texts, scale)
        + _by_rows(partial(_softmax_part, first), texts, all_images, scale)
    ) / 2


def siglip(
    images: torch.Tensor,
    texts: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    group: Any = None,
) -> torch.Tensor:
    """SigLIP's sigmoid loss: each pair of an image and a text is its own or not, by itself.

    Parameters
    ----------
    images, texts : torch.Tensor, shape (n, d)
        Of unit length; row i of one belongs to row i of the other.
    scale, bias : torch.Tensor, scalar
        What cosines are multiplied by, and what is added.
    group : torch.distributed.ProcessGroup, optional
        As for `info_nce`.

    Returns
    -------
    torch.Tensor, scalar

    Notes
    -----
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, algorithm 1: the sum over
    pairs, divided by the number of images. Equal to open_clip's ``SigLipLoss``.
    """
    first = _rank(group) * len(images)
    return _by_rows(partial(_sigmoid_part, first, bias), images, _gathered(texts, group), scale)


def clamp_log_scale(log_scale: torch.Tensor) -> None:
    """Keep a learned logarithm of the scale between 0 and ln 100, in place, as CLIP does."""
    log_scale.data.clamp_(0, MAX_LOG_SCALE)


def _by_rows(
    part: Callable[..., torch.Tensor],
    rows: torch.Tensor,
    others: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """The mean over rows of what `part` sums up; the similarities of a part live only in it."""
    import torch
    from torch.utils.checkpoint import checkpoint

    step = max(1, _MOST_AT_ONCE // max(1, len(others)))
    if step >= len(rows):  # to look again would only cost time
        return part(0, rows, others, scale) / len(rows)
    total = torch.zeros((), dtype=rows.dtype, device=rows.device)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        total = total + checkpoint(part, start, chunk, others, scale, use_reentrant=False)
    return total / len(rows)


def _softmax_part(
    first: int, start: int, rows: torch.Tensor, others: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """The sum of cross entropies of some rows, whose own column begins at ``first + start``."""
    import torch

    targets = torch.arange(len(rows), device=rows.device) + first + start
    return torch.nn.functional.cross_entropy(scale * rows @ others.T, targets, reduction="sum")


def _sigmoid_part(
    first: int,
    bias: torch.Tensor,
    start: int,
    rows: torch.Tensor,
    others: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """The sum of -log sigmoid(±logit) of some rows."""
    import torch

    logits = scale * rows @ others.T + bias
    # -log sigmoid(-x) is softplus(x), and -log sigmoid(x) the same less x.
    return torch.nn.functional.softplus(logits).sum() - logits.diagonal(first + start).sum()


def _rank(group: Any) -> int:
    import torch.distributed

    return 0 if group is None else torch.distributed.get_rank(group)


def _gathered(vectors: torch.Tensor, group: Any) -> torch.Tensor:
    """The rows of all processes, in the order of their ranks; gradients go back to each."""
    return vectors if group is None else _all_gather()(vectors, group)


@cache
def _all_gather() -> Callable[[torch.Tensor, Any], torch.Tensor]:
    """`torch.distributed.all_gather` with gradients; torch's own is deprecated."""
    import torch
    import torch.distributed as dist

    class AllGather(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, vectors: torch.Tensor, group: Any) -> torch.Tensor:
            ctx.group, ctx.count = group, len(vectors)
            parts = [torch.empty_like(vectors) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, vectors.contiguous(), group)
            return torch.cat(parts)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            total = gradient.clone()
            dist.all_reduce(total, group=ctx.group)
            return total[_rank(ctx.group) * ctx.count :][: ctx.count], None

    return AllGather.apply
