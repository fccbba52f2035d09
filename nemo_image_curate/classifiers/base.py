"""`ImageClassifier`: the base of stages that score embeddings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from dask.base import tokenize

from nemo_image_curate import frames
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError
from nemo_image_curate.stages.base import ColumnStage, no_effect
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)

# Rows per forward pass of a head: a few thousand keep every device busy, in a few MB.
_ROWS = 4096


@dataclass(eq=False)
class ImageClassifier(ColumnStage):
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

    Examples
    --------
    >>> class First(ImageClassifier):
    ...     def load_model(self, device):
    ...         return lambda embeddings: embeddings[:, 0]
    >>> ds = First("first_value")(ds)
    >>> ds = ds.filter("first_value > 0")
    """

    pred_column: str
    embedding_column: str = "image_embedding"
    check_encoder: bool = no_effect(True)

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

    def columns(self) -> dict[str, pa.DataType]:
        """The score column and its type."""
        return {self.pred_column: pa.float32()}

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How the columns are made."""
        return self.provenance_of(self.embedding_column, {})

    def provenance_of(
        self, embedding_column: str, record: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """How the columns are made, from which embeddings.

        Parameters
        ----------
        embedding_column : str
        record : mapping
            The provenance of that column; empty when nothing is known of it.
        """
        encoder = record.get("encoder")
        return {
            name: self.record(embedding_column=embedding_column, embedding_encoder=encoder)
            for name in self.columns()
        }

    def provenance_in(self, dataset: ImageTextPairDataset) -> dict[str, dict[str, Any]]:
        """`provenance`, with the encoder that the dataset's embeddings are of."""
        return self.provenance_of(self.embedding_column, self._record(dataset))

    def _record(self, dataset: ImageTextPairDataset) -> Mapping[str, Any]:
        record: Mapping[str, Any] = dataset.provenance.get(self.embedding_column, {})
        return record

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
        required = self.encoder()
        if not self.check_encoder or required in (None, record.get("encoder")):
            if record and not record.get("normalized", True):
                logger.warning("%s expects unit vectors; they are normalised", type(self).__name__)
            return
        raise EncoderMismatchError(
            f"{type(self).__name__} is for embeddings of {required!r}, but the embeddings "
            f"are {origin(record)}. Embed with that model, or, if you know that they are right, "
            "pass check_encoder=False."
        )

    def inputs(self) -> list[str]:
        """The embeddings."""
        return [self.embedding_column]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, computed when they are needed.

        Raises
        ------
        ColumnNotFoundError
            When there is no such embedding column.
        EncoderMismatchError
            When the embeddings are not of the right encoder.
        """
        frames.require_columns(dataset.metadata, self.embedding_column)
        self.require_encoder(self._record(dataset))
        return super().__call__(dataset)

    def run(self, frame: Any) -> dict[str, Any]:
        """The scores of a computed partition."""
        import torch

        device = frames.device_of(frame)
        score = worker_cache.get_or_build(tokenize(device, self), lambda: self.load(device))
        vectors, row_numbers = frames.embedding_array(frame[self.embedding_column])
        kinds = self.columns()
        values: dict[str, list[Any]] = {name: [] for name in kinds}
        for start in range(0, len(row_numbers), _ROWS):
            block = vectors[start : start + _ROWS]
            # from_numpy would warn that Arrow's memory is read-only; nothing writes to it.
            batch = torch.as_tensor(block if device == "cuda" else block.copy())
            for name, part in score(batch).items():
                values[name] += part.tolist()
        return {
            name: frames.scatter(values[name], row_numbers, len(frame), kind)
            for name, kind in kinds.items()
        }

    def load(self, device: str) -> Callable[[torch.Tensor], dict[str, Any]]:
        """The model on a device: embeddings (B, d) to column values."""
        return _Scorer(self, self.load_model(device), device)


def origin(record: Mapping[str, Any]) -> str:
    """What is known of the encoder of an embedding column, for messages."""
    if "conflict" in record:
        return f"not the same in all shards: {record['conflict']}"
    return f"made by {record['encoder']!r}" if record.get("encoder") else "of unknown origin"


def wrong_width(stage: Any, expected: int, width: int) -> DatasetError:
    """The error for embeddings that are not as wide as the model's."""
    return DatasetError(
        f"{type(stage).__name__} takes embeddings of {expected} values, but these have {width}: "
        "they are of another model."
    )


class _Scorer:
    def __init__(self, classifier: ImageClassifier, model: Any, device: str):
        self.classifier = classifier
        self.model = model
        self.device = device
        # Dask runs partitions in threads, and models may change something of theirs in each call.
        self._lock = threading.Lock()

    def __call__(self, embeddings: torch.Tensor) -> dict[str, Any]:
        import torch

        expected = self.classifier.embedding_dim()
        if expected is not None and embeddings.shape[1] != expected:
            raise wrong_width(self.classifier, expected, embeddings.shape[1])
        with torch.inference_mode():
            # Rows without a direction become NaN, and their scores null.
            unit = directions(embeddings.to(self.device).float())
            with self._lock:
                scores = self.model(unit)
            columns = dict(self.classifier.values(self.classifier.postprocess(scores)))
        for name, values in list(columns.items()):
            if values.shape != (len(unit),):
                raise ConfigError(
                    f"{type(self.classifier).__name__} gave scores of shape {tuple(values.shape)} "
                    f"for {len(unit)} embeddings; column {name!r} needs one for each."
                )
            if isinstance(values, torch.Tensor) and values.is_floating_point():
                # A model may make a score of NaN, which would be one of nothing.
                columns[name] = values.masked_fill(unit.isnan().any(1), torch.nan)
        return columns
