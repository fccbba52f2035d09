"""What a dataset says of itself in a notebook or terminal: only what is known without computing.

Columns that are still to be computed are named, never computed. Of files on disks, but not of
remote ones, a bounded part is read for the small pictures of distributions.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import catalog, frames, storage
from nemo_image_curate.dataset.looking.bins import Bins
from nemo_image_curate.dataset.looking.origin import Origin, origin_of
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.errors import CurateError
from nemo_image_curate.shards import sidecars

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Files whose footers are read for their numbers of nulls; where there are more, none is.
MAX_FOOTERS = 64
# Of so many files the values of so many columns of numbers are read.
SAMPLED_FILES = 4
SAMPLED_COLUMNS = 32
# Files with more rows are not read.
MAX_SAMPLED_ROWS = 50_000
SPARK_BARS = 24

# Groups of columns in the order in which they are shown, and the folder of the package whose stages
# make them. A column that nobody recorded is the user's own.
WHERE, PICTURES, EMBEDDINGS, SCORES = "where the bytes are", "of pictures", "embeddings", "scores"
DUPLICATES, SELECTION, CAPTIONS, OWN = "duplicates and leaks", "selection", "captions", "others"
GROUPS = (WHERE, CAPTIONS, PICTURES, EMBEDDINGS, SCORES, DUPLICATES, SELECTION, OWN)
_BY_FOLDER = {
    "quality": PICTURES,
    "embedders": EMBEDDINGS,
    "classifiers": SCORES,
    "dedup": DUPLICATES,
    "selection": SELECTION,
}
_NAME_OF_ITEMS = re.compile(r"<(?:item|element): ")
_CAPTION_NAMES = ("caption", "text", "txt")


@dataclass(frozen=True)
class Column:
    """What is known of a column.

    Attributes
    ----------
    name, type, group : str
    made_by : str
        The recorded stage, and its model; empty for what was there.
    stored : bool
        Its values come from files, and are not computed when they are needed.
    nulls : int or None
        None where that is not known.
    low, high : float or None
        Of the sample.
    bars : list of int
        Of the sample's values; empty where there is none.
    """

    name: str
    type: str
    group: str
    made_by: str
    stored: bool
    nulls: int | None = None
    low: float | None = None
    high: float | None = None
    bars: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """What is known of a dataset.

    Attributes
    ----------
    path : str
    home : str or None
        Where the metadata is, when it is not beside the tars.
    backend : str
    rows : int or None
        None where they were not counted.
    of_rows : int or None
        How many there were before conditions.
    conditions : tuple of str
    shards, partitions : int
    tar_bytes, sidecar_bytes : int or None
    notes : list of str
        What was left out.
    columns : list of Column
    sampled_rows, sampled_files : int
        What low, high and bars of columns were made of.
    """

    path: str
    home: str | None
    backend: str
    rows: int | None
    of_rows: int | None
    conditions: tuple[str, ...]
    shards: int
    partitions: int
    tar_bytes: int | None
    sidecar_bytes: int | None
    notes: list[str]
    columns: list[Column]
    sampled_rows: int
    sampled_files: int


def summarise(dataset: ImageTextPairDataset) -> Summary:
    """What is known of a dataset without computing."""
    origin = origin_of(dataset.metadata)
    before, conditions = dataset.unfiltered()
    whole = origin if origin is not None and origin.is_whole else None
    unfiltered = origin_of(before) if conditions else None
    sources = origin.sources if origin else []
    columns, sampled_rows, sampled_files = _columns(dataset, origin, whole)
    return Summary(
        path=dataset.path,
        home=dataset.home,
        backend=dataset.backend,
        rows=whole.rows if whole else None,
        of_rows=unfiltered.rows if unfiltered and unfiltered.is_whole else None,
        conditions=conditions,
        shards=len(dataset.tar_files),
        partitions=dataset.metadata.npartitions,
        tar_bytes=_total([source.tar for source in sources]),
        sidecar_bytes=_total([source.sidecar for source in sources]),
        notes=_notes(dataset),
        columns=columns,
        sampled_rows=sampled_rows,
        sampled_files=sampled_files,
    )


def _total(files: Sequence[storage.FileInfo | None]) -> int | None:
    sizes = [file.size for file in files if file is not None]
    return sum(sizes) if sizes else None


def _notes(dataset: ImageTextPairDataset) -> list[str]:
    notes = []
    if dataset.unreadable:
        first = next(iter(dataset.unreadable.values()))
        notes.append(f"{len(dataset.unreadable):,} unreadable files left out, such as {first}")
    if dataset.orphans:
        notes.append(f"{len(dataset.orphans):,} files left out, such as {dataset.orphans[0]}")
    faults = dataset.text_faults.faults
    if faults:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in faults.items())
        notes.append(f"faults of texts and columns: {counts} (inspect_dataset names them)")
    return notes


def _columns(
    dataset: ImageTextPairDataset, origin: Origin | None, whole: Origin | None
) -> tuple[list[Column], int, int]:
    """All columns, and of how many rows and files their values were read."""
    stored = origin.stored if origin is not None else []
    nulls: dict[str, int] = {}
    drawn: dict[str, Bins] = {}
    rows = files = 0
    if whole is not None:
        # Files may be gone by now; what is told then is less, and no error.
        with contextlib.suppress(CurateError, OSError, pa.ArrowException):
            nulls = _nulls(whole)
        with contextlib.suppress(CurateError, OSError, pa.ArrowException):
            drawn, rows, files = _sample(whole)
    columns = []
    for column in frames.schema(dataset.metadata):
        bins = drawn.get(column.name)
        columns.append(
            Column(
                column.name,
                _NAME_OF_ITEMS.sub("<", str(column.type)),
                _group(dataset, column.name),
                _made_by(dataset.provenance.get(column.name, {})),
                column.name in stored,
                nulls.get(column.name),
                *((bins.low, bins.high, bins.bars(SPARK_BARS)[1].tolist()) if bins else ()),
            )
        )
    return columns, rows, files


def _group(dataset: ImageTextPairDataset, name: str) -> str:
    if name in (dataset.id_col, SHARD_COLUMN):
        return WHERE
    if name == ERROR_COLUMN:
        return PICTURES
    stage = str(dataset.provenance.get(name, {}).get("stage", ""))
    entry = catalog.PUBLIC.get(stage)
    if name in _CAPTION_NAMES or (entry and entry.module.startswith("quality.caption")):
        return CAPTIONS
    return _BY_FOLDER.get(entry.module.partition(".")[0], OWN) if entry else OWN


def _made_by(record: dict[str, Any]) -> str:
    """The stage that made a column, with its model, as it was recorded."""
    stage = record.get("stage")
    named = (record.get(key) for key in ("model", "model_name", "encoder"))
    model = next((name for name in named if isinstance(name, str)), None)
    return " ".join(str(part) for part in (stage, model) if part)


def _nulls(origin: Origin) -> dict[str, int]:
    """Nulls of the stored columns, where the footers of files that we wrote tell them."""
    sources = origin.sources
    ours = all(
        source.origin is not None and storage.is_local(source.sidecar_location)
        for source in sources
    )
    if len(sources) > MAX_FOOTERS or not ours:
        return {}
    by_source = [sidecars.null_counts(source.sidecar_location) for source in sources]
    counts = {}
    for name in set(origin.stored) & set().union(*by_source):
        # A column that one file does not have is null there.
        each = [
            nulls.get(name, source.rows) for nulls, source in zip(by_source, sources, strict=True)
        ]
        known = [count for count in each if count is not None]
        if len(known) == len(each):
            counts[name] = sum(known)
    return counts


def _sample(origin: Origin) -> tuple[dict[str, Bins], int, int]:
    """Values of the stored columns of numbers, out of a few files, in bars."""
    schema = origin.reader.schema
    names = [name for name in origin.stored if _is_number(schema.field(name).type)]
    names = names[:SAMPLED_COLUMNS]
    readable = [
        source
        for source in origin.sources
        if source.sidecar is not None
        and storage.is_local(source.sidecar_location)
        and 0 < (source.rows or 0) <= MAX_SAMPLED_ROWS
    ]
    step = -(-len(readable) // SAMPLED_FILES) or 1
    sources = readable[::step]
    if not names or not sources:
        return {}, 0, 0
    table = pa.concat_tables([origin.reader.read(source, names) for source in sources])
    drawn = {}
    for name in names:
        numbers = table[name].drop_null().cast(pa.float64(), safe=False).to_numpy()
        is_whole = pa.types.is_integer(schema.field(name).type)
        if bins := Bins.of(numbers[np.isfinite(numbers)], SPARK_BARS, is_whole):
            drawn[name] = bins
    return drawn, len(table), len(sources)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_uint64(kind):
        # Hashes, which are in no order.
        return False
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))
