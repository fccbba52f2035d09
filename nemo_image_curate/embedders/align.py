"""What `AlignedEmbedder.fit` does: gather pairs, learn of a part, measure by the rest, save."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate.compute.workers import versions
from nemo_image_curate.embedders.aligned_file import (
    AlignedModel,
    model_folder,
    text_features,
    write_model,
)
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.gather_pairs import Gathered, gather_pairs
from nemo_image_curate.embedders.offline_features import OfflineFeatures
from nemo_image_curate.embedders.text_image import TextImageEmbedder
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.learning.fitting import LOSSES, fit_towers
from nemo_image_curate.learning.heads import Head
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.learning.retrieval import interval, ranks, recall_at
from nemo_image_curate.learning.towers import Towers
from nemo_image_curate.learning.words import Words

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)

# The part of the pictures that is held out to measure by, and how many at most.
_HELD_OUT, _MOST_HELD_OUT = 0.1, 1000
# Of more held-out captions pictures that are learned from have the same.
_MANY = 0.1
# Fewer pictures show nothing: of the held-out ones each would be a large part.
_FEWEST = 20


@dataclass(frozen=True)
class Encoders:
    """The frozen encoders, and whether they share a space already."""

    image: ImageEmbedder
    text: TextImageEmbedder

    @classmethod
    def of(cls, image: ImageEmbedder | None, text: TextImageEmbedder | None) -> Encoders:
        """What is given, and what is taken where nothing is."""
        image = image or OfflineFeatures()
        if text is None:
            text = image if isinstance(image, TextImageEmbedder) else ConseEmbedder()
        return cls(image, text)

    def shared_space(self, pairs: Pairs, text_values: int | None = None) -> Head | None:
        """The space that pictures and texts have without anything learned, if they have one.

        Parameters
        ----------
        pairs : Pairs
            Of the encoders' own features.
        text_values : int, optional
            How many features of texts there are, where others stand behind the encoder's.
        """
        d_image, d_text = pairs.images.shape[2], pairs.texts.shape[1]
        if self.image.encoder() == self.text.encoder():
            shared = slice(0, d_image)
        elif isinstance(self.image, OfflineFeatures) and isinstance(self.text, ConseEmbedder):
            shared = OfflineFeatures.conse_values
        else:
            return None
        return Head.given(d_image, text_values or d_text, shared, slice(0, d_text))

    def alone(self, base: Head, pairs: Pairs) -> Towers:
        """That space as it is."""
        scale = self.text.text_tower("cpu").logit_scale
        return Towers.of([base], [1.0], pairs, scale, math.inf)


def align(
    dataset: ImageTextPairDataset,
    path: str,
    image_encoder: ImageEmbedder | None,
    text_encoder: TextImageEmbedder | None,
    caption_column: str,
    loss: str,
    seed: int,
    max_pictures: int,
    samples_seen: int,
    progress: bool | None = None,
) -> str:
    """Learn, measure and save; the path of the model's file. See `AlignedEmbedder.fit`."""
    folder = model_folder(path)
    if loss not in LOSSES:
        raise ConfigError(f"loss={loss!r} should be one of {', '.join(LOSSES)}.")
    if max_pictures < _FEWEST:
        raise ConfigError(f"max_pictures={max_pictures} should be {_FEWEST} or more.")
    if seed < 0:
        raise ConfigError(f"seed={seed} should be 0 or more.")
    encoders = Encoders.of(image_encoder, text_encoder)
    encoders.image.check()
    encoders.text.check()
    training: dict[str, Any] = {"loss": loss, "seed": seed}
    if loss != LOSSES[0]:
        training["samples_seen"] = samples_seen
    options = {"caption_column": caption_column, "max_pictures": max_pictures, **training}
    gathered = gather_pairs(
        *(dataset, encoders.image, encoders.text, caption_column, max_pictures, seed, progress)
    )
    towers, words, learned = _learn(gathered, encoders, training)
    model = AlignedModel(towers, _record(encoders.image), _record(encoders.text), words)
    facts = {**options, "rows": gathered.rows, **learned, "versions": _versions()}
    return write_model(model, folder, facts)


