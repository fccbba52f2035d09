"""Rows beside the rows that a column of theirs names: duplicates, leaks, neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.rows import rows_of
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.report.album import Album, Rows, plain_columns

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """Rows, each with another one.

    Attributes
    ----------
    rows : pyarrow.Table
    key, shard : str
        The columns of `rows` that name the other one.
    partners : pyarrow.Table
        The others, as far as their dataset has them.
    dataset, of : ImageTextPairDataset
        Of the rows, and of the others.
    name : str
        Of the others' dataset, when it is not the one that the report is of.
    missing : str
        Why another one is not shown that is not among `partners`.
    """

    rows: pa.Table
    key: str
    shard: str
    partners: pa.Table
    dataset: ImageTextPairDataset
    of: ImageTextPairDataset
    name: str = ""
    missing: str = "not in this dataset"

    @classmethod
    def find(
        cls,
        dataset: ImageTextPairDataset,
        rows: pa.Table,
        key: str,
        shard: str,
        progress: bool | None = None,
        of: ImageTextPairDataset | None = None,
        name: str = "",
    ) -> Pairs:
        """Look the others up, in the same dataset or in another one."""
        others = dataset if of is None else of
        keys = rows[key].drop_null().to_pylist()
        partners = rows_of(others, keys, plain_columns(others), progress)
        return cls(rows, key, shard, partners, dataset, others, name)

    def pictures(self) -> Iterable[Rows]:
        """The rows whose pictures `show` needs."""
        wanted = {(row[self.key], row[self.shard]) for row in self.rows.to_pylist()}
        places = zip(*self._places(), strict=True)
        mask = pa.array([place in wanted for place in places], pa.bool_())
        return Rows(self.rows, self.dataset), Rows(self.partners.filter(mask), self.of, self.name)

    def show(self, album: Album, tell: Callable[[Row, Row | None], Iterable[object]]) -> str:
        """All pairs, each a figure with what is told of a row and its partner above it."""
        known = dict(zip(zip(*self._places(), strict=True), self.partners.to_pylist(), strict=True))
        figures = []
        for row in self.rows.to_pylist():
            place = (row[self.key], row[self.shard])
            partner = known.get(place)
            key, shard = row[self.dataset.id_col], row[SHARD_COLUMN]
            left = album.cell(key, shard, key, album.stored(key, shard))
            right = (
                html.figure(html.reason(f"{place[1]}: {self.missing}"), place[0])
                if partner is None
                else album.cell(*place, place[0], album.stored(*place, self.name), name=self.name)
            )
            figures.append(pair(left, right, *tell(row, partner)))
        return f"<div class=pairs>{''.join(figures)}</div>"

    def _places(self) -> tuple[list[Any], list[Any]]:
        return (
            self.partners[self.of.id_col].to_pylist(),
            self.partners[SHARD_COLUMN].to_pylist(),
        )


def pair(left: str, right: str, *lines: object) -> str:
    """Two pictures side by side, with lines of text above."""
    texts = "<br>".join(html.escape(line) for line in lines if line not in (None, ""))
    return f"<div class=pair><p class=note>{texts}</p><div class=two>{left}{right}</div></div>"
