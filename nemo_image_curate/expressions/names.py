"""Columns as expressions name them."""

import keyword
import unicodedata


def can_be_quoted(column: str) -> bool:
    """Whether expressions have a name for a column."""
    return "`" not in column


def quoted_name(column: str) -> str:
    """A column as expressions have it."""
    # Python reads other forms of a letter as that letter: a column of the other form is quoted.
    plain = column.isidentifier() and not keyword.iskeyword(column)
    plain = plain and unicodedata.is_normalized("NFKC", column)
    return column if plain else f"`{column}`"
