"""The doctor tries things out, and is never sick itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_image_curate import __version__, doctor, frames

COMMAND = Path(sys.executable).with_name("nemo-image-curate")


def test_what_works_here_is_said_to_work(tmp_path):
    (tmp_path / "some.pth").write_bytes(b"x")
    environment = {**os.environ, "NEMO_IMAGE_CURATE_HOME": str(tmp_path)}
    done = subprocess.run(
        [COMMAND, "doctor", "--json"], check=True, capture_output=True, text=True, env=environment
    )
    found = json.loads(done.stdout)
    assert found["versions"]["nemo_image_curate"] == __version__
    assert found["versions"]["timm"] != "not installed"
    assert found["weights"] == {"folder": str(tmp_path), "files": "some.pth"}
    decoders = ["decode with nvImageCodec", "decode with DALI"]
    for name in [*decoders, "timm", "OpenCLIP", "offline model", "offline texts", "vector index"]:
        assert found["what works"][name].startswith("works"), found["what works"]
    assert found["what works"]["local cluster"] == "works: True"


def test_problems_are_told_in_a_line():
    def fail():
        raise OSError("no such thing\nwith details")

    assert doctor._attempt(fail) == "no: OSError: no such thing"
    assert doctor._attempt(lambda: 1 / 0).startswith("no: ZeroDivisionError")
    assert doctor._version("no-such-package-anywhere") == "not installed"


@pytest.mark.parametrize("backend", ["gpu", "abacus"])
def test_a_backend_that_does_not_work_is_a_finding(backend, monkeypatch, tmp_path):
    if backend == "gpu" and frames.gpu_problem() is None:
        pytest.skip("a GPU works here")
    monkeypatch.setenv("NEMO_IMAGE_CURATE_BACKEND", backend)
    monkeypatch.setenv("NEMO_IMAGE_CURATE_HOME", str(tmp_path / "nowhere"))
    found = doctor.examine()
    assert found["devices"]["backend in use"].startswith("no: ")
    assert found["weights"]["files"] == "none yet"
