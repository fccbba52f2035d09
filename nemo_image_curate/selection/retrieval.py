"""`Retrieve`: of a pool, the rows that are nearest to each of some seeds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.checks import check_integer
from nemo_image_curate.selection.hits import Search
from nemo_image_curate.selection.listed import ListedRows
from nemo_image_curate.selection.targets import opened_target
from nemo_image_curate.stages.base import Stage, no_effect
from nemo_image_curate.stages.gathered import gather_target

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

    Seeds: TypeAlias = ImageTextPairDataset | str | os.PathLike[str] | np.ndarray


@dataclass(eq=False)
class Retrieve(Stage):
    """Marks the rows that are nearest to each of some seeds.

    As LVD-142M was made of uncurated images by curated ones (Oquab et al., "DINOv2: learning
    robust visual features without supervision", 2023, section 3): each seed has its `k` nearest
    rows. Rows that several seeds have count once, and no seed gets another one in their place, so
    that fewer than k times as many rows as seeds are marked: where it is much less, `k` is large
    for this pool.

    Parameters
    ----------
    seeds : ImageTextPairDataset, path of one, or numpy.ndarray of shape (m, d)
        What to look for, by embeddings of the same model; of texts or pictures those that an
        embedder makes (`TextImageEmbedder.embed_text`). A row is not retrieved by itself, where
        seeds are rows of the same dataset.
    k : int, default 4
        Rows of a seed at most.
    where : str, optional
        An expression over the columns: only rows for which it is true are looked at.
    least_similarity : float, optional
        Rows whose cosine is less are not retrieved.
    embedding_column : str, default "image_embedding"
    seed_column : str, optional
        The embeddings of the seeds. Default: `embedding_column`.
    prefix : str, default ""
        Put before the names of the columns.
    work_dir : str or path, optional
        A folder for what is found, that all workers share; the columns are read from it when they
        are needed. Default: in the system's temporary folder.
    check_encoder : bool, default True
        Refuse seeds whose embeddings are recorded to be of another encoder than the dataset's.

    Columns
    -------
    retrieved_by : string
        The key of the seed that ranks the row best, of several the first; of an array the number
        of its row. Null for rows that no seed has.
    retrieved_by_shard : string
        That seed's shard; empty for an array.
    retrieved_rank : int32
        1 for the nearest row of that seed.
    retrieved_similarity : float32
        Their cosine.

    Notes
    -----
    Exact, and the same for any partitioning: of equally near rows those with the first keys.
    Memory: some 100 bytes for each seed and `k`, on the client as well; a worker holds the seeds'
    embeddings and those of one partition. Save embeddings before: they are read twice.

    Examples
    --------
    >>> ds = Retrieve("seeds/", k=4)(ds)
    >>> ds = ds.filter("retrieved_rank == 1")
    """

    seeds: Seeds
    k: int = 4
    where: str | None = None
    least_similarity: float | None = None
    embedding_column: str = "image_embedding"
    seed_column: str | None = None
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)
    check_encoder: bool = no_effect(True)

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        check_integer("k", self.k, 1)
        least = self.least_similarity
        if least is not None and not -1 <= least <= 1:
            raise ConfigError(f"least_similarity={least!r} should be a cosine, from -1 to 1.")

    def columns(self) -> dict[str, pa.DataType]:
        """Which seed has a row, and how near it is."""
        kinds = {"by": pa.string(), "by_shard": pa.string(), "rank": pa.int32()}
        kinds["similarity"] = pa.float32()
        return {f"{self.prefix}retrieved_{name}": kind for name, kind in kinds.items()}

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The embeddings."""
        return [self.embedding_column]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, found now.

        Raises
        ------
        ConfigError
            For unusable parameters, or seeds without an embedding.
        ColumnNotFoundError
            When there is no embedding column, or `where` names a column that there is not.
        EncoderMismatchError
            When seeds are of another encoder.
        DatasetError
            When embeddings of seeds and rows differ in length.
        """
        self.check()
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        column = self.seed_column or self.embedding_column
        folder = work_folder(dataset, self.work_dir, "retrieve", self.embedding_column, self.where)
        opened = opened_target(self, "seeds", dataset, column)
        with locks.exclusive(str(folder)):
            seeds = gather_target(opened, column, folder / "seeds")
            if not len(seeds):
                raise ConfigError(f"no seed has an embedding in its column {column!r}.")
            # Whichever folder their columns lie in.
            are_rows = not isinstance(opened, np.ndarray) and opened.path == dataset.path
            search = Search(
                *(dataset, seeds, self.embedding_column, self.where, int(self.k)),
                *(self.least_similarity, are_rows, folder),
            )
            result = search.result(list(self.columns()))
        columns = self.columns()
        find = ListedRows(str(result), dataset.id_col, tuple(columns), search.digest)
        record = self.record(
            k=int(self.k),
            where=self.where,
            least_similarity=self.least_similarity,
            embedding_column=self.embedding_column,
            seeds=seeds.digest,
        )
        return dataset.with_columns(find, columns, dict.fromkeys(columns, record))


def retrieve(
    dataset: ImageTextPairDataset,
    seeds: Seeds,
    k: int = 4,
    where: str | None = None,
    **options: object,
) -> ImageTextPairDataset:
    """Mark the rows of a dataset that are nearest to each of some seeds, as `Retrieve` does.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        The pool.
    seeds, k, where, **options
        As of `Retrieve`.
    """
    return Retrieve(seeds, k, where, **options)(dataset)  # type: ignore[arg-type]
