"""Jobs of a real Slurm with two nodes, by the batch script of the tutorial."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ci.slurm.cluster import Slurm, SlurmError, running_slurm
from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.compute.slurm.job import job_folder
from nemo_image_curate.errors import ConfigError
from tests.make_data import make_dataset

ROOT = Path(__file__).parents[3]
BATCH_SCRIPT = ROOT / "tutorials" / "slurm" / "curate.sbatch"
README = BATCH_SCRIPT.with_name("README.md")
JOB = Path(__file__).with_name("noted_job.py")
SHARDS = 6


class Jobs:
    """Submits the batch script and follows what becomes of it."""

    def __init__(self, slurm: Slurm, folder: Path):
        self.local_folder = slurm.local_folder
        self.environment = {
            **slurm.environment,
            "PATH": f"{Path(sys.executable).parent}:{slurm.environment['PATH']}",
            "PYTHONPATH": str(ROOT),
            "NEMO_IMAGE_CURATE_BACKEND": "cpu",
        }
        self.folder = folder

    def call(self, *command: object) -> str:
        told = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    def submit(self, options: str, *words: object) -> str:
        """The number of a new job."""
        command = ["sbatch", "--parsable", *options.split(), BATCH_SCRIPT, *words]
        return self.call(*command).strip()

    def status(self, job: str) -> dict[str, str]:
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, job: str) -> str:
        path = self.folder / f"curate-{job}.log"
        return path.read_text() if path.exists() else ""

    def logs(self, job: str) -> dict[str, str]:
        """What the job left, by name."""
        paths = self.folder.glob(f"slurm-{job}-*/*")
        return {str(path.relative_to(self.folder)): path.read_text() for path in paths}

    def ended(self, job: str) -> tuple[str, str]:
        """State and exit code at the end."""

        def is_over() -> bool:
            return self.status(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING")

        self.wait(is_over, job)
        status = self.status(job)
        return status["JobState"], status["ExitCode"]

    def wait(self, condition: Callable[[], bool], job: str, seconds: float = 480) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.log(job)}\n{self.logs(job)}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "in", sizes=[3] * SHARDS).root


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of the data."""
    folder = tmp_path_factory.mktemp("expected")
    command = [sys.executable, JOB, data, folder / "out", folder / "notes", SHARDS]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NEMO_IMAGE_CURATE_BACKEND": "cpu"}
    subprocess.run([*map(str, command)], check=True, env=env, capture_output=True)
    return _content(folder / "out")


