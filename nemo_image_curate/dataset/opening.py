"""Find the shards and sidecars of a dataset and make one lazy frame of them."""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import pyarrow as pa
from braceexpand import braceexpand

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import _dask
from nemo_image_curate.dataset import other_inputs
from nemo_image_curate.dataset.accounting import Account, why_left_out
from nemo_image_curate.dataset.manifest import MANIFEST, read_manifest
from nemo_image_curate.dataset.schemas import common_schema, read_footers
from nemo_image_curate.dataset.sources import SHARD_COLUMN, MetadataReader, Source, bundle_sizes
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.lookup import Tars
from nemo_image_curate.shards.names import TAR_ENDINGS, UNREAD_ENDINGS, ShardFiles

# What the export writes beside its shards.
EXPORT_MANIFEST = "_export.json"
# What it keeps there until it is finished.
STAGING = "_staging"
# Names of Parquet files, in any case, as a glob pattern.
_ANY_PARQUET = "*." + "".join(f"[{letter}{letter.upper()}]" for letter in "parquet")
# Dask's setting: whether frames that it makes of pandas have texts where these have objects.
_CONVERT_STRING = "dataframe.convert-string"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """The parts that make a dataset."""

    root: str
    frame: Any
    sources: list[Source]
    tar_files: list[str]
    id_col: str
    provenance: dict[str, Any]
    home: str | None
    orphans: list[str]
    unreadable: dict[str, str]
    text_faults: Account


def open_webdataset(
    path: str | os.PathLike[str] | Sequence[str],
    id_col: str | None,
    metadata: str | os.PathLike[str] | None,
    backend: str,
    root: str | None = None,
    skip_unreadable: bool = False,
    image_member: str | None = None,
) -> Opened:
    """Resolve `path` and `metadata` to sources and make the lazy frame of them.

    `root` overrides what shard paths are relative to, for a dataset that is opened again.
    `image_member` is recorded of the column ``shard``; by default as it was saved.
    """
    resolved = frames.resolve_backend(backend)
    # Refused before anything is read.
    Tars("", image_member)
    folder = storage.normalise(metadata) if metadata is not None else None
    if folder is None and isinstance(path, (str, os.PathLike)):
        if problem := other_inputs.command(os.fspath(path)):
            raise problem
        candidate = storage.normalise(path)
        with storage.reaching(candidate):
            # By the name that the user gave, if there is no such kind of place.
            storage.filesystem(candidate)
            is_saved = storage.stat(storage.join(candidate, MANIFEST)) is not None
        if is_saved:
            folder, path = candidate, ""
    orphans: list[str] = []
    if folder is not None and (not path or storage.stat(storage.join(folder, MANIFEST))):
        moved = _root_of(path, None) if path else None
        root, sources, tars, saved_id_col = read_manifest(folder, moved)
        id_col = id_col or saved_id_col
    else:
        root, sources, orphans = _from_tars(path, folder, root)
        tars = [source.tar.location for source in sources if source.tar is not None]
    id_col = id_col or "key"
    for orphan in orphans:
        logger.warning("%s is left out: %s", orphan, why_left_out(orphan))
    all_shards = len(sources)
    sources, schemas, provenance, unreadable, unread_tars, text_faults = read_footers(
        root, sources, id_col
    )
    if (unreadable and not skip_unreadable) or not sources:
        raise DatasetError("\n".join([*unreadable.values(), *unread_tars.values()][:20]))
    if unread_tars:
        logger.warning(
            "%d of %d shards cannot be read and are left out, such as %s",
            *(len(unread_tars), all_shards, next(iter(unread_tars.values()))),
        )
        unreadable |= unread_tars
    _choose_image_member(provenance, image_member)
    from_tars = {source.label for source in sources if source.sidecar is None}
    schema = common_schema(schemas, id_col, from_tars)
    frame = _frame(root, id_col, schema, resolved, sources)
    return Opened(
        *(root, frame, sources, tars, id_col, provenance, folder, orphans, unreadable),
        text_faults=text_faults,
    )


def _choose_image_member(provenance: dict[str, Any], image_member: str | None) -> None:
    """Have the record of the column ``shard`` say which member is a sample's image."""
    if image_member is not None:
        provenance[SHARD_COLUMN] = {"image_member": image_member}
    elif "conflict" in provenance.get(SHARD_COLUMN, {}):
        raise ConfigError(
            "shards of this dataset were saved with different image_member. Say which member of a "
            "sample is its image: image_member='jpg' (--image-member jpg)."
        )


