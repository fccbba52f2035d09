"""Pictures and captions of a dataset as frozen encoders see them: a bounded sample, in memory."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.decode.reasons import count_by_kind
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.learning.towers import Pairs
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Columns that are made on the way, and saved nowhere.
_SAMPLED, _FEATURES = "_sampled_pair", "_image_features"
# Pictures whose features differ by less are the same one: the last bits depend on the batch.
_SAME = 1e-4


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


@dataclass
class _Part:
    """The pairs of a partition."""

    keys: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 0), np.float32))
    texts: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    captions: list[str] = field(default_factory=list)
    owners: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    left_out: Counter[str] = field(default_factory=Counter)


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
    text_column = None if len(columns) > 1 else _made_by(dataset, text_encoder, columns[0])
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
    pairs, captions = _joined(parts, seed)
    return Gathered(pairs, captions, {name: n for name, n in rows.items() if n or name == "used"})


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


def _captions(frame: Any, columns: Sequence[str]) -> list[list[str]]:
    """The captions of each row that say something, each once."""
    rows: list[list[str]] = [[] for _ in range(len(frame))]
    for name in columns:
        for row, value in zip(rows, frames.column_to_arrow(frame[name]).to_pylist(), strict=True):
            row += [value] if isinstance(value, str) else value or []
    return [list(dict.fromkeys(text for text in row if text and text.strip())) for row in rows]


def _count(frame: Any) -> tuple[int, int]:
    """How many rows there are, and how many have a caption; runs on a worker."""
    return len(frame), sum(map(bool, _captions(frame, list(frame.columns))))


class _Sampled:
    """Whether rows have a caption, and are chosen by a hash of their keys; what Dask maps."""

    def __init__(self, id_col: str, columns: Sequence[str], share: float, seed: int):
        self.id_col, self.columns, self.share, self.seed = id_col, list(columns), share, seed

    def content_token(self) -> list[Any]:
        return ["Sampled", self.id_col, self.columns, self.share, self.seed]

    def __dask_tokenize__(self) -> list[Any]:
        return self.content_token()

    def __call__(self, frame: Any) -> dict[str, Any]:
        has_caption = np.array(list(map(bool, _captions(frame, self.columns))), bool)
        scores = random_score(frames.column_to_arrow(frame[self.id_col]), self.seed)
        return {_SAMPLED: pa.array(has_caption & (scores < self.share))}


def _encoded(
    dataset: ImageTextPairDataset, encoder: ImageEmbedder
) -> tuple[ImageTextPairDataset, str]:
    """The dataset with a column of what the encoder makes of pictures, and its name."""
    if (name := _made_by(dataset, encoder)) is not None:
        return dataset, name
    stage = copy.copy(encoder)
    stage.image_embedding_column, stage.flip = _FEATURES, False
    stage.classifiers = stage.image_stages = ()
    return stage.image_pass()(dataset), _FEATURES


def _made_by(
    dataset: ImageTextPairDataset, encoder: ImageEmbedder, caption_column: str | None = None
) -> str | None:
    """The column of vectors that an encoder made of pictures, or of captions."""
    record = encoder.record(**({"caption_column": caption_column} if caption_column else {}))
    wanted = _comparable(record)
    names = (name for name in dataset.metadata.columns if name in dataset.provenance)
    made = (name for name in names if _comparable(dataset.provenance[name]) == wanted)
    return next(made, None)


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
) -> _Part:
    """The pairs of a computed partition; runs on a worker."""
    captions = _captions(frame, columns)
    if not captions:
        return _Part()
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
    return _Part(
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
    told = Counter({f"image: {kind}": count for kind, count in reasons.items()})
    told["without an embedding"] = len(failed) - told.total()
    return +told


def _joined(parts: Sequence[_Part], seed: int) -> tuple[Pairs, list[str]]:
    """The pairs of all partitions and their captions in one order, whatever that of the parts."""
    filled = [part for part in parts if part.keys] or [_Part()]
    widths = {part.images.shape[2] for part in filled}
    if len(widths) > 1:
        raise DatasetError(f"embeddings have different lengths: {sorted(widths)}.")
    starts = np.cumsum([0, *(len(part.keys) for part in filled)])
    images = np.concatenate([part.images for part in filled])
    texts = np.concatenate([part.texts for part in filled])
    owners = np.concatenate([part.owners + at for part, at in zip(filled, starts, strict=False)])
    captions = [text for part in filled for text in part.captions]
    keys = [key for part in filled for key in part.keys]
    shards = [shard for part in filled for shard in part.shards]
    scores = random_score(pa.array(keys, pa.string()), seed)
    order = np.lexsort((np.array(shards, str), np.array(keys, str), scores))
    images, place = images[order], np.argsort(order)
    first, numbers = np.unique(_same_pictures(images[:, 0]), return_inverse=True)
    image_numbers = numbers[place[owners]]
    in_order = np.lexsort((place[owners], image_numbers))
    pairs = Pairs(images[first], texts[in_order], image_numbers[in_order])
    return pairs, [captions[row] for row in in_order]


def _same_pictures(features: np.ndarray) -> np.ndarray:
    """For each row the first one that is the same picture."""
    if not features.size:
        return np.arange(len(features))
    rounded = np.ascontiguousarray(np.round(features, 2).astype(np.float16) + 0)
    rows = rounded.view(np.dtype((np.void, rounded.itemsize * rounded.shape[1]))).ravel()
    _, first, numbers = np.unique(rows, return_index=True, return_inverse=True)
    candidates = first[numbers]
    same = np.abs(features - features[candidates]).max(1) < _SAME
    return np.where(same, candidates, np.arange(len(features)))
