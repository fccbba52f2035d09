"""Write the partitions of a frame as Parquet files: atomic, resumable, the same bytes each time."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import frames, locks, storage, tables
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.accounting import Census
from nemo_image_curate.dataset.added import added_columns
from nemo_image_curate.dataset.conditions import Dropped, drop_rows
from nemo_image_curate.dataset.earlier import Addition, AtStake, Kept, finished_work
from nemo_image_curate.dataset.fingerprints import Lineage, fingerprint
from nemo_image_curate.dataset.manifest import remove_departed, write_manifest
from nemo_image_curate.dataset.retrying import has_failed, taking_over
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN, Source
from nemo_image_curate.decode.reasons import count_by_kind
from nemo_image_curate.errors import ConfigError, DatasetError, ForbiddenError, UnavailableError
from nemo_image_curate.shards import sidecars
from nemo_image_curate.shards.names import ShardFiles
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Seconds that clocks of machines and of their disks may be apart.
_SAME_TIME = 1.0

logger = logging.getLogger(__name__)

# Done on a partition as an Arrow table just before it is written; returns what to add to the
# summary. Used by the export to look up where each row's bytes lie.
Finish = Callable[["pa.Table"], tuple["pa.Table", dict[str, Any]]]


@dataclass(frozen=True)
class Target:
    """One file to be written, and the fingerprint of what goes in.

    Attributes
    ----------
    location : str
    label : str
        What to call it in messages.
    fingerprint : str
    origin : str
        The digest of the sidecar that the work started from.
    newest_input : float
        Modification time of the newest input; an older file is not its result.
    tar : FileInfo, optional
        The tar that the rows come from, as it was when the dataset was opened.
    reads_tar : bool
        Whether the work reads it, so that it must not change before the work is done.
    census : Census, optional
        Takes the account of that shard, which is recorded with the rows. Only where its tar is
        read anyway: what is saved depends neither on whether files are near, nor on their times.
    newest_original : float
        In place the time of the sidecar that the file was once made of, as far as it is known.
    kept : Kept
        In place what is still true of the file that is replaced.
    """

    location: str
    label: str
    fingerprint: str
    origin: str
    newest_input: float
    tar: storage.FileInfo | None = None
    reads_tar: bool = False
    census: Census | None = None
    newest_original: float = 0.0
    kept: Kept = field(default_factory=Kept)


def save_dataset(
    dataset: ImageTextPairDataset,
    folder: str | None,
    progress: bool | None,
    retry: bool,
    overwrite: bool,
) -> str | None:
    """Write a dataset's frame below a folder, or in place; see its `save_metadata`.

    Returns
    -------
    str or None
        The folder that holds the metadata alone; None when it lies beside the tars.
    """
    frame, conditions = dataset.unfiltered()
    sources = dataset.source()[1]
    frames.require_columns(frame, dataset.id_col, SHARD_COLUMN)
    lineage = Lineage(frame)
    own_files = [source.sidecar_location for source in sources]
    if folder is None:
        if not lineage.aligned:
            raise ConfigError(
                "save_metadata() in place needs one partition per shard, but this frame was "
                "repartitioned, shuffled or merged. Give a folder: save_metadata('scored/')."
            )
        folder, locations = dataset.home, own_files
    else:
        names = [f"part-{number:05d}.parquet" for number in range(frame.npartitions)]
        if lineage.aligned and all(source.shard for source in sources):
            names = [ShardFiles.beside(source.shard or "").sidecar for source in sources]
        locations = [storage.join(folder, name) for name in names]
    in_place = locations == own_files
    config = ("save", dataset.id_col, *dataset.tars.content_token())
    targets = plan(
        *(frame, sources, locations, in_place, *config),
        *([conditions] if conditions else []),
    )
    if lineage.aligned and lineage.scans_tars:
        targets = [
            replace(target, census=Census(dataset.tars, dataset.id_col, source))
            for target, source in zip(targets, sources, strict=True)
        ]
    finish = partial(drop_rows, conditions=conditions) if conditions else None
    again = None
    if retry:
        place = folder or dataset.path
        again = taking_over(frame, place, in_place) if lineage.aligned else frame
    addition = None
    if in_place:
        targets = [replace(target, kept=Kept([])) for target in targets]
    if in_place and not conditions and (added := added_columns(frame)) is not None:
        addition = Addition(added, dataset.id_col)
        targets = _with_originals(targets, sources)
    # In place all folders that are written to: another process may have opened one of them alone.
    written = {folder} if folder else set(map(storage.parent, locations))
    with contextlib.ExitStack() as locked:
        for below in sorted(written):
            locked.enter_context(locks.exclusive(below))
        summaries = save(
            *(frame, targets, dataset.provenance, "save", progress, finish, again),
            addition=addition,
            overwrite=overwrite,
        )
        dropped = Dropped.total(summaries if conditions else [])
        dropped.tell()
        if in_place:
            _tell_rows_gone(sources, summaries, dropped.by_null)
        if folder is not None:
            shards = [source.shard for source in sources] if lineage.aligned else []
            shards += [None] * (len(locations) - len(shards))
            files = [
                {"file": storage.relative(location, folder), "shard": shard}
                for location, shard in zip(locations, shards, strict=True)
            ]
            tars = [storage.relative(tar, dataset.path) for tar in dataset.tar_files]
            remove_departed(folder, dataset.path, files)
            write_manifest(folder, dataset.path, dataset.id_col, tars, files)
        for below in written:
            storage.remove_temporaries(below)
    return folder


def plan(
    frame: Any,
    sources: Sequence[Source],
    locations: Sequence[str],
    in_place: bool,
    *config: Any,
) -> list[Target]:
    """The targets of a frame's partitions; `config` is whatever else decides their content."""
    lineage = Lineage(frame)
    _tell_future(sources)
    everything = [source for _, read in lineage.readers for source in read]
    identities = [source.identity(in_place) for source in sources]
    times = [_input_time(source, in_place) for source in sources]
    common = [__version__, lineage.token, *config]
    if not lineage.independent:
        common += [[source.identity(in_place) for source in everything], len(locations)]
        times += [_input_time(source, in_place) for source in everything]
    targets = []
    for position, location in enumerate(locations):
        source = sources[position] if lineage.aligned else None
        identity = identities[position] if lineage.independent else position
        newest = times[position] if lineage.independent else max(times, default=0.0)
        targets.append(
            Target(
                location,
                source.label if source else location,
                fingerprint(*common, identity),
                str(source.identity(in_place)[2]) if source else "",
                newest,
                source.tar if source else None,
                lineage.reads_tars or (source is not None and source.sidecar is None),
            )
        )
    return targets


