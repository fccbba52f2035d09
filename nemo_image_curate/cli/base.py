"""What all commands share: the group, and the options of a cluster and of stages."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate import catalog
from nemo_image_curate.catalog import Sees
from nemo_image_curate.cli.stopping import quiet_tracker, stoppable
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, CurateError, require
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


_NEW_SHARDS = "new shards are written by: filter DATASET --where EXPR --output DIR"
# What commands are called elsewhere, and what does it here.
_CALLED_OTHERWISE = {
    "export": _NEW_SHARDS,
    "reshard": _NEW_SHARDS,
    "convert": f"shards of images and tables are made by: pack; {_NEW_SHARDS}",
}


class _Group(click.Group):
    """Turns our errors into one line and an exit code: 1 failed, 2 wrong usage.

    A 3 comes from ``results.py``: nothing could be read.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if remedy := _CALLED_OTHERWISE.get(args[0]):
            raise click.UsageError(f"No such command {args[0]!r}; {remedy}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigError, ColumnNotFoundError) as error:
            click.echo(_message(error), err=True)
            ctx.exit(2)
        except CurateError as error:
            click.echo(_message(error), err=True)
            ctx.exit(1)
        except OSError as error:
            # click's own: whoever read the output has gone.
            if error.errno == errno.EPIPE:
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped; run the same command again to go on.", err=True)
            ctx.exit(128 + signal.SIGINT)


def _message(error: CurateError) -> str:
    """An error, and where it was, if that was noted."""
    return "\n".join([f"error: {error}", *getattr(error, "__notes__", ())])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nemo-image-curate")
def main() -> None:
    """Curate image(-text) datasets in WebDataset shards.

    DATASET is a folder of .tar shards, a glob, a URL, or a folder written with --output.
    """
    log_to_stderr(logging.Formatter("%(levelname)s: %(message)s"))


def log_to_stderr(formatter: logging.Formatter) -> logging.Logger:
    """Have this package's records go to standard error in one form."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logger = logging.getLogger("nemo_image_curate")
    logger.handlers[:] = [handler]
    return logger


@contextlib.contextmanager
def _log_json() -> Iterator[None]:
    """Have what is told of jobs be lines of JSON."""
    from nemo_image_curate.compute import progress
    from nemo_image_curate.compute.logs import JsonFormatter

    logger = log_to_stderr(JsonFormatter())
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        with progress.changed(as_json=True):
            yield
    finally:
        logger.setLevel(before)


@dataclass(frozen=True)
class Session:
    """Where a command computes."""

    backend: str
    workers: int | None
    scheduler: str | None
    scheduler_file: str | None
    image_member: str | None = None
    wait: float = 300
    check_versions: bool = True
    performance_report: str | None = None
    tars: str | None = None

    def client_if_asked(self) -> contextlib.AbstractContextManager[Any]:
        """The client, where options or the environment name one; else this process's threads.

        For what reads columns only: worker processes take longer to start than it takes.
        """
        from nemo_image_curate.compute.client import configured_scheduler

        named = self.workers or self.scheduler or self.scheduler_file or self.performance_report
        return self.client() if named or configured_scheduler() else contextlib.nullcontext()

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """The Dask client that the command's options ask for."""
        if self.performance_report:
            require("bokeh", "dashboard", "--performance-report")
        # Sets its loggers up.
        import distributed

        from nemo_image_curate.compute import progress
        from nemo_image_curate.compute.client import configured_scheduler, get_client

        running = self.scheduler or self.scheduler_file
        running = running or (None if self.workers else configured_scheduler())
        options: dict[str, Any] = {"wait": self.wait, "check_versions": self.check_versions}
        # What goes wrong on a worker or between us and the scheduler is told once, by us.
        for name in [*logging.root.manager.loggerDict]:
            if name.partition(".")[0] == distributed.__name__:
                logging.getLogger(name).setLevel(logging.CRITICAL)
        if not running:
            options["silence_logs"] = logging.CRITICAL
            quiet_tracker()
            # Ctrl-C reaches the whole group of processes. Workers inherit the block, so that only
            # this process stops.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # A deduplication has dozens of jobs that take no time.
        quiet_seconds = 0 if progress.settings.as_json else 1
        changes = progress.changed(quiet_seconds=quiet_seconds, workers_first=True)
        try:
            client = get_client(
                self.backend, self.scheduler, self.scheduler_file, self.workers, **options
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            with changes, self._reported():
                yield client
        finally:
            # Workers of a busy machine can take longer to end than Dask waits; what was asked for
            # is done by then, and they end with this process.
            with contextlib.suppress(TimeoutError):
                client.close()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        if not self.performance_report:
            yield
            return
        from distributed import performance_report

        with performance_report(filename=self.performance_report):
            yield

    def open(self, dataset: str, **options: Any) -> ImageTextPairDataset:
        """The dataset, in frames of the backend asked for."""
        return open_dataset(dataset, self.tars, self.backend, self.image_member, **options)


def open_dataset(
    dataset: str, tars: str | None, backend: str, image_member: str | None, **options: Any
) -> ImageTextPairDataset:
    """A command's DATASET, whose tars may lie elsewhere than it says."""
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

    options |= {"path": dataset} if tars is None else {"path": tars, "metadata": dataset}
    return ImageTextPairDataset.from_webdataset(
        backend=backend, image_member=image_member, **options
    )


class NamedNumber(click.ParamType[tuple[str, float]]):
    """``NAME=NUMBER``.

    Parameters
    ----------
    metavar : str
        What has the name, such as ``COLUMN``.
    example : str
    """

    def __init__(self, metavar: str, example: str):
        self.name = f"{metavar}=NUMBER"
        self.example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        name, _, number = str(value).rpartition("=")
        try:
            return name, float(number)
        except ValueError:
            self.fail(f"{value!r} should be {self.name}, such as {self.example}.", param, ctx)


backend_option = click.option(
    "--backend", type=click.Choice(["auto", "cpu", "gpu"]), default="auto"
)
image_member_option = click.option(
    "--image-member",
    metavar="PATTERN",
    help="Which member of a sample is its image: jpg, input.jpg, '*.png', 'input.*'.",
)
tars_option = click.option(
    "--tars",
    metavar="DIR",
    help="Where the tars are, if DATASET is metadata and they are not where they were.",
)


def computes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a cluster and of its `dataset`, as its argument `session`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        backend: str,
        workers: int | None,
        scheduler: str | None,
        scheduler_file: str | None,
        image_member: str | None,
        wait: float,
        allow_version_mismatch: bool,
        performance_report: str | None,
        log_json: bool,
        tars: str | None = None,
        **options: Any,
    ) -> Any:
        session = Session(
            *(backend, workers, scheduler, scheduler_file, image_member),
            *(wait, not allow_version_mismatch, performance_report, tars),
        )
        with _log_json() if log_json else contextlib.nullcontext(), stoppable():
            return command(*args, session=session, **options)

    for option in (
        click.option("--log-json", is_flag=True, help="Progress and warnings as lines of JSON."),
        click.option(
            "--performance-report", metavar="FILE", help="Write Dask's report of the work, as HTML."
        ),
        image_member_option,
        backend_option,
        click.option(
            "--allow-version-mismatch",
            is_flag=True,
            help="Take workers with other versions of packages, too.",
        ),
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            default=300,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for a running scheduler's file and workers.",
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Worker processes to start."),
        click.option("--scheduler-file", metavar="FILE", help="The same, by its scheduler file."),
        click.option("--scheduler", metavar="ADDRESS", help="Use this running Dask scheduler."),
    ):
        run = option(run)
    return tars_option(run) if "dataset" in inspect.signature(command).parameters else run


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--output``, and ``--overwrite``, which `results.save` looks up."""

    @functools.wraps(command)
    def run(*args: Any, overwrite: bool, **options: Any) -> Any:
        return command(*args, **options)

    for option in (
        click.option(
            "--overwrite",
            is_flag=True,
            help="Drop columns that were added to the files there, and this run does not make.",
        ),
        click.option(
            "--output", metavar="DIR", help="Write metadata here. Default: beside the shards."
        ),
    ):
        run = option(run)
    return run


retry_option = click.option(
    "--retry", is_flag=True, help="Compute rows again whose image failed, and what shares a batch."
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

    The command's argument `stages` has the names of those that were asked for, `files` the files
    that options name, by the stage that is made of them.

    Parameters
    ----------
    *sees : {"images", "embeddings", "pairs"}
    weights : bool
        For stages of embeddings with published weights also an option that names their file.
    """
    offered = catalog.offered(*sees)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*args: Any, **options: Any) -> Any:
            keys = {name: entry.option.replace("-", "_") for name, entry in offered.items()}
            values = {name: options.pop(key) for name, key in keys.items()}
            stages = [name for name, value in values.items() if value]
            files = {name: options.pop(f"{key}_weights", None) for name, key in keys.items()}
            files |= {name: values[name] for name in stages if offered[name].takes_file}
            files = {name: file for name, file in files.items() if file}
            return command(*args, stages=stages, files=files, **options)

        for entry in reversed(offered.values()):
            if weights and entry.sees == "embeddings" and not entry.takes_file:
                text = "The published file, if not downloaded."
                run = click.option(f"--{entry.option}-weights", metavar="FILE", help=text)(run)
            kind: dict[str, Any] = {"metavar": "FILE"} if entry.takes_file else {"is_flag": True}
            run = click.option(f"--{entry.option}", help=f"Add {entry.help}.", **kind)(run)
        return run

    return decorate
