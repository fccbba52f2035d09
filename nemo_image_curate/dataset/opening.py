"""Find the shards and sidecars of a dataset and make one lazy frame of them."""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nemo_image_curate import frames, storage
from nemo_image_curate.errors import ColumnNotFoundError, DatasetError, SchemaError
from nemo_image_curate.shards import columns
from nemo_image_curate.shards.reader import TarShard, stem

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SHARD_COLUMN = "shard"
# Names the tars, the id column and the Parquet files of a folder that holds metadata only.
MANIFEST = "_dataset.json"
_FORMAT = 1
# Footers are small and latency-bound, above all on object stores.
_FOOTER_THREADS = 32


@dataclass(frozen=True)
class Source:
    """Where one partition's rows come from.

    Attributes
    ----------
    shard : str or None
        The tar, relative to the dataset's root; None for a Parquet file with rows of many shards.
    sidecar_location : str
        Where the Parquet file is, or would be.
    tar, sidecar : FileInfo or None
    digest : str
        Digest of the sidecar's footer; empty without one.
    fingerprint, origin : str
        What an earlier save recorded in the sidecar: which work made it, and from which sidecar.
    """

    shard: str | None
    sidecar_location: str
    tar: storage.FileInfo | None
    sidecar: storage.FileInfo | None = None
    digest: str = ""
    fingerprint: str = ""
    origin: str | None = None

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.shard, self.tar, self.sidecar, self.digest)

    @property
    def label(self) -> str:
        """The name to show to people."""
        return self.shard or self.sidecar_location

    def identity(self, in_place: bool) -> tuple[str | None, int | None, str]:
        """What a fingerprint knows of the input: neither its place nor its time.

        In a save in place the sidecar is input and output at once: there, what counts is the
        sidecar that the first save started from.
        """
        original = self.origin if in_place and self.origin is not None else self.digest
        return (self.shard, self.tar.size if self.tar else None, original)


class MetadataReader:
    """Reads one source as a frame; the leaf of every dataset's Dask graph.

    Parameters
    ----------
    root : str
        What shard paths are relative to.
    id_col : str
    schema : pyarrow.Schema
        The schema of all partitions, `id_col` and ``shard`` included.
    backend : {"cpu", "gpu"}
    """

    def __init__(self, root: str, id_col: str, schema: pa.Schema, backend: frames.Backend):
        self.root = root
        self.id_col = id_col
        self.schema = schema
        self.backend = backend

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("MetadataReader", self.root, self.id_col, str(self.schema), self.backend)

    def __call__(self, source: Source, columns: Sequence[str] | None = None) -> Any:
        table = self.read(source, columns)
        return frames.from_arrow(table, self.backend)

    def read(self, source: Source, wanted: Sequence[str] | None = None) -> pa.Table:
        """Read (some columns of) one source as an Arrow table of the common schema."""
        import pyarrow as pa

        names = self.schema.names if wanted is None else list(wanted)
        schema = pa.schema([self.schema.field(name) for name in names])
        if source.sidecar is not None:
            # The id column is read even when only `shard` is wanted: it gives the number of rows.
            table = columns.read_sidecar(source.sidecar_location, [*names, self.id_col])
        else:
            with TarShard(storage.join(self.root, source.shard or "")) as shard:
                table = columns.tar_columns(shard, self.id_col, self.schema)
        if source.shard is not None and SHARD_COLUMN in names:
            if SHARD_COLUMN in table.column_names:
                table = table.drop_columns(SHARD_COLUMN)
            shards = pa.array([source.shard] * len(table), pa.string())
            table = table.append_column(SHARD_COLUMN, shards)
        return columns.conform(table, schema)


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


def open_webdataset(
    path: str | os.PathLike[str] | Sequence[str],
    id_col: str | None,
    metadata: str | os.PathLike[str] | None,
    backend: str,
    root: str | None = None,
) -> Opened:
    """Resolve `path` and `metadata` to sources and make the lazy frame of them.

    `root` overrides what shard paths are relative to, for a dataset that is opened again.
    """
    resolved = frames.resolve_backend(backend)
    folder = storage.normalise(metadata) if metadata is not None else None
    if folder is None and isinstance(path, (str, os.PathLike)):
        candidate = storage.normalise(path)
        if storage.stat(storage.join(candidate, MANIFEST)) is not None:
            folder, path = candidate, ""
    orphans: list[str] = []
    if folder is not None and (not path or storage.stat(storage.join(folder, MANIFEST))):
        root, sources, tars, saved_id_col = _from_manifest(folder, path)
        id_col = id_col or saved_id_col
    else:
        root, sources, orphans = _from_tars(path, folder, root)
        tars = [source.tar.location for source in sources if source.tar is not None]
    id_col = id_col or "key"
    for orphan in orphans:
        logger.warning("%s has no tar beside it and is left out", orphan)
    sources, schemas, provenance = _footers(root, sources, id_col)
    from_tars = {source.label for source in sources if source.sidecar is None}
    schema = _common_schema(schemas, id_col, from_tars)
    frame = _frame(root, id_col, schema, resolved, sources)
    return Opened(root, frame, sources, tars, id_col, provenance, folder, orphans)