def _with_originals(targets: Sequence[Target], sources: Sequence[Source]) -> list[Target]:
    """Targets in place, with the times of the sidecars that lie beside the tars instead."""
    beside = [
        ShardFiles.beside(source.tar.location).sidecar if source.tar else "" for source in sources
    ]
    others = [
        "" if place == source.sidecar_location else place
        for place, source in zip(beside, sources, strict=True)
    ]
    times = storage.concurrently(_time_of, list(filter(None, others)))
    return [
        replace(target, newest_original=next(times) if place else 0.0)
        for target, place in zip(targets, others, strict=True)
    ]


def _time_of(location: str) -> float:
    try:
        info = storage.stat(location)
    except DatasetError:
        # Perhaps it is there, and new.
        return math.inf
    return info.changed if info else 0.0


def _tell_rows_gone(
    sources: Sequence[Source], summaries: Sequence[dict[str, Any]], told: int
) -> None:
    """Warn of rows that files have lost in place, but for those that were told of."""
    there = [source.rows or 0 for source in sources]
    gone = sum(
        max(0, before - summary["rows"]) for before, summary in zip(there, summaries, strict=True)
    )
    if gone > told:
        logger.warning(
            "%s of %s rows are gone from the files that were read, such as %s: they were saved in "
            "place. Save what is chosen to a folder to keep both",
            *(f"{gone:,}", f"{sum(there):,}", sources[0].sidecar_location),
        )


def plan_partitions(dataset: ImageTextPairDataset, frame: Any, *config: Any) -> list[Target]:
    """Targets without a file, for what is made of partitions and kept elsewhere.

    Their fingerprints tell from what is known of a partition without reading it whether that is
    still of it.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    frame : dask.dataframe.DataFrame
        Of the dataset.
    *config
        Whatever else decides what is made.
    """
    places = [f"partition {number}" for number in range(frame.npartitions)]
    return plan(frame, dataset.source()[1], places, False, *config)


