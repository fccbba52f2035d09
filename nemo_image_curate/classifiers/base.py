"""`ImageClassifier`: the base of stages that score embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import describe_stage
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Rows per forward pass of a head: a few thousand keep every device busy, in a few MB.
_ROWS = 4096


class ImageClassifier:
    """Adds a score column made from an embedding column.

    Subclass it: give `load_model`, and `postprocess` where scores need it. One that makes other
    columns than one score also gives `columns` and `values`. Call it with a dataset, or hand it
    to an embedder's `classifiers` to score in the same pass.

    Parameters
    ----------
    pred_column : str
        ``float32``; null where there is no embedding.
    embedding_column : str, default "image_embedding"
        When called; in an embedder's pass the embedder's own column is used.
    check_encoder : bool, default True
        Refuse embeddings that are not known to be of the right encoder: those of another model
        may have the right shape, and give nonsense.
    """

    # Parameters that `config` or the token records, or that change no values.
    _known: ClassVar[frozenset[str]] = frozenset(
        ("pred_column", "embedding_column", "check_encoder")
    )

    def __init__(
        self,
        pred_column: str,
        embedding_column: str = "image_embedding",
        check_encoder: bool = True,
    ):
        self.pred_column = pred_column
        self.embedding_column = embedding_column
        self.check_encoder = check_encoder

    def load_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Load the model; called once per process.

        Returns
        -------
        callable
            float32 unit embeddings (B, d) on `device` to scores (B,).
        """
        raise ConfigError(f"{type(self).__name__} does not define load_model(device).")

    def postprocess(self, scores: torch.Tensor) -> torch.Tensor:
        """Turn what the model gives, (B,) float32, into what the column holds."""
        return scores

    def values(self, scores: torch.Tensor) -> dict[str, Any]:
        """What the columns hold, from what `postprocess` gives.

        Returns
        -------
        dict of str to torch.Tensor or numpy.ndarray, shape (B,)
            Of the names in `columns`.
        """
        return {self.pred_column: scores}

    def encoder(self) -> str | None:
        """The encoder whose embeddings the model was trained on; None for any."""
        return None

    def embedding_dim(self) -> int | None:
        """The width of embedding that the model takes; None for any."""
        return None

    def config(self) -> dict[str, Any]:
        """Everything that decides the scores; recorded, and part of fingerprints."""
        return {
            "stage": type(self).__qualname__,
            "encoder": self.encoder(),
            "weights_sha256": self.weights_sha256(),
        }

    def weights_sha256(self) -> str | None:
        """Hash of the model's weights file, or None when they do not come from a file."""
        return None

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        own = describe_stage(self, self._known)
        parts = (own, self.config(), self.columns(), self.embedding_column)
        return tuple(normalize_token(part) for part in parts)

    def columns(self) -> dict[str, pa.DataType]:
        """The score column and its type."""
        return {self.pred_column: pa.float32()}

    def provenance(self, embedding_column: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """How the score column is made, from which embeddings."""
        made = {
            **self.config(),
            "version": __version__,
            "embedding_column": embedding_column,
            "embedding_encoder": record.get("encoder"),
        }
        return dict.fromkeys(self.columns(), made)

    def require_encoder(self, record: Mapping[str, Any]) -> None:
        """Refuse embeddings of another encoder.

        Parameters
        ----------
        record : mapping
            The provenance of the embedding column; empty when nothing is known of it.

        Raises
        ------
        EncoderMismatchError
            Naming both encoders and the way around the check.
        """
        wanted, found = self.encoder(), record.get("encoder")
        if not self.check_encoder or wanted is None or (found == wanted):
            if record and not record.get("normalized", True):
                logger.warning("%s expects unit vectors; they are normalised", type(self).__name__)
            return
        raise EncoderMismatchError(
            f"{type(self).__name__} is for embeddings of {wanted!r}, but the embeddings "
            f"are {origin(record)}. Embed with that model, or, if you know that they are right, "
            "pass check_encoder=False."
        )

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the score column, computed when it is needed.

        Raises
        ------
        ColumnNotFoundError
            When there is no such embedding column.
        EncoderMismatchError
            When the embeddings are not of the right encoder.
        """
        frames.require_columns(dataset.metadata, self.embedding_column)
        record = dataset.provenance.get(self.embedding_column, {})
        self.require_encoder(record)
        made = self.provenance(self.embedding_column, record)
        return add_columns(dataset, _ScorePartition(self), self.columns(), made)

    def load(self, device: str) -> Callable[[torch.Tensor], dict[str, Any]]:
        """The model on a device: embeddings (B, d) to column values."""
        return _Scorer(self, self.load_model(device), device)


def add_columns(
    dataset: ImageTextPairDataset,
    run: Callable[[Any], Any],
    columns: Mapping[str, pa.DataType],
    provenance: dict[str, Any],
) -> ImageTextPairDataset:
    """The dataset with columns that a function of one computed partition adds, when needed."""
    frame = dataset.metadata
    empty = {name: frames.empty_column(frame, kind) for name, kind in columns.items()}
    meta = frames.with_columns(frame._meta, empty)
    return dataset.replace(frame.map_partitions(run, meta=meta), provenance)


def origin(record: Mapping[str, Any]) -> str:
    """What is known of the encoder of an embedding column, for messages."""
    if "conflict" in record:
        return f"not the same in all shards: {record['conflict']}"
    return f"made by {record['encoder']!r}" if record.get("encoder") else "of unknown origin"


def wrong_width(stage: Any, wanted: int, found: int) -> DatasetError:
    """The error for embeddings that are not as wide as the model's."""
    return DatasetError(
        f"{type(stage).__name__} takes embeddings of {wanted} values, but these have {found}: "
        "they are of another model."
    )


class _Scorer:
    def __init__(self, classifier: ImageClassifier, model: Any, device: str):
        self.classifier = classifier
        self.model = model
        self.device = device

    def __call__(self, embeddings: torch.Tensor) -> dict[str, Any]:
        import torch

        wanted = self.classifier.embedding_dim()
        if wanted is not None and embeddings.shape[1] != wanted:
            raise wrong_width(self.classifier, wanted, embeddings.shape[1])
        with torch.inference_mode():
            wide = embeddings.to(self.device).float()
            # The squares of very large or small values would leave the range of numbers. Rows
            # that are all zero, or not finite, become NaN, and their scores null.
            wide = wide / wide.abs().amax(dim=1, keepdim=True)
            unit = wide / wide.norm(dim=1, keepdim=True)
            values = self.classifier.values(self.classifier.postprocess(self.model(unit)))
        for name, made in values.items():
            if made.shape != (len(unit),):
                raise ConfigError(
                    f"{type(self.classifier).__name__} gave scores of shape {tuple(made.shape)} "
                    f"for {len(unit)} embeddings; column {name!r} needs one for each."
                )
        return values


class _ScorePartition:
    """Scores one computed partition; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "score"

    def __init__(self, classifier: ImageClassifier):
        self.classifier = classifier

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("ScorePartition", *self.classifier.__dask_tokenize__())

    def __call__(self, frame: Any) -> Any:
        import torch
        from dask.base import tokenize

        device = frames.device_of(frame)
        score = worker_cache.get_or_build(
            tokenize(device, self.classifier), lambda: self.classifier.load(device)
        )
        values, kept = frames.embedding_array(frame[self.classifier.embedding_column])
        made: dict[str, list[Any]] = {name: [] for name in self.classifier.columns()}
        for start in range(0, len(kept), _ROWS):
            rows = values[start : start + _ROWS]
            # from_numpy would warn that Arrow's memory is read-only; nothing writes to it.
            batch = torch.as_tensor(rows if device == "cuda" else rows.copy())
            for name, part in score(batch).items():
                made[name] += part.tolist()
        kinds = self.classifier.columns()
        return frames.with_columns(
            frame,
            {name: frames.scatter(made[name], kept, len(frame), kinds[name]) for name in made},
        )
