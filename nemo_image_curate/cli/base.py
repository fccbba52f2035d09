"""What all commands share: the group, the options of a cluster, and how results are printed."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate import catalog, storage
from nemo_image_curate.catalog import Sees
from nemo_image_curate.errors import BackendError, ColumnNotFoundError, ConfigError, CurateError
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.accounting import Account
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


# What came of a command, in the folder that it wrote to.
RUN_FILE = "_run.json"
# What differs between runs that do the same.
_DIFFERS = ("seconds", "output", "path")
# The exit status where there was something, and nothing of it could be read.
_NOTHING_READ = 3


class _Group(click.Group):
    """Turns our errors into one line and an exit code: 1 failed, 2 wrong usage.

    A 3 comes from `finish`: nothing could be read.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigError, ColumnNotFoundError) as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except CurateError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped; run the same command again to go on.", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nemo-image-curate")
def main() -> None:
    """Curate image(-text) datasets in WebDataset shards.

    DATASET is a folder of .tar shards, a glob, a URL, or a folder written with --output.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("nemo_image_curate").addHandler(handler)


@dataclass(frozen=True)
class Session:
    """Where a command computes."""

    backend: str
    workers: int | None
    scheduler: str | None
    scheduler_file: str | None
    image_member: str | None = None

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """The Dask client that the command's options ask for."""
        from nemo_image_curate.compute.client import get_client

        # What goes wrong on a worker is told once, by us.
        running = self.scheduler or self.scheduler_file
        quiet = {} if running else {"silence_logs": logging.CRITICAL}
        # Ctrl-C reaches the whole group of processes. Workers inherit the block, so that only
        # this process stops, in an orderly way, and not while the workers are half started.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            client = get_client(
                self.backend, self.scheduler, self.scheduler_file, self.workers, **quiet
            )
        except OSError as error:
            where = running or "this machine"
            raise BackendError(f"no Dask scheduler answers at {where}: {error}") from error
        with client:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            yield client

    def open(self, dataset: str, **options: Any) -> ImageTextPairDataset:
        """The dataset, in frames of the backend asked for."""
        from nemo_image_curate.dataset.dataset import ImageTextPairDataset

        return ImageTextPairDataset.from_webdataset(
            dataset, backend=self.backend, image_member=self.image_member, **options
        )


backend_option = click.option(
    "--backend", type=click.Choice(["auto", "cpu", "gpu"]), default="auto"
)
image_member_option = click.option(
    "--image-member",
    metavar="PATTERN",
    help="Which member of a sample is its image: jpg, input.jpg, '*.png', 'input.*'.",
)


def computes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a cluster, as its argument `session`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        backend: str,
        workers: int | None,
        scheduler: str | None,
        scheduler_file: str | None,
        image_member: str | None,
        **options: Any,
    ) -> Any:
        session = Session(backend, workers, scheduler, scheduler_file, image_member)
        return command(*args, session=session, **options)

    for option in (
        image_member_option,
        backend_option,
        click.option("--workers", type=click.IntRange(min=1), help="Worker processes to start."),
        click.option("--scheduler", metavar="ADDRESS", help="Use this running Dask scheduler."),
        click.option("--scheduler-file", metavar="FILE", help="The same, by its scheduler file."),
    ):
        run = option(run)
    return run