def _input_time(source: Source, in_place: bool) -> float:
    inputs = [source.tar, None if in_place else source.sidecar]
    return max((info.changed for info in inputs if info is not None), default=0.0)


def time_of(newest_input: float, now: float) -> dict[str, float]:
    """What is recorded of inputs whose times are ahead of the clock; for others nothing.

    Then what is written is newer than they are, and the same bytes whatever their times are.
    """
    return {"newest_input": newest_input} if newest_input > now + _SAME_TIME else {}


def is_newer(info: storage.FileInfo, newest_input: float, record: dict[str, Any]) -> bool:
    """Whether a file was made after its inputs, or of inputs whose times are ahead of the clock."""
    if "newest_input" in record:
        return bool(record["newest_input"] == newest_input)
    return info.changed >= newest_input


def _tell_future(sources: Sequence[Source]) -> None:
    """Warn of inputs whose times are ahead of the clock: others may take them for new each time."""
    latest = time.time() + _SAME_TIME
    files = [info for source in sources for info in (source.tar, source.sidecar) if info]
    ahead = [info for info in files if info.changed > latest]
    if ahead:
        logger.warning(
            "%d files have times in the future, such as %s (%s): they count as changed when these "
            "times change. Check the clocks, or touch the files",
            *(len(ahead), ahead[0].location, time.ctime(ahead[0].changed)),
        )


def _summary_if_done(target: Target, on_disk: _OnDisk, with_earlier: bool) -> dict[str, Any] | None:
    if isinstance(on_disk.footer, (ForbiddenError, UnavailableError)):
        # It may well be done.
        raise on_disk.footer
    for work in on_disk.works(target.newest_input, with_earlier):
        if work["fingerprint"] == target.fingerprint:
            summary: dict[str, Any] = work["summary"]
            return summary
    return None


@dataclass(frozen=True)
class _OnDisk:
    """What there is at a target: nothing, or a file that is a Parquet file or not."""

    info: storage.FileInfo | None
    footer: sidecars.Footer | DatasetError | None

    def works(self, newest_input: float, with_earlier: bool) -> list[dict[str, Any]]:
        """The finished work in it, of inputs that have not changed since."""
        if self.info is None or not isinstance(self.footer, sidecars.Footer):
            return []
        return [
            work
            for work in finished_work(self.footer, with_earlier)
            if is_newer(self.info, newest_input, work)
        ]


def _look(targets: Sequence[Target]) -> Iterator[tuple[Target, _OnDisk]]:
    infos = list(storage.concurrently(storage.stat, [target.location for target in targets]))
    footers = sidecars.read_footers([info.location for info in infos if info])
    for target, info in zip(targets, infos, strict=True):
        yield target, _OnDisk(info, next(footers) if info else None)


def summaries(targets: Sequence[Target]) -> list[dict[str, Any] | None]:
    """What finished targets hold; None for those that are missing, half, or of other work."""
    return [_summary_if_done(target, on_disk, False) for target, on_disk in _look(targets)]


