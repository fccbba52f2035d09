"""Pairs of many partitions in one order, with each picture once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.vectors.sampling import random_score

# Pictures whose features differ by less are the same one: the last bits depend on the batch.
_SAME = 1e-4


@dataclass
class Part:
    """The pairs of a partition.

    Attributes
    ----------
    keys, shards : list of str, length n
        Of the rows.
    images : numpy.ndarray of float32, shape (n, 1, d)
    texts : numpy.ndarray of float32, shape (m, d)
    captions : list of str, length m
    owners : numpy.ndarray of int64, shape (m,)
        The row that each text belongs to.
    left_out : Counter
        Rows that gave no pair, by reason.
    """

    keys: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 0), np.float32))
    texts: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    captions: list[str] = field(default_factory=list)
    owners: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    left_out: Counter[str] = field(default_factory=Counter)


def join(parts: Sequence[Part], seed: int) -> tuple[Pairs, list[str]]:
    """The pairs of all partitions and their captions in one order, whatever that of the parts."""
    filled = [part for part in parts if part.keys] or [Part()]
    widths = {part.images.shape[2] for part in filled}
    if len(widths) > 1:
        raise DatasetError(f"embeddings have different lengths: {sorted(widths)}.")
    starts = np.cumsum([0, *(len(part.keys) for part in filled)])
    images = np.concatenate([part.images for part in filled])
    texts = np.concatenate([part.texts for part in filled])
    owners = np.concatenate([part.owners + at for part, at in zip(filled, starts, strict=False)])
    captions = [text for part in filled for text in part.captions]
    keys = [key for part in filled for key in part.keys]
    shards = [shard for part in filled for shard in part.shards]
    scores = random_score(pa.array(keys, pa.string()), seed)
    order = np.lexsort((np.array(shards, str), np.array(keys, str), scores))
    images, place = images[order], np.argsort(order)
    first, numbers = np.unique(_same_pictures(images[:, 0]), return_inverse=True)
    image_numbers = numbers[place[owners]]
    in_order = np.lexsort((place[owners], image_numbers))
    pairs = Pairs(images[first], texts[in_order], image_numbers[in_order])
    return pairs, [captions[row] for row in in_order]


def _same_pictures(features: np.ndarray) -> np.ndarray:
    """For each row the first one that is the same picture."""
    if not features.size:
        return np.arange(len(features))
    rounded = np.ascontiguousarray(np.round(features, 2).astype(np.float16) + 0)
    rows = rounded.view(np.dtype((np.void, rounded.itemsize * rounded.shape[1]))).ravel()
    _, first, numbers = np.unique(rows, return_index=True, return_inverse=True)
    candidates = first[numbers]
    same = np.abs(features - features[candidates]).max(1) < _SAME
    return np.where(same, candidates, np.arange(len(features)))
