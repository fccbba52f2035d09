"""The common schema of a dataset's shards, and the provenance of their columns."""

from __future__ import annotations

import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import dask
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.dataset.accounting import Account, total
from nemo_image_curate.dataset.sources import SHARD_COLUMN, Source, bundle_sizes
from nemo_image_curate.errors import ColumnNotFoundError, DatasetError, SchemaError
from nemo_image_curate.shards import columns, sidecars
from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.names import ShardFiles
from nemo_image_curate.shards.reader import TarShard
from nemo_image_curate.shards.remote_content import KEPT_BYTES

# Tars in an object store that one task looks into at once.
_SCANS_TOGETHER = 16

logger = logging.getLogger(__name__)


def common_schema(
    schemas: list[tuple[str, pa.Schema]], id_col: str, from_tars: set[str]
) -> pa.Schema:
    """The schema of the frame: id column and ``shard`` first, then the rest as they appear."""
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
    own_fields = [
        (label, pa.schema([field for field in schema if field.name not in strings.names]))
        for label, schema in schemas
    ]
    return columns.unify([("", strings), *own_fields], from_tars)


def read_footers(
    root: str, sources: list[Source], id_col: str
) -> tuple[
    list[Source],
    list[tuple[str, pa.Schema]],
    dict[str, Any],
    dict[str, str],
    dict[str, str],
    Account,
]:
    """Sources with what their footers say, the schema of each, and the columns' provenance.

    Then which sidecars, and which tars, cannot be read, and why; their sources are left out. Last
    the faults of texts and columns.
    """
    unread_tars = {source.label: reason for source in sources if (reason := _why_unread(source))}
    sources = [source for source in sources if source.label not in unread_tars]
    there = [source for source in sources if source.sidecar is not None]
    read = sidecars.read_footers(
        [source.sidecar_location for source in there], [source.shard for source in there]
    )
    footers = [None if source.sidecar is None else next(read) for source in sources]
    for number in _outgrown(root, sources, footers):
        source = sources[number]
        logger.warning(
            "%s was made of %s when that had another size or other samples, and is left out: the "
            "columns that were computed are computed again",
            source.sidecar_location,
            source.label,
        )
        sources[number], footers[number] = replace(source, sidecar=None), None
    # Without a sidecar only the tar itself knows its columns.
    scanned = iter(
        _scan_schemas(
            root,
            [source for source, footer in zip(sources, footers, strict=True) if footer is None],
            id_col,
        )
    )
    schemas, known, provenance = [], [], Provenance()
    unreadable: dict[str, str] = {}
    texts: list[Account] = []
    for source, footer in zip(sources, footers, strict=True):
        if isinstance(footer, DatasetError):
            unreadable[source.sidecar_location] = str(footer)
            continue
        if footer is None:
            scan = next(scanned)
            if isinstance(scan, DatasetError):
                unread_tars[source.label] = str(scan)
                continue
            schema, account = scan
            schemas.append((source.label, schema))
            known.append(source)
            texts.append(account)
            continue
        schemas.append((source.sidecar_location, footer.schema))
        for name, new_name in footer.renamed.items():
            detail = f"its column {name!r}, which is a name of ours, is {new_name!r} here"
            texts.append(Account.of(source.sidecar_location, [Fault("renamed", "", detail)]))
        recorded = footer.record.get("columns")
        provenance.merge(recorded if isinstance(recorded, dict) else {})
        known.append(
            replace(
                source,
                digest=footer.digest,
                origin=footer.record.get("origin"),
                rows=footer.rows,
                account=_recorded_account(source, footer),
            )
        )
    of_texts = total(texts)
    for kind in of_texts.faults:
        fault = next(fault for fault in of_texts.named if fault["kind"] == kind)
        logger.warning(
            "%s: %s: %s; inspect lists all faults",
            *(fault["shard"], f"{kind} {fault['key']}".strip(), fault["detail"]),
        )
    return known, schemas, provenance.columns, unreadable, unread_tars, of_texts


def _is_made_of_tar(source: Source, footer: sidecars.Footer) -> bool:
    """Whether a sidecar was made of the samples of the tar that it lies beside."""
    made_of_tar = footer.record.get("origin") == "" and footer.record.get("tar_size") is not None
    # A file with rows of many shards, or in a folder of its own, is what was saved.
    return (
        made_of_tar
        and source.tar is not None
        and source.sidecar_location == ShardFiles.beside(source.tar.location).sidecar
    )