def _frame(
    root: str,
    id_col: str,
    schema: pa.Schema,
    backend: frames.Backend,
    sources: list[Source],
) -> Any:
    from nemo_image_curate.compute import _bundles

    _dask.teach_quantiles()
    reader = MetadataReader(root, id_col, schema, backend)
    meta = frames.from_arrow(schema.empty_table(), backend)
    _keep_lists()
    # Our strings are Arrow strings already; Dask's conversion would only add a task per partition.
    with dask.config.set({_CONVERT_STRING: False}):
        parts = _bundles.Parts(sources, bundle_sizes(sources))
        return _bundles.read_parts(reader, parts, meta, "read-shard")


def _keep_lists() -> None:
    """Have Dask leave the objects of users' pandas tables what they are, unless they said which.

    By default it makes texts of them: of the lists of an embedding, too, when it is merged.
    """
    if dask.config.get(_CONVERT_STRING, None) is None:
        dask.config.set({_CONVERT_STRING: False})


def list_tars(path: str | os.PathLike[str] | Sequence[str]) -> list[storage.FileInfo]:
    """The tars that a folder, glob, brace pattern, URL or list of them names.

    Raises
    ------
    DatasetError
        When there are none, or a named one does not exist.
    """
    patterns = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not patterns:
        raise DatasetError("no shards given: the list is empty.")
    tars: dict[str, storage.FileInfo] = {}
    for given in patterns:
        pattern = os.fspath(given)
        if problem := other_inputs.command(pattern):
            raise problem
        with storage.reaching(pattern):
            for location in _expanded(pattern):
                for info in _tars_of(storage.normalise(location)):
                    tars[info.location] = info
    if not tars:
        folders = [storage.normalise(pattern) for pattern in patterns]
        for folder in folders:
            if storage.stat(storage.join(folder, EXPORT_MANIFEST)):
                raise DatasetError(f"{folder} is an export of no samples: none was wanted.")
        raise other_inputs.no_shards_in(folders, path)
    return list(tars.values())


