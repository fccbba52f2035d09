"""`ClipScore`: how well a caption fits its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.classifiers.base import origin
from nemo_image_curate.embedders.base import flipped_column
from nemo_image_curate.errors import ColumnNotFoundError, DatasetError, EncoderMismatchError
from nemo_image_curate.stages.base import ColumnStage, no_effect
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Rows compared at once: a few thousand keep every device busy, in a few MB.
_ROWS = 4096


@dataclass(eq=False)
class ClipScore(ColumnStage):
    """Adds the cosine similarity, -1 to 1, between each image and its own caption.

    It is the plain cosine, as LAION filtered by it (Schuhmann et al., 2021, kept pairs of 0.3 and
    above with ViT-B/32); the CLIPScore of Hessel et al. (2021) is 2.5 max(cosine, 0). What is a
    good value depends on the encoder: look at pairs near a threshold before filtering by it.

    Parameters
    ----------
    image_embedding_column : str, default "image_embedding"
    text_embedding_column : str, default "text_embedding"
        Of one encoder; an `OpenCLIPEmbedder` makes both. They need not be unit vectors.
    pred_column : str, default "clip_score"
        ``float32``; null where an image or a caption has no embedding, or one without direction
        (all zero, or not finite).
    check_encoder : bool, default True
        Refuse columns that are not recorded to be of one encoder.
    flip : bool, default False
        Also score the mirrored pictures, which an embedder with ``flip=True`` embeds, in a column
        named as `pred_column` with ``_flipped`` after it. Letters cannot be read in a mirror,
        while things stay what they are: where ``clip_score - clip_score_flipped`` is large, text
        in the picture does the work (Yu et al., 2023, filter by the score of the mirrored one).

    Raises
    ------
    ColumnNotFoundError
        When called: when there is no such embedding column.
    EncoderMismatchError
        When called: when the columns are of different or unknown encoders.
    DatasetError
        When computed: when the embeddings of images and captions differ in width.

    References
    ----------
    Hessel et al., CLIPScore: A Reference-free Evaluation Metric for Image Captioning, 2021;
    Schuhmann et al., LAION-400M: Open Dataset of CLIP-Filtered 400 Million Image-Text Pairs, 2021;
    Yu et al., The Devil is in the Details: A Deep Dive into the Rabbit Hole of Data Filtering,
    arXiv 2309.15954, 2023.

    Examples
    --------
    >>> ds = ClipScore()(OpenCLIPEmbedder("ViT-B-32", "openai")(ds))  # doctest: +SKIP
    >>> ds = ds.filter("clip_score >= 0.3")  # doctest: +SKIP
    """

    image_embedding_column: str = "image_embedding"
    text_embedding_column: str = "text_embedding"
    pred_column: str = "clip_score"
    check_encoder: bool = no_effect(True)
    # It adds a column, and changes no other.
    flip: bool = no_effect(False)

    def columns(self) -> dict[str, pa.DataType]:
        """The score columns and their type."""
        return dict.fromkeys(self._pairs(), pa.float32())

    def _pairs(self) -> dict[str, list[str]]:
        """Which embedding columns each score is of."""
        images, texts = self.image_embedding_column, self.text_embedding_column
        pairs = {self.pred_column: [images, texts]}
        if self.flip:
            pairs[flipped_column(self.pred_column)] = [flipped_column(images), texts]
        return pairs

    def inputs(self) -> list[str]:
        """The embedding columns."""
        return list(dict.fromkeys(name for pair in self._pairs().values() for name in pair))

    def config(self) -> dict[str, Any]:
        """What is compared; recorded with the column."""
        return {"embedding_columns": self.inputs()}

    def provenance_in(self, dataset: ImageTextPairDataset) -> dict[str, dict[str, Any]]:
        """How the scores are made, from embeddings of which encoders."""
        encoders = {name: dataset.provenance.get(name, {}).get("encoder") for name in self.inputs()}
        return {
            score: {
                **self.record(),
                "embedding_columns": pair,
                "embedding_encoders": [encoders[name] for name in pair],
            }
            for score, pair in self._pairs().items()
        }

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the score columns, computed when they are needed."""
        columns, mirrored = dataset.metadata.columns, flipped_column(self.image_embedding_column)
        if self.flip and mirrored not in columns:
            remedy = "Embed the images with flip=True (embed --flip)."
            raise ColumnNotFoundError(mirrored, columns, remedy)
        frames.require_columns(dataset.metadata, *self.inputs())
        if self.check_encoder:
            require_one_encoder(self, dataset)
        return super().__call__(dataset)

    def run(self, frame: Any) -> dict[str, Any]:
        """The scores of a computed partition."""
        return {score: self._cosines(frame, *pair) for score, pair in self._pairs().items()}

    def _cosines(self, frame: Any, image_column: str, text_column: str) -> pa.Array:
        images, image_rows = frames.embedding_array(frame[image_column])
        texts, text_rows = frames.embedding_array(frame[text_column])
        if len(images) and len(texts):
            require_one_width(self, {image_column: images.shape[1], text_column: texts.shape[1]})
        row_numbers, of_image, of_text = np.intersect1d(
            image_rows, text_rows, assume_unique=True, return_indices=True
        )
        scores = np.full(len(frame), np.nan, dtype=np.float32)
        for start in range(0, len(row_numbers), _ROWS):
            block = slice(start, start + _ROWS)
            scores[row_numbers[block]] = cosines(
                images.take(of_image[block], axis=0), texts.take(of_text[block], axis=0)
            )
        return pa.array(scores, mask=np.isnan(scores))


def require_one_encoder(stage: ColumnStage, dataset: ImageTextPairDataset) -> None:
    """Refuse columns of embeddings that are not recorded to be of one encoder.

    Raises
    ------
    EncoderMismatchError
        Naming the encoders and the way around the check.
    """
    records = {name: dataset.provenance.get(name, {}) for name in stage.inputs()}
    encoders = {record.get("encoder") for record in records.values()}
    if None in encoders or len(encoders) > 1:
        known = " and ".join(f"{name!r} is {origin(record)}" for name, record in records.items())
        raise EncoderMismatchError(
            f"{type(stage).__name__} compares embeddings of one encoder, but {known}. Embed images "
            "and captions with one model, or, if you know that they are, pass check_encoder=False."
        )


def require_one_width(stage: ColumnStage, widths: Mapping[str, int]) -> None:
    """Refuse to compare embeddings of different lengths, by column.

    Raises
    ------
    DatasetError
    """
    if len(set(widths.values())) > 1:
        listing = ", of ".join(
            f"{width} {'' if number else 'values '}in {'' if number else 'column '}{name!r}"
            for number, (name, width) in enumerate(widths.items())
        )
        raise DatasetError(
            f"{type(stage).__name__}: embeddings of {listing}: they are of different models."
        )


def cosines(a: Any, b: Any) -> np.ndarray:
    """The cosine between each row of one array and the same row of another.

    Parameters
    ----------
    a, b : numpy.ndarray or cupy.ndarray, shape (n, d)

    Returns
    -------
    numpy.ndarray, shape (n,), float32
        NaN where a row is all zero or not finite.
    """
    import torch

    x, y = (directions(torch.as_tensor(rows).double()) for rows in (a, b))
    # Rounding may leave a little more than 1; clamping keeps NaN.
    cosine: np.ndarray = (x * y).sum(1).clamp(-1, 1).float().cpu().numpy()
    return cosine
