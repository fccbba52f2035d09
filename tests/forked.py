"""Processes that begin with the libraries imported, which is most of what a command's time goes to.

They are forked from a server that has imported `tests.preloaded`. Each has arguments, environment,
output and exit status of its own, and dies alone. What they cannot show is that a command imports
all that it needs, and that nothing depends on the seed of hashes, which they share: so the first
run of each command that succeeds, and one side of each comparison between runs, is a process
started anew.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

import dask

REPOSITORY = Path(__file__).parents[1]


class Forked:
    """A function in a process of its own; one at a time.

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
    returncode : int or None
        The exit status, negative for a signal; None while it is not known to have ended.
    """

    returncode: int | None = None

    def __init__(self, function: str, *arguments: object, env: dict[str, str] | None = None):
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._outputs = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        request = {
            "function": function,
            "arguments": list(map(str, arguments)),
            "env": dict(os.environ if env is None else env),
            "folder": os.getcwd(),
            "outputs": self._outputs,
        }
        self._server = _server()
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        self._pid = int(self._server.stdout.readline())

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or None if it does not end in so many seconds."""
        if self.returncode is None and select.select([self._server.stdout], [], [], seconds)[0]:
            self.returncode = int(self._server.stdout.readline())
        return self.returncode

    def kill(self) -> None:
        """End it and the processes that it started, at once, and wait until it is gone."""
        os.killpg(self._pid, signal.SIGKILL)
        self.wait()

    def stdout(self) -> str:
        """What it has printed so far."""
        return Path(self._outputs[0]).read_text()

    def communicate(self) -> tuple[str, str]:
        """What it printed, when it has ended."""
        self.wait()
        return self.stdout(), Path(self._outputs[1]).read_text()


def run_script() -> None:
    """Run the script that `sys.argv` begins with, as Python does: the function of a `Forked`."""
    runpy.run_path(sys.argv[0], run_name="__main__")


@functools.cache
def _server() -> Any:
    """The process that forks; it ends with this one, which holds its input open."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        cwd=REPOSITORY,
        # Without buffers, so that what has arrived can be seen to have.
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _serve() -> None:
    importlib.import_module("tests.preloaded")
    # Each process would look through all of it when it ends, which takes it two seconds.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        ready, started = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ready)
            _run(json.loads(line), started)
        os.close(started)
        os.read(ready, 1)
        os.close(ready)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(request: dict[str, Any], started: int) -> NoReturn:
    """Be the process that is asked for until it ends, and back to no loop.

    It ends as any process does, but does not take the interpreter apart, which takes half a second
    with these libraries.
    """
    status = 0
    try:
        _become(request, started)
    except SystemExit as exited:
        status = exited.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _become(request: dict[str, Any], started: int) -> None:
    """Be the process that is asked for."""
    # The group that is killed with it.
    os.setsid()
    outputs = [os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) for path in request["outputs"]]
    for descriptor, file in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(file, descriptor)
        os.close(file)
    os.close(started)
    os.environ.clear()
    os.environ.update(request["env"])
    # It was imported, and read its settings, in the server.
    dask.config.refresh()
    os.chdir(request["folder"])
    sys.argv[:] = request["arguments"]
    module, name = request["function"].split(":")
    getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    _serve()
