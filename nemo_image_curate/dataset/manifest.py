"""The file that makes a folder of Parquet files a dataset: where the tars are, and which files."""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Iterable
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.dataset.sources import Source
from nemo_image_curate.errors import DatasetError

MANIFEST = "_dataset.json"
# Beside it: what the last command that wrote there was, and what came of it.
RUN_FILE = "_run.json"
_FORMAT = 1

logger = logging.getLogger(__name__)


def read_manifest(folder: str, root: str | None) -> tuple[str, list[Source], list[str], str]:
    """The root, sources, tars and id column that a folder's manifest names.

    Parameters
    ----------
    folder : str
    root : str or None
        Where the tars are now. By default they are looked for where they were, and then where they
        are if a folder above them and the metadata was renamed.

    Raises
    ------
    DatasetError
        When the manifest is missing or damaged, or a file that it names is not there.
    """
    location = storage.join(folder, MANIFEST)
    if storage.stat(location) is None:
        raise unfinished(folder)
    content = storage.read_bytes(location)
    try:
        manifest = storage.parse_json(content)
        written = manifest.get("format")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{location} is damaged: {error}. Run save_metadata again.") from error
    if written != _FORMAT:
        raise DatasetError(f"{location} has format {written!r}; this version reads {_FORMAT}.")
    try:
        shards = list(manifest["shards"])
        root, other_root = (root, None) if root else _find_root(folder, manifest, shards)
        tars = [storage.join(root, shard) for shard in shards]
        files = [
            (entry["shard"], storage.join(folder, entry["file"])) for entry in manifest["files"]
        ]
        id_col = str(manifest["id_col"])
        for shard, _ in files:
            if not isinstance(shard, (str, type(None))):
                raise TypeError(f"the shard {shard!r} is no name")
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{location} is damaged: {error!r}. Run save_metadata again.") from error
    if not files:
        raise DatasetError(f"{location} names no files. Run save_metadata again.")

    def source(entry: tuple[str | None, str]) -> Source:
        shard, target = entry
        sidecar = storage.stat(target)
        if sidecar is None:
            raise DatasetError(f"{target} is listed in {location} but does not exist.")
        tar = storage.stat(storage.join(root, shard)) if shard else None
        if shard and tar is None:
            places = f"{root}, or {other_root}" if other_root else root
            raise DatasetError(
                f"{location} refers to {shard} under {places}, which does not exist. If the tars "
                "were moved: from_webdataset(TAR_FOLDER, metadata=METADATA_FOLDER), and for "
                "commands --tars TAR_FOLDER."
            )
        return Source(shard, target, tar, sidecar)

    return root, list(storage.concurrently(source, files)), tars, id_col


def _find_root(folder: str, manifest: dict[str, Any], shards: list[str]) -> tuple[str, str | None]:
    """Where the tars are; and where else they were looked for, if there are none at all."""
    root = storage.normalise(manifest["root"])
    way = manifest.get("root_from_here")
    if way is None:
        return root, None
    scheme, separator, path = folder.rpartition("://")
    seen_from_here = posixpath.normpath(posixpath.join("/", path, way))
    if not path.startswith("/"):
        seen_from_here = seen_from_here.lstrip("/")
    other_root = scheme + separator + seen_from_here
    if other_root == root or _has_any(shards, root):
        return root, None
    return (other_root, None) if _has_any(shards, other_root) else (root, other_root)


def _has_any(shards: list[str], root: str) -> bool:
    tars = [storage.join(root, shard) for shard in shards]
    return any(info is not None for info in storage.concurrently(storage.stat, tars))


def _way(folder: str, root: str) -> str | None:
    """The relative path from a folder to the tars' root, if both are in the same kind of place."""
    scheme, _, path = folder.rpartition("://")
    root_scheme, _, root_path = storage.normalise(root).rpartition("://")
    if scheme != root_scheme:
        return None
    # Whatever the folder of this process.
    return posixpath.relpath(*("/" + part.lstrip("/") for part in (root_path, path)))


def remove_departed(folder: str, root: str, files: Iterable[dict[str, Any]]) -> None:
    """Remove what the manifest of a folder names of tars that are gone, and tell it.

    Called before the next manifest is written. Files of tars that are there but not in the
    dataset stay: they may be another job's.

    Parameters
    ----------
    folder, root : str
    files : iterable of dict
        What the next manifest will name.
    """
    try:
        listed = storage.parse_json(storage.read_bytes(storage.join(folder, MANIFEST)))["files"]
        before = {str(entry["file"]): str(entry["shard"]) for entry in listed if entry["shard"]}
    except (OSError, DatasetError, ValueError, KeyError, TypeError):
        return
    for entry in files:
        before.pop(entry["file"], None)
    gone: list[str] = []
    left: list[str] = []
    for name, shard in sorted(before.items()):
        is_there = storage.stat(storage.join(root, shard)) is not None
        (left if is_there else gone).append(name)
    for name in gone:
        storage.remove(storage.join(folder, name))
    if gone:
        logger.warning(
            "%s: the tars of %d files are gone, and so are these files with their rows now: %s",
            *(folder, len(gone), _first(gone)),
        )
    if left:
        logger.warning(
            "%s: %d files of shards that are not in this dataset stay, and are no part of what "
            "was saved: %s",
            *(folder, len(left), _first(left)),
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def unfinished(folder: str) -> DatasetError:
    """The error for a folder whose manifest was not written yet."""
    return DatasetError(
        f"{folder} has no {MANIFEST}: the save_metadata that wrote it did not finish. Run the "
        "same job again; what is done already is not computed again."
    )


def write_manifest(
    folder: str, root: str, id_col: str, shards: list[str], files: list[dict[str, Any]]
) -> None:
    """Write the file that makes a folder of Parquet files a dataset; last, when all are there."""
    manifest = {
        "format": _FORMAT,
        "root": root,
        "root_from_here": _way(folder, root),
        "id_col": id_col,
        "shards": shards,
        "files": files,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    storage.write_bytes(storage.join(folder, MANIFEST), text.encode())
