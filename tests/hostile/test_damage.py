"""Damaged files of every kind: no crash, no error that is not ours, little memory and time.

What was found this way has its own test beside the module that was at fault. For longer runs, and
for those that look for new ways through the code: ``ci/fuzz.py``.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.hostile import strategies, targets

COUNTS = {
    "image": 2000,
    "header": 800,
    "tar": 600,
    "packed": 250,
    "idx": 400,
    "sidecar": 600,
    "expression": 600,
    "record": 50,
    "manifest": 200,
}


def test_damaged_files(tmp_path: Path) -> None:
    """Thousands, in one process, which lives."""
    last = tmp_path / "last"
    wanted = [f"{name}={count}" for name, count in COUNTS.items()]
    command = [sys.executable, "-W", "ignore", "-m", "tests.hostile.damage", "--last", last]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    # Native decoders print lines of their own.
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    content = base64.b64encode(last.read_bytes()).decode()
    if done.returncode or len(results) < len(COUNTS):
        pytest.fail(f"ended with {done.returncode} at {content}\n{done.stderr[-3000:]}")
    for result in results:
        if result["failure"]:
            pytest.fail(f"{result['target']}: {result['failure']}\nwith {content}")
    assert {result["target"]: result["inputs"] for result in results} == COUNTS


made = settings(max_examples=40, suppress_health_check=list(HealthCheck))


@made
@given(strategies.tars())
def test_tars_of_any_headers(content: bytes) -> None:
    targets.tar(content)


@made
@given(strategies.EXPRESSIONS)
def test_expressions_of_any_form(content: bytes) -> None:
    targets.expression(content)


@made
@given(strategies.RECORDS)
def test_records_that_hold_anything(content: bytes) -> None:
    targets.record(content)


@made
@given(strategies.MANIFESTS)
def test_manifests_that_hold_anything(content: bytes) -> None:
    targets.manifest(content)
