"""Look through every shard of a dataset for what is missing, doubled, cut off or mixed up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import dask

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.accounting import Account, Census, note_left_out, total
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
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
        ``path``, ``shards``, ``samples`` (rows), ``columns`` (name to type), ``account`` (an
        `Account` as a dict, whose sums close), ``counts`` (fault kind to number), ``faults`` (a
        list of ``shard``, ``kind``, ``key``, ``detail``, at most `MAX_NAMED` of a kind per
        shard). Kinds, beside those of `TarIndex`: ``missing`` (a row without sample), ``no
        image``, ``no row`` (a sample without row), ``no match`` (not one row has a sample),
        ``duplicate row``, ``json``, ``unreadable``, ``no tar`` (a sidecar without one).
    """
    reader, sources = dataset.source()
    inspect = dask.delayed(_inspect_source, pure=False)
    tasks = [inspect(Census(reader.root, reader.id_col, source)) for source in sources]
    labels = [source.label for source in sources]
    results = jobs.compute_all(tasks, labels, "inspect", progress)
    account = total(results, None)
    note_left_out(account, dataset)
    schema = frames.schema(dataset.metadata)
    return {
        "path": dataset.path,
        "shards": len(dataset.tar_files),
        "samples": account.rows_in_sidecars,
        "columns": {field.name: str(field.type) for field in schema},
        "account": account.counts(),
        "counts": account.faults,
        "faults": account.named,
    }


def _inspect_source(census: Census) -> Account:
    """The account of one shard, with the faults of its texts; runs on a worker."""
    account = census.take(MAX_NAMED)
    source = census.source
    if source.sidecar is None and source.shard is not None:
        try:
            with TarShard(storage.join(census.root, source.shard)) as opened:
                account.note(source.label, _broken_json(opened), MAX_NAMED)
        except DatasetError:
            # Noted already.
            pass
    return account


def _broken_json(shard: TarShard) -> Iterable[Fault]:
    keys = [key for key in shard.index.samples if shard.index.member(key, ("json",))]
    members = [shard.index.member(key, ("json",)) for key in keys]
    for key, content in zip(keys, shard.read(members), strict=True):
        try:
            if not isinstance(json.loads(content or b""), dict):
                yield Fault("json", key, "the .json member is no object; its fields are null")
        except (ValueError, RecursionError) as error:
            yield Fault("json", key, f"{error}; its fields are null")