def _frame(
    root: str,
    id_col: str,
    schema: pa.Schema,
    backend: frames.Backend,
    sources: list[Source],
) -> Any:
    import dask
    import dask.dataframe as dd

    reader = MetadataReader(root, id_col, schema, backend)
    meta = frames.from_arrow(schema.empty_table(), backend)
    # Our strings are Arrow strings already; Dask's conversion would only add a task per partition.
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(reader, sources, meta=meta, label="read-shard")


def list_tars(path: str | os.PathLike[str] | Sequence[str]) -> list[storage.FileInfo]:
    """The tars that a folder, glob, brace pattern, URL or list of them names.

    Raises
    ------
    DatasetError
        When there are none, or a named one does not exist.
    """
    from braceexpand import braceexpand

    patterns = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not patterns:
        raise DatasetError("no shards given: the list is empty.")
    found: dict[str, storage.FileInfo] = {}
    for pattern in patterns:
        for one in braceexpand(os.fspath(pattern)):
            for info in _tars_of(storage.normalise(one)):
                found[info.location] = info
    if not found:
        for folder in map(storage.normalise, patterns):
            if storage.is_dir(folder) and storage.find(folder, ".parquet"):
                raise _unfinished(folder)
        raise DatasetError(
            f"no .tar shards under {path}. Give the folder, a glob such as 'data/*.tar', a brace "
            "pattern such as 'data/{00000..00099}.tar', a list or a URL; loose images become "
            "shards with: nemo-image-curate pack IMAGES --output DIR"
        )
    return list(found.values())


def _tars_of(location: str) -> list[storage.FileInfo]:
    if any(mark in location for mark in "*?["):
        return [info for info in storage.glob(location) if info.location.lower().endswith(".tar")]
    if location.lower().endswith(".tar"):
        info = storage.stat(location)
        if info is None:
            raise DatasetError(f"shard {location} does not exist.")
        return [info]
    if not storage.is_dir(location):
        raise DatasetError(f"{location} does not exist (or is neither a folder nor a .tar file).")
    return storage.find(location, ".tar")


def _from_tars(
    path: str | os.PathLike[str] | Sequence[str], sidecar_folder: str | None, root: str | None
) -> tuple[str, list[Source], list[str]]:
    tars = list_tars(path)
    if (
        root is None
        and isinstance(path, (str, os.PathLike))
        and storage.is_dir(storage.normalise(path))
    ):
        # A folder stays the root even when all its tars lie in one subfolder.
        root = storage.normalise(path)
    root = root or _common_root([tar.location for tar in tars])
    home = sidecar_folder or root
    if sidecar_folder is None:
        folders = sorted({storage.parent(tar.location) for tar in tars})
        found = [storage.glob(storage.join(_escape(one), "*.parquet")) for one in folders]
        sidecars = {info.location: info for infos in found for info in infos}
    else:
        sidecars = {info.location: info for info in storage.find(sidecar_folder, ".parquet")}
    sources = []
    for tar in tars:
        shard = tar.location[len(root) + 1 :]
        location = storage.join(home, stem(shard) + ".parquet")
        sources.append(Source(shard, location, tar, sidecars.get(location)))
    missing = [one.sidecar_location for one in sources if one.sidecar is None]
    if sidecar_folder is not None and missing:
        raise DatasetError(
            f"{sidecar_folder} has no {MANIFEST} and lacks {len(missing)} of {len(sources)} "
            f"sidecars, for example {missing[0]}. If a save_metadata into it was stopped, run the "
            "same job again; what is done already is not computed again."
        )
    wanted = {one.sidecar_location for one in sources}
    orphans = [
        one for one in sidecars if one not in wanted and storage.stat(stem_of(one) + ".tar") is None
    ]
    return root, sources, orphans if sidecar_folder is None else []


def stem_of(sidecar_location: str) -> str:
    """A sidecar's location without ``.parquet``."""
    return sidecar_location[: -len(".parquet")]


def _escape(folder: str) -> str:
    return "".join(f"[{mark}]" if mark in "*?[" else mark for mark in folder)


def _common_root(locations: list[str]) -> str:
    root = posixpath.commonpath([storage.parent(location) for location in locations])
    if "://" in locations[0]:
        # commonpath folds the double slash of a URL's scheme.
        scheme = locations[0].split("://")[0]
        if any(not location.startswith(scheme + "://") for location in locations):
            raise DatasetError("shards of one dataset must lie on one file system.")
        root = root.replace(f"{scheme}:/", f"{scheme}://", 1)
    return root


