"""Runs the command as people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import Forked

COMMAND = Path(sys.executable).with_name("nemo-image-curate")
# Commands that were run in a new process already.
_SEEN: set[str] = set()


class Shell:
    """Runs the command; those that compute share a running cluster, to save the time to start.

    The first run of each command is a new process, the others are forked: see `tests.forked`.

    Attributes
    ----------
    stderr : str
        What the last one printed there.
    """

    stderr: str

    def __init__(self, address: str):
        self.address = address

    def __call__(
        self, *words: object, code: int = 0, cluster: bool = True, fresh: bool = False
    ) -> str:
        """Standard output, or for a failure standard error.

        Parameters
        ----------
        *words : object
            The command and its arguments.
        code : int
            The exit code that it should have.
        cluster : bool
            Whether to compute on the shared cluster.
        fresh : bool
            Whether it must be a new process, because it reads the environment while it imports.
        """
        last = ["--scheduler", self.address] if cluster else []
        command = [str(COMMAND), *map(str, words), *last]
        env = {**os.environ, "NEMO_IMAGE_CURATE_BACKEND": "cpu"}
        if fresh or words[0] not in _SEEN:
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
            stdout, self.stderr = done.stdout, done.stderr
            _SEEN.add(str(words[0]))
            status: int | None = done.returncode
        else:
            process = Forked("nemo_image_curate.cli:main", *command, env=env)
            stdout, self.stderr = process.communicate()
            status = process.returncode
        assert status == code, self.stderr
        assert "Traceback" not in self.stderr
        # Where nothing could be read, it is said what there was.
        if code in (0, 3):
            return stdout
        # Also where a part of it could not.
        assert stdout == "" or "are left out: see above" in self.stderr
        return self.stderr


@pytest.fixture
def run(client) -> Shell:
    return Shell(client.scheduler.address)
