"""Pack images that are in a column of Parquet files, as Hugging Face datasets keep them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.shards.captions import CAPTION_NAMES
from nemo_image_curate.shards.columns import unify
from nemo_image_curate.shards.index import IMAGE_EXTENSIONS
from nemo_image_curate.shards.loose import ending_of
from nemo_image_curate.shards.names import ShardFiles, sample_key
from nemo_image_curate.shards.pack import PackSummary, told_unreadable
from nemo_image_curate.shards.packed_shards import (
    Counts,
    Row,
    claim,
    renamed,
    write_shard,
    write_shards,
)
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES, image_ending

__all__ = ["find_tables", "holds_images", "pack_tables"]

# Which column has the images, where several have bytes.
_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
# Rows that are read at once, and waited for by the writer.
_BATCH_ROWS = 64

logger = logging.getLogger(__name__)


def find_tables(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The Parquet files that some paths name, if these name nothing else.

    Parameters
    ----------
    paths : sequence of str or path
        Files, and folders.

    Returns
    -------
    list of Path
        In the order of `paths`, in a folder in that of names. Empty where a path is another file,
        or a folder with images, tars or without Parquet files.
    """
    tables: list[Path] = []
    for path in map(Path, paths):
        # The first image ends the look into its folder: there may be millions.
        if any(_is_other(name) for _, _, names in os.walk(path) for name in names):
            return []
        infos = storage.find(os.path.abspath(path), ".parquet") if path.is_dir() else []
        files = [Path(info.location) for info in infos] or [path]
        if any(ending_of(file.name) != "parquet" for file in files):
            return []
        tables += files
    return tables


def _is_other(name: str) -> bool:
    """Whether a file is what is packed otherwise, or was packed already."""
    ending = ending_of(name)
    return (ending in IMAGE_EXTENSIONS or ending == "tar") and not storage.is_hidden(name)


def holds_images(field: pa.Field) -> bool:
    """Whether a column may have encoded images: bytes, or structs of ``bytes`` and ``path``."""
    kind = field.type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _has(is_wanted: Callable[[pa.DataType], bool], kind: pa.DataType) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return is_wanted(kind) or any(_has(is_wanted, child) for child in inner)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )


def pack_tables(
    tables: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    samples_per_shard: int = 10000,
    image_column: str | None = None,
) -> PackSummary:
    """Write shards with the images of Parquet files, and the other columns as theirs.

    The column ``caption`` or ``text`` becomes the caption. Rows without image are counted as
    unreadable and named in the log. A batch of rows is in memory at a time.

    Parameters
    ----------
    tables : sequence of str or path
        Parquet files on this machine, all with the same image column.
    output : str or path
        A folder or URL without shards, or where the same pack was stopped.
    samples_per_shard : int
    image_column : str, optional
        Of bytes, or of structs whose field ``bytes`` has them. Default: the only one, or that
        called as an image.

    Returns
    -------
    PackSummary

    Raises
    ------
    ConfigError, ColumnNotFoundError
        For unusable arguments, and where several columns may have the images.
    DatasetError
        For what is no Parquet file or has no images, and an output that has shards already.
    SchemaError
        For a column whose types in two files have none in common.
    """
    if samples_per_shard < 1:
        raise ConfigError(f"samples_per_shard={samples_per_shard} should be a positive integer.")
    sources = [_Table.opened(os.fspath(path), image_column) for path in tables]
    schema = unify((source.path, pa.schema(list(source.kinds.items()))) for source in sources)
    kinds = dict(zip(schema.names, schema.types, strict=True))
    output = storage.normalise(output)
    storage.make_dirs(output)
    stats = [os.stat(source.path) for source in sources]
    states = [
        [source.path, info.st_size, info.st_mtime_ns]
        for source, info in zip(sources, stats, strict=True)
    ]
    claim(output, [states, samples_per_shard, image_column])
    left_out = list(dict.fromkeys(name for source in sources for name in source.left_out))
    for name in left_out:
        logger.warning("the column %r holds bytes, too, and is left out", name)

    total = sum(source.rows for source in sources)

    def write(start: int, shard: str, files: ShardFiles) -> None:
        count = Counts()
        rows = _rows(sources, start, start + samples_per_shard, count.unreadable)
        keyed = (
            row._replace(record={"key": sample_key(shard, place, samples_per_shard)} | row.record)
            for place, row in enumerate(rows)
        )
        write_shard(files, keyed, count, kinds)

    tars, counts = write_shards(output, total, samples_per_shard, write)
    unreadable = [problem for count in counts for problem in count.unreadable]
    samples = sum(count.samples for count in counts)
    if not samples:
        raise DatasetError(f"no row has an image. {told_unreadable(unreadable)}")
    if unreadable:
        logger.warning("%s", told_unreadable(unreadable))
    return PackSummary(
        tars=tars,
        samples=samples,
        captioned=sum(count.captioned for count in counts),
        texts=0,
        rows=total,
        rows_without_image=len(unreadable),
        images_without_row=0,
        left_out={},
        unreadable=len(unreadable),
        columns_left_out=left_out,
    )