output_option = click.option(
    "--output", metavar="DIR", help="Write metadata here. Default: beside the shards."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
embedding_option = click.option("--embedding-column", default="image_embedding", show_default=True)
samples_option = click.option(
    "--samples-per-shard", type=click.IntRange(min=1), default=10000, show_default=True
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Decoding threads per worker.",
)
orientation_option = click.option(
    "--orientation",
    type=click.Choice(["stored", "exif"]),
    default="stored",
    show_default=True,
    help="Take pictures as they are stored, or turn them as EXIF says.",
)
checkpoint_option = click.option(
    "--checkpoint", metavar="FILE", help="The encoder's weights, when they came from a file."
)


def stage_options(
    *sees: Sees, weights: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command a flag for each stage that looks at one of these.

    The command's argument `stages` has the names of those that were asked for.

    Parameters
    ----------
    *sees : {"images", "embeddings", "pairs"}
    weights : bool
        For stages of embeddings also an option that names a file, in the argument `weights`.
    """
    offered = catalog.offered(*sees)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*args: Any, **options: Any) -> Any:
            stages = [name for name, entry in offered.items() if options.pop(entry.option)]
            files = {
                name: options.pop(f"{entry.option}_weights", None)
                for name, entry in offered.items()
            }
            if weights:
                options["weights"] = {name: file for name, file in files.items() if file}
            return command(*args, stages=stages, **options)

        for entry in reversed(offered.values()):
            if weights and entry.sees == "embeddings":
                text = "The published file, if not downloaded."
                run = click.option(f"--{entry.option}-weights", metavar="FILE", help=text)(run)
            run = click.option(f"--{entry.option}", is_flag=True, help=f"Add {entry.help}.")(run)
        return run

    return decorate


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
        shown = f"{value:,}" if isinstance(value, int) else value
        click.echo(f"{name:<{width}}  {shown}")


def _in_words(account: dict[str, Any]) -> dict[str, str]:
    """The lines of the table that every command ends with."""

    def counted(name: str) -> str:
        value = account.get(name)
        return "not counted" if value is None else f"{value:,}"

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())

    if not account:
        return {}
    lines = {
        "samples in tars": f"{counted('samples_in_tars')} = {counted('with_row')} with row + "
        f"{counted('without_row')} without row",
        "rows in sidecars": f"{counted('rows_in_sidecars')} = {counted('with_image')} with image + "
        f"{counted('without_image')} without image",
    }
    if "read" in account:
        unreadable = listed(account["unreadable"])
        lines["images"] = f"{account['read']:,} read, {unreadable or '0'} unreadable"
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
    folder: str,
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
    folder : str
        Where ``_run.json`` goes: all of the record but what differs between equal runs.
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
        With the status 3, when something was there, and nothing of it could be read.
    """
    counts = account.counts() | more
    write_run({**record, "account": counts, "named": account.named}, folder)
    table = record if as_json or shown is None else shown
    report({**table, "account": counts}, as_json)
    list_faults(account.named, as_json)
    rows = account.rows_in_sidecars
    end(bool((rows and nothing_read) or (account.faults and not rows)))


def write_run(record: dict[str, Any], folder: str) -> None:
    """Write ``_run.json``: what came of a command, without what differs between equal runs."""
    command = click.get_current_context().info_name
    run = {"command": command, "version": __version__, **_comparable(record)}
    content = json.dumps(run, indent=1, ensure_ascii=False, default=str)
    location = storage.join(storage.normalise(folder), RUN_FILE)
    storage.write_bytes(location, content.encode("utf-8", "backslashreplace"))


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between runs that do the same."""
    return {
        name: _comparable(value) if isinstance(value, dict) else value
        for name, value in record.items()
        if name not in _DIFFERS
    }


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
) -> None:
    """Compute and save a dataset's frame, then print what came of it."""
    started = time.perf_counter() if started is None else started
    saved = dataset.save_metadata(output)
    seconds = time.perf_counter() - started
    record: dict[str, Any] = saved.summary() | (extra or {})
    record |= {"seconds": round(seconds, 1), "output": output or saved.metadata_path}
    counts = images(saved, record)
    uncompared = record.get("not_compared") == record["samples"]
    finish(
        *(record, saved.account(), saved.metadata_path, as_json),
        nothing_read=counts.get("read") == 0 or uncompared,
        **counts,
    )


def images(dataset: ImageTextPairDataset, summary: dict[str, Any]) -> dict[str, Any]:
    """How many images were read, and how many not, by reason; nothing before the first pass."""
    from nemo_image_curate.dataset.sources import ERROR_COLUMN
    from nemo_image_curate.decode.reasons import MISSING

    if ERROR_COLUMN not in dataset.metadata.columns:
        return {}
    unreadable = {kind: count for kind, count in summary["errors"].items() if kind != MISSING}
    return {
        "read": summary["samples"] - sum(summary["errors"].values()),
        "unreadable": unreadable,
    }
