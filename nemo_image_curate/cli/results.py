"""How what came of a command is told: the table, ``_run.json``, and the exit status."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.accounting import Account
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# The exit status where there was something, and nothing of it could be read.
_NOTHING_READ = 3


def print_json(record: Any) -> None:
    """Print a record for machines."""
    click.echo(json.dumps(record, ensure_ascii=False))


def report(record: dict[str, Any], as_json: bool) -> None:
    """Print what came of a command; in an account, the rows and samples go by sentences."""
    if as_json:
        print_json(record)
        return
    record = dict(record)
    record |= _in_words(record.pop("account", {}))
    width = max(map(len, record))
    for name, value in record.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count:,} {kind}" for kind, count in value.items()) or "none"
        elif isinstance(value, list):
            value = ", ".join(value) or "none"
        text = f"{value:,}" if isinstance(value, int) else value
        click.echo(f"{name:<{width}}  {text}")


def _in_words(account: dict[str, Any]) -> dict[str, str]:
    """The lines of the table that every command ends with."""

    def counted(name: str) -> str:
        value = account.get(name)
        return "not counted" if value is None else f"{value:,}"

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())

    if not account:
        return {}
    expected = account.get("not_downloaded")
    lines = {
        "samples in tars": f"{counted('samples_in_tars')} = {counted('with_row')} with row + "
        f"{counted('without_row')} without row",
        "rows in sidecars": f"{counted('rows_in_sidecars')} = {counted('with_image')} with image + "
        f"{counted('without_image')} without image"
        f"{f' ({expected:,} not downloaded)' if expected else ''}",
    }
    if "read" in account:
        unreadable = listed(account["unreadable"])
        warned = f", {account['warned']:,} with an image_warning" if account.get("warned") else ""
        lines["images"] = f"{account['read']:,} read, {unreadable or '0'} unreadable{warned}"
    if "written" in account:
        columns = listed(account["null_columns"])
        lines["rows"] = (
            f"{account['written']:,} written + {account['dropped_by_condition']:,} dropped by "
            f"condition + {account['dropped_by_null']:,} dropped by null"
            f"{f' ({columns})' if columns else ''} + {account['missing']:,} missing"
        )
    lines["faults"] = listed(account["faults"]) or "none"
    return lines


def finish(
    record: dict[str, Any],
    account: Account,
    folder: str | None,
    as_json: bool,
    nothing_read: bool = False,
    shown: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """End a command: its record beside what it wrote, the table, and the exit status.

    Parameters
    ----------
    record : dict
        What came of it.
    account : Account
        Of the dataset that it was given.
    folder : str or None
        Where ``_run.json`` goes; None when one of this is there.
    as_json : bool
    nothing_read : bool
        Whether the command gave nothing for any of the rows.
    shown : dict, optional
        What people see of the record. Default: all.
    **more
        Further counts of the account.

    Raises
    ------
    click.exceptions.Exit
        With the status 3, when something was there, and nothing of it could be read; with 1, when
        a part of it could not be read: a shard or a sidecar as a whole.
    """
    counts = account.counts() | more
    if folder is not None:
        write_run({**record, "account": counts, "named": account.named}, folder)
    table = record if as_json or shown is None else shown
    report({**table, "account": counts}, as_json)
    list_faults(account.named, as_json)
    rows = account.rows_in_sidecars
    end(bool((rows and nothing_read) or (account.faults and not rows)))
    if unread := account.faults.get("unreadable"):
        click.echo(
            f"error: {unread} shards or sidecars could not be read, and are left out: see above. "
            "Run the same command again when they can.",
            err=True,
        )
        raise click.exceptions.Exit(1)


def write_run(record: dict[str, Any], folder: str) -> None:
    """Write ``_run.json``: what came of a command, how it was called, and what took how long."""
    from nemo_image_curate import storage
    from nemo_image_curate.compute import progress, workers
    from nemo_image_curate.dataset.manifest import RUN_FILE

    context = click.get_current_context()
    run = {
        "command": context.info_name,
        "version": __version__,
        **record,
        "config": context.params,
        "versions": workers.versions(),
        "stages": progress.finished(),
    }
    content = json.dumps(run, indent=1, ensure_ascii=False, default=str)
    location = storage.join(storage.normalise(folder), RUN_FILE)
    storage.write_bytes(location, content.encode("utf-8", "backslashreplace"))


def list_faults(faults: Iterable[dict[str, str]], to_stderr: bool = False) -> None:
    """Print a line for each fault."""
    for fault in faults:
        key = f": {fault['key']}" if fault["key"] else ""
        click.echo(f"  {fault['shard']}: {fault['kind']}{key}: {fault['detail']}", err=to_stderr)


def end(nothing_read: bool) -> None:
    """End with the status 3 where there was something, and nothing of it could be read."""
    if nothing_read:
        click.echo("error: nothing could be read; what is wrong is listed above.", err=True)
        raise click.exceptions.Exit(_NOTHING_READ)


def save(
    dataset: ImageTextPairDataset,
    output: str | None,
    as_json: bool,
    extra: dict[str, Any] | None = None,
    started: float | None = None,
    shown: dict[str, Any] | None = None,
    retry: bool = False,
    measure: Callable[[ImageTextPairDataset], tuple[dict[str, Any], dict[str, Any]]] | None = None,
) -> None:
    """Compute and save a dataset's frame, then `finish` with what came of it.

    For commands that have the `output_option`.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    output : str or None
    as_json : bool
    extra : dict, optional
        More for the record.
    started : float, optional
        When the command began to compute. Default: now.
    shown : dict, optional
        What people see in place of some of the record.
    retry : bool
        Compute rows again that failed.
    measure : callable, optional
        What is yet to be told of the saved dataset: more for the record, and in its place for
        people.
    """
    started = time.perf_counter() if started is None else started
    overwrite = click.get_current_context().params["overwrite"]
    saved = dataset.save_metadata(output, retry=retry, overwrite=overwrite)
    measured, measured_shown = measure(saved) if measure else ({}, {})
    seconds = time.perf_counter() - started
    record: dict[str, Any] = saved.summary() | (extra or {}) | measured
    record |= {"seconds": round(seconds, 1), "output": output or saved.metadata_path}
    counts = images(saved, record)
    uncompared = record.get("not_compared") == record["samples"]
    finish(
        *(record, saved.account(), saved.metadata_path, as_json),
        nothing_read=counts.get("read") == 0 or uncompared,
        shown=record | (shown or {}) | measured_shown,
        **counts,
    )


def images(dataset: ImageTextPairDataset, summary: dict[str, Any]) -> dict[str, Any]:
    """How many images were read, and how many not, by reason; nothing before the first pass."""
    from nemo_image_curate.dataset.sources import ERROR_COLUMN
    from nemo_image_curate.decode.reasons import MISSING
    from nemo_image_curate.quality.statistics import WARNING_COLUMN

    if ERROR_COLUMN not in dataset.metadata.columns:
        return {}
    counts = {
        "read": summary["samples"] - sum(summary["errors"].values()),
        "unreadable": {kind: n for kind, n in summary["errors"].items() if kind != MISSING},
    }
    if WARNING_COLUMN in dataset.metadata.columns:
        counts["warned"] = int(dataset.metadata[WARNING_COLUMN].count().compute())
    return counts
