"""What `AlignedEmbedder.fit` does: gather pairs, learn of a part, measure by the rest, save."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate.compute.workers import versions
from nemo_image_curate.embedders.aligned_file import (
    AlignedModel,
    check_output,
    text_features,
    write_model,
)
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.gather_pairs import Gathered, gather_pairs
from nemo_image_curate.embedders.offline_features import OfflineFeatures
from nemo_image_curate.embedders.text_image import TextImageEmbedder
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.learning.retrieval import Ranks, interval, ranks, recall_at
from nemo_image_curate.learning.towers import Pairs, Towers, fit_towers
from nemo_image_curate.learning.words import Words

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)

LOSSES = ("infonce", "siglip")
# The part of the pictures that is held out to measure by, and how many at most.
_HELD_OUT, _MOST_HELD_OUT = 0.1, 1000
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

    def shared_values(self) -> slice | None:
        """Which of the values of pictures are in the space of texts, if some are."""
        if self.image.encoder() == self.text.encoder():
            return slice(0, None)
        of_conse = isinstance(self.image, OfflineFeatures) and isinstance(self.text, ConseEmbedder)
        return OfflineFeatures.conse_values if of_conse else None


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
    folder = check_output(path)
    if loss not in LOSSES:
        raise ConfigError(f"loss={loss!r} should be one of {', '.join(LOSSES)}.")
    if max_pictures < _FEWEST:
        raise ConfigError(f"max_pictures={max_pictures} should be {_FEWEST} or more.")
    encoders = Encoders.of(image_encoder, text_encoder)
    encoders.image.check()
    encoders.text.check()
    training = {"loss": loss, "seed": seed, "samples_seen": samples_seen}
    options = {"caption_column": caption_column, "max_pictures": max_pictures, **training}
    gathered = gather_pairs(
        *(dataset, encoders.image, encoders.text, caption_column, max_pictures, seed, progress)
    )
    towers, words, kind, learned = _learn(gathered, encoders, training)
    records = (_record(one) for one in (encoders.image, encoders.text))
    model = AlignedModel(towers, kind, *records, words)
    facts = {**options, "rows": gathered.rows, **learned, "versions": _versions()}
    return write_model(model, folder, facts)


def _learn(
    gathered: Gathered, encoders: Encoders, training: dict[str, Any]
) -> tuple[Towers, Words, str, dict[str, Any]]:
    """The towers, the words that they count, what they are, and what came of it."""
    import torch

    pairs, base = gathered.pairs, None
    count, width = len(pairs.images), pairs.texts.shape[1]
    shared = encoders.shared_values()
    captions = f"{len(pairs.texts):,} captions of {count:,} pictures"
    if count < _FEWEST:
        if shared is None or not count:
            reasons = ", ".join(f"{n:,} {name}" for name, n in gathered.rows.items())
            raise DatasetError(
                f"{captions} are too few to learn from; {_FEWEST} pictures are the least. Of all "
                f"rows: {reasons}."
            )
        logger.warning("%s are too few to learn from: the base encoder's space is kept.", captions)
        words = Words.of([])
        base = base_towers(pairs, shared, width, encoders.text)
        return base, words, "base", {"pictures": count, "captions": len(pairs.texts)}
    held = min(_MOST_HELD_OUT, max(1, round(count * _HELD_OUT)))
    first = int(np.searchsorted(pairs.image_numbers, held))
    words = Words.of(gathered.captions[first:])
    features = text_features(torch.from_numpy(pairs.texts), gathered.captions, words)
    pairs = replace(pairs, texts=features.numpy())
    held_out, learned_from = pairs.of(np.arange(held)), pairs.of(np.arange(held, count))
    towers = fit_towers(learned_from, **training)
    figures = {"learned": _figures(towers, held_out)}
    kind = "trained"
    if shared is not None:
        base = base_towers(pairs, shared, width, encoders.text)
        figures["base"] = _figures(base, held_out)
        if figures["learned"]["mrr"] <= figures["base"]["mrr"]:
            logger.warning(
                "what was learned of %s finds no more than the base encoder: its space is kept.",
                captions,
            )
            towers, kind = base, "base"
    facts = {
        "pictures": len(learned_from.images),
        "captions": len(learned_from.texts),
        "held_out": {"pictures": held, "captions": len(held_out.texts), **figures},
    }
    return towers, words, kind, facts


def base_towers(pairs: Pairs, shared: slice, width: int, text: TextImageEmbedder) -> Towers:
    """The space that pictures and texts have without anything learned."""
    import torch

    tower = text.text_tower("cpu")
    tensors = {}
    for name, features, values in (
        ("image", pairs.images, shared),
        ("text", pairs.texts, slice(0, width)),
    ):
        chosen = torch.eye(features.shape[-1])[values]
        tensors |= {f"{name}.weight": chosen[None], f"{name}.bias": torch.zeros(1, len(chosen))}
    tensors["log_scale"] = torch.tensor(tower.logit_scale).log()
    if tower.logit_bias is not None:
        tensors["logit_bias"] = torch.tensor(tower.logit_bias)
    return Towers(tensors)


def _figures(towers: Towers, pairs: Pairs) -> dict[str, Any]:
    """How many captions find their picture: R@k with its 95 % interval."""
    found = _ranks(towers, pairs)
    figures: dict[str, Any] = {"mrr": round(float((1 / (found.text_to_image + 1)).mean()), 4)}
    for k in (1, 5, 10):
        bounds = interval(found.text_to_image < k, found.image_numbers)
        figures[f"R@{k}"] = round(recall_at(found.text_to_image, k), 4)
        figures[f"R@{k} interval"] = [round(bound, 4) for bound in bounds]
    return figures


def _ranks(towers: Towers, pairs: Pairs) -> Ranks:
    import torch

    images = towers.images(torch.from_numpy(np.ascontiguousarray(pairs.images[:, 0])))
    texts = towers.texts(torch.from_numpy(pairs.texts))
    return ranks(images.numpy(), texts.numpy(), pairs.image_numbers)


def _record(encoder: ImageEmbedder) -> dict[str, Any]:
    record = encoder.record()
    return {name: value for name, value in record.items() if name != "version"}


def _versions() -> dict[str, str]:
    return {name: version for name, version in versions().items() if version}