def _learn(
    gathered: Gathered, encoders: Encoders, training: dict[str, Any]
) -> tuple[Towers, Words, dict[str, Any]]:
    """The towers, the words that they count, and what came of it."""
    pairs = gathered.pairs
    count = len(pairs.images)
    held = min(_MOST_HELD_OUT, max(1, round(count * _HELD_OUT)))
    facts = {"pictures": count, "captions": len(pairs.texts)}
    if problem := _too_little(pairs):
        base = encoders.shared_space(pairs) if count else None
        if base is None:
            reasons = ", ".join(f"{n:,} {name}" for name, n in gathered.rows.items())
            raise DatasetError(f"nothing can be learned: {problem}. Of all rows: {reasons}.")
        logger.warning("nothing is learned, %s: the base encoder's space is kept.", problem)
        return encoders.alone(base, pairs), Words.of([]), facts
    is_held_out = pairs.image_numbers < held
    words = Words.of(itertools.compress(gathered.captions, ~is_held_out))
    pairs = _with_words(pairs, gathered.captions, words)
    base = encoders.shared_space(gathered.pairs, pairs.texts.shape[1])
    held_out = pairs.of(np.arange(held))
    towers = fit_towers(pairs.of(np.arange(held, count)), base=base, **training)
    figures = {"learned": _figures(towers, held_out)}
    if base is not None:
        figures["base"] = _figures(encoders.alone(base, pairs), held_out)
    if math.isinf(towers.base_share):
        logger.warning(
            "what %d captions of %d pictures teach finds no more than the base encoder: its space "
            "is kept.",
            *(len(pairs.texts), count),
        )
    measured = {
        "pictures": held,
        "captions": len(held_out.texts),
        "captions_learned_from": count_learned_from(gathered.captions, is_held_out),
        **figures,
    }
    # Measured, the rest is of use, too.
    return (
        fit_towers(pairs, base=base, like=towers, **training),
        words,
        facts | {"held_out": measured},
    )


def count_learned_from(captions: list[str], is_held_out: np.ndarray) -> int:
    """How many of the captions held out are those of other pictures, too; many are warned of."""
    others = set(itertools.compress(captions, ~is_held_out))
    count = sum(caption in others for caption in itertools.compress(captions, is_held_out))
    if count > _MANY * is_held_out.sum():
        logger.warning(
            "%d of %d captions that are held out are those of pictures learned from, too: with "
            "copies among the pictures the figures promise too much. dedup tells of copies.",
            *(count, is_held_out.sum()),
        )
    return count


def _too_little(pairs: Pairs) -> str | None:
    """Why pairs teach nothing, if that is clear before."""
    captions, pictures = len(pairs.texts), len(pairs.images)
    if pictures < _FEWEST:
        return (
            f"{captions:,} captions of {pictures:,} pictures are too few; {_FEWEST} pictures are "
            "the least"
        )
    for side, features in (("captions", pairs.texts), ("pictures", pairs.images[:, 0])):
        if np.ptp(features, axis=0).max() == 0:
            return f"all {side} are the same to their encoder"
    return None


def _with_words(pairs: Pairs, captions: list[str], words: Words) -> Pairs:
    import torch

    features = text_features(torch.from_numpy(pairs.texts), captions, words)
    return replace(pairs, texts=features.numpy())


def _figures(towers: Towers, pairs: Pairs) -> dict[str, Any]:
    """How many captions find their picture: R@k with its 95 % interval."""
    images, texts = towers.embed(pairs)
    ranked = ranks(images.numpy(), texts.numpy(), pairs.image_numbers)
    figures: dict[str, Any] = {}
    for k in (1, 5, 10):
        bounds = interval(ranked.text_to_image < k, ranked.image_numbers)
        figures[f"R@{k}"] = round(recall_at(ranked.text_to_image, k), 4)
        figures[f"R@{k} interval"] = [round(bound, 4) for bound in bounds]
    return figures


def _record(encoder: ImageEmbedder) -> dict[str, Any]:
    record = encoder.record()
    return {name: value for name, value in record.items() if name != "version"}


def _versions() -> dict[str, str]:
    return {name: version for name, version in versions().items() if version}
