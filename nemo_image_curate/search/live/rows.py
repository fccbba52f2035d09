"""How a sample is kept as a row of Chroma beside its vector, and why it cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.index.hits import Hit
from nemo_image_curate.search.live.conditions import PRESENT

# The plain metadata as JSON: Chroma would not give it back as it was.
_METADATA = "_row"
_TAKEN_NAMES = frozenset({"key", "shard", "caption"})


def rows_of(
    keys: Sequence[str],
    captions: Sequence[str | None] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
    private: Sequence[Mapping[str, str]],
) -> tuple[dict[int, dict[str, Any]], list[str | None]]:
    """What Chroma keeps of the samples that it can keep, and why it cannot keep the others.

    Parameters
    ----------
    keys : sequence of str, length n
    captions : sequence of str or None, length n, optional
    metadata : sequence of mapping or None, length n, optional
        Null values are left out.
    private : sequence of mapping, length n
        What the store itself looks rows up by; names begin with ``_``.

    Returns
    -------
    rows : dict of int to dict
        By position.
    reasons : list of str or None, length n

    Raises
    ------
    ConfigError
        When the lengths differ.
    """
    captions = [None] * len(keys) if captions is None else captions
    metadata = [None] * len(keys) if metadata is None else metadata
    lengths = [len(keys), len(private), len(captions), len(metadata)]
    if len(set(lengths)) != 1:
        raise ConfigError(
            f"keys, contents, captions and metadata should be of one length, not {lengths}."
        )
    rows: dict[int, dict[str, Any]] = {}
    reasons: list[str | None] = []
    seen: set[str] = set()
    for number, key in enumerate(keys):
        reason = _problem(key, captions[number], metadata[number])
        if reason is None and key in seen:
            reason = f"the key {key!r} is there twice in one call"
        reasons.append(reason)
        if reason is None:
            seen.add(key)
            rows[number] = {**_row(key, captions[number], metadata[number]), **private[number]}
    return rows, reasons


def hit_of(key: str, row: Mapping[str, Any], score: float, vector: Any) -> Hit:
    """A row as an answer of a search."""
    unit = None if vector is None else np.asarray(vector, dtype=np.float32)
    return Hit(key, None, score, row.get("caption"), json.loads(row[_METADATA]), unit)


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be kept: lone surrogates are no characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def vector_problem(vector: np.ndarray) -> str | None:
    """None, or why an embedding cannot be compared with others."""
    pointing = 0 < float(np.linalg.norm(vector)) < math.inf
    return None if pointing else "its embedding has no direction: it is zero or not finite"


def _row(key: str, caption: str | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    values = _values(metadata)
    columns = {"key": key, **({} if caption is None else {"caption": caption}), **values}
    return {
        **columns,
        PRESENT: list(columns),
        _METADATA: json.dumps(values, ensure_ascii=False),
    }


def _values(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (metadata or {}).items() if value is not None}


def _problem(key: Any, caption: Any, metadata: Any) -> str | None:
    if metadata is not None and not isinstance(metadata, Mapping):
        return f"the metadata is {type(metadata).__name__}, not a mapping"
    if not is_text(key) or not key:
        return f"the key {key!r} is not a text"
    if caption is not None and not is_text(caption):
        return f"the caption {caption!r} is not a text"
    for name, value in _values(metadata).items():
        if (
            not is_text(name)
            or name[:1] in ("", "_", "$", "#")
            or name in _TAKEN_NAMES
            or ":" in name
        ):
            return (
                f"metadata {name!r} is not a name of its own, or begins with _, $ or #, or has a "
                "colon or half a character"
            )
        if not isinstance(value, (str, bool, int, float)):
            return f"metadata {name!r} is {type(value).__name__}, not str, int, float or bool"
        if isinstance(value, str) and not is_text(value):
            return f"metadata {name!r} has half a character: a lone surrogate"
        if isinstance(value, float) and not math.isfinite(value):
            return f"metadata {name!r} is {value}, not a finite number"
        if isinstance(value, int) and abs(value) >= 2**63:
            return f"metadata {name!r} has more than 64 bits"
    return None
