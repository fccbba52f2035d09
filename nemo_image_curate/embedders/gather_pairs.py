"""Pictures and captions of a dataset as frozen encoders see them: a bounded sample, in memory."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.decode.reasons import count_by_kind
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.caption_lists import caption_columns, captions_of
from nemo_image_curate.embedders.join_pairs import Part, join
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Columns that are made on the way, and saved nowhere.
_SAMPLED, _FEATURES = "_sampled_pair", "_image_features"


@dataclass(frozen=True)
class Gathered:
    """Pairs, and what became of all rows.

    Attributes
    ----------
    pairs : Pairs
        Pictures in the order of a hash of their keys.
    captions : list of str
        What each text of the pairs says.
    rows : dict of str to int
        ``used``, and rows that were left out, by reason.
    """

    pairs: Pairs
    captions: list[str]
    rows: dict[str, int]


def gather_pairs(
    dataset: ImageTextPairDataset,
    image_encoder: ImageEmbedder,
    text_encoder: TextImageEmbedder,
    caption_column: str,
    max_pictures: int,
    seed: int,
    progress: bool | None = None,
) -> Gathered:
    """Encode the pictures and captions of a dataset, or of so many rows of it by a hash of keys.

    Columns that an encoder is recorded to have made are taken as they are.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    image_encoder : ImageEmbedder
    text_encoder : TextImageEmbedder
        Of which only the text side is used.
    caption_column : str
        Of texts, or lists of them. Lists in a column of this name with an ``s`` are used, too.
    max_pictures : int
        About so many rows are chosen where more have a caption.
    seed : int
    progress : bool, optional

    Returns
    -------
    Gathered

    Raises
    ------
    ColumnNotFoundError, ConfigError
        When there are no captions.
    """
    columns = caption_columns(dataset, caption_column)
    counts = partitions.run(
        dataset.metadata[columns], _count, what="count captions", progress=progress
    )
    total, captioned = (sum(numbers) for numbers in zip(*counts, strict=True))
    if not captioned:
        raise DatasetError(
            f"none of {total:,} rows has a caption in {' or '.join(map(repr, columns))}; there is "
            "nothing to learn from. Give captions: pack --captions CSV."
        )
    share = min(1.0, max_pictures / captioned)
    sampled = dataset.with_columns(
        _Sampled(dataset.id_col, columns, share, seed), {_SAMPLED: pa.bool_()}
    )
    frame = sampled.metadata
    encoded, features = _encoded(dataset.replace(frame[frame[_SAMPLED]]), image_encoder)
    text_column = None if len(columns) > 1 else _vector_column(dataset, text_encoder, columns[0])
    wanted = [dataset.id_col, SHARD_COLUMN, *columns, features]
    wanted += [text_column] if text_column else []
    wanted += [ERROR_COLUMN] if ERROR_COLUMN in encoded.metadata.columns else []
    parts = partitions.run(
        encoded.metadata[list(dict.fromkeys(wanted))],
        partial(_collect, dataset.id_col, columns, features, text_column),
        what="encode pairs",
        shared=[text_encoder],
        progress=progress,
    )
    left_out = sum((part.left_out for part in parts), Counter[str]())
    used = sum(len(part.keys) for part in parts)
    rows = {"used": used, "without caption": total - captioned}
    rows |= {
        "not in the sample": captioned - used - left_out.total(),
        **dict(sorted(left_out.items())),
    }
    pairs, captions = join(parts, seed)
    return Gathered(pairs, captions, {name: n for name, n in rows.items() if n or name == "used"})


def _count(frame: Any) -> tuple[int, int]:
    """How many rows there are, and how many have a caption; runs on a worker."""
    return len(frame), sum(map(bool, captions_of(frame, list(frame.columns))))


class _Sampled:
    """Whether rows have a caption, and are chosen by a hash of their keys; what Dask maps."""

    def __init__(self, id_col: str, columns: Sequence[str], share: float, seed: int):
        self.id_col, self.columns, self.share, self.seed = id_col, list(columns), share, seed

    def content_token(self) -> list[Any]:
        return ["Sampled", self.id_col, self.columns, self.share, self.seed]

    def __dask_tokenize__(self) -> list[Any]:
        return self.content_token()

    def __call__(self, frame: Any) -> dict[str, Any]:
        has_caption = np.array(list(map(bool, captions_of(frame, self.columns))), bool)
        scores = random_score(frames.column_to_arrow(frame[self.id_col]), self.seed)
        return {_SAMPLED: pa.array(has_caption & (scores < self.share))}


def _encoded(
    dataset: ImageTextPairDataset, encoder: ImageEmbedder
) -> tuple[ImageTextPairDataset, str]:
    """The dataset with a column of what the encoder makes of pictures, and its name."""
    if (name := _vector_column(dataset, encoder)) is not None:
        return dataset, name
    stage = copy.copy(encoder)
    stage.image_embedding_column, stage.flip = _FEATURES, False
    stage.classifiers = stage.image_stages = ()
    return stage.image_pass()(dataset), _FEATURES


def _vector_column(
    dataset: ImageTextPairDataset, encoder: ImageEmbedder, caption_column: str | None = None
) -> str | None:
    """The column of vectors that an encoder made of pictures, or of captions."""
    record = encoder.record(**({"caption_column": caption_column} if caption_column else {}))
    wanted = _comparable(record)
    names = (name for name in dataset.metadata.columns if name in dataset.provenance)
    columns = (name for name in names if _comparable(dataset.provenance[name]) == wanted)
    return next(columns, None)


def _comparable(record: Mapping[str, Any]) -> str:
    """A record without what changes no value, as it is after it was saved."""
    return json.dumps({**record, "version": None}, sort_keys=True, default=str)


def _collect(
    id_col: str,
    columns: Sequence[str],
    features: str,
    text_column: str | None,
    frame: Any,
    text_encoder: TextImageEmbedder,
) -> Part:
    """The pairs of a computed partition; runs on a worker."""
    captions = captions_of(frame, columns)
    if not captions:
        return Part()
    images, image_rows = _finite(frame[features])
    if text_column:
        texts, owners = _finite(frame[text_column])
        spoken = [captions[row][0] for row in owners]
    else:
        tower = text_encoder.text_tower(frames.device_of(frame))
        texts, owners, spoken = _embedded(captions, image_rows, tower)
    with_text = np.isin(image_rows, owners)
    left_out = Counter({"whose captions the text encoder does not know": int((~with_text).sum())})
    left_out += _failed(frame, image_rows)
    used = image_rows[with_text]
    is_used = np.isin(owners, used)
    keys, shards = (
        frames.column_to_arrow(frame[name]).to_pylist() for name in (id_col, SHARD_COLUMN)
    )
    return Part(
        [keys[row] for row in used],
        [shards[row] for row in used],
        images[with_text][:, None],
        texts[is_used],
        list(itertools.compress(spoken, is_used)),
        np.searchsorted(used, owners[is_used]),
        left_out,
    )


def _finite(series: Any) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a column that hold numbers only, and their rows."""
    values, rows = frames.embedding_array(series)
    on_host = frames.host(values)
    is_finite = np.isfinite(on_host).all(1)
    return on_host[is_finite], rows[is_finite]


def _embedded(
    captions: list[list[str]], rows: np.ndarray, tower: TextTower
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The vectors of all captions of some rows, which row each belongs to, and what it says."""
    known = [(row, text) for row in rows.tolist() for text in captions[row] if tower.known(text)]
    vectors = tower.embed([text for _, text in known])
    is_finite = np.isfinite(vectors).all(1)
    known = list(itertools.compress(known, is_finite))
    owners = np.array([row for row, _ in known], np.int64)
    return vectors[is_finite], owners, [text for _, text in known]


def _failed(frame: Any, image_rows: np.ndarray) -> Counter[str]:
    """Rows without a vector of their picture, by the reason."""
    failed = np.setdiff1d(np.arange(len(frame)), image_rows)
    errors: list[str | None] = [None] * len(frame)
    if ERROR_COLUMN in frame.columns:
        errors = frames.column_to_arrow(frame[ERROR_COLUMN]).to_pylist()
    reasons = Counter(count_by_kind([errors[row] for row in failed if errors[row]]))
    counts = Counter({f"image: {kind}": count for kind, count in reasons.items()})
    counts["without an embedding"] = len(failed) - counts.total()
    return +counts
