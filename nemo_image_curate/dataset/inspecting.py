"""Look through every shard of a dataset for what is missing, doubled, cut off or mixed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import dask

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import SHARD_COLUMN, MetadataReader, Source
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards import columns
from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.names import normal_name
from nemo_image_curate.shards.reader import TarShard

# Faults of one kind that are named per shard; the counts are always complete.
MAX_NAMED = 100


def inspect_dataset(dataset: ImageTextPairDataset, progress: bool | None = None) -> dict[str, Any]:
    """Read all tar headers and sidecars of a dataset as it was opened.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    progress : bool, optional
        Show a progress bar. Default: on a terminal.

    Returns
    -------
    dict
        ``path``, ``shards``, ``samples`` (rows), ``columns`` (name to type), ``counts`` (fault
        kind to number), ``faults`` (a list of ``shard``, ``kind``, ``key``, ``detail``, at most
        `MAX_NAMED` of a kind per shard). Kinds: ``missing`` (a row without image), ``no row``
        (a sample without row), ``duplicate row``, ``no image``, ``unreadable``, ``no tar`` (a
        sidecar without one), and those of `FAULT_KINDS` in ``shards/faults.py``.
    """
    reader, sources = dataset.source()
    check = dask.delayed(_inspect_source, pure=False)
    tasks = [check(reader, source, dataset.image_member) for source in sources]
    labels = [source.label for source in sources]
    results = jobs.compute_all(tasks, labels, "inspect", progress)
    counts: Counter[str] = Counter()
    faults: list[dict[str, str]] = []
    for source, (_, source_faults) in zip(sources, results, strict=True):
        named: Counter[str] = Counter()
        for fault in source_faults:
            counts[fault.kind] += 1
            named[fault.kind] += 1
            if named[fault.kind] <= MAX_NAMED:
                faults.append({"shard": source.label, **fault._asdict()})
    for orphan in dataset.orphans:
        counts["no tar"] += 1
        detail = "a sidecar without a tar beside it is left out"
        faults.append({"shard": orphan, "kind": "no tar", "key": "", "detail": detail})
    for sidecar, reason in dataset.unreadable.items():
        counts["unreadable"] += 1
        faults.append({"shard": sidecar, "kind": "unreadable", "key": "", "detail": reason})
    schema = frames.schema(dataset.metadata)
    return {
        "path": dataset.path,
        "shards": len(dataset.tar_files),
        "samples": sum(rows for rows, _ in results),
        "columns": {field.name: str(field.type) for field in schema},
        "counts": dict(sorted(counts.items())),
        "faults": faults,
    }


def _inspect_source(
    reader: MetadataReader, source: Source, image_member: str | None
) -> tuple[int, list[Fault]]:
    """Samples and faults of one shard; runs on a worker."""
    try:
        table = reader.read(source, [reader.id_col, SHARD_COLUMN])
    except DatasetError as error:
        return 0, [Fault("unreadable", "", str(error))]
    faults: list[Fault] = []
    rows: dict[str, list[str | None]] = {}
    for key, shard in zip(
        table[reader.id_col].to_pylist(), table[SHARD_COLUMN].to_pylist(), strict=True
    ):
        rows.setdefault(shard or source.shard or "", []).append(key)
    if source.shard is not None:
        rows.setdefault(source.shard, [])
    for shard, keys in rows.items():
        try:
            with TarShard(storage.join(reader.root, shard)) as opened:
                faults += opened.index.faults
                faults += opened.index.image_faults(image_member)
                faults += _compare(keys, opened, image_member, complete=source.shard is not None)
                if source.sidecar is None:
                    faults += columns.read_tar(opened, reader.id_col, reader.schema)[1]
        except DatasetError as error:
            faults.append(Fault("unreadable", "", str(error)))
    return len(table), faults


def _compare(
    keys: list[str | None], shard: TarShard, image_member: str | None, complete: bool
) -> Iterator[Fault]:
    """Faults between rows and samples; `complete` when all rows of the shard are known."""
    seen: set[str] = set()
    for key in keys:
        if key is None:
            yield Fault("missing", "", "a row has no key")
        elif key in seen:
            yield Fault("duplicate row", key, "the sidecar has this key more than once")
        else:
            seen.add(key)
            if not shard.index.sample(key):
                yield Fault("missing", key, "the row has no member in the tar")
            elif shard.index.image(key, image_member) is None:
                yield Fault("no image", key, shard.index.why_no_image(key, image_member))
    if complete:
        seen |= set(map(normal_name, seen))
        for key in shard.index.samples:
            if key not in seen:
                yield Fault("no row", key, "the sample has no row in the sidecar")
