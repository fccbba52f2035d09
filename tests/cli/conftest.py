"""Runs the command as people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("nemo-image-curate")


class Shell:
    """Runs the command; those that compute share a running cluster, to save the time to start."""

    stderr: str

    def __init__(self, address: str):
        self.address = address

    def __call__(self, *words: object, code: int = 0, cluster: bool = True) -> str:
        """Standard output, or for a failure standard error."""
        last = ["--scheduler", self.address] if cluster else []
        done = subprocess.run(
            [COMMAND, *map(str, words), *last],
            capture_output=True,
            text=True,
            env={**os.environ, "NEMO_IMAGE_CURATE_BACKEND": "cpu"},
        )
        self.stderr = done.stderr
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code == 0:
            return done.stdout
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def run(client) -> Shell:
    return Shell(client.scheduler.address)
