"""Column values of a partition's rows, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.decode.reasons import MISSING, NO_DIRECTION
from nemo_image_curate.errors import ImageError
from nemo_image_curate.stages.saved_rows import SavedRows


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
        self._saved: tuple[Sequence[int], SavedRows] | None = None

    def take_over(self, row_numbers: Sequence[int], saved: SavedRows) -> None:
        """Take the values of some rows, errors among them, from what was saved of all n rows."""
        self._saved = row_numbers, saved
        reasons = saved.column(ERROR_COLUMN, pa.string()).to_pylist()
        for row in row_numbers:
            self.errors[row] = reasons[row]

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
        """All columns in the order of the rows, null where a row has no value.

        A vector of which all is NaN is none, and its row's reason says so.
        """
        order = np.argsort(np.asarray(self._row_numbers, dtype=np.int64), kind="stable")
        row_numbers = np.asarray(self._row_numbers, dtype=np.int64)[order]
        columns = {
            name: self._column(name, kind, order, row_numbers)
            for name, kind in kinds.items()
            if name != ERROR_COLUMN
        }
        columns[ERROR_COLUMN] = pa.array(self.errors, pa.string())
        if self._saved is not None:
            columns = {name: self._with_saved(name, values) for name, values in columns.items()}
        return {name: columns[name] for name in kinds}

    def _with_saved(self, name: str, values: Any) -> pa.Array:
        assert self._saved is not None
        row_numbers, saved = self._saved
        new = values if isinstance(values, pa.Array) else frames.column_to_arrow(values)
        both = pa.chunked_array([new, saved.column(name, new.type)])
        source = np.arange(len(self.keys))
        source[row_numbers] += len(self.keys)
        return both.take(source).combine_chunks()

    def _column(
        self, name: str, kind: pa.DataType, order: np.ndarray, row_numbers: np.ndarray
    ) -> Any:
        if name not in self._parts:
            return pa.nulls(len(self.keys), kind)
        if pa.types.is_list(kind):
            vectors = _concatenated(self._parts[name], order)
            has_none = _is_nan(vectors)
            if has_none.any():
                for row in row_numbers[has_none]:
                    self.errors[row] = NO_DIRECTION
                vectors, row_numbers = vectors[~has_none], row_numbers[~has_none]
            return frames.embedding_column(vectors, row_numbers, len(self.keys))
        values = [value for part in self._parts[name] for value in _plain(part)]
        in_order = [values[position] for position in order]
        return frames.scatter(in_order, row_numbers, len(self.keys), kind)


def _is_nan(vectors: Any) -> np.ndarray:
    """Whether all of a vector is NaN, for each; shape (n,), bool."""
    # One look at a value of each is enough for nearly all.
    first = vectors[:, :1]
    if not (first != first).any():
        return np.zeros(len(vectors), dtype=bool)
    mask = (vectors != vectors).all(1)
    return np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)


def _concatenated(parts: Sequence[Any], order: np.ndarray) -> Any:
    if not getattr(parts[0], "is_cuda", False):
        return np.concatenate(parts)[order]
    import torch

    return torch.cat(list(parts))[torch.from_numpy(order)]


def _plain(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)
