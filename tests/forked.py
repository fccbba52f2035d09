"""Processes that begin with the libraries imported, which is most of what a command's time goes to.

They are forked from a server that has imported `tests.preloaded`. Each has arguments, environment,
output and exit status of its own, and dies alone. What they cannot show is that a command imports
all that it needs, and that nothing depends on the seed of hashes, which they share: so the first
run of each command, and one side of each comparison between runs, is a process started anew.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")


class Forked:
    """A function in a process of its own.

    Parameters
    ----------
    function : str
        ``module:name``; takes no arguments but `sys.argv`.
    *arguments : object
        `sys.argv`.
    env : dict, optional
        The environment; that of this process by default.

    Attributes
    ----------
    pid : int
        Also the id of its group, to which the processes belong that it starts.
    """

    def __init__(self, function: str, *arguments: object, env: dict[str, str] | None = None):
        _start_server()
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._files = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        words = list(map(str, arguments))
        environment = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(
            target=_run, args=(function, words, environment, os.getcwd(), self._files)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        while self._process.is_alive() and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or None if it does not end in so many seconds."""
        self._process.join(seconds)
        return self.returncode

    def kill(self) -> None:
        """End it and the processes that it started, at once, and wait until it is gone."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def communicate(self) -> tuple[str, str]:
        """What it printed, when it has ended."""
        self.wait()
        stdout, stderr = (Path(file).read_text() for file in self._files)
        return stdout, stderr


def _start_server() -> None:
    # It finds modules by the path that it starts with.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), before]))
    try:
        multiprocessing.forkserver.set_forkserver_preload(["tests.preloaded"])
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _run(
    function: str, words: list[str], environment: dict[str, str], folder: str, files: list[str]
) -> None:
    os.setsid()
    for descriptor, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = words
    module, name = function.split(":")
    getattr(importlib.import_module(module), name)()