def save(
    frame: Any,
    targets: Sequence[Target],
    provenance: dict[str, Any],
    what: str,
    progress: bool | None,
    finish: Finish | None = None,
    again: Any = None,
    addition: Addition | None = None,
    overwrite: bool = True,
) -> list[dict[str, Any]]:
    """Compute and write the partitions that are not done.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    targets : sequence of Target
    provenance : dict of str to dict
    what : str
    progress : bool, optional
    finish : callable, optional
    again : dask.dataframe.DataFrame, optional
        What computes the partitions that are done and have rows that failed. Default: they stay.
    addition : Addition, optional
        When all that is done to the files that are read is that columns are added.
    overwrite : bool, default True
        Whether columns that were added to files, or that others wrote, and that the frame has not,
        are dropped. Otherwise they stay in files whose other columns are done, and are refused in
        others.

    Returns
    -------
    list of dict
        For each target what it holds: ``rows``, and ``errors`` by kind.

    Raises
    ------
    ConfigError
        When columns would be dropped.
    """
    targets, names, at_stake = list(targets), frozenset(frame.columns), AtStake()
    done, todo, failed = list[dict[str, Any] | None](), list[int](), list[int]()
    for number, (target, on_disk) in enumerate(_look(targets)):
        summary = _summary_if_done(target, on_disk, not overwrite)
        done.append(summary)
        if summary is not None and (again is None or not has_failed(summary)):
            continue
        (todo if summary is None else failed).append(number)
        footer = on_disk.footer
        if not isinstance(footer, sidecars.Footer):
            continue
        at_stake.note(target.location, footer, names, target.kept.holds is not None)
        if addition is not None:
            works = on_disk.works(max(target.newest_input, target.newest_original), True)
            size = target.tar.size if target.tar else None
            targets[number] = replace(target, kept=addition.keeps(footer, works, names, size))
    if not overwrite:
        at_stake.tell()
    for folder in sorted({storage.parent(targets[number].location) for number in todo}):
        storage.make_dirs(folder)
    schema = frames.schema(frame) if todo or failed else None
    try:
        for each_frame, numbers in ((frame, todo), (again, failed)):
            results = partitions.run(
                each_frame,
                write_partition,
                [(targets[number], schema, provenance, finish) for number in numbers],
                what=what,
                numbers=numbers,
                labels=[targets[number].label for number in numbers],
                progress=progress,
            )
            for number, summary in zip(numbers, results, strict=True):
                done[number] = summary
    finally:
        if (todo or failed) and frames.backend_of(frame) == "gpu":
            # What comes next may need the memory of the models that worked here.
            worker_cache.clear_on_workers()
    return [summary for summary in done if summary is not None]


def write_partition(
    frame: Any,
    target: Target,
    schema: pa.Schema,
    provenance: dict[str, Any],
    finish: Finish | None,
) -> dict[str, Any]:
    """Write one computed partition; runs on a worker.

    Raises
    ------
    DatasetError
        Naming the file, when it cannot be written.
    NotFoundError, ChangedError
        Naming the tar, when it is not what it was when the dataset was opened.
    """
    table = _with_schema(frames.to_arrow(frame), schema)
    extra: dict[str, Any] = {}
    if finish is not None:
        failed = _errors(table)
        table, extra = finish(table)
        # Rows that are left out may be those that failed.
        extra["failed"] = failed
    return write_table(table, target, provenance, extra)


def write_table(
    table: pa.Table, target: Target, provenance: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    """Write an Arrow table with our record in its metadata; returns the summary in that record."""
    kept = target.kept
    dropped = {"dropped": kept.dropped} if kept.dropped else {}
    summary = {"rows": len(table), "errors": _errors(table), **dropped, **extra}
    account = target.census.record() if target.census else kept.account
    record = {
        "version": __version__,
        "tar_size": target.tar.size if target.tar else None,
        "account": account,
        "fingerprint": target.fingerprint,
        "origin": target.origin,
        "names": table.column_names,
        "columns": {name: provenance[name] for name in table.column_names if name in provenance},
        "summary": summary,
        **({} if kept.holds is None else {"holds": kept.holds}),
    }
    # Dictionary pages only cost time on float vectors, which do not repeat.
    plain = [field.name for field in table.schema if not str(field.type).startswith("list")]
    with storage.atomic_write(target.location) as file:
        record |= time_of(target.newest_input, os.fstat(file.fileno()).st_mtime)
        text = json.dumps(record, sort_keys=True, ensure_ascii=False)
        table = table.replace_schema_metadata(
            {sidecars.RECORD_KEY: text.encode("utf-8", "backslashreplace")}
        )
        pq.write_table(table, file, use_dictionary=plain)
        if target.tar is not None and target.reads_tar:
            target.tar.require_same(storage.stat(target.tar.location))
    return summary


def _errors(table: pa.Table) -> dict[str, int]:
    """How many rows have which kind of ``image_error``."""
    return count_by_kind(
        table[ERROR_COLUMN].drop_null() if ERROR_COLUMN in table.column_names else []
    )


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """One schema for all files: an all-null object column has no type of its own."""
    fields = [
        table.schema.field(field.name) if pa.types.is_null(field.type) else field
        for field in schema
    ]
    plain = tables.storage_schema(pa.schema(fields))
    return tables.conform(table, pa.schema(map(tables.typed, plain)))
