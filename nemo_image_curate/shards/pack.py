"""Pack loose image files into WebDataset shards."""

from __future__ import annotations

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

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.captions import (
    Matches,
    check_encoding,
    decoded,
    match_names,
    read_captions,
)
from nemo_image_curate.shards.columns import WHOLE_NUMBER
from nemo_image_curate.shards.loose import (
    SHOWN,
    LooseFiles,
    LooseImage,
    ending_of,
    find_images,
    printable,
)
from nemo_image_curate.shards.names import ShardFiles, sample_key
from nemo_image_curate.shards.packed_shards import (
    Counts,
    Row,
    claim,
    renamed,
    write_shard,
    write_shards,
)

__all__ = ["PackSummary", "find_images", "pack", "read_captions"]

# What decodes formats that Pillow does not know, and the extra that brings it.
_DECODERS = {"heic": ("pillow_heif", "heif"), "jxl": ("pillow_jxl", "jxl")}

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
        Names that the captions have, and those of them that name no image or more than one; rows
        of Parquet files, and those without the bytes of an image.
    images_without_row : int
        Images that no row names, when captions were given.
    left_out : dict of str to int
        Files by kind.
    unreadable : int
    columns_left_out : list of str
        Of Parquet files: those that hold bytes, but not of the images.
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
    columns_left_out: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The counts, of tars as ``shards``."""
        record = asdict(self)
        record["shards"] = len(record.pop("tars"))
        return record


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
        raise DatasetError(f"there are no images to pack. {told_unreadable(unreadable)}")
    is_captioned = captions is not None
    captions, fields = captions or {}, fields or {}
    matches = match_names(packed, captions)
    if is_captioned:
        _tell_matches(packed, captions, matches)
    claim(output, [states, captions, fields, samples_per_shard, encoding])

    several = any(len(texts) > 1 for texts in captions.values())

    def write(start: int, shard: str, paths: ShardFiles) -> None:
        entries = [
            _Sample(
                sample_key(shard, row, samples_per_shard),
                image,
                matches.captions.get(start + row),
                fields.get(image.name, {}),
            )
            for row, image in enumerate(packed[start : start + samples_per_shard])
        ]
        _write_shard(paths, entries, several, encoding)

    tars, counts = write_shards(output, len(packed), samples_per_shard, write)
    unreadable += files.unreadable + [problem for count in counts for problem in count.unreadable]
    texts_left_out = sum((count.texts_left_out for count in counts), Counter[str]())
    samples = sum(count.samples for count in counts)
    if not samples:
        raise DatasetError(f"no image could be read. {told_unreadable(unreadable)}")
    unmatched = matches.unmatched + matches.ambiguous
    summary = PackSummary(
        tars=tars,
        samples=samples,
        captioned=sum(count.captioned for count in counts),
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


def told_unreadable(unreadable: Sequence[str]) -> str:
    """What could not be read, in words; empty when all could."""
    if not unreadable:
        return ""
    more = f" and {len(unreadable) - SHOWN:,} more" if len(unreadable) > SHOWN else ""
    return f"Unreadable: {'; '.join(unreadable[:SHOWN])}{more}."


def _tell(packed: Sequence[LooseImage], unreadable: Sequence[str]) -> None:
    if unreadable:
        logger.warning("%s", told_unreadable(unreadable))
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
    message = f"captions: {lost_rows:,} of {rows:,} rows go to no image"
    message += f": {'; '.join(problems)}" if problems else ""
    if without:
        message += f". {len(without):,} of {len(packed):,} images have no row: {_first(without)}"
    if lost and not matches.captions:
        raise DatasetError(f"{message}. Nothing was packed.")
    if lost or without:
        logger.warning("%s", message)


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
    counts = Counts()
    texts = _Texts(encoding, counts)

    def rows() -> Iterator[Row]:
        for sample in samples:
            try:
                content = sample.image.path.read_bytes()
            except OSError as error:
                path = printable(str(sample.image.path))
                counts.unreadable.append(f"{path} ({error.strerror or error})")
                continue
            yield Row(sample.image.extension, content, texts.record(sample, several))

    write_shard(files, rows(), counts)


class _Texts:
    """Makes the records of samples, and counts the files beside images that give nothing."""

    def __init__(self, encoding: str | None, counts: Counts):
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
            elif ending_of(path.name) == "cls":
                label = text.strip()
                fields["cls"] = int(label) if WHOLE_NUMBER.fullmatch(label) else label
            elif is_table:
                self._leave_out(path, "the table of captions counts more")
            elif captions:
                self._leave_out(path, "there is another caption")
            else:
                captions = [text.rstrip("\r\n")]
        json_caption = fields.pop("caption", None)
        if json_caption is not None and not captions:
            captions = [
                json_caption
                if isinstance(json_caption, str)
                else json.dumps(json_caption, ensure_ascii=False)
            ]
        elif json_caption is not None and json_caption != captions[0]:
            fields = {"caption": json_caption, **fields}
        caption = captions[0] if captions else None
        record: dict[str, Any] = {"key": sample.key, "file": sample.image.name, "caption": caption}
        record |= {"captions": captions} if several else {}
        return record | renamed(fields) | dict(sample.fields)

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
