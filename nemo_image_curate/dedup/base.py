"""What exact and perceptual deduplication share: small columns in, decisions out."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from nemo_image_curate import storage
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dedup import decisions
from nemo_image_curate.dedup.ranking import check_keep, random_score, ranks
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from nemo_image_curate.dedup.rules import Decisions


class ColumnDedup(abc.ABC):
    """A stage that decides by columns which are small enough for one machine.

    Subclasses have the parameters ``keep``, ``by``, ``random_state``, ``prefix``, ``work_dir``.
    """

    keep: str
    by: str | None
    random_state: int
    prefix: str
    work_dir: Any

    @abc.abstractmethod
    def prepare(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns that `decide` looks at."""

    @abc.abstractmethod
    def needs(self) -> list[str]:
        """Those columns."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""

    @abc.abstractmethod
    def decide(self, table: pa.Table, rank: np.ndarray) -> tuple[Decisions, np.ndarray]:
        """The decisions by rank, and for each row whether it could be compared."""

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with columns that say which rows are duplicates, found now.

        Raises
        ------
        ConfigError
            For unusable parameters.
        ColumnNotFoundError
            When there is no column `by`.
        """
        check_keep(self.keep, self.by, ("first", "random", "best"))
        dataset = self.prepare(dataset)
        columns = [*self.needs(), *([self.by] if self.by else [])]
        folder = decisions.work_folder(
            dataset, self.work_dir, columns, type(self).__name__, self.config()
        )
        with storage.exclusive(str(folder)):
            if not decisions.complete(folder):
                rows = decisions.gather(dataset, columns, None)
                keys = rows.table[dataset.id_col]
                rank = ranks(
                    keys, keep_score(self.keep, self.by, self.random_state, rows.table, keys)
                )
                found, compared = self.decide(rows.table, rank)
                decisions.write(folder, rows, dataset.id_col, rank, found, compared)
        record = {"stage": type(self).__name__, **self.config(), "version": __version__}
        return decisions.attach(dataset, folder, self.prefix, record)


def keep_score(
    keep: str, by: str | None, seed: int, table: pa.Table, keys: pa.ChunkedArray
) -> np.ndarray | None:
    """What `ranks` sorts by for the policies that look at columns only.

    Returns
    -------
    numpy.ndarray of float64, shape (n,), or None for the order of the dataset
    """
    import pyarrow as pa

    if keep == "random":
        return random_score(keys.to_pylist(), seed)
    if keep == "best":
        try:
            return table[by].cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigError(f"by={by!r} should be a column of numbers: {error}") from error
    return None
