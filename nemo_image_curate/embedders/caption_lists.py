"""The captions of a dataset's rows: one in each, or lists of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


def caption_columns(dataset: ImageTextPairDataset, caption_column: str) -> list[str]:
    """The columns that captions are in: the one that is named, and lists of several beside it.

    Raises
    ------
    ColumnNotFoundError
        When there is no such column.
    ConfigError
        When it holds no texts.
    """
    schema = frames.schema(dataset.metadata)
    if caption_column not in schema.names:
        remedy = (
            "A picture needs a caption to be learned from: name the column (--caption-column), or "
            "give captions when images are packed (pack --captions CSV)."
        )
        raise ColumnNotFoundError(caption_column, dataset.metadata.columns, remedy)
    kind = schema.field(caption_column).type
    if not (_is_text(kind) or _is_texts(kind)):
        raise ConfigError(
            f"column {caption_column!r} holds {kind}, no texts. Name the column with the captions "
            "as caption_column= (--caption-column)."
        )
    several = f"{caption_column}s"
    has_several = several in schema.names and _is_texts(schema.field(several).type)
    return [caption_column, several] if has_several else [caption_column]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_texts(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and _is_text(kind.value_type)


def captions_of(frame: Any, columns: Sequence[str]) -> list[list[str]]:
    """The captions of each row that say something, each once."""
    rows: list[list[str]] = [[] for _ in range(len(frame))]
    for name in columns:
        for row, value in zip(rows, frames.column_to_arrow(frame[name]).to_pylist(), strict=True):
            row += [value] if isinstance(value, str) else value or []
    return [list(dict.fromkeys(text for text in row if text and text.strip())) for row in rows]
