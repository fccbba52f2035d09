"""Commands on clusters: what they wait for, tell, and how they end."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest
from click.testing import CliRunner

from nemo_image_curate.cli import main
from nemo_image_curate.cli.base import Session
from nemo_image_curate.compute import progress
from tests.make_data import make_dataset

COMMAND = Path(sys.executable).with_name("nemo-image-curate")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), sizes=[20] * 40).root


def start(*words: object) -> subprocess.Popen[str]:
    """The command, in a session of its own."""
    return subprocess.Popen(
        [str(COMMAND), *map(str, words)],
        **dict.fromkeys(("stdout", "stderr"), subprocess.PIPE),
        text=True,
        start_new_session=True,
        env={**os.environ, "NEMO_IMAGE_CURATE_BACKEND": "cpu"},
    )


def until(process: subprocess.Popen[str], text: str) -> None:
    """Wait until a command has said this on standard error."""
    said = []
    while text not in "".join(said[-1:]):
        said.append(process.stderr.readline())
        assert said[-1], said


def dask(*words: object) -> subprocess.Popen[bytes]:
    """A process of Dask's."""
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    # Any other test's cluster sets it in this process; workers that have it are told of.
    environment = {name: os.environ[name] for name in os.environ if "MALLOC_TRIM" not in name}
    command = [sys.executable, "-m", "dask", *map(str, words)]
    return subprocess.Popen(command, **quiet, env=environment)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A scheduler, and its file."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    process = dask("scheduler", "--port", 0, "--no-dashboard", "--scheduler-file", file)
    yield process, file
    process.kill()
    process.wait()


def test_no_scheduler_and_no_worker_are_waited_for_and_told(run, root, tmp_path, scheduler):
    def told(file: Path, wait: float) -> str:
        words = ("stats", root, "--scheduler-file", file, "--wait", wait)
        return run(*words, code=1, cluster=False)

    file = tmp_path / "nothing.json"
    first, last = told(file, 0.5).splitlines()
    assert first == f"WARNING: waiting up to 0.5 s for the scheduler's file {file}."
    assert last.startswith(f"error: waited 0.5 s for the scheduler's file {file}. Start the sched")

    file.write_text(json.dumps({"address": "tcp://127.0.0.1:1"}))
    assert told(file, 0.5) == (
        f"error: no Dask scheduler answers at tcp://127.0.0.1:1 (of {file}). Delete the file if it "
        "was left by an earlier one.\n"
    )

    last = told(scheduler[1], 4).splitlines()[-1]
    assert last.startswith("error: waited 4 s for a worker of the scheduler at")


@pytest.fixture(scope="module")
def worker(scheduler: tuple[Any, Path]) -> Iterator[Any]:
    process = dask("worker", "--scheduler-file", scheduler[1], "--no-nanny", "--nthreads", 1)
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("worker")
def test_progress_in_lines_of_json_and_what_a_run_leaves(run, root, tmp_path, scheduler):
    output = tmp_path / "out"
    words = ("stats", root, "--scheduler-file", scheduler[1], "--log-json", "--output", output)
    run(*words, cluster=False)
    records = [json.loads(line) for line in run.stderr.splitlines()]
    # Before it, perhaps, that a worker is waited for.
    (told,) = [one["message"] for one in records if "1 workers with 1 threads" in one["message"]]
    assert "on 1 hosts" in told
    last = [record for record in records if record.get("job") == "save"][-1]
    assert (last["partitions"], last["of"], last["rows"]) == (40, 40, 800)
    assert last["images_per_second"] > 0
    left = json.loads((output / "_run.json").read_text())
    assert left["config"]["output"] == str(output)
    assert left["versions"]["nemo_image_curate"] == left["version"]
    (stage,) = [stage for stage in left["stages"] if stage["job"] == "save"]
    assert stage["rows"] == 800
    assert 0 < stage["seconds"] <= left["seconds"] + 1


@pytest.mark.usefixtures("worker")
def test_a_performance_report_on_request(run, root, tmp_path, scheduler):
    file = tmp_path / "report.html"
    words = ["stats", root, "--scheduler-file", scheduler[1], "--output", tmp_path / "out"]
    words += ["--performance-report", file]
    if importlib.util.find_spec("bokeh") is None:
        told = run(*words, code=2, cluster=False)
        assert "pip install 'nemo_image_curate[dashboard]'" in told
        assert not (tmp_path / "out").exists()
    else:
        run(*words, cluster=False)
        assert "<html" in file.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_ends_soon_in_two_lines_and_goes_on(root, tmp_path, number):
    output = tmp_path / "out"
    process = start("stats", root, "--workers", 1, "--output", output)
    until(process, "1 workers with 1 threads")
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    while not list(output.glob("*.parquet")):
        time.sleep(0.01)
    began = time.monotonic()
    # As a terminal does: to all processes.
    os.killpg(process.pid, number)
    lines = process.communicate(timeout=20)[1].splitlines()
    # On a busy machine a line of progress may come between.
    assert len(lines) < 5, lines
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 15
    assert any(line.startswith("save: ") and " of 40 partitions" in line for line in lines)
    assert f"stopped by {number.name}; run the same command again to go on." in lines
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert not list(output.glob(".curate-lock"))


@pytest.mark.usefixtures("worker")
def test_a_lost_scheduler_is_one_error(root, tmp_path, scheduler):
    words = ("stats", root, "--scheduler-file", scheduler[1], "--output", tmp_path / "out")
    # It is also how long the scheduler is looked for again.
    process = start(*words, "--wait", 10)
    until(process, "1 workers with 1 threads")
    while not list((tmp_path / "out").glob("*.parquet")):
        time.sleep(0.01)
    scheduler[0].kill()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    lines = [line for line in stderr.splitlines() if not line.startswith("save: ")]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: the scheduler was lost while save ran")
    assert "of 40 partitions are done and kept" in lines[0]


def test_workers_that_end_late_fail_no_command(client, monkeypatch):
    close = distributed.Client.close

    def late(self: distributed.Client, *arguments: Any) -> None:
        close(self, *arguments)
        raise TimeoutError

    monkeypatch.setattr(distributed.Client, "close", late)
    session = Session("cpu", None, client.scheduler.address, None)
    with session.client() as own:
        assert own.submit(abs, -1).result() == 1
    assert own.status == "closed"


def test_a_process_that_ran_a_command_tells_of_jobs_as_before(client, root):
    logger = logging.getLogger("nemo_image_curate")
    level = logger.level
    words = ["inspect", str(root), "--scheduler", client.scheduler.address, "--log-json"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert (progress.settings, logger.level) == (progress.Settings(), level)
    session = Session("cpu", None, client.scheduler.address, None)
    with session.client():
        assert progress.settings == progress.Settings(quiet_seconds=1, workers_first=True)
    assert progress.settings == progress.Settings()