@pytest.fixture(scope="module")
def statistics(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What this process makes of the data."""
    folder = tmp_path_factory.mktemp("statistics")
    ImageStatistics()(ImageTextPairDataset.from_webdataset(data, backend="cpu")).save_metadata(
        str(folder)
    )
    return _content(folder)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    try:
        with running_slurm() as slurm:
            yield Jobs(slurm, tmp_path_factory.mktemp("jobs"))
    except SlurmError as error:
        pytest.skip(str(error))


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".parquet", ".tar", ".idx")
    }


def _noted(notes: Path) -> list[list[str]]:
    """Restart, node and batch of each batch that was begun."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [line.split(" ", 2) for line in lines]


def _nodes(notes: Path) -> set[str]:
    return {node for _, node, _ in _noted(notes)}


@pytest.fixture(scope="module")
def job_with_time_limit(jobs: Jobs, data: Path, tmp_path_factory) -> tuple[str, Path]:
    """A job that holds after some shards and comes near its limit meanwhile.

    Slurm looks at limits every 30 s, while other tests run.
    """
    folder = tmp_path_factory.mktemp("limit")
    words = ("python", JOB, data, folder / "out", folder / "notes", 2)
    job = jobs.submit("--time=60 --signal=B:TERM@60", "--grace", 5, *words)
    jobs.wait(lambda: any((folder / "out" / "metadata").glob("*.parquet")), job)
    hours, minutes, _ = map(int, jobs.status(job)["RunTime"].split(":"))
    limit = 60 * hours + minutes + 1
    jobs.call("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")

    def give_more_time() -> None:
        jobs.wait(lambda: jobs.status(job)["Restarts"] != "0", job)
        jobs.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")

    # Before it is started again: on a slow machine it would meet its limit again and again.
    threading.Thread(target=give_more_time, daemon=True).start()
    return job, folder


@pytest.mark.slurm
@pytest.mark.usefixtures("job_with_time_limit")
def test_two_nodes_share_the_work(jobs, data, expected, tmp_path):
    notes, out = tmp_path / "notes", tmp_path / "out"
    job = jobs.submit("--mem=1000", "python", JOB, data, out, notes, 0)
    jobs.wait(lambda: _nodes(notes) == {"node1", "node2"}, job)
    (tmp_path / "notes.go").touch()
    assert jobs.ended(job) == ("COMPLETED", "0:0")
    assert _content(out) == expected
    assert len(expected) > SHARDS
    logs = jobs.logs(job)
    assert {Path(name).name for name in logs} == {"scheduler.log", "node1.log", "node2.log"}
    told = jobs.log(job)
    assert "waiting for 2 workers" in told
    assert "2 workers are there" in told


@pytest.mark.slurm
def test_commands_find_an_encrypted_cluster(jobs, data, statistics, tmp_path):
    options = "--cpus-per-task=2 --mem-per-cpu=400"
    command = ["nemo-image-curate", "stats", data, "--output", tmp_path / "out"]
    job = jobs.submit(options, "--tls", "--workers-per-node", 1, *command)
    assert jobs.ended(job) == ("COMPLETED", "0:0")
    assert _content(tmp_path / "out") == statistics
    logs = jobs.logs(job)
    scheduler = next(log for name, log in logs.items() if "scheduler" in name)
    assert "tls://" in scheduler
    assert "tcp://" not in scheduler
    # Two connections of clients: that which waited for workers, and that of the command.
    assert scheduler.count("Receive client connection") == 2
    # Neither keys nor an address that others could take for theirs.
    assert all(name.endswith(".log") for name in logs)


@pytest.mark.slurm
def test_the_exit_status_of_a_command_is_that_of_the_job(jobs):
    assert jobs.ended(jobs.submit("", "sh", "-c", "exit 3")) == ("FAILED", "3:0")


@pytest.mark.slurm
def test_a_command_that_is_not_there(jobs):
    job = jobs.submit("", "no-such-command")
    assert jobs.ended(job) == ("FAILED", "2:0")
    assert "error: there is no program 'no-such-command'" in jobs.log(job)


@pytest.mark.slurm
def test_each_gpu_gets_a_worker(jobs):
    each = jobs.submit("--gpus-per-node=2 --mem=1000", "--dry-run", "true")
    by_task = jobs.submit("--gpus-per-task=1 --ntasks-per-node=2", "--dry-run", "true")
    one = jobs.submit("--gpus-per-node=1", "--dry-run", "--interface", "ib0", "true")
    for job in (each, by_task, one):
        assert jobs.ended(job) == ("COMPLETED", "0:0")
        assert jobs.log(job).count("-m dask cuda worker ") == 2
    for node in ("node1", "node2"):
        for job in (each, by_task):
            assert f"{node}: CUDA_VISIBLE_DEVICES=0,1 " in jobs.log(job)
        assert f"{node}: CUDA_VISIBLE_DEVICES=0 " in jobs.log(one)
    assert jobs.log(each).count("--memory-limit=450MiB") == 2
    assert jobs.log(one).count("--interface=ib0") == 2


@pytest.mark.slurm
def test_nodes_that_do_not_fit_together_are_named(jobs):
    if jobs.local_folder is None:
        pytest.skip("this user may not mount a folder of each node's own")
    unseen = jobs.submit("", "--work-dir", jobs.local_folder / "work", "true")
    # Another timm on one node.
    package = jobs.local_folder / "site" / "timm-0.9.1.dist-info"
    write = f"mkdir -p {package} && printf 'Name: timm\\nVersion: 0.9.1\\n' > {package}/METADATA"
    jobs.call("srun", "--nodelist=node2", "sh", "-c", write)
    environment = dict(jobs.environment)
    jobs.environment["PYTHONPATH"] = f"{package.parent}:{ROOT}"
    other = jobs.submit("", "true")
    jobs.environment = environment
    assert jobs.ended(unseen) == jobs.ended(other) == ("FAILED", "2:0")
    assert f"error: node2 does not see {jobs.local_folder}/work/slurm-{unseen}" in jobs.log(unseen)
    assert "error: node2 has another environment than node1: timm 0.9.1" in jobs.log(other)


@pytest.mark.slurm
def test_a_cancelled_job_is_not_queued_again(jobs, tmp_path):
    job = jobs.submit("", "sh", "-c", f"touch {tmp_path}/began; exec sleep 600")
    jobs.wait((tmp_path / "began").exists, job)
    jobs.call("scancel", job)
    assert jobs.ended(job)[0] == "CANCELLED"


@pytest.mark.slurm
def test_a_job_without_workers_ends(jobs, tmp_path):
    job = jobs.submit("", "sh", "-c", f"touch {tmp_path}/began; exec sleep 600")
    jobs.wait((tmp_path / "began").exists, job)
    step = jobs.call("squeue", "--steps", "--noheader", "--format=%i %j").splitlines()
    steps = [line.split()[0] for line in step if line.startswith(f"{job}.")]
    jobs.call("scancel", next(step for step in steps if step.split(".")[1].isdigit()))
    assert jobs.ended(job) == ("FAILED", "1:0")
    assert "the workers ended; the command is stopped" in jobs.log(job)


@pytest.mark.slurm
def test_dask_jobqueue_as_the_tutorial_has_it(jobs, data, statistics, tmp_path):
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[0]
    for large, small in (
        ("cores=16", "cores=1"),
        ("processes=16", "processes=1"),
        ("64GiB", "800MiB"),
        ("DATASET", str(data)),
        ("OUT", str(tmp_path / "out")),
    ):
        assert large in code
        code = code.replace(large, small)
    jobs.call(sys.executable, "-c", code)
    assert _content(tmp_path / "out") == statistics


@pytest.mark.slurm
def test_a_job_at_its_time_limit_goes_on_where_it_was(jobs, expected, job_with_time_limit):
    job, folder = job_with_time_limit
    assert jobs.ended(job) == ("COMPLETED", "0:0")
    assert int(jobs.status(job)["Restarts"]) >= 1
    assert _content(folder / "out") == expected
    assert "SIGTERM: the command has 5 s to stop" in jobs.log(job)
    noted = _noted(folder / "notes")
    later = [batch for restart, _, batch in noted if restart != "0"]
    assert 0 < len(later) < SHARDS
    folders = {name.split("/")[0].rsplit("-", 1)[0] for name in jobs.logs(job)}
    assert {f"slurm-{job}-0", f"slurm-{job}-1"} <= folders


def _processes_of(job: str, node: str) -> list[int]:
    """What a job runs on a node; both are on this machine."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURMD_NODENAME={node}".encode()}
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                numbers.append(int(folder.name))
        except OSError:
            continue
    return numbers


@pytest.mark.slurm
def test_a_node_that_dies(jobs, data, expected, tmp_path):
    notes, out = tmp_path / "notes", tmp_path / "out"
    job = jobs.submit("", "python", JOB, data, out, notes, 0)
    jobs.wait(lambda: _nodes(notes) == {"node1", "node2"}, job)
    for number in _processes_of(job, "node2"):
        os.kill(number, signal.SIGKILL)
    # What Slurm does by itself when a node has not answered for some minutes.
    jobs.call("scontrol", "update", "nodename=node2", "state=down", "reason=test")
    (tmp_path / "notes.go").touch()
    assert jobs.ended(job) == ("COMPLETED", "0:0")
    assert "Restarts=0" in jobs.call("scontrol", "show", "job", job)
    assert _content(out) == expected


def test_outside_of_slurm(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with (
        pytest.raises(ConfigError, match="this is no Slurm job: SLURM_JOB_ID is not set"),
        job_folder(str(tmp_path)),
    ):
        pass


def test_no_run_sees_files_of_another(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with job_folder(str(tmp_path)) as first:
        Path(first, "scheduler.json").touch()
        Path(first, "node1.log").touch()
        with job_folder(str(tmp_path)) as second:
            assert list(Path(second).iterdir()) == []
    # What is left tells nothing of a scheduler; nothing at all is left of an empty one.
    assert [str(path.relative_to(first)) for path in tmp_path.rglob("*.*")] == ["node1.log"]
    assert list(tmp_path.iterdir()) == [Path(first)]
