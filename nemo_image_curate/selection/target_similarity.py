"""`TargetSimilarity`: how near an image is to those of a target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.targets import TargetStage
from nemo_image_curate.vectors.neighbours import blocks_of, top_k

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.stages.gathered import Gathered

# Tasks that sum up a target's matrix, each giving one of shape (d, d).
_TASKS = 16
# Rows that are multiplied with it at once.
_ROWS = 4096


@dataclass(eq=False)
class TargetSimilarity(TargetStage):
    """Adds the norm of an image's cosines with all images of a target (NormSim).

    Wang et al. ("CLIPLoss and norm-based data selection methods for multimodal contrastive
    learning", arXiv 2405.19547, 2024): with G the m unit vectors of the target, and x that of the
    image, it is ||G x||_p. They keep the 30 % highest by `NegClipLoss`, and of these the 20 % (of
    all) highest by this, with p = inf and a target of the training images of evaluation sets.

    Parameters
    ----------
    target : ImageTextPairDataset, path, or numpy.ndarray of shape (m, d)
        A dataset with embeddings of the same encoder, or the place of one; or embeddings. They
        need not be unit vectors; those without direction are left out.
    p : {inf, 2}, default inf
        inf: the cosine of the nearest image of the target, whatever its sign. 2: the root of the
        sum of all squared cosines, 0 to sqrt(m), not divided by m.
    embedding_column : str, default "image_embedding"
    target_column : str, optional
        The target's column of embeddings. Default: `embedding_column`. With ``text_embedding``
        images are compared with texts.
    pred_column : str, default "target_similarity"
        ``float32``; null where there is no embedding, or one without direction.
    key_column : str or None, default "target_of"
        With p = inf, the key of the nearest image; of an array its number. None: no such column.
    check_encoder : bool, default True
        Refuse a dataset whose embeddings are recorded to be of another encoder, or of none when
        those of the target are of one.
    work_dir : str or path, optional
        A folder for the target's vectors, that all workers share, and that stays until the
        columns are computed. Default: in the system's temporary folder.

    Raises
    ------
    ConfigError, ColumnNotFoundError, EncoderMismatchError, DatasetError
        When called: for what is no target, has no such column, is of another encoder, or has no
        embedding.
    DatasetError
        When computed: when embeddings are not as wide as the target's.

    Notes
    -----
    Time: 2 n m d operations, in bfloat16 where the device has it and decided in float64; with
    p = 2 only 2 n d^2, since ||G x||_2^2 = x^T (G^T G) x, in float64. Memory: a worker holds a
    partition's vectors some three times; the target is read block by block.

    Examples
    --------
    >>> ds = TargetSimilarity("imagenet/")(ds)
    >>> ds = ds.filter("target_similarity >= 0.7")
    """

    p: float | str = math.inf
    pred_column: str = "target_similarity"
    key_column: str | None = "target_of"

    def columns(self) -> dict[str, pa.DataType]:
        """The similarity, and where it is asked for the target's key."""
        columns = {self.pred_column: pa.float32()}
        if self._names_nearest():
            columns[str(self.key_column)] = pa.string()
        return columns

    def _is_nearest(self) -> bool:
        return self.p in ("inf", math.inf)

    def _names_nearest(self) -> bool:
        return self._is_nearest() and self.key_column is not None

    def config(self) -> dict[str, Any]:
        """The parameters, and what rows are compared with; recorded with the columns."""
        # Infinity is no number in JSON.
        return {**super().config(), "p": "inf" if self._is_nearest() else 2}

    def check(self) -> None:
        """Refuse unusable settings.

        Raises
        ------
        ConfigError
        """
        if not self._is_nearest() and self.p != 2:
            raise ConfigError(f"p={self.p!r} should be inf (math.inf or 'inf') or 2.")

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> _Target:
        """Write the target's vectors, and with p = 2 the sum of their products."""
        vectors = self.gather(dataset, folder)
        matrix = None if self._is_nearest() else _sum_of_products(vectors)
        return _Target(vectors, matrix)

    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition."""
        target: _Target = self.basis
        vectors, row_numbers = self.vectors(frame, target.vectors.dim)
        values = np.full(len(frame), np.nan, dtype=np.float32)
        keys = pa.nulls(len(frame), pa.string())
        if target.matrix is not None:
            values[row_numbers] = _norms(vectors, np.load(target.matrix))
        else:
            nearest, cosines = top_k(vectors, target.vectors.files(), 1, vectors.device.type)
            values[row_numbers] = cosines[:, 0]
            if self._names_nearest():
                places = np.full(len(frame), -1)
                places[row_numbers] = np.arange(len(row_numbers))
                names = target.vectors.names(nearest[:, 0])["key"].cast(pa.string())
                keys = names.combine_chunks().take(pa.array(places, mask=places < 0))
        columns = {self.pred_column: pa.array(values, mask=np.isnan(values))}
        return {**columns, **({str(self.key_column): keys} if self._names_nearest() else {})}


class _Target:
    """A target's vectors, and the file of G^T G, float64, shape (d, d)."""

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, vectors: Gathered, matrix: Path | None):
        self.vectors = vectors
        self.matrix = matrix
        self.folder = vectors.folder
        self.digest = vectors.digest


def _sum_of_products(vectors: Gathered) -> Path:
    """Write G^T G of a target's vectors G beside them."""
    path = vectors.folder / "products.npy"
    if not path.exists():
        files = vectors.files()
        add = dask.delayed(_add_products, pure=False)
        # In the order of the files, whichever worker was first.
        parts = jobs.compute_all(
            [add(files[part::_TASKS], vectors.dim) for part in range(min(_TASKS, len(files)))],
            [f"part {part}" for part in range(min(_TASKS, len(files)))],
            "target",
        )
        with storage.atomic_write(str(path)) as file:
            np.save(file, np.sum(parts, axis=0))
    return path


def _add_products(files: list[Path], dim: int) -> np.ndarray:
    """The sum of the outer products of the vectors in some files; runs on a worker."""
    products = np.zeros((dim, dim))
    for _, block in blocks_of(files, "cpu"):
        vectors = block.double().numpy()
        products += vectors.T @ vectors
    return products


def _norms(vectors: torch.Tensor, products: np.ndarray) -> np.ndarray:
    """||G x|| of vectors x, by G^T G."""
    import torch

    matrix = torch.from_numpy(products).to(vectors.device)
    norms = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS].double()
        # Rounding may leave less than 0.
        squares = ((block @ matrix) * block).sum(dim=1).clamp(min=0)
        norms[start : start + _ROWS] = squares.sqrt().cpu().numpy()
    return norms
