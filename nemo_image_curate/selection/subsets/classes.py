"""Classes of held-out rows, and the texts that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.classifiers.prompts import prompts, read_templates
from nemo_image_curate.embedders.registry import embedder_of
from nemo_image_curate.embedders.text_image import require_text_side
from nemo_image_curate.errors import ConfigError

if TYPE_CHECKING:
    from nemo_image_curate.embedders.text_image import TextImageEmbedder

# As many as ImageNet has: prompts of each are embedded.
_MOST_CLASSES = 1_000


def label_numbers(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, list[str]]:
    """The number of each label, -1 for none, and the classes in their order.

    Raises
    ------
    ConfigError
        When labels are no texts, or there are fewer than two or too many classes.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ConfigError(
            f"label column {name!r} holds {kind}; give one of texts, the names of classes."
        )
    texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    classes = sorted(text for text in pc.unique(texts).to_pylist() if text)
    if not 2 <= len(classes) <= _MOST_CLASSES:
        raise ConfigError(
            f"label column {name!r} has {len(classes):,} labels among the held-out rows; from 2 to "
            f"{_MOST_CLASSES:,} can be told apart by prompts."
        )
    numbers = pc.index_in(texts, pa.array(classes, pa.string()), skip_nulls=True).fill_null(-1)
    return numbers.to_numpy().astype(np.int64), classes


def class_prompts(
    classes: Sequence[str],
    templates: str | Sequence[str],
    encoder: TextImageEmbedder | Mapping[str, Any],
    width: int,
) -> np.ndarray:
    """The embeddings of each class's prompts.

    Parameters
    ----------
    classes : sequence of str
    templates : str or sequence of str
    encoder : TextImageEmbedder or mapping
        Whose text side embeds them, or what a dataset records of the column of texts.
    width : int
        Of that column.

    Returns
    -------
    numpy.ndarray of float32, shape (classes, templates, width)

    Raises
    ------
    ConfigError
        When the encoder is not known, or makes vectors of another width.
    """
    named = read_templates(templates)
    embedder = require_text_side(embedder_of(encoder) if isinstance(encoder, Mapping) else encoder)
    vectors = embedder.embed_text(prompts(classes, named), truncate=True)
    if vectors.shape[1] != width:
        raise ConfigError(
            f"the text encoder makes vectors of {vectors.shape[1]} values, the column of texts has "
            f"{width}: give the one that made them as embedder=."
        )
    return vectors.reshape(len(classes), len(named), width)
