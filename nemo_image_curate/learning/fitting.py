"""`fit_towers`: learn to bring pictures and their captions into one space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nemo_image_curate.learning.canonical import canonical_head
from nemo_image_curate.learning.contrastive import contrastive_head
from nemo_image_curate.learning.heads import Head
from nemo_image_curate.learning.losses import info_nce
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.learning.retrieval import mean_reciprocal_rank, ranks
from nemo_image_curate.learning.towers import Towers

LOSSES = ("correlation", "infonce", "siglip")
# How much the cosine in a given space counts beside the learned one; infinite: it alone.
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, math.inf)
# What cosines are multiplied by; 100 is the most that CLIP allows.
_SCALES = (5, 7, 10, 14, 20, 28, 40, 56, 80, 100)
# Pictures are held out in this many parts, until about so many were.
_PARTS, _HELD_OUT = 5, 500


def fit_towers(
    pairs: Pairs,
    *,
    loss: str = "correlation",
    dimensions: int = 256,
    base: Head | None = None,
    like: Towers | None = None,
    seed: int = 0,
    **training: Any,
) -> Towers:
    """Learn a head, and put it beside a space that is given.

    Parameters
    ----------
    pairs : Pairs
    loss : {"correlation", "infonce", "siglip"}
        What is learned by: correlations, in closed form (`canonical_head`), or a contrastive loss
        (`contrastive_head`). Of some thousand pairs the closed form learns more, in less time.
    dimensions : int
        Of the learned head, at most.
    base : Head, optional
        A space that both features share already, such as CLIP's. How much its cosine counts,
        `Towers.base_share`, is what finds most on pictures that are held out: nothing, or all
        where nothing better is learned.
    like : Towers, optional
        Take the base's share and the scale from there, instead of holding out pictures.
    seed : int
    **training
        As for `contrastive_head`.

    Returns
    -------
    Towers

    Notes
    -----
    Runs in one thread: the same pairs give the same bytes, whatever the number of threads.
    """

    def learn(part: Pairs) -> Head:
        if loss == "correlation":
            return canonical_head(part, dimensions, **training)
        return contrastive_head(part, loss=loss, dimensions=dimensions, seed=seed, **training)[0]

    with _one_thread():
        if like is None:
            share, scale = _chosen(pairs, learn, base, seed)
        else:
            share, scale = like.base_share, like.scale
        return _beside(learn(pairs), base, share, pairs, scale)


def _beside(head: Head, base: Head | None, share: float, pairs: Pairs, scale: float) -> Towers:
    if base is None or share == 0:
        return Towers.of([head], [1.0], pairs, scale)
    if math.isinf(share):
        return Towers.of([base], [1.0], pairs, scale, share)
    return Towers.of([head, base], [1.0, share], pairs, scale, share)


def _chosen(
    pairs: Pairs, learn: Callable[[Pairs], Head], base: Head | None, seed: int
) -> tuple[float, float]:
    """The share of the base and the scale that are best on pictures that are held out in turn."""
    shares = (0.0,) if base is None else SHARES
    figures = []
    for held_out, learned_from in _parts(pairs, seed):
        head = learn(learned_from)
        towers = [_beside(head, base, share, learned_from, 1.0) for share in shares]
        figures.append([_figures(candidate, held_out) for candidate in towers])
    # Mean reciprocal rank, then the losses of all scales, (shares, 1 + scales).
    means = np.mean(figures, axis=0)
    # Of equals the one that trusts more in what is given.
    best = int(np.flatnonzero(means[:, 0] == means[:, 0].max())[-1])
    return shares[best], _SCALES[int(means[best, 1:].argmin())]


def _parts(pairs: Pairs, seed: int) -> Iterator[tuple[Pairs, Pairs]]:
    """Pictures to hold out, and the others."""
    count = len(pairs.images)
    size = min(_HELD_OUT, math.ceil(count / _PARTS))
    order = np.random.default_rng(seed).permutation(count)
    for part in range(min(_PARTS, math.ceil(_HELD_OUT / size))):
        held_out = np.sort(order[part * size : (part + 1) * size])
        yield pairs.of(held_out), pairs.of(np.setdiff1d(order, held_out))


def _figures(towers: Towers, held_out: Pairs) -> list[float]:
    import torch

    images, texts = towers.embed(held_out)
    of_all = ranks(images.numpy(), texts.numpy(), held_out.image_numbers)
    mrrs = mean_reciprocal_rank(of_all.text_to_image) + mean_reciprocal_rank(of_all.image_to_text)
    first_texts = texts[np.searchsorted(held_out.image_numbers, np.arange(len(images)))]
    losses = [float(info_nce(images, first_texts, torch.tensor(float(s)))) for s in _SCALES]
    return [mrrs / 2, *losses]


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
