"""What is given for a dataset and is none: what it is, and what makes shards of it."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage
from nemo_image_curate.dataset.manifest import unfinished
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.index import IMAGE_EXTENSIONS
from nemo_image_curate.shards.names import ShardFiles
from nemo_image_curate.shards.parquet_images import holds_images
from nemo_image_curate.shards.sidecars import RECORD_KEY
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES, image_ending

_URL_NAMES = ("url", "image_url", "img_url", "image_link", "link", "uri")
_CAPTION_NAMES = ("caption", "text", "alt", "alt_text", "title", "description")
# Files that may be images without saying so: as many are looked at.
_LOOKED_AT = 20
# Other containers by the ends of their names, and how images come out of them.
_CONTAINERS = {
    "tfrecord": "TFRecords: write each record's image to a file (tf.data.TFRecordDataset)",
    "tfrecords": "TFRecords: write each record's image to a file (tf.data.TFRecordDataset)",
    "lance": "a Lance dataset: write each row's image to a file (lance.dataset(...).to_batches())",
    "arrow": "a dataset saved by Hugging Face datasets: write its images to files "
    "(datasets.load_from_disk(...), then row['image'].save(...))",
    "zip": "ZIP archives: unzip them",
    "7z": "7z archives: unpack them",
    "rar": "RAR archives: unpack them",
    "h5": "HDF5 files: write each image to a file",
    "hdf5": "HDF5 files: write each image to a file",
    "npz": "NumPy arrays: write each image to a file",
    "npy": "NumPy arrays: write each image to a file",
    "lmdb": "an LMDB database: write each value to a file",
    "mdb": "an LMDB database: write each value to a file",
    "beton": "an FFCV file: write each image to a file",
    "mds": "MosaicML shards: write each sample's image to a file",
}
_TABLES = ("csv", "tsv", "jsonl", "ndjson", "json", "txt")


def nothing_there(location: str) -> DatasetError:
    """The error for a place where nothing is."""
    hint = ""
    if storage.is_local(location):
        # The first part of the path that is missing is what was misspelt.
        parent, name = os.path.split(location)
        while parent != "/" and not os.path.isdir(parent):
            parent, name = os.path.split(parent)
        try:
            names = os.listdir(parent)
        except OSError:
            names = []
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        hint = f" Did you mean {os.path.join(parent, close[0])}?" if close else ""
    elif location.startswith("s3://"):
        hint = f" Check the bucket, the path, and the endpoint ({storage.endpoint()})."
    return DatasetError(
        f"{location} does not exist (or is neither a folder nor a .tar file).{hint}"
    )


def no_shard(location: str) -> DatasetError:
    """The error for a file that is none."""
    ending = _ending(location)
    if ending == "parquet":
        tar = ShardFiles.beside(location).tar
        if storage.stat(tar) is None and (problem := _parquet(location, [location])):
            return problem
        return DatasetError(
            f"{location} is one Parquet file, neither a folder nor a .tar file. Give the folder of "
            "the .tar shards: 00000.parquet has the columns of 00000.tar beside it."
        )
    if ending in _CONTAINERS:
        return _container(location, ending)
    if _is_image(location):
        return DatasetError(
            f"{location} is an image, neither a folder nor a .tar file. {_to_pack(location)}"
        )
    if ending in _TABLES:
        return _table(location, ending)
    return DatasetError(
        f"{location} is neither a folder nor a .tar file. Give a folder of .tar shards."
    )


def no_shards_in(folders: Sequence[str], path: object) -> DatasetError:
    """The error for folders, or a pattern, that hold no shards."""
    for folder in folders:
        if storage.is_dir(folder) and (problem := _of_folder(folder)):
            return problem
    return DatasetError(
        f"no .tar shards under {path}. Give the folder, a glob such as 'data/*.tar', a brace "
        "pattern such as 'data/{00000..00099}.tar', a list or a URL; loose images become "
        "shards with: nemo-image-curate pack IMAGES --output DIR"
    )


def command(pattern: str) -> DatasetError | None:
    """The error for webdataset's way to read from a command; None for anything else."""
    if not pattern.startswith("pipe:"):
        return None
    url = re.search(r"[a-z0-9]+://[^\s'\"]+", pattern)
    instead = f"Give the URL itself: {url[0]}" if url else "Give the file that it prints"
    return DatasetError(f"{pattern!r} is a command, and commands are not run. {instead}")