def _expanded(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise DatasetError(
            f"cannot use {pattern!r}: {error}. A brace pattern is like 'data/{{00000..00099}}.tar'."
        ) from error


def _tars_of(location: str) -> list[storage.FileInfo]:
    if any(mark in location for mark in "*?["):
        return [
            info for info in storage.glob(location) if info.location.lower().endswith(TAR_ENDINGS)
        ]
    # A tar that was unpacked may have left a folder of its name.
    is_folder = storage.is_local(location) and storage.is_dir(location)
    if location.lower().endswith(TAR_ENDINGS) and not is_folder:
        info = storage.stat(location)
        if info is None:
            reached = "" if storage.is_local(location) else " or cannot be reached"
            raise DatasetError(f"shard {location} does not exist{reached}.")
        return [info]
    if not storage.is_dir(location):
        is_there = storage.stat(location) is not None
        raise (other_inputs.no_shard if is_there else other_inputs.nothing_there)(location)
    tars = storage.find(location, TAR_ENDINGS)
    # An export written below its own input is another dataset.
    exports = {storage.parent(info.location) for info in storage.find(location, EXPORT_MANIFEST)}
    return [
        info
        for info in tars
        if storage.parent(info.location) not in exports or storage.parent(info.location) == location
    ]


def _root_of(
    path: str | os.PathLike[str] | Sequence[str], tars: list[storage.FileInfo] | None
) -> str:
    """What shard paths are relative to: the folder given, or the one that holds all tars.

    `tars` are those that `path` names, when they are listed already.
    """
    if isinstance(path, (str, os.PathLike)) and storage.is_dir(storage.normalise(path)):
        # Even when all its tars lie in one subfolder.
        return storage.normalise(path)
    return _common_root([tar.location for tar in tars or list_tars(path)])


def _from_tars(
    path: str | os.PathLike[str] | Sequence[str], sidecar_folder: str | None, root: str | None
) -> tuple[str, list[Source], list[str]]:
    tars = list_tars(path)
    root = root or _root_of(path, tars)
    home = sidecar_folder or root
    sidecars = {info.location: info for info in _sidecars(tars, sidecar_folder)}
    # 00000.PARQUET is one, too.
    in_capitals = {ShardFiles.beside(location).sidecar: sidecars[location] for location in sidecars}
    sources = []
    for tar in tars:
        shard = storage.relative(tar.location, root)
        location = storage.join(home, ShardFiles.beside(shard).sidecar)
        sidecar = sidecars.get(location) or in_capitals.get(location)
        sources.append(Source(shard, sidecar.location if sidecar else location, tar, sidecar))
    owners: dict[str, str | None] = {}
    for source in sources:
        owner = owners.setdefault(source.sidecar_location, source.shard)
        if owner != source.shard:
            raise DatasetError(
                f"shards {owner} and {source.shard} share the sidecar {source.sidecar_location}; "
                "rename one of them."
            )
    missing = [source.sidecar_location for source in sources if source.sidecar is None]
    for location in filter(storage.is_local, missing):
        if storage.is_dir(location):
            raise DatasetError(
                f"{location} is a folder, and a sidecar is one file. Write its files as one: "
                "pyarrow.parquet.write_table(pyarrow.parquet.read_table(FOLDER), FILE), with the "
                "rows of that tar only; or move the folder away."
            )
    if sidecar_folder is not None and missing:
        raise DatasetError(
            f"{sidecar_folder} has no {MANIFEST} and lacks {len(missing)} of {len(sources)} "
            f"sidecars, for example {missing[0]}. If a save_metadata into it was stopped, run the "
            "same job again; what is done already is not computed again."
        )
    _refuse_unfinished(tars)
    expected = {source.sidecar_location for source in sources}
    orphans = [
        location
        for location in sidecars
        if location not in expected and not _has_tar(ShardFiles.beside(location).stem)
    ]
    orphans += _unread(tars)
    return root, sources, orphans if sidecar_folder is None else []


def _refuse_unfinished(tars: list[storage.FileInfo]) -> None:
    """Refuse the tars of an export that was stopped, which look like all of it."""
    for folder in sorted({storage.parent(tar.location) for tar in tars}):
        if folder.startswith(("http://", "https://")):
            continue
        is_export = storage.stat(storage.join(folder, EXPORT_MANIFEST)) is not None
        if is_export and storage.is_dir(storage.join(folder, STAGING)):
            count = sum(storage.parent(tar.location) == folder for tar in tars)
            raise DatasetError(
                f"{folder} holds an export that is not finished; {count} of its shards are there. "
                "Run the same export again: it goes on where it stopped."
            )


def _unread(tars: list[storage.FileInfo]) -> list[str]:
    """Beside the tars, what is called as one that is not complete or packed in other ways."""
    if tars[0].location.startswith(("http://", "https://")):
        return []
    folders = sorted({storage.parent(tar.location) for tar in tars})
    listings = [storage.glob(storage.join(_escape(place), "*.tar.*")) for place in folders]
    names = [info.location for infos in listings for info in infos]
    return [name for name in names if name.lower().endswith(UNREAD_ENDINGS)]


def _has_tar(stem: str) -> bool:
    return any(storage.stat(stem + ending) is not None for ending in TAR_ENDINGS)


def _sidecars(tars: list[storage.FileInfo], folder: str | None) -> list[storage.FileInfo]:
    """The Parquet files below a folder, or beside the tars, tar or no tar of their name."""
    if folder is not None:
        return storage.find(folder, ".parquet")
    if tars[0].location.startswith(("http://", "https://")):
        # Few web servers list their files.
        places = [ShardFiles.beside(tar.location).sidecar for tar in tars]
        return [info for info in storage.concurrently(storage.stat, places) if info is not None]
    folders = sorted({storage.parent(tar.location) for tar in tars})
    listings = [storage.glob(storage.join(_escape(place), _ANY_PARQUET)) for place in folders]
    return [info for infos in listings for info in infos]


def _escape(folder: str) -> str:
    return "".join(f"[{mark}]" if mark in "*?[" else mark for mark in folder)


def _common_root(locations: list[str]) -> str:
    schemes = {location.rpartition("://")[0] for location in locations}
    if len(schemes) > 1:
        raise DatasetError("shards of one dataset must lie on one file system.")
    (scheme,) = schemes
    folders = [storage.parent(location.rpartition("://")[2]) for location in locations]
    # Of several buckets the root is the scheme alone.
    root = posixpath.commonpath(folders)
    return f"{scheme}://{root}" if scheme else root
