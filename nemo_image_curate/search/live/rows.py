"""`Row`: what a live store keeps of a sample beside its vector, and why it cannot be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.index.hits import Hit

KEY, SHARD, CAPTION = "key", "shard", "caption"
_TAKEN_NAMES = frozenset({KEY, SHARD, CAPTION})
# Keys of samples of shards begin with it, so that no other key can be one of these.
_NUL = "\0"


@dataclass(frozen=True)
class Row:
    """A sample as it is kept beside its vector.

    Attributes
    ----------
    key : str
    shard : str or None
        The tar that holds it; None for what was added by itself.
    caption : str or None
    metadata : dict of str to str, bool, int or float
        The other columns that have a value.
    content : str or None
        The sha256 of the image that the store keeps.
    """

    key: str
    shard: str | None
    caption: str | None
    metadata: dict[str, Any]
    content: str | None = None

    @property
    def id(self) -> str:
        """What tells it from the other rows of a collection."""
        return row_id(self.shard, self.key)

    def columns(self) -> dict[str, Any]:
        """What conditions may be about."""
        fields = {KEY: self.key, SHARD: self.shard, CAPTION: self.caption}
        return {name: value for name, value in fields.items() if value is not None} | self.metadata

    def hit(self, score: float, vector: Any) -> Hit:
        """The row as an answer of a search."""
        unit = None if vector is None else np.asarray(vector, dtype=np.float32)
        return Hit(self.key, self.shard, score, self.caption, self.metadata, unit)


def row_id(shard: str | None, key: str) -> str:
    """What tells a sample from all others."""
    # A shard's name is a path, which has no NUL.
    return key if shard is None else f"{_NUL}{shard}{_NUL}{key}"


def row_of(columns: Mapping[str, Any], content: str | None = None) -> Row:
    """The row of which `Row.columns` are."""
    metadata = {name: value for name, value in columns.items() if name not in _TAKEN_NAMES}
    return Row(columns[KEY], columns.get(SHARD), columns.get(CAPTION), metadata, content)


def rows_of(
    keys: Sequence[str],
    captions: Sequence[str | None] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
    contents: Sequence[str | None],
) -> tuple[dict[int, Row], list[str | None]]:
    """The samples that can be kept, and why others cannot.

    Parameters
    ----------
    keys : sequence of str, length n
    captions : sequence of str or None, length n, optional
    metadata : sequence of mapping or None, length n, optional
        Null values are left out.
    contents : sequence of str or None, length n
        See `Row`.

    Returns
    -------
    rows : dict of int to Row
        By position.
    reasons : list of str or None, length n

    Raises
    ------
    ConfigError
        When the lengths differ.
    """
    captions = [None] * len(keys) if captions is None else captions
    metadata = [None] * len(keys) if metadata is None else metadata
    lengths = [len(keys), len(contents), len(captions), len(metadata)]
    if len(set(lengths)) != 1:
        raise ConfigError(
            f"keys, contents, captions and metadata should be of one length, not {lengths}."
        )
    rows: dict[int, Row] = {}
    reasons: list[str | None] = []
    seen: set[str] = set()
    for number, key in enumerate(keys):
        reason = _problem(key, captions[number], metadata[number])
        if reason is None and key in seen:
            reason = f"the key {key!r} is there twice in one call"
        reasons.append(reason)
        if reason is None:
            seen.add(key)
            values = _values(metadata[number])
            rows[number] = Row(key, None, captions[number], values, contents[number])
    return rows, reasons


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be kept: lone surrogates are no characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_own_name(name: Any) -> bool:
    """Whether a column may have a name: the store and its database keep some for themselves."""
    return (
        is_text(name)
        and name[:1] not in ("", "_", "$", "#")
        and name not in _TAKEN_NAMES
        and ":" not in name
    )


def key_problem(key: Any) -> str | None:
    """None, or why a key cannot be kept."""
    if not is_text(key) or not key:
        return f"the key {key!r} is not a text"
    return f"the key {key!r} begins with a null character" if key[0] == _NUL else None


def vector_problem(vector: np.ndarray) -> str | None:
    """None, or why an embedding cannot be compared with others."""
    pointing = 0 < float(np.linalg.norm(vector)) < math.inf
    return None if pointing else NO_DIRECTION


NO_DIRECTION = "its embedding has no direction: it is zero or not finite"


def _values(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (metadata or {}).items() if value is not None}


def _problem(key: Any, caption: Any, metadata: Any) -> str | None:
    if metadata is not None and not isinstance(metadata, Mapping):
        return f"the metadata is {type(metadata).__name__}, not a mapping"
    if reason := key_problem(key):
        return reason
    if caption is not None and not is_text(caption):
        return f"the caption {caption!r} is not a text"
    for name, value in _values(metadata).items():
        if not is_own_name(name):
            return (
                f"metadata {name!r} is not a name of its own, or begins with _, $ or #, or has a "
                "colon or half a character"
            )
        if reason := _value_problem(value):
            return f"metadata {name!r} {reason}"
    return None


def _value_problem(value: Any) -> str | None:
    if not isinstance(value, (str, bool, int, float)):
        return f"is {type(value).__name__}, not str, int, float or bool"
    if isinstance(value, str) and not is_text(value):
        return "has half a character: a lone surrogate"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, not a finite number"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "has more than 64 bits"
    return None