def _of_folder(folder: str) -> DatasetError | None:
    files = [
        info.location
        for info in storage.find(folder, "")
        if not _is_hidden(storage.relative(info.location, folder))
    ]
    endings = Counter(map(_ending, files))
    if folder.lower().endswith(".lance") or any(".lance/" in file for file in files):
        return _container(folder, "lance")
    parquets = [file for file in files if _ending(file) == "parquet"]
    if parquets and (problem := _parquet(folder, parquets)):
        return problem
    images = [file for file in files if _ending(file) in IMAGE_EXTENSIONS]
    if images or any(map(_is_image, files[:_LOOKED_AT])):
        texts = endings["txt"] + endings["json"]
        kind = "image files with their texts (img2dataset's files)" if texts else "image files"
        return DatasetError(
            f"no .tar shards under {folder}: it holds {kind}, {len(images):,} of "
            f"{len(files):,}. {_to_pack(folder)}"
        )
    for ending, _ in endings.most_common():
        if ending in _CONTAINERS:
            return _container(folder, ending)
    if parquets:
        # What is known of the columns was said above: neither URLs nor images.
        return DatasetError(
            f"{folder} holds Parquet files, and no .tar shards that they describe. Give the folder "
            "of the tars, and this one as metadata=."
        )
    for ending, _ in endings.most_common():
        if ending in _TABLES:
            return _table(folder, ending)
    return None


def _parquet(place: str, files: Sequence[str]) -> DatasetError | None:
    """What Parquet files are of that no tar is beside; None where their columns do not tell."""
    for file in files:
        try:
            with storage.open_read(file) as opened:
                schema = pq.read_schema(opened)
            break
        except (pa.ArrowException, OSError, ValueError):
            continue
    else:
        return DatasetError(f"{files[0]} is no readable Parquet file, and no .tar is beside it.")
    if RECORD_KEY in (schema.metadata or {}):
        return unfinished(storage.parent(file) if place == file else place)
    for field in schema:
        if holds_images(field):
            return _images_in(place, field)
    url = _named(schema, _URL_NAMES)
    if url is None:
        return None
    problem = _urls(place, "parquet", url, _named(schema, _CAPTION_NAMES))
    if "key" in schema.names:
        return DatasetError(
            f"{problem} (or, if these files describe tars that are elsewhere, give the folder of "
            "the tars, and this one as metadata=)"
        )
    return problem


def _named(schema: pa.Schema, names: Sequence[str]) -> str | None:
    lower = {field.name.lower(): field.name for field in reversed(schema)}
    return next((lower[name] for name in names if name in lower), None)


def _urls(place: str, form: str, url: str | None, caption: str | None) -> DatasetError:
    columns = f" --url_col {shlex.quote(url)}" if url else ""
    columns += f" --caption_col {shlex.quote(caption)}" if caption else ""
    return DatasetError(
        f"{place} holds image URLs, not images. Download them first: img2dataset --url_list "
        f"{shlex.quote(place)} --input_format {form}{columns} --output_format webdataset "
        "--output_folder shards"
    )


def _images_in(place: str, field: pa.Field) -> DatasetError:
    return DatasetError(
        f"{place} holds images in the Parquet column {field.name!r}, not shards. {_to_pack(place)}"
    )


def _container(place: str, ending: str) -> DatasetError:
    kind, _, remedy = _CONTAINERS[ending].partition(": ")
    return DatasetError(
        f"{place} holds {kind}, which are not read here. To use it, {remedy}, then: "
        "nemo-image-curate pack FILES"
    )


def _table(place: str, ending: str) -> DatasetError:
    try:
        file = place if not storage.is_dir(place) else storage.find(place, f".{ending}")[0].location
        with storage.open_read(file) as opened:
            head = opened.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        head = ""
    if re.search(r"https?://", head):
        form = {"ndjson": "jsonl"}.get(ending, ending)
        names = re.findall(r"[^\s,\t\"{}:\[\]]+", head.split("\n", 1)[0])
        lower = {name.lower(): name for name in reversed(names)}
        url, caption = (
            next((lower[name] for name in known if name in lower), None)
            for known in (_URL_NAMES, _CAPTION_NAMES)
        )
        return _urls(place, form, url, caption)
    return DatasetError(
        f"{place} holds tables or texts ({ending}), not shards of images. Give a folder of .tar "
        "shards; captions of loose images: nemo-image-curate pack IMAGES --captions CSV "
        "--output DIR"
    )


def _to_pack(place: str) -> str:
    output = f"{place.rstrip('/')}-shards" if storage.is_dir(place) else "shards"
    return (
        f"Make shards of them: nemo-image-curate pack {shlex.quote(place)} --output "
        f"{shlex.quote(output)}"
    )


def _is_image(location: str) -> bool:
    try:
        with storage.open_read(location) as file:
            return image_ending(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _ending(location: str) -> str:
    name = location.rpartition("/")[2].lower()
    # TFRecords are often called train.tfrecord-00000-of-00010.
    last = name.rpartition(".")[2] if "." in name else ""
    return last.split("-")[0]
