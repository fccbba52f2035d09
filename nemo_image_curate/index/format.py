"""The files of a saved index: named by their content, so that one file can tell which belong.

``index.json`` is replaced last. A reader sees the index as it was or as it is, never a mixture,
and files that it has opened stay readable after others have taken their place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError

RECIPE = "index.json"
FORMAT = 1
# What `parts` of an index under way are kept in; gone when it is complete.
PARTS = "parts"
ENDINGS = {"index": "faiss", "rows": "arrow", "vectors": "f16"}
_NAME = re.compile(rf"({'|'.join(ENDINGS)})-[0-9a-f]{{16}}\.({'|'.join(ENDINGS.values())})")
# Larger files are compared by their size alone: a hash takes a second for each 1.5 GB.
_HASHED_BYTES = 256 * 2**20


def local_folder(path: str | os.PathLike[str]) -> str:
    """The folder of an index as an absolute path.

    Raises
    ------
    ConfigError
        When it is not on a local (or mounted) file system.
    """
    folder = storage.normalise(path)
    if not storage.is_local(folder):
        raise ConfigError(
            f"an index cannot be at {folder}: its files are mapped into memory. Give path= a "
            "folder on a local or mounted file system."
        )
    return folder


def read(folder: str) -> dict[str, Any]:
    """What ``index.json`` says: ``recipe``, ``files`` and ``partitions``.

    Raises
    ------
    DatasetError
        When there is no index, or it is damaged or of another version.
    """
    place = os.path.join(folder, RECIPE)
    try:
        saved = json.loads(storage.read_bytes(place))
        written = saved["format"]
        if written == FORMAT:
            _complete(saved)
            return {name: saved[name] for name in ("recipe", "files", "partitions")}
    except (FileNotFoundError, NotADirectoryError) as error:
        unfinished = os.path.isdir(os.path.join(folder, PARTS))
        what = "an index that was not finished" if unfinished else "no index"
        raise DatasetError(f"{folder} holds {what}. Run build_index(dataset).") from error
    except OSError as error:
        raise DatasetError(f"cannot read {place}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{place} is damaged: {error!r}. Build the index again.") from error
    raise DatasetError(
        f"{place} has format {written!r}; this version reads {FORMAT}. Build the index again."
    )


def _complete(saved: Mapping[str, Any]) -> None:
    """Raise `KeyError` or `TypeError` for a description that lacks something."""
    for name in ("kind", "dim", "id_col", "column", "encoder", "options"):
        saved["recipe"][name]
    for name in ("name", "size", "sha256"):
        saved["files"]["rows"][name]
    for partition in saved["partitions"]:
        for name in ("shard", "fingerprint", "changed", "digest", "rows", "indexed"):
            partition[name]


def check(folder: str, files: Mapping[str, Any], whole: bool) -> None:
    """Compare files with what ``index.json`` says of them.

    Parameters
    ----------
    folder : str
    files : mapping
    whole : bool
        Hash all of them, not only those of up to 256 MB.

    Raises
    ------
    FileNotFoundError
        When one is gone: perhaps it was replaced a moment ago.
    DatasetError
        Naming the file that is damaged.
    """
    for record in files.values():
        place = os.path.join(folder, record["name"])
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


def commit(
    folder: str,
    recipe: Mapping[str, Any],
    partitions: list[dict[str, Any]],
    made: Mapping[str, Path],
    kept: Mapping[str, Any],
) -> None:
    """Make finished files the index that is at `folder`, at one stroke.

    Parameters
    ----------
    folder : str
    recipe : mapping
    partitions : list of dict
    made : mapping of role to Path
        On the same file system; they are moved.
    kept : mapping of role to dict
        Records of files that stay.
    """
    files = dict(kept)
    for role, path in made.items():
        digest = _sha256(str(path))
        name = f"{role}-{digest[:16]}.{ENDINGS[role]}"
        files[role] = {"name": name, "size": path.stat().st_size, "sha256": digest}
        os.replace(path, os.path.join(folder, name))
    saved = {"format": FORMAT, "recipe": recipe, "files": files, "partitions": partitions}
    text = json.dumps(saved, indent=1, sort_keys=True, ensure_ascii=False)
    storage.write_bytes(os.path.join(folder, RECIPE), text.encode())
    tidy(folder, files)


def tidy(folder: str, files: Mapping[str, Any]) -> None:
    """Remove what a finished index has no use for, such as what a killed process left."""
    used = {record["name"] for record in files.values()}
    for entry in os.scandir(folder):
        if _NAME.fullmatch(entry.name) and entry.name not in used:
            os.remove(entry.path)
    storage.remove_tree(os.path.join(folder, PARTS))
    storage.remove_temporaries(folder)
