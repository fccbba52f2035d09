"""Pack loose image files into WebDataset shards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.index import IMAGE_EXTENSIONS, format_idx
from nemo_image_curate.shards.names import ShardFiles, sample_key, shard_name
from nemo_image_curate.shards.writer import TarWriter

_FILE_NAMES = ("image", "file", "filename", "file_name", "path")
_MANIFEST = "_pack.json"
_CAPTION_NAMES = ("caption", "text")


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, str]]:
    """The image files that some paths name.

    Parameters
    ----------
    paths : sequence of str or path
        Files are taken whatever they are called; of a folder, all files below it with the
        extension of an image.

    Returns
    -------
    list of (Path, str)
        Each file, and its name relative to the folder it was found in; folders in sorted order.

    Raises
    ------
    DatasetError
        When a path does not exist or there is no image at all.
    """
    files: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file())
            images = [file for file in inside if _suffix(file) in IMAGE_EXTENSIONS]
            files += [(file, file.relative_to(path).as_posix()) for file in sorted(images)]
        elif path.is_file():
            files.append((path, path.name))
        else:
            raise DatasetError(f"{path} does not exist.")
    if not files:
        names = ", ".join(sorted(IMAGE_EXTENSIONS))
        raise DatasetError(f"no images in {', '.join(map(str, paths))} (looked for {names}).")
    return files


def read_captions(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Captions by file name from a CSV file with a header, such as ``image,caption``.

    An image may have several lines, one caption each.

    Raises
    ------
    DatasetError
        Naming the file and the columns it has, when the needed ones are missing.
    """
    captions: dict[str, list[str]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            image = next((name for name in names if name.lower() in _FILE_NAMES), None)
            caption = next((name for name in names if name.lower() in _CAPTION_NAMES), None)
            if image is None or caption is None:
                raise DatasetError(
                    f"{path}: needs a column of file names ({' or '.join(_FILE_NAMES)}) and one of "
                    f"captions ({' or '.join(_CAPTION_NAMES)}); it has: {', '.join(names)}."
                )
            for row in reader:
                captions.setdefault(row[image], []).append(row[caption] or "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a readable CSV file in UTF-8: {error}") from error
    return captions


def pack(
    images: Iterable[tuple[Path, str]],
    output: str | os.PathLike[str],
    captions: Mapping[str, Sequence[str]] | None = None,
    samples_per_shard: int = 10000,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Write shards with an image, a caption and a ``.json`` for each file, and their sidecars.

    Parameters
    ----------
    images : iterable of (Path, str)
        Files, and the names they go by in `captions`, `fields` and the ``file`` column.
    output : str or path
        A folder or URL without shards, or where the same pack was stopped.
    captions : mapping of str to sequence of str, optional
        The first becomes ``caption``; all of them ``captions``, when some image has several.
    samples_per_shard : int
    fields : mapping of str to mapping, optional
        More columns by file name.

    Returns
    -------
    list of str
        The tars written.

    Raises
    ------
    ConfigError, DatasetError
        For unusable arguments, unreadable files, or an output that has shards already.
    """
    if samples_per_shard < 1:
        raise ConfigError(f"samples_per_shard={samples_per_shard} should be a positive integer.")
    output = storage.normalise(output)
    storage.make_dirs(output)
    images, captions, fields = list(images), captions or {}, fields or {}
    _claim(output, images, captions, fields, samples_per_shard)
    bases = Counter(path.name for path, _ in images)
    several = any(len(texts) > 1 for texts in captions.values())
    tars = []
    for number, chunk in enumerate(_chunks(images, samples_per_shard)):
        shard = shard_name(number)
        files = ShardFiles(storage.join(output, shard))
        tars.append(files.tar)
        # The sidecar is written last.
        if storage.stat(files.sidecar) is None:
            samples = []
            for row, (path, name) in enumerate(chunk):
                by_base = captions.get(path.name) if bases[path.name] == 1 else None
                texts = list(captions.get(name) or by_base or ())
                key = sample_key(shard, row, samples_per_shard)
                caption = texts[0] if texts else None
                record = {"key": key, "file": name, "caption": caption}
                record |= {"captions": texts} if several else {}
                samples.append((key, path, caption, {**record, **fields.get(name, {})}))
            _write_shard(files, samples)
    storage.remove_temporaries(output)
    return tars


def _write_shard(
    files: ShardFiles, samples: Sequence[tuple[str, Path, str | None, dict[str, Any]]]
) -> None:
    """The tar of keys, images, captions and records, its index, and its sidecar."""
    written = []
    with storage.atomic_write(files.tar) as file:
        tar = TarWriter(file)
        for key, path, caption, record in samples:
            members = [(_extension(path), _read(path))]
            if caption is not None:
                members.append(("txt", caption.encode()))
            members.append(("json", json.dumps(record, ensure_ascii=False).encode()))
            names = [(f"{key}.{extension}", extension, content) for extension, content in members]
            written.append([(name, tar.add(name, ext, content)) for name, ext, content in names])
        tar.close()
    storage.write_bytes(files.index, format_idx(written).encode())
    with storage.atomic_write(files.sidecar) as file:
        pq.write_table(_table([record for *_, record in samples]), file)


def _claim(output: str, images: Sequence[tuple[Path, str]], *settings: Any) -> None:
    """Note what is packed here, so that a stopped run goes on and another is refused."""
    try:
        stats = [(name, path.stat()) for path, name in images]
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename}: {error.strerror}") from error
    files = [(name, info.st_size, info.st_mtime_ns) for name, info in stats]
    mark = {"fingerprint": hashlib.sha256(repr((files, settings)).encode()).hexdigest()}
    location = storage.join(output, _MANIFEST)
    if storage.stat(location) is not None and storage.read_bytes(location) == _encoded(mark):
        return
    if storage.find(output, ".tar"):
        raise DatasetError(f"{output} holds shards of other images. Choose an empty folder.")
    storage.write_bytes(location, _encoded(mark))


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _suffix(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _extension(path: Path) -> str:
    """What the image is called in the tar; what it is, its bytes tell."""
    suffix = _suffix(path)
    return suffix if suffix in IMAGE_EXTENSIONS else "jpg"


def _table(records: list[dict[str, Any]]) -> pa.Table:
    """All columns that some record has; captions are text even where there are none."""
    text, texts = pa.string(), pa.list_(pa.field("item", pa.string()))
    kinds = {"key": text, "file": text, "caption": text, "captions": texts}
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
