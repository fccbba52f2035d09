"""The kinds of index that there are, and which one fits a number of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nemo_image_curate.errors import ConfigError, DatasetError, require
from nemo_image_curate.index.kinds.base import Kind
from nemo_image_curate.index.kinds.cuvs import Cuvs
from nemo_image_curate.index.kinds.flat import Flat
from nemo_image_curate.index.kinds.ivf import Ivf

# In the order in which ``auto`` asks whether they suit.
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Flat, Ivf, Cuvs)}
_ORDINARY = [kind for kind in KINDS.values() if not kind.experimental]


def check_settings(kind: str, rerank: bool, target_recall: float, max_memory: int | None) -> None:
    """Refuse unusable settings.

    Raises
    ------
    ConfigError
    BackendError
        When the kind does not work on this machine.
    """
    require("faiss", "search", "an index")
    if kind not in ("auto", *KINDS):
        names = ", ".join(repr(ordinary.name) for ordinary in _ORDINARY)
        raise ConfigError(f"kind={kind!r} should be one of 'auto', {names}.")
    if not 0 < target_recall <= 1:
        raise ConfigError(f"target_recall={target_recall} should be above 0 and at most 1.")
    if max_memory is not None and max_memory < 1:
        raise ConfigError(f"max_memory={max_memory} should be a number of bytes, or None.")
    if kind in KINDS:
        KINDS[kind].check(rerank)


def choose(
    count: int, dim: int, kind: str = "auto", rerank: bool = True, max_memory: int | None = None
) -> Kind:
    """The index for so many vectors.

    Parameters
    ----------
    count, dim : int
    kind : str
        A name in `KINDS`, or ``auto``.
    rerank : bool
    max_memory : int, optional
        Bytes that the index may take in memory.

    Raises
    ------
    ConfigError
        When it would take more than `max_memory`, saying what would fit.
    """
    limit = math.inf if max_memory is None else max_memory
    suitable = (ordinary for ordinary in _ORDINARY if ordinary.suits(count, dim, limit))
    plan = (KINDS.get(kind) or next(suitable)).plan(count, dim, rerank, limit)
    if plan.memory_bytes > limit:
        raise ConfigError(
            f"max_memory={limit:,} is too little for {plan}. Allow {plan.memory_bytes:,}; "
            f"{plan.remedy}."
        )
    return plan


def from_recipe(recipe: Mapping[str, Any]) -> Kind:
    """The index that a description is of.

    Raises
    ------
    ConfigError
        When FAISS is not installed.
    DatasetError
        When there is no such kind, or the description lacks something.
    """
    require("faiss", "search", "an index")
    name = recipe["kind"]
    if name not in KINDS:
        raise DatasetError(
            f"an index of kind {name!r} is of a later version. Build the index again."
        )
    try:
        return KINDS[name].from_recipe(recipe)
    except KeyError as error:
        raise DatasetError(
            f"the description of an index of kind {name!r} is damaged: {error!r}. Build the index "
            "again."
        ) from error
