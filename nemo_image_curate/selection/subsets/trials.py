"""What small heads that are trained on each subset get right of the same held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.compute.progress import Progress
from nemo_image_curate.learning.contrastive import contrastive_head
from nemo_image_curate.learning.heads import Head
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.learning.retrieval import ranks
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    import torch

# The mean of the four recalls, by which subsets are judged; then its parts.
RETRIEVAL = "retrieval"
TEXT_TO_IMAGE = ("text_to_image_r1", "text_to_image_r10")
IMAGE_TO_TEXT = ("image_to_text_r1", "image_to_text_r10")
RECALLS = (*TEXT_TO_IMAGE, *IMAGE_TO_TEXT)
_PLACES = (1, 10)
ZERO_SHOT = "zero_shot_top1"


@dataclass(frozen=True)
class HeldOut:
    """Rows that no head was trained on.

    Attributes
    ----------
    images : numpy.ndarray of float32, shape (n, d_image)
    texts : numpy.ndarray of float32, shape (n, d_text)
        Row i of one belongs to row i of the other.
    labels : numpy.ndarray of int64, shape (n,), optional
        Numbers of classes; -1 for none.
    prompts : numpy.ndarray of float32, shape (classes, prompts, d_text), optional
        Texts that stand for each class.
    """

    images: np.ndarray
    texts: np.ndarray
    labels: np.ndarray | None = None
    prompts: np.ndarray | None = None


@dataclass(frozen=True)
class Training:
    """How each head is trained.

    Attributes
    ----------
    samples_seen, batch_size : int
    seeds : int
        How often the rows of each subset are split into halves.
    seed : int
        The first.
    """

    samples_seen: int
    batch_size: int
    seeds: int
    seed: int = 0


def outcomes(
    images: np.ndarray,
    texts: np.ndarray,
    halves: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    held_out: HeldOut,
    training: Training,
    progress: bool | None = None,
) -> dict[str, np.ndarray]:
    """Train a head on each half of each subset for each seed, and try it on the held-out rows.

    Parameters
    ----------
    images, texts : numpy.ndarray of float32, shape (m, d_image) and (m, d_text)
        All rows that are trained on.
    halves : sequence of sequence of pairs of numpy.ndarray of int64
        For each subset and each seed the rows of both halves.
    held_out : HeldOut
    training : Training
    progress : bool, optional

    Returns
    -------
    dict of str to numpy.ndarray of float32, shape (subsets, seeds, 2, n)
        By measure: 0 or 1 for each held-out row, of `RETRIEVAL` the mean of all recalls. Of
        `ZERO_SHOT` only rows with a label.

    Notes
    -----
    Heads of one seed and half start from the same weights, whatever the subset.
    """
    heads = len(halves) * training.seeds * 2
    measured: list[dict[str, np.ndarray]] = []
    with Progress("train", heads, progress, unit="heads").running() as bar:
        for of_subset in halves:
            for number, split in enumerate(of_subset):
                for half, rows in enumerate(split):
                    pairs = Pairs(images[rows][:, None], texts[rows], np.arange(len(rows)))
                    head, _ = contrastive_head(
                        pairs,
                        samples_seen=training.samples_seen,
                        batch_size=training.batch_size,
                        seed=training.seed + 2 * number + half,
                    )
                    measured.append(_measured(head, held_out))
                    bar.end(None)
    shape = (len(halves), training.seeds, 2, -1)
    return {name: np.stack([hit[name] for hit in measured]).reshape(shape) for name in measured[0]}


def _measured(head: Head, held_out: HeldOut) -> dict[str, np.ndarray]:
    """What a head gets right of each held-out row."""
    import torch

    with torch.inference_mode():
        images = head.images(torch.from_numpy(held_out.images))
        texts = head.texts(torch.from_numpy(held_out.texts))
        ranked = ranks(images.numpy(), texts.numpy(), np.arange(len(held_out.images)))
        hits = {
            name: (rank < place).astype(np.float32)
            for names, rank in (
                (TEXT_TO_IMAGE, ranked.text_to_image),
                (IMAGE_TO_TEXT, ranked.image_to_text),
            )
            for name, place in zip(names, _PLACES, strict=True)
        }
        hits = {RETRIEVAL: np.mean([hits[name] for name in RECALLS], axis=0), **hits}
        if held_out.labels is not None and held_out.prompts is not None:
            labels = torch.from_numpy(held_out.labels)
            classes = _class_vectors(head, torch.from_numpy(held_out.prompts))
            best = (images[labels >= 0] @ classes.T).argmax(1)
            hits[ZERO_SHOT] = (best == labels[labels >= 0]).numpy().astype(np.float32)
    return hits


def _class_vectors(head: Head, prompts: torch.Tensor) -> torch.Tensor:
    """The directions of the means of what each class's prompts become, as CLIP's are made."""
    return directions(head.texts(prompts.flatten(0, 1)).unflatten(0, prompts.shape[:2]).mean(1))