def _outgrown(
    root: str, sources: list[Source], footers: list[sidecars.Footer | DatasetError | None]
) -> list[int]:
    """Which sidecars were made of tars that had other samples then."""
    outgrown: list[int] = []
    samples_then: dict[int, int] = {}
    for number, (source, footer) in enumerate(zip(sources, footers, strict=True)):
        if not isinstance(footer, sidecars.Footer) or not _is_made_of_tar(source, footer):
            continue
        assert source.tar is not None
        if footer.record["tar_size"] != source.tar.size:
            outgrown.append(number)
        elif _is_newer_tar(source) and storage.is_local(source.tar.location):
            # A copied dataset has newer tars, too, and keeps what was computed.
            samples_then[number] = _samples_then(footer)
    doubtful = [sources[number] for number in samples_then]
    groups = _bundled([source.shard or "" for source in doubtful], doubtful)
    counts = dask.compute(*(dask.delayed(_count_samples)(root, shards) for shards in groups))
    samples_now = (count for group in counts for count in group)
    for (number, then), now in zip(samples_then.items(), samples_now, strict=True):
        if now != then:
            outgrown.append(number)
    return sorted(outgrown)


def _samples_then(footer: sidecars.Footer) -> int:
    """How many samples a tar had when a sidecar was made of it."""
    samples = (footer.record.get("account") or {}).get("samples_in_tars")
    if isinstance(samples, int):
        return samples
    dropped = (footer.record.get("summary") or {}).get("dropped")
    counts = dropped.values() if isinstance(dropped, dict) else ()
    return footer.rows + sum(count for count in counts if isinstance(count, int))


def _recorded_account(source: Source, footer: sidecars.Footer) -> dict[str, Any] | None:
    """What a save recorded of this tar and these rows."""
    account = footer.record.get("account")
    if not isinstance(account, dict) or source.tar is None:
        return None
    same_tar = footer.record.get("tar_size") == source.tar.size and not _is_newer_tar(source)
    return account if same_tar and account.get("rows_in_sidecars") == footer.rows else None


def _is_newer_tar(source: Source) -> bool:
    """Whether the tar was written or moved after its sidecar.

    Tars are padded, so that one that grew or was replaced may have the size that it had.
    """
    tar, sidecar = source.tar, source.sidecar
    return tar is not None and sidecar is not None and tar.changed > sidecar.changed


def _count_samples(root: str, shards: list[str]) -> list[int]:
    """How many samples tars have; runs on a worker."""
    counts = []
    for shard in shards:
        with TarShard(storage.join(root, shard)) as opened:
            counts.append(len(opened.index.samples))
    return counts


# Columns of a tar, and what is wrong in them; or why it cannot be read.
_Scan = tuple[pa.Schema, Account] | DatasetError


def _scan_schemas(root: str, sources: list[Source], id_col: str) -> list[_Scan]:
    """What the members of tars give as columns."""
    tars = [source.tar for source in sources if source.tar is not None]
    far = sum(tar.size for tar in tars if not storage.is_local(tar.location))
    # What is not kept would be fetched a second time by whatever comes next.
    reads_all = far <= KEPT_BYTES
    shards = [source.shard or "" for source in sources]
    if far:
        # Requests take longer than what is done with their answers.
        together = min(_SCANS_TOGETHER, 1 + len(sources) // _SCANS_TOGETHER)
        groups = [shards[start : start + together] for start in range(0, len(shards), together)]
    else:
        groups = _bundled(shards, sources)
    scan = dask.delayed(_scan_group, pure=False)
    results = dask.compute(*(scan(root, group, id_col, reads_all, bool(far)) for group in groups))
    return [outcome for group in results for outcome in group]


def _bundled(shards: list[str], sources: list[Source]) -> list[list[str]]:
    """Shards by the tasks that look into them."""
    ends = list(itertools.accumulate(bundle_sizes(sources), initial=0)) if sources else [0]
    return [shards[start:end] for start, end in itertools.pairwise(ends)]


def _scan_group(
    root: str, shards: list[str], id_col: str, reads_all: bool, at_once: bool
) -> list[_Scan]:
    """The columns of some tars; runs on a worker."""

    def scan(shard: str) -> _Scan:
        try:
            with TarShard(storage.join(root, shard), reads_all=reads_all) as opened:
                table, faults = columns.read_tar(opened, id_col)
        except DatasetError as error:
            return error
        return table.schema, Account.of(shard, faults)

    if not at_once:
        return [scan(shard) for shard in shards]
    with ThreadPoolExecutor(len(shards)) as pool:
        # Which worker this is, is known to the thread of the task.
        scans = [pool.submit(copy_context().run, scan, shard) for shard in shards]
        return [future.result() for future in scans]


def _why_unread(source: Source) -> str | None:
    """Why a local tar may not be read; None for all others, which are known when they are read."""
    tar = source.tar
    if tar is None or not storage.is_local(tar.location):
        return None
    if os.access(tar.location, os.R_OK, effective_ids=True):
        return None
    return f"{tar.location} may not be read by this user on this machine; ask for the right to."


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