def _from_manifest(
    folder: str, path: str | os.PathLike[str] | Sequence[str]
) -> tuple[str, list[Source], list[str], str]:
    location = storage.join(folder, MANIFEST)
    if storage.stat(location) is None:
        raise _unfinished(folder)
    try:
        manifest = json.loads(storage.read_bytes(location))
        written = manifest.get("format")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{location} is damaged: {error}. Run save_metadata again.") from error
    if written != _FORMAT:
        raise DatasetError(f"{location} has format {written!r}; this version reads {_FORMAT}.")
    if path:
        given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        single = len(given) == 1 and storage.is_dir(storage.normalise(given[0]))
        root = (
            storage.normalise(given[0])
            if single
            else _common_root([tar.location for tar in list_tars(path)])
        )
    else:
        root = storage.normalise(manifest["root"])

    def source(entry: dict[str, Any]) -> Source:
        shard, target = entry["shard"], storage.join(folder, entry["file"])
        sidecar = storage.stat(target)
        if sidecar is None:
            raise DatasetError(f"{target} is listed in {location} but does not exist.")
        tar = storage.stat(storage.join(root, shard)) if shard else None
        if shard and tar is None:
            raise DatasetError(
                f"{location} refers to {shard} under {root}, which does not exist. If the tars "
                "were moved: from_webdataset(TAR_FOLDER, metadata=METADATA_FOLDER)."
            )
        return Source(shard, target, tar, sidecar)

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        sources = list(pool.map(source, manifest["files"]))
    tars = [storage.join(root, shard) for shard in manifest["shards"]]
    return root, sources, tars, manifest["id_col"]


def _unfinished(folder: str) -> DatasetError:
    return DatasetError(
        f"{folder} has no {MANIFEST}: the save_metadata that wrote it did not finish. Run the "
        "same job again; what is done already is not computed again."
    )


def write_manifest(
    folder: str, root: str, id_col: str, shards: list[str], files: list[dict[str, Any]]
) -> None:
    """Write the file that makes a folder of Parquet files a dataset; last, when all are there."""
    manifest = {"format": _FORMAT, "root": root, "id_col": id_col, "shards": shards, "files": files}
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    storage.write_bytes(storage.join(folder, MANIFEST), text.encode())


def _common_schema(
    schemas: list[tuple[str, pa.Schema]], id_col: str, from_tars: set[str]
) -> pa.Schema:
    """The schema of the frame: id column and ``shard`` first, then the rest as they appear."""
    import pyarrow as pa

    for label, schema in schemas:
        if id_col not in schema.names:
            raise DatasetError(
                f"{label}: {ColumnNotFoundError(id_col, schema.names)}. "
                "Name the column that holds the sample keys with id_col=."
            )
        if not pa.types.is_string(schema.field(id_col).type):
            raise SchemaError(
                f"{label}: column {id_col!r} is {schema.field(id_col).type}, but keys are names of "
                "tar members, such as '000000012', and must be strings. Write them as strings, "
                "zeros included."
            )
    strings = pa.schema([pa.field(id_col, pa.string()), pa.field(SHARD_COLUMN, pa.string())])
    own = [
        (label, pa.schema([field for field in schema if field.name not in strings.names]))
        for label, schema in schemas
    ]
    return columns.unify([("", strings), *own], from_tars)


def _footers(
    root: str, sources: list[Source], id_col: str
) -> tuple[list[Source], list[tuple[str, pa.Schema]], dict[str, Any]]:
    """Sources with what their footers say, the schema of each, and the columns' provenance."""
    import dask

    def read(source: Source) -> columns.Footer | None:
        return columns.read_footer(source.sidecar_location) if source.sidecar else None

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        footers = list(pool.map(read, sources))
    # Without a sidecar only the tar itself knows its columns.
    scans = [
        dask.delayed(_scan_schema)(root, source.shard, id_col)
        for source, footer in zip(sources, footers, strict=True)
        if footer is None
    ]
    scanned = iter(dask.compute(*scans))
    schemas, known, provenance = [], [], Provenance()
    for source, footer in zip(sources, footers, strict=True):
        if footer is None:
            schemas.append((source.label, next(scanned)))
            known.append(source)
            continue
        schemas.append((source.sidecar_location, footer.schema))
        provenance.merge(footer.record.get("columns", {}))
        known.append(
            replace(
                source,
                digest=footer.digest,
                fingerprint=footer.record.get("fingerprint", ""),
                origin=footer.record.get("origin"),
            )
        )
    return known, schemas, provenance.columns


def _scan_schema(root: str, shard: str, id_col: str) -> pa.Schema:
    with TarShard(storage.join(root, shard)) as opened:
        return columns.tar_columns(opened, id_col).schema


class Provenance:
    """How each produced column was made, merged over shards.

    Attributes
    ----------
    columns : dict of str to dict
        A column that shards made in different ways has only the key ``conflict``.
    """

    def __init__(self) -> None:
        self.columns: dict[str, Any] = {}

    def merge(self, other: dict[str, Any]) -> None:
        """Add what one shard recorded."""
        for name, record in other.items():
            if self.columns.setdefault(name, record) != record:
                self.columns[name] = {"conflict": "shards were made by different stages"}