@dataclass(frozen=True)
class _Table:
    """A Parquet file, and which of its columns is what."""

    path: str
    rows: int
    image: str
    caption: str | None
    left_out: list[str]
    # Those that become JSON, as objects do everywhere.
    as_json: list[str]
    kinds: dict[str, pa.DataType]

    @classmethod
    def opened(cls, path: str, image_column: str | None) -> _Table:
        try:
            with pq.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(f"{path} is no readable Parquet file: {error}.") from error
        candidates = [field.name for field in schema if holds_images(field)]
        image = image_column or _chosen(candidates, _IMAGE_NAMES)
        if image is None and len(candidates) == 1:
            image = candidates[0]
        if image is None and candidates:
            raise ConfigError(
                f"{path}: each of {', '.join(candidates)} may hold the images. Say which: "
                f"--image-column {candidates[0]}"
            )
        if image is None:
            raise DatasetError(
                f"{path} holds no images; its columns are {', '.join(schema.names)}. Images that "
                "are URLs are downloaded first, with img2dataset."
            )
        if image not in schema.names:
            raise ColumnNotFoundError(image, schema.names)
        if image not in candidates:
            raise ConfigError(
                f"{path}: the column {image!r} is {schema.field(image).type}, not bytes."
            )
        caption = _chosen(schema.names, CAPTION_NAMES)
        left_out = [
            field.name for field in schema if field.name != image and _has(_is_binary, field.type)
        ]
        others = [field for field in schema if field.name not in (image, caption, *left_out)]
        as_json = [field.name for field in others if _has(pa.types.is_struct, field.type)]
        kinds = {
            field.name: pa.string() if field.name in as_json else field.type for field in others
        }
        return cls(path, rows, image, caption, left_out, as_json, renamed(kinds))

    def read(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows from `start` on and before `stop`, with their numbers."""
        with pq.ParquetFile(self.path) as file:
            wanted = [name for name in file.schema_arrow.names if name not in self.left_out]
            first = 0
            for number in range(file.num_row_groups):
                last = first + file.metadata.row_group(number).num_rows
                if first < stop and last > start:
                    row = first
                    for batch in file.iter_batches(_BATCH_ROWS, [number], wanted):
                        yield from (
                            (row + place, values)
                            for place, values in enumerate(batch.to_pylist())
                            if start <= row + place < stop
                        )
                        row += len(batch)
                first = last


def _chosen(names: Sequence[str], known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def _rows(sources: Sequence[_Table], start: int, stop: int, unreadable: list[str]) -> Iterator[Row]:
    """The rows of all tables from `start` on and before `stop`, without their keys."""
    first = 0
    for source in sources:
        try:
            for number, values in source.read(start - first, stop - first):
                row = _row(source, number, values)
                if row is None:
                    unreadable.append(f"{source.path} row {number} (no bytes of an image)")
                else:
                    yield row
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"cannot read {source.path}: {error}.") from error
        first += source.rows


def _row(source: _Table, number: int, values: Mapping[str, Any]) -> Row | None:
    fields = dict(values)
    image = fields.pop(source.image)
    path = None
    if isinstance(image, dict):
        image, path = image["bytes"], image.get("path")
    if not image:
        return None
    for name in source.as_json:
        if fields[name] is not None:
            fields[name] = json.dumps(fields[name], ensure_ascii=False, default=str)
    texts = fields.pop(source.caption) if source.caption else None
    several = texts if isinstance(texts, list) else None
    if several is not None:
        texts = next((text for text in several if text is not None), None)
    record: dict[str, Any] = {
        "file": path or f"{os.path.basename(source.path)}/{number}",
        "caption": texts if texts is None or isinstance(texts, str) else str(texts),
    }
    record |= {} if several is None else {"captions": list(map(_text, several))}
    ending = image_ending(image[:SIGNATURE_BYTES]) or "jpg"
    return Row(ending, image, record | renamed(fields))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
