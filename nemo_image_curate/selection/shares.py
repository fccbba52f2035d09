"""A share of each group: what `BalancedSample` and `ClusterBudget` have in common.

Groups are counted, their shares decided, and then the value of the last row of each share is found
by counting. So the decision about all rows is a number for each group, and a row is told by its own
values what became of it.
"""

from __future__ import annotations

import abc
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.dedup.staged import Block, StagedRows, stage
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.groups import Groups
from nemo_image_curate.selection.kept import MadeOfKept, read_once
from nemo_image_curate.stages.base import Stage
from nemo_image_curate.tables import content_digest
from nemo_image_curate.vectors.cuts import Cuts, lowest, write_values
from nemo_image_curate.vectors.sampling import hash_bits, hash_bits_of_few

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# What rows of a group are taken by, the lowest first; of equal ones by a hash of their keys.
ORDER = "order within the group"
_GROUPS, _CUTS = "groups.arrow", "cuts.npz"


class Order(Protocol):
    """Adds `ORDER` to a computed partition: uint64, null for rows that may not be taken."""

    def __call__(self, frame: Any) -> dict[str, pa.Array]: ...

    def content_token(self) -> tuple[Any, ...]: ...


class GroupShares(Stage):
    """Adds ``selected``: whether a row belongs to the share of its group.

    Subclasses have the parameters ``random_state``, ``prefix``, ``work_dir``.
    """

    random_state: int
    prefix: str
    work_dir: Any

    @abc.abstractmethod
    def group_columns(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns that say which group a row belongs to, from coarse to fine."""

    @abc.abstractmethod
    def quotas(self, groups: Groups, order: Any) -> np.ndarray:
        """How many rows of each group are taken, int64; given what `prepare` made."""

    @abc.abstractmethod
    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> Order | None:
        """What rows of a group are taken by; None: a hash of their keys alone.

        Parameters
        ----------
        dataset : ImageTextPairDataset
        folder : Path
            Where files may be kept.
        """

    def columns(self) -> dict[str, pa.DataType]:
        """Whether a row is selected; null where it belongs to no group."""
        return {f"{self.prefix}selected": pa.bool_()}

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns of groups."""
        return self.group_columns(dataset)

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the column; shares are found now.

        Raises
        ------
        ConfigError
            For unusable parameters or columns, or a `work_dir` that workers do not see.
        ColumnNotFoundError
            When there is no such column.
        DatasetError
            When a sample is there more than once.
        """
        self.check()
        columns = self.group_columns(dataset)
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        for field in frames.schema(dataset.metadata[columns]):
            if pa.types.is_nested(field.type):
                raise ConfigError(
                    f"column {field.name!r} holds {field.type}; groups are named by numbers or "
                    "texts."
                )
        folder = work_folder(dataset, self.work_dir, type(self).__name__, self.config(), columns)
        with locks.exclusive(str(folder)):
            order = self.prepare(dataset, folder)
            ordered = dataset
            if order:
                ordered = dataset.with_columns(order, {ORDER: pa.uint64()})
            needed = [*columns, ORDER] if order else columns
            staged = stage(ordered, needed, folder / "rows", None)
            shares = folder / f"shares-{staged.digest()[:24]}"
            if not (shares / _CUTS).exists():
                self._decide(staged, columns, order, shares)
            shutil.rmtree(folder / "rows", ignore_errors=True)
        (name,), own_name = self.columns(), type(self).__name__
        cuts = shares / _CUTS
        add = _Selected(cuts, order, dataset.id_col, self.random_state, name, own_name)
        return dataset.with_columns(add, self.columns(), self.provenance())

    def _decide(
        self, staged: StagedRows, columns: list[str], order: Order | None, folder: Path
    ) -> None:
        """Write the groups, and where the share of each ends."""
        storage.make_dirs(str(folder))
        blocks, needed = staged.blocks, [ORDER] if order else []
        groups = Groups.count(blocks, columns, needed)
        groups.save(folder / _GROUPS)
        quotas = np.minimum(self.quotas(groups, order), groups.sizes)
        paths = [folder / f"values-{block.number:05d}.npz" for block in blocks]
        call = dask.delayed(_write_values, pure=False)
        tasks = [
            call(block, path, folder, staged.id_col, self.random_state)
            for block, path in zip(blocks, paths, strict=True)
        ]
        labels = [f"block {block.number}" for block in blocks]
        jobs.compute_all(tasks, labels, "choose", None)
        cuts = lowest(paths, quotas, folder, "choose", False)
        cuts.save(folder / _CUTS)
        for path in paths:
            path.unlink()


def _write_values(block: Block, path: Path, folder: Path, id_col: str, seed: int) -> None:
    """Write the groups of a block's rows and what they are taken by; runs on a worker."""
    groups = Groups.load(folder / _GROUPS)
    write_values(path, *_groups_and_values(block.table(), groups, id_col, seed))


def _groups_and_values(
    table: pa.Table, groups: Groups, id_col: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The group of each row, -1 for none, and what it is taken by, shape (columns, n)."""
    numbers = groups.numbers(table)
    values = [hash_bits(table[id_col], seed), hash_bits_of_few(table[SHARD_COLUMN], seed)]
    if ORDER in table.column_names:
        numbers = np.where(table[ORDER].is_valid().to_numpy(), numbers, -1)
        values.insert(0, pc.fill_null(table[ORDER], 0).to_numpy())
    return numbers, np.stack(values)


class _Selected(MadeOfKept):
    """Which rows are within the share of their group."""

    # What Dask's dashboard calls these tasks.
    __name__ = "selected"

    def __init__(
        self, path: Path, order: Order | None, id_col: str, seed: int, name: str, stage: str
    ):
        super().__init__(path)
        self.order = order
        self.id_col = id_col
        self.seed = seed
        self.name = name
        self.stage = stage
        groups, cuts = self._shares()
        self.digest = fingerprint(
            content_digest(groups.table), cuts.last.tobytes(), cuts.empty.tobytes()
        )

    def _shares(self) -> tuple[Groups, Cuts]:
        return read_once(self.path, _read_shares, self.stage)

    def content_token(self) -> tuple[Any, ...]:
        how = self.order.content_token() if self.order else ()
        return ("Selected", self.digest, *how, self.id_col, self.seed, self.name)

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        groups, cuts = self._shares()
        names = [self.id_col, SHARD_COLUMN, *groups.columns]
        columns = {name: frames.column_to_arrow(frame[name]) for name in names}
        if self.order:
            columns |= self.order(frame)
        numbers, values = _groups_and_values(pa.table(columns), groups, self.id_col, self.seed)
        return {self.name: pa.array(cuts.includes(numbers, values), mask=numbers < 0)}


def _read_shares(cuts_path: Path) -> tuple[Groups, Cuts]:
    return Groups.load(cuts_path.with_name(_GROUPS)), Cuts.load(cuts_path)
