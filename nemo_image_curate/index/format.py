"""The files of a saved index: named by their content, so that one file can tell which belong.

``index.json`` is replaced last. A reader sees the index as it was or as it is, never a mixture,
and files that it has opened stay readable after others have taken their place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError, NotFoundError
from nemo_image_curate.index.rows import RowTable

DESCRIPTION = "index.json"
FORMAT = 1
WHY_LOCAL = "an index's files are mapped into memory"
# What the partitions are staged in while an index is made; gone when it is complete.
STAGING = "parts"
ENDINGS = {"index": "faiss", "rows": "arrow", "vectors": "f16"}
_NAME = re.compile(rf"({'|'.join(ENDINGS)})-[0-9a-f]{{16}}\.({'|'.join(ENDINGS.values())})")
# Larger files are compared by their size alone: a hash takes a second for each 1.5 GB.
_HASHED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Mark:
    """What is known of a partition without reading it.

    Attributes
    ----------
    shard : str
    fingerprint : str
        Of its inputs and all that is done to them.
    changed : float
        When the newest of its inputs was written.
    """

    shard: str
    fingerprint: str
    changed: float

    @property
    def identity(self) -> tuple[str, float]:
        """What tells it from others: a sidecar may change and look the same."""
        return self.fingerprint, self.changed


@dataclass(frozen=True)
class Partition(Mark):
    """A partition of the dataset that an index was made of.

    Attributes
    ----------
    digest : str
        A hash of all keys, shards and embeddings.
    rows, indexed : int
        How many there are, and how many of them have an embedding with a direction.
    """

    digest: str
    rows: int
    indexed: int


_PARTITION_FIELDS = tuple(field.name for field in fields(Partition))
_NUMBER, _NONE = (int, float), type(None)
# What must be there of each part of a description, and of which types.
_RECIPE_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("kind", "factory", "id_col", "column"), (str,)),
    **dict.fromkeys(("dim", "count", "lists", "left_out", "trained_on"), (int,)),
    **dict.fromkeys(("options", "provenance", "bytes"), (dict,)),
    "encoder": (str, _NONE),
    "recall": _NUMBER,
}
# Of indexes with lists only.
_LIST_TYPES: dict[str, tuple[type, ...]] = dict.fromkeys(("width", "nprobe", "candidates"), (int,))
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "rerank": (bool,),
    "target_recall": _NUMBER,
    "max_memory": (int, _NONE),
}
_FILE_TYPES: dict[str, tuple[type, ...]] = {"name": (str,), "size": (int,), "sha256": (str,)}
_PARTITION_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("shard", "fingerprint", "digest"), (str,)),
    "changed": _NUMBER,
    "rows": (int,),
    "indexed": (int,),
}


@dataclass(frozen=True)
class SavedIndex:
    """What ``index.json`` says.

    Attributes
    ----------
    folder : str
    recipe : dict
        See `VectorIndex`.
    files : dict of role to dict
        The ``name``, ``size`` and ``sha256`` of each file.
    partitions : list of Partition
        In the order of the rows.
    """

    folder: str
    recipe: dict[str, Any]
    files: dict[str, dict[str, Any]]
    partitions: list[Partition]

    @property
    def paths(self) -> dict[str, Path]:
        """Where the file of each role is."""
        return {role: Path(self.folder, record["name"]) for role, record in self.files.items()}

    def open_rows(self) -> RowTable:
        """The table of its rows."""
        return RowTable(self.paths["rows"], self.recipe["id_col"])


def read(folder: str) -> SavedIndex:
    """What ``index.json`` says.

    Raises
    ------
    DatasetError
        When there is no index, or it is damaged or of another version.
    """
    place = os.path.join(folder, DESCRIPTION)
    try:
        text = storage.read_bytes(place)
    except NotFoundError as error:
        unfinished = os.path.isdir(os.path.join(folder, STAGING))
        state = "an index that was not finished" if unfinished else "no index"
        raise DatasetError(f"{folder} holds {state}. Run build_index(dataset).") from error
    try:
        content = storage.parse_json(text)
        version = content["format"]
        if version == FORMAT:
            return _parsed(folder, content)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{place} is damaged: {error!r}. Build the index again.") from error
    raise DatasetError(
        f"{place} has format {version!r}; this version reads {FORMAT}. Build the index again."
    )


def _parsed(folder: str, content: Mapping[str, Any]) -> SavedIndex:
    """Raises `KeyError` or `TypeError` for a description that lacks something."""
    recipe, files = content["recipe"], content["files"]
    _check_types("recipe", recipe, _RECIPE_TYPES)
    of_lists = {name: types for name, types in _LIST_TYPES.items() if name in recipe}
    _check_types("recipe", recipe, of_lists, least=1)
    _check_types("options", recipe["options"], _OPTION_TYPES)
    _check_types("files", files, {"rows": (dict,)})
    for role, record in files.items():
        _check_types(role, record, _FILE_TYPES)
        # It is joined to the folder.
        if not _NAME.fullmatch(record["name"]):
            raise TypeError(f"the name of {role} is {record['name']!r}")
    for partition in content["partitions"]:
        _check_types("a partition", partition, _PARTITION_TYPES)
    partitions = [
        Partition(**{name: partition[name] for name in _PARTITION_FIELDS})
        for partition in content["partitions"]
    ]
    return SavedIndex(folder, recipe, files, partitions)


def _check_types(
    part: str, record: Any, types: Mapping[str, tuple[type, ...]], least: int = 0
) -> None:
    """Raises `KeyError` for an entry that is not there, `TypeError` for one of another type."""
    if not isinstance(record, dict):
        raise TypeError(f"{part} is no object")
    for name, allowed in types.items():
        value = record[name]
        # True is an int to isinstance.
        if type(value) not in allowed or (type(value) is int and value < least):
            raise TypeError(f"{name} of {part} is {reprlib.repr(value)}")


def check(saved: SavedIndex, whole: bool) -> None:
    """Compare files with what ``index.json`` says of them.

    Parameters
    ----------
    saved : SavedIndex
    whole : bool
        Hash all of them, not only those of up to 256 MB.

    Raises
    ------
    FileNotFoundError
        When one is gone: perhaps it was replaced a moment ago.
    DatasetError
        Naming the file that is damaged.
    """
    for record in saved.files.values():
        place = os.path.join(saved.folder, record["name"])
        size = os.stat(place).st_size
        if size != record["size"]:
            raise DatasetError(
                f"{place} is damaged: it has {size:,} bytes, not {record['size']:,}. Build the "
                "index again."
            )
        if (whole or size <= _HASHED_BYTES) and _sha256(place) != record["sha256"]:
            raise DatasetError(f"{place} is damaged: its hash differs. Build the index again.")


def _sha256(place: str) -> str:
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit(saved: SavedIndex, new_files: Mapping[str, Path]) -> None:
    """Make finished files the index of a folder, at one stroke.

    Parameters
    ----------
    saved : SavedIndex
        Its `files` are those that stay, if no new one has their role.
    new_files : mapping of role to Path
        On the same file system; they are moved.
    """
    files = dict(saved.files)
    for role, path in new_files.items():
        digest = _sha256(str(path))
        name = f"{role}-{digest[:16]}.{ENDINGS[role]}"
        files[role] = {"name": name, "size": path.stat().st_size, "sha256": digest}
        os.replace(path, os.path.join(saved.folder, name))
    content = {
        "format": FORMAT,
        "recipe": saved.recipe,
        "files": files,
        "partitions": [
            {name: getattr(partition, name) for name in _PARTITION_FIELDS}
            for partition in saved.partitions
        ],
    }
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    storage.write_bytes(os.path.join(saved.folder, DESCRIPTION), text.encode())
    tidy(replace(saved, files=files))


def tidy(saved: SavedIndex) -> None:
    """Remove what a finished index has no use for, such as what a killed process left."""
    used = {record["name"] for record in saved.files.values()}
    for entry in os.scandir(saved.folder):
        if _NAME.fullmatch(entry.name) and entry.name not in used:
            os.remove(entry.path)
    storage.remove_tree(os.path.join(saved.folder, STAGING))
    storage.remove_temporaries(saved.folder)
