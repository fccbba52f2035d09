"""What is known of a frame's rows and columns without computing them: from where they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nemo_image_curate.compute import _dask
from nemo_image_curate.dataset.added import steps_of
from nemo_image_curate.dataset.sources import MetadataReader, Source


@dataclass(frozen=True)
class Origin:
    """The files that a frame reads, and which of its columns are as they are there.

    Attributes
    ----------
    reader : MetadataReader
    sources : list of Source
    stored : list of str
        Columns whose values come from the files; all others are computed when they are needed.
    is_whole : bool
        No row was left out.
    read : dask.dataframe.DataFrame
        All that the files have.
    """

    reader: MetadataReader
    sources: list[Source]
    stored: list[str]
    is_whole: bool
    read: Any

    @property
    def rows(self) -> int | None:
        """How many the files have; None where only the tars themselves know."""
        counts = [source.rows for source in self.sources]
        return None if None in counts else sum(count or 0 for count in counts)


def origin_of(frame: Any) -> Origin | None:
    """Where a frame's rows are from; None when that is not one place, or something was done to it.

    Followed are choices of columns and rows, assignments, and what stages add.
    """
    added, is_whole = set[str](), True
    for node, names in steps_of(frame):
        if names is None:
            return None
        added |= names
        is_whole = is_whole and not _dask.is_filter(node)
    if _dask.chosen_partitions(node) is not None:
        return None
    reader, sources = node.operand("func"), list(node.operand("iterables")[0])
    stored = [name for name in frame.columns if name not in added]
    return Origin(reader, sources, stored, is_whole, _dask.collection(node))


def projection(frame: Any, names: Iterable[str]) -> Any:
    """Some columns of a frame, by no more work than they need.

    Dask runs a stage, such as an embedder, for its other columns, too, since it does not know that
    stages keep rows as they are.
    """
    names = list(names)
    origin = origin_of(frame)
    if origin is None or not origin.is_whole or not set(names) <= set(origin.stored):
        return frame[names]
    return origin.read[names]
