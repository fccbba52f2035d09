"""Look through every shard of a dataset for what is missing, doubled, cut off or mixed up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import dask

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import SHARD_COLUMN, MetadataReader, Source
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.index import Fault
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
        (a sample without row), ``duplicate row``, ``duplicate``, ``interleaved``, ``truncated``,
        ``corrupt``, ``unnamed``, ``sparse``, ``link``, ``no image``, ``json``, ``unreadable``,
        ``no tar`` (a sidecar without one).
    """
    reader, sources = dataset.source()
    check = dask.delayed(_inspect_source, pure=False)
    tasks = [check(reader, source) for source in sources]
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


def _inspect_source(reader: MetadataReader, source: Source) -> tuple[int, list[Fault]]:
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
                faults += _compare(keys, opened, complete=source.shard is not None)
                if source.sidecar is None:
                    faults += _broken_json(opened)
        except DatasetError as error:
            faults.append(Fault("unreadable", "", str(error)))
    return len(table), faults


def _compare(keys: list[str | None], shard: TarShard, complete: bool) -> Iterator[Fault]:
    """Faults between rows and samples; `complete` when all rows of the shard are known."""
    seen: set[str] = set()
    for key in keys:
        if key is None:
            yield Fault("missing", "", "a row has no key")
        elif key in seen:
            yield Fault("duplicate row", key, "the sidecar has this key more than once")
        else:
            seen.add(key)
            if key not in shard.index.samples:
                yield Fault("missing", key, "the row has no member in the tar")
            elif shard.index.image(key) is None:
                yield Fault("no image", key, f"members: {_extensions(shard, key)}")
    if complete:
        for key in shard.index.samples:
            if key not in seen:
                yield Fault("no row", key, "the sample has no row in the sidecar")


def _extensions(shard: TarShard, key: str) -> str:
    return ", ".join(member.extension for member in shard.index.samples[key])


def _broken_json(shard: TarShard) -> Iterable[Fault]:
    keys = [key for key in shard.index.samples if shard.index.member(key, ("json",))]
    members = [shard.index.member(key, ("json",)) for key in keys]
    for key, content in zip(keys, shard.read(members), strict=True):
        try:
            if not isinstance(json.loads(content or b""), dict):
                yield Fault("json", key, "the .json member is no object; its fields are null")
        except (ValueError, RecursionError) as error:
            yield Fault("json", key, f"{error}; its fields are null")
