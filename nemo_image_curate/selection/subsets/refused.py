"""What cannot be compared, and why."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.selection.checks import check_integer
from nemo_image_curate.selection.subsets.membership import Subset
from nemo_image_curate.selection.subsets.taken import ANY, HELD_OUT, Columns, Rows

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Of fewer held-out rows recalls among them say nothing.
_FEWEST_HELD_OUT = 20


def check_options(
    subsets: Mapping[str, Subset],
    samples_seen: int | None,
    seeds: int,
    batch_size: int | None,
    baseline: str | None,
) -> None:
    """Refuse parameters of `compare_subsets` that say by themselves that they are unusable."""
    if not isinstance(subsets, Mapping) or len(subsets) < 2:
        raise ConfigError(
            "give two subsets or more by name, such as {'filtered': 'clip_score > 0.3', 'all': "
            "None}."
        )
    for name in subsets:
        if not isinstance(name, str) or not name.strip() or name in (HELD_OUT, ANY):
            raise ConfigError(f"{name!r} is no name of a subset; give a text that is not empty.")
    if baseline is not None and baseline not in subsets:
        raise ConfigError(f"baseline={baseline!r} is none of the subsets {', '.join(subsets)}.")
    check_integer("seeds", seeds, 2)
    if samples_seen is not None:
        check_integer("samples_seen", samples_seen, 1)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 2)


def held_out_share(held_out: float | Subset) -> float | None:
    """The share of rows; None where rows are named."""
    if isinstance(held_out, bool) or not isinstance(held_out, numbers.Real):
        if held_out is None or isinstance(held_out, bool):
            raise ConfigError(f"held_out={held_out!r} should be a share, or rows as of a subset.")
        return None
    if not 0 < float(held_out) < 1:
        raise ConfigError(f"held_out={held_out!r} should be over 0 and below 1.")
    return float(held_out)


def require_embeddings(dataset: ImageTextPairDataset, images: str, texts: str) -> None:
    """Refuse a dataset without embeddings, and say what makes them."""
    columns = dataset.metadata.columns
    for name, remedy in (
        (images, "nemo-image-curate embed DATASET adds embeddings of images."),
        (
            texts,
            "Models with a text side add embeddings of captions: nemo-image-curate embed DATASET "
            "--model offline-conse (or open_clip:ARCHITECTURE:TAG), which makes those of images "
            "anew. To keep these, in Python: ConseEmbedder().embed_captions(dataset).",
        ),
    ):
        if name not in columns:
            raise ColumnNotFoundError(name, columns, remedy)


def refuse_empty(sizes: Mapping[str, int]) -> None:
    """Refuse a dataset, or a subset, without rows."""
    for name, size in sizes.items():
        if not size and name != ANY:
            called = {HELD_OUT: "held_out", "": "the dataset"}.get(name, f"subset {name!r}")
            raise ConfigError(f"{called} has no rows.")


def refuse_few_held_out(rows: Rows, columns: Columns) -> None:
    """Refuse to compare on next to nothing."""
    count = int(rows.is_held_out.sum())
    if count < _FEWEST_HELD_OUT:
        whole = rows.counts[""]
        raise ConfigError(
            f"only {count} rows are held out that have both embeddings; at least "
            f"{_FEWEST_HELD_OUT} are needed. Of {whole['rows']:,} rows {whole['no_image']:,} have "
            f"no {columns.images}, and {whole['no_text']:,} more no {columns.texts}. Give a larger "
            "held_out=."
        )


def refuse_equal(members: Mapping[str, np.ndarray]) -> None:
    """Refuse two subsets that are one."""
    for (first, mask), (second, other) in itertools.combinations(members.items(), 2):
        if mask.any() and np.array_equal(mask, other):
            raise ConfigError(
                f"subsets {first!r} and {second!r} have the same rows to train on, those that are "
                "not held out: there is nothing to compare."
            )
