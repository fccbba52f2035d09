"""What exact and perceptual deduplication share: small columns in, decisions out."""

from __future__ import annotations

import abc
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dedup import results
from nemo_image_curate.dedup.keep import check_keep, ranks
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.shards.columns import read_footer
from nemo_image_curate.vectors.sampling import random_score
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
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
    def check(self) -> None:
        """Refuse unusable parameters with `ConfigError`, before any work is done."""

    @abc.abstractmethod
    def stage(self) -> Any:
        """The stage that makes the columns to look at, for datasets that lack them."""

    @abc.abstractmethod
    def needs(self) -> list[str]:
        """The columns of that stage that `decide` looks at."""

    @abc.abstractmethod
    def makes(self) -> list[str]:
        """All columns that the stage adds."""

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
        self.check()
        stage = self.stage()
        made = {name: stage.provenance()[name] for name in self.needs()}
        whole, carried = dataset, dict[str, Any]()
        if not has_made(dataset, made):
            whole = stage(dataset)
            carried = {name: stage.provenance().get(name) for name in self.makes()}
        columns = [*self.needs(), *([self.by] if self.by else [])]
        frames.require_columns(whole.metadata, *columns)
        there = results.gather(dataset, [one for one in columns if one not in carried], None)
        folder = results.work_folder(
            whole, self.work_dir, type(self).__name__, self.config(), there.digest()
        )
        with storage.exclusive(str(folder)):
            if not results.complete(folder):
                self._find(whole, columns, list(carried), folder)
        record = {"stage": type(self).__name__, **self.config(), "version": __version__}
        return results.attach(dataset, folder, self.prefix, record, carried)

    def _find(
        self, whole: ImageTextPairDataset, columns: list[str], carried: list[str], folder: Path
    ) -> None:
        kept = folder / "columns"
        if carried:
            # So a run that was stopped goes on with the next shard; and images are read now, but
            # not again when the result is saved.
            whole = whole.save_metadata(kept, list(dict.fromkeys([*columns, *carried])))
        rows = results.gather(whole, list(dict.fromkeys([*columns, *carried])), None)
        keys = rows.table[whole.id_col]
        score = keep_score(self.keep, self.by, self.random_state, rows.table, keys)
        rank = ranks(keys, score)
        found, compared = self.decide(rows.table, rank)
        more = {name: rows.table[name] for name in carried}
        results.write(folder, rows, whole.id_col, rank, found, compared, **more)
        shutil.rmtree(kept, ignore_errors=True)


def has_made(dataset: ImageTextPairDataset, made: dict[str, Any]) -> bool:
    """Whether a stage has made all these columns, for every row.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    made : dict of str to dict
        Columns, each with its provenance.
    """
    if any(name not in dataset.metadata.columns for name in made):
        return False
    if any(dataset.provenance.get(name) != record for name, record in made.items()):
        return False
    reader, sources = dataset.source()
    if not set(made) & set(reader.schema.names):
        return True
    # A save in place that was stopped leaves shards without them, which are read as nulls.
    with ThreadPoolExecutor(32) as pool:
        footers = pool.map(lambda one: one.sidecar and read_footer(one.sidecar_location), sources)
        return all(footer and set(made) <= set(footer.schema.names) for footer in footers)


def keep_score(
    keep: str, by: str | None, seed: int, table: pa.Table, keys: pa.ChunkedArray
) -> np.ndarray | None:
    """What `ranks` sorts by for the policies that look at columns only.

    Returns
    -------
    numpy.ndarray of float64, shape (n,), or None for the order of the dataset
    """
    if keep == "random":
        return random_score(keys, seed)
    if keep == "best":
        kind, values = table.schema.field(by).type, table[by]
        if pa.types.is_temporal(kind):
            values = values.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
        elif not (pa.types.is_decimal(kind) or pa.types.is_primitive(kind)):
            raise ConfigError(f"by={by!r} should be a column of numbers or times, not of {kind}.")
        # Integers beyond 2^53 are rounded; those that become equal are ordered by key.
        return values.cast(pa.float64(), safe=False).to_numpy()
    return None
