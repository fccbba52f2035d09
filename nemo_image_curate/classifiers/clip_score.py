"""`ClipScore`: how well a caption fits its image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.classifiers.base import add_columns, origin
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import describe_stage
from nemo_image_curate.errors import DatasetError, EncoderMismatchError
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    import torch

# Rows compared at once: a few thousand keep every device busy, in a few MB.
_ROWS = 4096


class ClipScore:
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

    def __init__(
        self,
        image_embedding_column: str = "image_embedding",
        text_embedding_column: str = "text_embedding",
        pred_column: str = "clip_score",
        check_encoder: bool = True,
    ):
        self.image_embedding_column = image_embedding_column
        self.text_embedding_column = text_embedding_column
        self.pred_column = pred_column
        self.check_encoder = check_encoder

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("ClipScore", describe_stage(self, {"check_encoder"}))

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the score column, computed when it is needed."""
        columns = (self.image_embedding_column, self.text_embedding_column)
        frames.require_columns(dataset.metadata, *columns)
        made_by = [dataset.provenance.get(name, {}) for name in columns]
        encoders = [one.get("encoder") for one in made_by]
        if self.check_encoder and (encoders[0] is None or encoders[0] != encoders[1]):
            known = " and ".join(
                f"{name!r} is {origin(one)}" for name, one in zip(columns, made_by, strict=True)
            )
            raise EncoderMismatchError(
                f"ClipScore compares embeddings of one encoder, but {known}. Embed images and "
                "captions with one model, or, if you know that they are, pass check_encoder=False."
            )
        record = {
            "stage": "ClipScore",
            "version": __version__,
            "embedding_columns": list(columns),
            "embedding_encoders": encoders,
        }
        return add_columns(
            dataset, _ScorePairs(self), {self.pred_column: pa.float32()}, {self.pred_column: record}
        )


class _ScorePairs:
    """Scores one computed partition; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "clip-score"

    def __init__(self, stage: ClipScore):
        self.stage = stage

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.stage.__dask_tokenize__()

    def __call__(self, frame: Any) -> Any:
        stage = self.stage
        images, with_image = frames.embedding_array(frame[stage.image_embedding_column])
        texts, with_text = frames.embedding_array(frame[stage.text_embedding_column])
        if len(images) and len(texts) and images.shape[1] != texts.shape[1]:
            raise DatasetError(
                f"ClipScore: embeddings of {images.shape[1]} values in column "
                f"{stage.image_embedding_column!r}, of {texts.shape[1]} in "
                f"{stage.text_embedding_column!r}: they are of different models."
            )
        rows, of_image, of_text = np.intersect1d(
            with_image, with_text, assume_unique=True, return_indices=True
        )
        scores = np.full(len(frame), np.nan, dtype=np.float32)
        for start in range(0, len(rows), _ROWS):
            some = slice(start, start + _ROWS)
            scores[rows[some]] = cosines(
                images.take(of_image[some], axis=0), texts.take(of_text[some], axis=0)
            )
        column = pa.array(scores, mask=np.isnan(scores))
        return frames.with_columns(frame, {stage.pred_column: column})


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

    # Squares of any float32 fit into float64.
    x, y = (torch.as_tensor(rows).double() for rows in (a, b))
    cosine: torch.Tensor = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
    # Rounding may leave a little more than 1; clamping keeps NaN.
    return cosine.clamp(-1, 1).float().cpu().numpy()
