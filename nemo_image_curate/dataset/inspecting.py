"""Look through every shard of a dataset for what is missing, doubled, cut off or mixed up."""

from __future__ import annotations

from typing import Any

import dask
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.accounting import Account, Census, note_left_out, total
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards import columns
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
        shard). Kinds, beside those of `FAULT_KINDS` in ``shards/faults.py``: ``missing`` (a row
        without sample), ``no image``, ``no row`` (a sample without row), ``no match`` (not one
        row has a sample), ``duplicate row``, ``unreadable``, ``no tar`` (a sidecar without one),
        ``unread`` (called as an unfinished tar, or packed in other ways).

    Examples
    --------
    >>> report = inspect_dataset(ds)
    >>> report["samples"]
    40
    """
    reader, sources = dataset.source()
    inspect = dask.delayed(_inspect_source, pure=False)
    tasks = [
        inspect(Census(dataset.tars, reader.id_col, source), reader.schema) for source in sources
    ]
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


def _inspect_source(census: Census, schema: pa.Schema) -> Account:
    """The account of one shard, with the faults of its texts; runs on a worker."""
    account, source = census.take(MAX_NAMED), census.source
    if source.sidecar is None and source.shard is not None:
        try:
            with TarShard(storage.join(census.tars.root, source.shard)) as opened:
                faults = columns.read_tar(opened, census.id_col, schema)[1]
                account.note(source.label, faults, MAX_NAMED)
        except DatasetError:
            # Noted already.
            pass
    return account
