"""What exact and perceptual deduplication share: small columns in, decisions out."""

from __future__ import annotations

import abc
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.dedup import results
from nemo_image_curate.dedup.keep import check_keep, keep_order
from nemo_image_curate.shards.sidecars import read_footer
from nemo_image_curate.stages.base import PixelStage, Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.dedup.rules import Decisions


class ColumnDedup(Stage):
    """A stage that decides by columns which are small enough for one machine.

    Subclasses have the parameters ``keep``, ``by``, ``random_state``, ``prefix``, ``work_dir``.
    """

    keep: str
    by: str | None
    random_state: int
    prefix: str
    work_dir: Any

    # What ``dedup_error`` says of rows that cannot be compared.
    why_not: ClassVar[str]

    @abc.abstractmethod
    def measure(self) -> Stage:
        """The stage that makes the columns to look at, for datasets that lack them."""

    @abc.abstractmethod
    def inputs(self) -> list[str]:
        """The columns of that stage that `decide` looks at."""

    @abc.abstractmethod
    def decide(self, table: pa.Table, rank: np.ndarray) -> tuple[Decisions, np.ndarray]:
        """The decisions by rank, and for each row whether it could be compared."""

    def check(self) -> None:
        """Refuse unusable parameters."""
        check_keep(self.keep, self.by, ("first", "random", "best"))
        self.measure().check()

    def columns(self) -> dict[str, pa.DataType]:
        """The decisions, and what they are made of."""
        return results.decision_columns(self.prefix) | self.measure().columns()

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How each column is made."""
        decisions = results.decision_columns(self.prefix)
        return dict.fromkeys(decisions, self.record()) | self.measure().provenance()

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with columns that say which rows are duplicates, found now.

        Raises
        ------
        ConfigError
            For unusable parameters.
        ColumnNotFoundError
            When there is no column `by`.
        """
        self.check()
        measure = self.measure()
        records = measure.provenance()
        measured, carried = dataset, dict[str, Any]()
        if not has_made(dataset, {name: records[name] for name in self.inputs()}):
            measured = measure(dataset)
            new = [name for name in measured.metadata.columns if name in measure.columns()]
            if ERROR_COLUMN in measured.metadata.columns and isinstance(measure, PixelStage):
                new.insert(0, ERROR_COLUMN)
            carried = {name: records.get(name) for name in new}
        columns = [*self.inputs(), *([self.by] if self.by else [])]
        frames.require_columns(measured.metadata, *columns)
        known = results.gather(dataset, [name for name in columns if name not in carried], None)
        folder = results.work_folder(
            measured, self.work_dir, type(self).__name__, self.config(), known.digest()
        )
        with locks.exclusive(str(folder)):
            if not results.complete(folder):
                self._find(measured, list(dict.fromkeys([*columns, *carried])), carried, folder)
        return results.attach(dataset, folder, self.prefix, self.record(), carried)

    def _find(
        self,
        measured: ImageTextPairDataset,
        columns: list[str],
        carried: Collection[str],
        folder: Path,
    ) -> None:
        saved = folder / "columns"
        if carried:
            # So a run that was stopped goes on with the next shard; and images are read now, but
            # not again when the result is saved.
            measured = measured.save_metadata(saved, columns)
        rows = results.gather(measured, columns, None)
        rank = keep_order(self.keep, self.by, self.random_state, rows.table, measured.id_col)
        decisions, compared = self.decide(rows.table, rank)
        more = {name: rows.table[name] for name in carried}
        results.write(
            folder, rows, measured.id_col, rank, decisions, compared, self.why_not, **more
        )
        shutil.rmtree(saved, ignore_errors=True)


def has_made(dataset: ImageTextPairDataset, records: dict[str, Any]) -> bool:
    """Whether a stage has made all these columns, for every row.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    records : dict of str to dict
        Columns, each with its provenance.
    """
    if any(name not in dataset.metadata.columns for name in records):
        return False
    if any(dataset.provenance.get(name) != record for name, record in records.items()):
        return False
    reader, sources = dataset.source()
    if not set(records) & set(reader.schema.names):
        return True
    # A save in place that was stopped leaves shards without them, which are read as nulls.
    with ThreadPoolExecutor(32) as pool:
        footers = pool.map(
            lambda source: source.sidecar and read_footer(source.sidecar_location), sources
        )
        return all(footer and set(records) <= set(footer.schema.names) for footer in footers)
