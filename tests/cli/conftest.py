"""Runs the command as people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import Forked

COMMAND = Path(sys.executable).with_name("nemo-image-curate")


class Shell:
    """Runs the command; those that compute share a running cluster, to save the time to start.

    The first run of each command that succeeds is a new process, the others are forked: see
    `tests.forked`.

    Parameters
    ----------
    address : str
        The cluster's.
    begun : Path
        A folder with a file for each command that was run in a new process already.

    Attributes
    ----------
    stderr : str
        What the last one printed there.
    """

    stderr: str

    def __init__(self, address: str, begun: Path):
        self.address = address
        self.begun = begun

    def __call__(self, *words: object, code: int = 0, cluster: bool = True) -> str:
        """Standard output, or for a failure standard error.

        Parameters
        ----------
        *words : object
            The command and its arguments.
        code : int
            The exit code that it should have.
        cluster : bool
            Whether to compute on the shared cluster.
        """
        last = ["--scheduler", self.address] if cluster else []
        command = [str(COMMAND), *map(str, words), *last]
        env = {**os.environ, "NEMO_IMAGE_CURATE_BACKEND": "cpu"}
        if code == 0 and self._is_first(str(words[0])):
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
            stdout, self.stderr = done.stdout, done.stderr
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

    def _is_first(self, name: str) -> bool:
        """Whether no process of pytest has run this command in a new process."""
        try:
            (self.begun / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@pytest.fixture(scope="session")
def shell(workers, tmp_path_factory) -> Shell:
    """For fixtures that last; keeps the workers of `run`."""
    base = tmp_path_factory.getbasetemp()
    # That of each process of pytest-xdist is a folder in the one that they share.
    begun = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "commands-begun"
    begun.mkdir(exist_ok=True)
    return Shell(workers.scheduler_address, begun)


@pytest.fixture
def run(shell, client) -> Shell:
    return shell
