"""How Ctrl-C and SIGTERM end a command: soon, in a few lines, and its workers with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

import click

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """End this process and its workers at once on one of the two signals.

    Files appear only when they are whole, so nothing needs to be unwound; what Dask does when it is
    unwound in the midst of something takes long, prints much, and may never end.
    """
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet_tracker() -> None:
    """Have Python's tracker of semaphores say nothing when this process ends at once."""
    name = "PYTHONWARNINGS"
    before = os.environ.get(name)
    os.environ[name] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        # It inherits the environment as it is now.
        resource_tracker.ensure_running()
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _stop(number: int, frame: FrameType | None) -> None:
    from nemo_image_curate import locks
    from nemo_image_curate.compute import progress

    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    with contextlib.suppress(Exception):
        # Behind what a bar has left on this line.
        click.echo("\n" if sys.stderr.isatty() else "", nl=False, err=True)
        for line in progress.status():
            click.echo(line, err=True)
        name = signal.Signals(number).name
        click.echo(f"stopped by {name}; run the same command again to go on.", err=True)
        sys.stdout.flush()
    for child in multiprocessing.active_children():
        with contextlib.suppress(Exception):
            child.kill()
    locks.release_all()
    os._exit(128 + number)
