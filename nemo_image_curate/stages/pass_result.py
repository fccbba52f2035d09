"""Column values of a partition's rows, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.decode.reasons import MISSING
from nemo_image_curate.errors import ImageError


class PassResult:
    """What a pass over the images of a partition has given so far.

    Parameters
    ----------
    keys, shards : sequence of str or None, length n

    Attributes
    ----------
    errors : list of str or None, length n
        Why rows have no image; ``missing`` for those that were in no batch yet.
    """

    def __init__(self, keys: Sequence[str], shards: Sequence[str | None]):
        self.keys = keys
        self.shards = shards
        self.errors: list[str | None] = [MISSING] * len(keys)
        self._row_numbers: list[int] = []
        self._parts: dict[str, list[Any]] = {}

    def note_errors(
        self, row_numbers: Sequence[int], errors: Sequence[str | None], raising: bool
    ) -> None:
        """Record why images failed, or raise the first reason."""
        for row, reason in zip(row_numbers, errors, strict=True):
            self.errors[row] = reason
            if raising and reason is not None:
                raise ImageError(
                    f"{self.shards[row]}: sample {self.keys[row]!r}: {reason}. "
                    "Use on_error='null' to go on with such rows marked in image_error."
                )

    def add(self, row_numbers: Sequence[int], columns: Iterable[Mapping[str, Any]]) -> None:
        """Take the values that the stages made for some rows."""
        self._row_numbers += row_numbers
        for values_by_name in columns:
            for name, values in values_by_name.items():
                self._parts.setdefault(name, []).append(values)

    def columns(self, kinds: Mapping[str, pa.DataType]) -> dict[str, Any]:
        """All columns in the order of the rows, null where a row has no value."""
        order = np.argsort(np.asarray(self._row_numbers, dtype=np.int64), kind="stable")
        row_numbers = np.asarray(self._row_numbers, dtype=np.int64)[order]
        columns: dict[str, Any] = {}
        for name, kind in kinds.items():
            if name == ERROR_COLUMN:
                columns[name] = pa.array(self.errors, pa.string())
            elif name not in self._parts:
                columns[name] = pa.nulls(len(self.keys), kind)
            elif pa.types.is_list(kind):
                vectors = _concatenated(self._parts[name], order)
                columns[name] = frames.embedding_column(vectors, row_numbers, len(self.keys))
            else:
                values = [value for part in self._parts[name] for value in _plain(part)]
                in_order = [values[position] for position in order]
                columns[name] = frames.scatter(in_order, row_numbers, len(self.keys), kind)
        return columns


def _concatenated(parts: Sequence[Any], order: np.ndarray) -> Any:
    if not getattr(parts[0], "is_cuda", False):
        return np.concatenate(parts)[order]
    import torch

    return torch.cat(list(parts))[torch.from_numpy(order)]


def _plain(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)
