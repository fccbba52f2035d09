"""`NegClipLoss`: how much better a caption fits its image than those of other pairs do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.classifiers.clip_score import require_one_encoder, require_one_width
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.selection.batches import Batch, Batches, all_pairs, drawn_pairs
from nemo_image_curate.selection.checks import check_integer, check_one_of, check_positive
from nemo_image_curate.selection.prepared import PreparedStage
from nemo_image_curate.stages.base import no_effect
from nemo_image_curate.vectors.log_sums import log_sums
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(eq=False)
class NegClipLoss(PreparedStage):
    """Adds the CLIP score of each pair less what CLIP's loss makes of other pairs in its batch.

    Wang et al. ("CLIPLoss and norm-based data selection methods for multimodal contrastive
    learning", arXiv 2405.19547, 2024): some images and captions are near to everything, so that
    their score says little. With x and y the unit vectors of images and captions,

        negCLIPLoss_i = x_i . y_i - R_i,
        R_i = T / 2 (log sum_j exp(x_i . y_j / T) + log sum_j exp(x_j . y_i / T)),

    j over a batch that i is in. It is at most 0, and the mean over several batches.

    Parameters
    ----------
    temperature : float, default 0.01
        T: what the encoder's cosines are divided by in training; 0.01 for OpenAI's CLIP.
    batch_size : int, default 32768
        Pairs of a batch, as in CLIP's training.
    repeats : int, default 5
        Batches that each row is put into. The paper's scores beat the CLIP score from 5 on; more
        lessen the error.
    batch : {"hash", "all"}
        ``hash``: the batch of a row is the row itself and the ``batch_size - 1`` first others of
        some that a hash of `random_state` and their keys draws. So it is the same however rows lie
        in partitions. ``all``: one batch of all rows, whatever `batch_size` and `repeats` are; so
        it is, too, when there are no more than `batch_size`.
    image_embedding_column : str, default "image_embedding"
    text_embedding_column : str, default "text_embedding"
        Of one encoder. They need not be unit vectors.
    random_state : int, default 0
    prefix : str, default ""
        Put before the names of the columns: those of two encoders stand side by side, and their
        difference is learnability (Evans et al., arXiv 2406.17711, 2024).
    check_encoder : bool, default True
        Refuse columns that are recorded to be of different encoders, or only one of them.
    work_dir : str or path, optional
        A folder for the drawn pairs, that all workers share, and that stays until the columns are
        computed: 8 `d` bytes for each of ``repeats * batch_size`` pairs, or for each row with
        ``batch="all"``. Default: in the system's temporary folder.

    Columns
    -------
    neg_clip_loss : float32
        Null where an image or a caption has no embedding, or one without direction.
    neg_clip_loss_error : float32
        The mean's standard error over the repeats; null where there is one batch. All rows are
        compared with the same pairs, so that the errors of rows that are alike are alike.

    Raises
    ------
    ColumnNotFoundError, EncoderMismatchError
        When called: as for `ClipScore`.
    DatasetError
        When computed: when the embeddings of images and captions differ in width.

    Notes
    -----
    Time: ``4 n batch_size d repeats`` operations in float32, which are as accurate as the score
    (bfloat16 would be off by 2e-3). The paper cuts all rows into batches at random, as if trained
    on; one product of a batch with itself then serves both sums, which takes half as many. But
    what a row is compared with would change with each row that is added or left out, and no row
    could be scored before all are there; here all are compared with the same few, one partition at
    a time. Memory: a worker holds a partition's vectors some three times.

    Examples
    --------
    >>> ds = NegClipLoss()(OpenCLIPEmbedder("ViT-B-32", "openai")(ds))  # doctest: +SKIP
    """

    temperature: float = 0.01
    batch_size: int = 32_768
    repeats: int = 5
    batch: str = "hash"
    image_embedding_column: str = "image_embedding"
    text_embedding_column: str = "text_embedding"
    random_state: int = 0
    prefix: str = ""
    check_encoder: bool = no_effect(True)

    def columns(self) -> dict[str, pa.DataType]:
        """The score and its error."""
        return dict.fromkeys(self._names(), pa.float32())

    def _names(self) -> tuple[str, str]:
        return f"{self.prefix}neg_clip_loss", f"{self.prefix}neg_clip_loss_error"

    def inputs(self) -> list[str]:
        """Both embedding columns."""
        return [self.image_embedding_column, self.text_embedding_column]

    def check(self) -> None:
        """Refuse unusable settings.

        Raises
        ------
        ConfigError
        """
        # Beyond, nothing tells pairs apart.
        check_positive("temperature", self.temperature, 1000)
        for name, least in (("batch_size", 2), ("repeats", 1), ("random_state", 0)):
            check_integer(name, getattr(self, name), least)
        check_one_of("batch", self.batch, ("hash", "all"))

    def provenance_in(self, dataset: ImageTextPairDataset) -> dict[str, dict[str, Any]]:
        """How the columns are made, from embeddings of which encoders."""
        encoders = [dataset.provenance.get(name, {}).get("encoder") for name in self.inputs()]
        records = self.provenance()
        return {name: {**entry, "embedding_encoders": encoders} for name, entry in records.items()}

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> Batches:
        """Draw the batches."""
        # Two of unknown origin are taken as they are, as those of a target.
        if self.check_encoder and any(dataset.provenance.get(name) for name in self.inputs()):
            require_one_encoder(self, dataset)
        if self.batch == "all":
            return all_pairs(dataset, self.inputs(), folder)
        size, repeats = int(self.batch_size), int(self.repeats)
        return drawn_pairs(dataset, self.inputs(), size, repeats, int(self.random_state), folder)

    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition."""
        mean, error = (np.full(len(frame), np.nan, dtype=np.float32) for _ in range(2))
        images, texts, row_numbers = self._pairs(frame)
        if len(row_numbers):
            batches: Batches = self.basis
            names = (batches.id_col, SHARD_COLUMN)
            keys, shards = (frames.column_to_arrow(frame[name]).take(row_numbers) for name in names)
            scores = np.stack(
                [self._scores(images, texts, batch, batch.has(keys, shards)) for batch in batches]
            )
            mean[row_numbers] = scores.mean(axis=0)
            if len(scores) > 1:
                error[row_numbers] = scores.std(axis=0, ddof=1) / math.sqrt(len(scores))
        return {
            name: pa.array(values, mask=np.isnan(values))
            for name, values in zip(self._names(), (mean, error), strict=True)
        }

    def _pairs(self, frame: Any) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Unit vectors of the rows that have both, (m, d) each, and which rows these are."""
        device = frames.device_of(frame)
        vectors, rows, widths = [], [], {}
        for name in self.inputs():
            values, embedded_rows = frames.embedding_array(frame[name])
            unit, with_direction = unit_vectors(values, device)
            vectors.append(unit)
            rows.append(embedded_rows[with_direction])
            if len(values):
                widths[name] = values.shape[1]
        require_one_width(self, widths)
        row_numbers, of_image, of_text = np.intersect1d(
            rows[0], rows[1], assume_unique=True, return_indices=True
        )
        return vectors[0][of_image], vectors[1][of_text], row_numbers

    def _scores(
        self, images: torch.Tensor, texts: torch.Tensor, batch: Batch, is_in: np.ndarray
    ) -> np.ndarray:
        """The scores of m rows in a batch, float64.

        Parameters
        ----------
        images, texts : torch.Tensor, shape (m, d)
        batch : Batch
        is_in : numpy.ndarray of bool, shape (m,)
            Whether rows are in the batch's files.
        """
        import torch

        temperature, device = float(self.temperature), images.device.type
        own_cosines = _cosines(images, texts)
        losses = []
        for queries, others in ((images, 1), (texts, 0)):
            logs = log_sums(queries, batch.files[others], temperature, device)
            if batch.spares is not None:
                spare = torch.from_numpy(np.load(batch.spares[others])).to(device)
                last = np.where(is_in, _cosines(queries, spare), own_cosines)
                logs = np.logaddexp(logs, last / temperature)
            losses.append(logs)
        # Rounding may leave a little more than 0.
        scores: np.ndarray = np.minimum(own_cosines - temperature / 2 * (losses[0] + losses[1]), 0)
        return scores


def _cosines(vectors: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """Products of unit vectors, (m, d), with others, (m, d) or (d,), in float64."""
    products: np.ndarray = (vectors.double() * others.double()).sum(dim=1).cpu().numpy()
    return products
