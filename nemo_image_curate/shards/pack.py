"""Pack loose image files into WebDataset shards."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.captions import (
    Matches,
    check_encoding,
    decoded,
    match_names,
    read_captions,
)
from nemo_image_curate.shards.index import format_idx
from nemo_image_curate.shards.loose import (
    PACKED_MARK,
    SHOWN,
    LooseFiles,
    LooseImage,
    ending_of,
    find_images,
    printable,
)
from nemo_image_curate.shards.names import ShardFiles, sample_key, shard_name
from nemo_image_curate.shards.writer import TarWriter

__all__ = ["PackSummary", "find_images", "pack", "read_captions"]

# Columns that are ours; what a file beside an image says under these names is kept under others.
_OURS = ("key", "file", "caption", "captions", "shard")
# What decodes formats that Pillow does not know, and the extra that brings it.
_DECODERS = {"heic": ("pillow_heif", "heif"), "jxl": ("pillow_jxl", "jxl")}
# Where a sidecar's footer holds what was counted when it was written.
_COUNTS = b"nemo_image_curate.pack"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackSummary:
    """What came of all files: ``samples + texts + left_out + unreadable`` is what was found.

    Attributes
    ----------
    tars : list of str
        Written now, or by the same pack before it was stopped.
    samples : int
    captioned : int
        Samples with a caption, whatever it came from.
    texts : int
        Files beside images that gave their caption or columns.
    rows, rows_without_image : int
        Names that the captions have, and those of them that name no image or more than one.
    images_without_row : int
        Images that no row names, when captions were given.
    left_out : dict of str to int
        Files by kind.
    unreadable : int
    """

    tars: list[str]
    samples: int
    captioned: int
    texts: int
    rows: int
    rows_without_image: int
    images_without_row: int
    left_out: dict[str, int]
    unreadable: int

    def to_dict(self) -> dict[str, Any]:
        """The counts, of tars as ``shards``."""
        record = asdict(self)
        record["shards"] = len(record.pop("tars"))
        return record


@dataclass
class _Counts:
    """What is counted of one shard."""

    samples: int = 0
    captioned: int = 0
    texts_left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def pack(
    images: LooseFiles | Iterable[LooseImage | tuple[Path, str]],
    output: str | os.PathLike[str],
    captions: Mapping[str, Sequence[str]] | None = None,
    samples_per_shard: int = 10000,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    encoding: str | None = None,
) -> PackSummary:
    """Write shards with an image, a caption and a ``.json`` for each file, and their sidecars.

    What is left out or cannot be read is counted, logged, and does not stop the others.

    Parameters
    ----------
    images : LooseFiles or iterable of (Path, str)
        Files, and the names they go by in `captions`, `fields` and the ``file`` column. Those that
        `find_images` found have their captions and columns from the files beside them, too.
    output : str or path
        A folder or URL without shards, or where the same pack was stopped.
    captions : mapping of str to sequence of str, optional
        They count more than files beside the images. The first becomes ``caption``; all of them
        ``captions``, when some image has several.
    samples_per_shard : int
    fields : mapping of str to mapping, optional
        More columns by file name.
    encoding : str, optional
        Of texts beside images. Default: what a byte order mark says, else UTF-8.

    Returns
    -------
    PackSummary

    Raises
    ------
    ConfigError, DatasetError
        For unusable arguments, an output that has shards already, captions none of which names an
        image, or when nothing could be read.
    """
    if samples_per_shard < 1:
        raise ConfigError(f"samples_per_shard={samples_per_shard} should be a positive integer.")
    check_encoding(encoding)
    output = storage.normalise(output)
    storage.make_dirs(output)
    files = images if isinstance(images, LooseFiles) else LooseFiles()
    packed, states, unreadable = _readable(images)
    if not packed:
        raise DatasetError(f"there are no images to pack. {_told(unreadable)}")
    is_captioned = captions is not None
    captions, fields = captions or {}, fields or {}
    matches = match_names(packed, captions)
    if is_captioned:
        _tell_matches(packed, captions, matches)
    _claim(output, [states, captions, fields, samples_per_shard, encoding])

    several = any(len(texts) > 1 for texts in captions.values())
    tars, counts = [], []
    for number, chunk in enumerate(_chunks(enumerate(packed), samples_per_shard)):
        shard = shard_name(number)
        paths = ShardFiles(storage.join(output, shard))
        tars.append(paths.tar)
        # The sidecar is written last.
        if storage.stat(paths.sidecar) is None:
            entries = [
                _Sample(
                    sample_key(shard, row, samples_per_shard),
                    image,
                    matches.captions.get(place),
                    fields.get(image.name, {}),
                )
                for row, (place, image) in enumerate(chunk)
            ]
            _write_shard(paths, entries, several, encoding)
        counts.append(_read_counts(paths.sidecar))
    storage.remove_temporaries(output)

    unreadable += files.unreadable + [told for one in counts for told in one.unreadable]
    texts_left_out = sum((one.texts_left_out for one in counts), Counter[str]())
    samples = sum(one.samples for one in counts)
    if not samples:
        raise DatasetError(f"no image could be read. {_told(unreadable)}")
    unmatched = matches.unmatched + matches.ambiguous
    summary = PackSummary(
        tars=tars,
        samples=samples,
        captioned=sum(one.captioned for one in counts),
        texts=files.beside - texts_left_out.total(),
        rows=sum(map(len, captions.values())),
        rows_without_image=sum(len(captions[name]) for name in unmatched),
        images_without_row=len(packed) - len(matches.captions) if is_captioned else 0,
        left_out=dict(sorted((files.left_out + texts_left_out).items())),
        unreadable=len(unreadable),
    )
    _tell(packed, unreadable)
    return summary


def _readable(
    images: Iterable[LooseImage | tuple[Path, str]],
) -> tuple[list[LooseImage], list[Any], list[str]]:
    """The images that are there, their states and those of the files beside them, and faults."""
    packed, states, unreadable = [], [], []
    for image in itertools.starmap(LooseImage, images):
        try:
            infos = [path.stat() for path in (image.path, *image.beside)]
        except OSError as error:
            unreadable.append(f"{printable(str(image.path))} ({error.strerror or error})")
            continue
        packed.append(image)
        states.append((image.name, [(info.st_size, info.st_mtime_ns) for info in infos]))
    return packed, states, unreadable


def _told(unreadable: Sequence[str]) -> str:
    if not unreadable:
        return ""
    more = f" and {len(unreadable) - SHOWN:,} more" if len(unreadable) > SHOWN else ""
    return f"Unreadable: {'; '.join(unreadable[:SHOWN])}{more}."


def _tell(packed: Sequence[LooseImage], unreadable: Sequence[str]) -> None:
    if unreadable:
        logger.warning("%s", _told(unreadable))
    for ending, (module, extra) in _DECODERS.items():
        count = sum(image.ending == ending for image in packed)
        if count and importlib.util.find_spec(module) is None:
            logger.warning(
                "%d %s packed; to decode them: pip install 'nemo_image_curate[%s]'",
                *(count, ending, extra),
            )


def _tell_matches(
    packed: Sequence[LooseImage], captions: Mapping[str, Sequence[str]], matches: Matches
) -> None:
    """Say which captions go to no image; refuse them when that is all of them.

    Raises
    ------
    DatasetError
    """
    lost = matches.unmatched + matches.ambiguous
    rows, lost_rows = (sum(len(captions[name]) for name in names) for names in (captions, lost))
    without = [image.name for place, image in enumerate(packed) if place not in matches.captions]
    problems = []
    if matches.unmatched:
        problems.append(f"no image goes by {_first(matches.unmatched)}")
    if matches.ambiguous:
        problems.append(
            f"several images go by {_first(matches.ambiguous)}, or several names by one image: "
            "write the folders, too"
        )
    told = f"captions: {lost_rows:,} of {rows:,} rows go to no image"
    told += f": {'; '.join(problems)}" if problems else ""
    if without:
        told += f". {len(without):,} of {len(packed):,} images have no row: {_first(without)}"
    if lost and not matches.captions:
        raise DatasetError(f"{told}. Nothing was packed.")
    if lost or without:
        logger.warning("%s", told)


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (" ..." if len(names) > SHOWN else "")


class _Sample(NamedTuple):
    """What one row of a shard is made of; `captions` are those of the table."""

    key: str
    image: LooseImage
    captions: Sequence[str] | None
    fields: Mapping[str, Any]


def _write_shard(
    files: ShardFiles, samples: Sequence[_Sample], several: bool, encoding: str | None
) -> None:
    """The tar of keys, images, captions and records, its index, and its sidecar."""
    written, records, counts = [], [], _Counts()
    texts = _Texts(encoding, counts)
    with storage.atomic_write(files.tar) as file:
        tar = TarWriter(file)
        for sample in samples:
            try:
                content = sample.image.path.read_bytes()
            except OSError as error:
                path = printable(str(sample.image.path))
                counts.unreadable.append(f"{path} ({error.strerror or error})")
                continue
            record = texts.record(sample, several)
            members = [(sample.image.extension, content)]
            if record["caption"] is not None:
                members.append(("txt", record["caption"].encode()))
            members.append(("json", json.dumps(record, ensure_ascii=False).encode()))
            names = [(f"{sample.key}.{ending}", ending, content) for ending, content in members]
            written.append([(name, tar.add(name, ending, body)) for name, ending, body in names])
            records.append(record)
        tar.close()
    counts.samples = len(records)
    counts.captioned = sum(record["caption"] is not None for record in records)
    storage.write_bytes(files.index, format_idx(written).encode())
    table = _table(records).replace_schema_metadata({_COUNTS: json.dumps(vars(counts))})
    with storage.atomic_write(files.sidecar) as file:
        pq.write_table(table, file)


def _read_counts(sidecar: str) -> _Counts:
    with storage.open_read(sidecar) as file:
        values = json.loads(pq.read_schema(file).metadata[_COUNTS])
    return _Counts(**{**values, "texts_left_out": Counter(values["texts_left_out"])})


class _Texts:
    """Makes the records of samples, and counts the files beside images that give nothing."""

    def __init__(self, encoding: str | None, counts: _Counts):
        self.encoding = encoding
        self.counts = counts
        # Images of one name and several endings share their texts.
        self.left_out: set[Path] = set()

    def record(self, sample: _Sample, several: bool) -> dict[str, Any]:
        """The columns of a sample."""
        fields: dict[str, Any] = {}
        captions = list(sample.captions or ())
        is_table = bool(captions)
        for path in sample.image.beside:
            text = self._read(path)
            if text is None:
                continue
            if ending_of(path.name) == "json":
                fields = self._fields(path, text)
            elif is_table:
                self._leave_out(path, "the table of captions counts more")
            elif captions:
                self._leave_out(path, "there is another caption")
            else:
                captions = [text.rstrip("\r\n")]
        own = fields.pop("caption", None)
        if own is not None and not captions:
            captions = [own if isinstance(own, str) else json.dumps(own, ensure_ascii=False)]
        elif own is not None and own != captions[0]:
            fields = {"caption": own, **fields}
        caption = captions[0] if captions else None
        record: dict[str, Any] = {"key": sample.key, "file": sample.image.name, "caption": caption}
        record |= {"captions": captions} if several else {}
        for name, value in fields.items():
            kept = name
            while kept in _OURS or (kept != name and kept in fields):
                kept = f"original_{kept}"
            record[kept] = value
        return record | dict(sample.fields)

    def _read(self, path: Path) -> str | None:
        try:
            text = decoded(path.read_bytes(), self.encoding)
        except OSError as error:
            text = None
            self._leave_out(path, error.strerror or "unreadable")
        else:
            if text is None:
                self._leave_out(path, f"not {self.encoding or 'UTF-8: give --encoding NAME'}")
        return text

    def _fields(self, path: Path, text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
            if "\\ud" in text.lower():
                # Halves of pairs, which no text can hold.
                value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        self._leave_out(path, "no JSON object")
        return {}

    def _leave_out(self, path: Path, reason: str) -> None:
        if path not in self.left_out:
            self.left_out.add(path)
            self.counts.texts_left_out[f"{ending_of(path.name)} ({reason})"] += 1


def _claim(output: str, settings: Sequence[Any]) -> None:
    """Note what is packed here, so that a stopped run goes on and another is refused."""
    mark = {"fingerprint": hashlib.sha256(repr(settings).encode()).hexdigest()}
    location = storage.join(output, PACKED_MARK)
    if storage.stat(location) is not None and storage.read_bytes(location) == _encoded(mark):
        return
    if storage.find(output, ".tar"):
        raise DatasetError(f"{output} holds shards of other images. Choose an empty folder.")
    storage.write_bytes(location, _encoded(mark))


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _table(records: list[dict[str, Any]]) -> pa.Table:
    """All columns that some record has; captions are text even where there are none."""
    text, texts = pa.string(), pa.list_(pa.field("item", pa.string()))
    kinds = {"key": text, "file": text, "caption": text, "captions": texts}
    names = dict.fromkeys(name for record in records for name in record) or dict.fromkeys(_OURS[:3])
    columns = {name: [record.get(name) for record in records] for name in names}
    return pa.table({name: _column(values, kinds.get(name)) for name, values in columns.items()})


def _column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """An array of values; of objects, and of several types in one column, their JSON."""
    try:
        array = pa.array(values, kind)
        if not pa.types.is_nested(array.type) or kind is not None:
            return array
        if pa.types.is_list(array.type) and not pa.types.is_nested(array.type.value_type):
            return array
    except (pa.ArrowException, OverflowError, TypeError):
        pass
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in values
    ]
    return pa.array(texts, pa.string())
