"""What a dataset's images are compared with: another dataset, or an array of embeddings."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import frames
from nemo_image_curate.classifiers.base import origin
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError
from nemo_image_curate.selection.prepared import PreparedStage, gathered_once
from nemo_image_curate.stages.base import NO_EFFECT, no_effect
from nemo_image_curate.stages.gathered import Gathered, gather_target
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(eq=False)
class TargetStage(PreparedStage):
    """Adds columns by comparing each row's embedding with those of a target.

    Parameters
    ----------
    target : ImageTextPairDataset, path, or numpy.ndarray of shape (m, d)
        A dataset with embeddings of the same encoder, or the place of one; or embeddings. They
        need not be unit vectors; those without direction are left out.
    embedding_column : str, default "image_embedding"
    target_column : str, optional
        The target's column of embeddings. Default: `embedding_column`. With ``text_embedding``
        images are compared with texts.
    check_encoder : bool, default True
        Refuse a dataset whose embeddings are recorded to be of another encoder, or of none when
        those of the target are of one.
    """

    # What it holds counts, wherever it is: `config` has a hash.
    target: ImageTextPairDataset | str | os.PathLike[str] | np.ndarray = dataclasses.field(
        metadata=NO_EFFECT
    )
    _: KW_ONLY
    embedding_column: str = "image_embedding"
    target_column: str | None = None
    check_encoder: bool = no_effect(True)

    def inputs(self) -> list[str]:
        """The embeddings."""
        return [self.embedding_column]

    def without_source(self) -> None:
        """Forget the target: its vectors are in files."""
        self.target = np.empty((0, 0))

    def gather(self, dataset: ImageTextPairDataset, folder: Path) -> Gathered:
        """The target's unit vectors, in files.

        Raises
        ------
        ConfigError
            When it is no target.
        ColumnNotFoundError
            When it has no such column.
        EncoderMismatchError
        DatasetError
            When it has no embedding.
        """
        column = self.target_column or self.embedding_column
        target = opened_target(self, "target", dataset, column)
        vectors = gathered_once(lambda place: gather_target(target, column, place), folder)
        if not len(vectors):
            raise DatasetError(f"the target has no embedding in its column {column!r}.")
        return vectors

    def vectors(self, frame: Any, dim: int) -> tuple[torch.Tensor, np.ndarray]:
        """The unit vectors of a computed partition, and which rows they are of.

        Raises
        ------
        DatasetError
            When they are not of the target's width, `dim`.
        """
        values, embedded_rows = frames.embedding_array(frame[self.embedding_column])
        if len(values) and values.shape[1] != dim:
            raise DatasetError(
                f"{type(self).__name__}: embeddings of {values.shape[1]} values in column "
                f"{self.embedding_column!r}, of {dim} in the target: they are of different models."
            )
        unit, rows = unit_vectors(values, frames.device_of(frame))
        return unit, embedded_rows[rows]


def opened_target(
    stage: Any, name: str, dataset: ImageTextPairDataset, column: str
) -> ImageTextPairDataset | np.ndarray:
    """What a dataset is compared with: another one, which a path is of, or an array.

    Parameters
    ----------
    stage : Stage
        With ``embedding_column`` and ``check_encoder``.
    name : str
        Of its parameter.
    dataset : ImageTextPairDataset
    column : str
        The embeddings of the other one.

    Raises
    ------
    ColumnNotFoundError
    ConfigError
        When it is nothing of the kind.
    EncoderMismatchError
        When both are recorded to be of different encoders.
    """
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

    target = getattr(stage, name)
    if isinstance(target, np.ndarray):
        return target
    if isinstance(target, (str, os.PathLike)):
        target = ImageTextPairDataset.from_webdataset(target, backend=dataset.backend)
    if not isinstance(target, ImageTextPairDataset):
        raise ConfigError(
            f"{name} is {type(target).__name__}; it should be a dataset, the path of one, or "
            "an array of embeddings of shape (m, d)."
        )
    frames.require_columns(target.metadata, column)
    if stage.check_encoder:
        ours = dataset.provenance.get(stage.embedding_column, {})
        other = target.provenance.get(column, {})
        # Two of unknown origin are taken as they are; shards of several encoders are not.
        if ours.get("encoder") != other.get("encoder") or "conflict" in {**ours, **other}:
            raise EncoderMismatchError(
                f"{type(stage).__name__} compares embeddings of one encoder, but those of the "
                f"dataset are {origin(ours)}, those of the {name} {origin(other)}. Embed both with "
                "one model, or, if you know that they are, pass check_encoder=False."
            )
    return target
