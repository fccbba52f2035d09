"""Look through every shard of a dataset for what is missing, doubled, cut off or mixed up."""

from __future__ import annotations

import contextlib
from typing import Any

import dask
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.accounting import Account, Census, note_left_out, total
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards import columns, sidecars
from nemo_image_curate.shards.faults import Fault
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
    # What cannot be read at all is noted already.
    with contextlib.suppress(DatasetError):
        if source.sidecar is not None:
            faults = _of_sidecar(census, schema)
        else:
            with TarShard(storage.join(census.tars.root, source.shard or "")) as opened:
                faults = columns.read_tar(opened, census.id_col, schema)[1]
        account.note(source.label, faults, MAX_NAMED)
    return account


def _of_sidecar(census: Census, schema: pa.Schema) -> list[Fault]:
    """The texts of a sidecar that are none."""
    names = [field.name for field in schema if pa.types.is_string(field.type)]
    location, shard = census.source.sidecar_location, census.source.shard
    table, no_texts = sidecars.read_texts(location, [census.id_col, *names], shard)
    keys = table[census.id_col]
    return [
        Fault("encoding", str(keys[row]), f"its {name!r} in row {row} of the sidecar is not UTF-8")
        for name, row_numbers in no_texts.items()
        for row in row_numbers
    ]
