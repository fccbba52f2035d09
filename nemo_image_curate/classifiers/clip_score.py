"""`ClipScore`: how well a caption fits its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.classifiers.base import origin
from nemo_image_curate.errors import DatasetError, EncoderMismatchError
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
    Schuhmann et al., LAION-400M: Open Dataset of CLIP-Filtered 400 Million Image-Text Pairs, 2021.

    Examples
    --------
    >>> ds = ClipScore()(OpenCLIPEmbedder("ViT-B-32", "openai")(ds))  # doctest: +SKIP
    >>> ds = ds.filter("clip_score >= 0.3")  # doctest: +SKIP
    """

    image_embedding_column: str = "image_embedding"
    text_embedding_column: str = "text_embedding"
    pred_column: str = "clip_score"
    check_encoder: bool = no_effect(True)

    def columns(self) -> dict[str, pa.DataType]:
        """The score column and its type."""
        return {self.pred_column: pa.float32()}

    def inputs(self) -> list[str]:
        """Both embedding columns."""
        return [self.image_embedding_column, self.text_embedding_column]

    def config(self) -> dict[str, Any]:
        """What is compared; recorded with the column."""
        return {"embedding_columns": self.inputs()}

    def provenance_in(self, dataset: ImageTextPairDataset) -> dict[str, dict[str, Any]]:
        """How the score is made, from embeddings of which encoders."""
        encoders = [dataset.provenance.get(name, {}).get("encoder") for name in self.inputs()]
        records = self.provenance()
        return {name: {**own, "embedding_encoders": encoders} for name, own in records.items()}

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the score column, computed when it is needed."""
        frames.require_columns(dataset.metadata, *self.inputs())
        records = [dataset.provenance.get(name, {}) for name in self.inputs()]
        encoders = [record.get("encoder") for record in records]
        if self.check_encoder and (encoders[0] is None or encoders[0] != encoders[1]):
            known = " and ".join(
                f"{name!r} is {origin(record)}"
                for name, record in zip(self.inputs(), records, strict=True)
            )
            raise EncoderMismatchError(
                f"ClipScore compares embeddings of one encoder, but {known}. Embed images and "
                "captions with one model, or, if you know that they are, pass check_encoder=False."
            )
        return super().__call__(dataset)

    def run(self, frame: Any) -> dict[str, Any]:
        """The scores of a computed partition."""
        images, image_rows = frames.embedding_array(frame[self.image_embedding_column])
        texts, text_rows = frames.embedding_array(frame[self.text_embedding_column])
        if len(images) and len(texts) and images.shape[1] != texts.shape[1]:
            raise DatasetError(
                f"ClipScore: embeddings of {images.shape[1]} values in column "
                f"{self.image_embedding_column!r}, of {texts.shape[1]} in "
                f"{self.text_embedding_column!r}: they are of different models."
            )
        row_numbers, of_image, of_text = np.intersect1d(
            image_rows, text_rows, assume_unique=True, return_indices=True
        )
        scores = np.full(len(frame), np.nan, dtype=np.float32)
        for start in range(0, len(row_numbers), _ROWS):
            block = slice(start, start + _ROWS)
            scores[row_numbers[block]] = cosines(
                images.take(of_image[block], axis=0), texts.take(of_text[block], axis=0)
            )
        return {self.pred_column: pa.array(scores, mask=np.isnan(scores))}


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
