"""The steps of a recipe that are no stages: conditions on rows, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nemo_image_curate import catalog
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.index.vector_index import build_index
from nemo_image_curate.search.captions import build_captions

# What is made by later layers, by the name of the step: a public name, and what a bare value is.
_LATER = {"report": ("write_report", "path")}


@dataclass(frozen=True)
class Action:
    """A step that is no stage.

    Attributes
    ----------
    function : callable
        Called with the dataset and the step's options.
    short : str
        The option that a bare value stands for: ``save: DIR``.
    writes : {"folder", "file"}, optional
        What is at its option ``path``.
    """

    function: Callable[..., Any]
    short: str
    writes: Literal["folder", "file"] | None = None


def save(
    dataset: ImageTextPairDataset,
    path: str,
    columns: Sequence[str] | None = None,
    retry: bool = False,
) -> ImageTextPairDataset:
    """Compute what was asked for so far, and save it in a folder; later steps start from there."""
    # What later steps are given must not depend on what else was done to the folder.
    return dataset.save_metadata(path, columns, retry=retry, overwrite=True)


def keep(dataset: ImageTextPairDataset, condition: str) -> ImageTextPairDataset:
    """Keep the rows for which an expression is true."""
    return dataset.filter(condition)


def select(dataset: ImageTextPairDataset, columns: Sequence[str]) -> ImageTextPairDataset:
    """Keep these columns."""
    return dataset.select(columns)


def index(
    dataset: ImageTextPairDataset,
    embedding_column: str = "image_embedding",
    caption_column: str | None = None,
    kind: str = "auto",
    rerank: bool = True,
    target_recall: float = 0.96,
) -> dict[str, Any]:
    """Index an embedding column, and the words of captions, beside what was saved."""
    options: dict[str, Any] = {"kind": kind, "rerank": rerank, "target_recall": target_recall}
    vectors = build_index(dataset, embedding_column, **options)
    summary: dict[str, Any] = {"vectors": len(vectors), "path": vectors.path}
    if caption_column is not None:
        summary["captions"] = len(build_captions(dataset, caption_column))
    return summary


def actions() -> dict[str, Action]:
    """All of them, by name."""
    known = {
        "filter": Action(keep, "condition"),
        "select": Action(select, "columns"),
        "save": Action(save, "path", "folder"),
        "index": Action(index, "embedding_column"),
        "selection": Action(ImageTextPairDataset.to_selection, "path", "file"),
        "export": Action(ImageTextPairDataset.to_webdataset, "path", "folder"),
    }
    for name, (public, short) in _LATER.items():
        if public in catalog.PUBLIC:
            known[name] = Action(catalog.load(public), short, "file")
    return known
