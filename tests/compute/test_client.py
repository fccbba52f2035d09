"""Clients: of a cluster of their own, or of a running scheduler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import dask
import psutil
import pytest

from nemo_image_curate import SemanticDedup, frames
from nemo_image_curate.compute.client import current_client, get_client
from nemo_image_curate.errors import BackendError, ConfigError
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import digests


def test_a_started_cluster_ends_with_its_client():
    with get_client("cpu", n_workers=1, processes=False) as client:
        assert current_client() is client
        assert client.submit(os.getpid).result() == os.getpid()
        inner = client.cluster
    assert inner.status.name == "closed"
    assert current_client() is None


def test_connect_to_a_running_scheduler(client, tmp_path):
    address = client.scheduler.address
    with get_client(scheduler_address=address, set_as_default=False) as other:
        assert len(other.scheduler_info()["workers"]) == 2
    (tmp_path / "s.json").write_text(json.dumps({"address": address}))
    with get_client(scheduler_file=str(tmp_path / "s.json"), set_as_default=False) as other:
        assert len(other.scheduler_info()["workers"]) == 2
    assert client.submit(len, "abc").result() == 3, "the cluster of others lives on"


def test_the_scheduler_of_dasks_configuration(client):
    with dask.config.set({"scheduler-address": client.scheduler.address}):
        with get_client("cpu", set_as_default=False) as other:
            assert other.scheduler.address == client.scheduler.address
        # Who asks for so many workers means workers of their own.
        with get_client("cpu", n_workers=1, processes=False) as own:
            assert own.scheduler.address != client.scheduler.address


def test_contradicting_arguments():
    with pytest.raises(ConfigError, match="not both"):
        get_client(scheduler_address="tcp://x:1", scheduler_file="x.json")
    with pytest.raises(ConfigError, match="n_workers"):
        get_client(scheduler_address="tcp://x:1", n_workers=2)
    with pytest.raises(ConfigError, match="'tpu' is none of"):
        get_client("tpu")


@pytest.mark.skipif(frames.gpu_problem() is None, reason="a GPU works here")
def test_gpu_cluster_without_a_gpu():
    with pytest.raises(BackendError, match="does not work here"):
        get_client("gpu")


@pytest.mark.gpu
def test_more_workers_than_gpus_are_refused():
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    with pytest.raises(ConfigError, match=r"n_workers=99: there is one worker for each GPU"):
        get_client("gpu", n_workers=99)


@pytest.mark.gpu
def test_a_gpu_cluster_writes_the_same_files_as_no_cluster(tmp_path):
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    vectors = [None if row % 50 == 7 else one for row, one in enumerate(planted(900))]
    numbers = [None if row % 9 == 4 else row for row in range(900)]
    dataset = write_embeddings(tmp_path / "in", vectors, 200, "gpu", number=numbers)

    def save(name: str) -> dict[str, str]:
        stage = SemanticDedup(0.05, 9, keep="best", by="number", work_dir=tmp_path / f"work-{name}")
        marked = stage(dataset.filter("number >= 250"))
        marked.metadata["twice"] = marked.metadata["number"] * 2
        saved = marked.save_metadata(tmp_path / name)
        assert saved.backend == "gpu"
        assert 100 < int(saved.metadata["is_duplicate"].sum().compute()) < 400
        return digests(tmp_path / name)

    alone = save("alone")
    with get_client("gpu") as client:
        assert len(client.scheduler_info()["workers"]) >= 1
        assert save("spread") == alone
    assert [name for name in alone if name.endswith(".parquet")] == [
        f"{shard:05d}.parquet" for shard in range(5)
    ]


_PROGRAM = """
from nemo_image_curate.compute.client import get_client
{guard}
    with get_client("cpu", n_workers=1) as client:
        print("sum", client.submit(sum, [1, 2]).result())
"""
_GUARD = 'if __name__ == "__main__":'


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def ended(command: list[str], program: str = "") -> tuple[str, str]:
    """What a program prints; it ends within a minute, and so do all processes of its session."""
    done = subprocess.Popen(
        command,
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = done.communicate(program, timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)
        raise
    mine = [one for one in psutil.process_iter() if _session(one.pid) == done.pid]
    # Python's own tracker of semaphores ends after the last process.
    assert not psutil.wait_procs(mine, timeout=30)[1]
    return stdout, stderr


def test_a_script_without_guard_ends_with_what_to_do(tmp_path, monkeypatch):
    # As from a process that has started a cluster itself.
    monkeypatch.setenv("NEMO_IMAGE_CURATE_WORD", str(tmp_path / "gone"))
    script = tmp_path / "script.py"
    script.write_text(_PROGRAM.format(guard="if True:"))
    stdout, stderr = ended([sys.executable, str(script)])
    assert stdout == ""
    last = stderr.rstrip().splitlines()[-1]
    assert "ConfigError" in last, stderr
    assert last.endswith("if __name__ == '__main__':")
    assert stderr.count("Traceback") == 1, stderr
    script.write_text(_PROGRAM.format(guard=_GUARD))
    assert ended([sys.executable, str(script)])[0] == "sum 3\n"


def test_a_program_from_standard_input(tmp_path):
    program = _PROGRAM.format(guard=_GUARD)
    for command in ([sys.executable, "-"], [sys.executable, "/dev/stdin"]):
        stdout, stderr = ended(command, program)
        assert stdout == ""
        assert "Save it as a file and run that, or take threads" in stderr
    threads = program.replace("n_workers=1", "n_workers=1, processes=False")
    assert ended([sys.executable, "-"], threads)[0] == "sum 3\n"
    assert ended([sys.executable, "-c", program])[0] == "sum 3\n"


def test_processes_of_others_that_import_a_script_without_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from nemo_image_curate.compute.client import get_client\n"
        f"{_GUARD}\n"
        "    process = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    process.start()\n"
        "    process.join()\n"
        "else:\n"
        "    get_client('cpu', n_workers=1)\n"
    )
    assert "ConfigError: get_client was called while" in ended([sys.executable, str(script)])[1]
