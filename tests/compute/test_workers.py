"""Workers that may not do a job, on a real scheduler: of other versions, or without our files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

import nemo_image_curate
from nemo_image_curate import ImageTextPairDataset, get_client, locks
from nemo_image_curate.compute import jobs
from nemo_image_curate.errors import ClusterError
from tests.make_data import make_dataset

_PACKAGE = Path(nemo_image_curate.__file__).parent


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Any]:
    """A scheduler with one worker, in this process."""
    options = {"processes": False, "protocol": "tcp://", "dashboard_address": ":0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        yield cluster


@pytest.fixture
def alone(scheduler: Any) -> Iterator[Client]:
    """A client of that scheduler."""
    with get_client(scheduler_address=scheduler.scheduler_address) as client:
        yield client


@pytest.fixture
def join(alone: Client) -> Iterator[Callable[..., None]]:
    """Starts further workers by hand, as on other hosts."""
    processes = []

    def start(prefix: list[str], wait: bool = True, **env: str) -> None:
        command = [*prefix, sys.executable, "-m", "dask", "worker", alone.scheduler.address]
        own = {"PYTHONPATH": str(_PACKAGE.parent), "OMP_NUM_THREADS": "1", **env}
        process = subprocess.Popen(
            [*command, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", "joined"],
            **dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL),
            env={**os.environ, **own},
            # Python would look for packages where it is started.
            cwd="/",
        )
        processes.append(process)
        if wait:
            alone.wait_for_workers(2, timeout=60)

    yield start
    for process in processes:
        process.kill()
        process.wait()
    while len(alone.scheduler_info()["workers"]) > 1:
        pass


def elsewhere(path: Path) -> list[str]:
    """What starts a command that has a disk of its own under a path."""
    shell = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {path} && exec "$@"', "sh"]
    if subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    return shell


@pytest.fixture
def older(tmp_path: Path) -> dict[str, str]:
    """The environment of a worker with another version of this package."""
    copy = tmp_path / "older" / _PACKAGE.name
    shutil.copytree(_PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    version = copy / "version.py"
    version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.1"', version.read_text()))
    # The tests lie beside the package.
    return {"PYTHONPATH": f"{copy.parent}:{_PACKAGE.parent}"}


def numbers(count: int) -> list[Any]:
    return [dask.delayed(abs, pure=False)(-number) for number in range(count)]


def test_another_version_is_refused_or_allowed(alone, join, older):
    join([], **older)
    version = re.escape(nemo_image_curate.__version__)
    with pytest.raises(ClusterError, match=rf"has nemo_image_curate 0\.0\.1, not {version}"):
        jobs.compute_all(numbers(4), list("abcd"), "count")
    with get_client(scheduler_address=alone.scheduler.address, check_versions=False):
        assert jobs.compute_all(numbers(4), list("abcd"), "count") == [0, 1, 2, 3]


def test_a_worker_without_the_package_is_refused(join, tmp_path):
    # Editable installations are found by a file of the environment, which this hides.
    hidden = tmp_path / "nemo_image_curate"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError('not here')\n")
    join([], PYTHONPATH=str(tmp_path))
    with pytest.raises(ClusterError, match="has nemo_image_curate not installed"):
        jobs.compute_all(numbers(4), list("abcd"), "count")


def slow(number: int) -> int:
    time.sleep(0.1)
    return number


def test_a_worker_that_comes_later_is_refused_with_its_first_task(join, older):
    tasks = [dask.delayed(slow, pure=False)(number) for number in range(300)]
    join([], wait=False, **older)
    with pytest.raises(ClusterError, match=r"on host .* has nemo_image_curate 0\.0\.1"):
        jobs.compute_all(tasks, [str(number) for number in range(300)], "count")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(
        make_dataset(tmp_path_factory.mktemp("data"), sizes=[3, 3]).root
    )


def test_a_worker_with_another_folder_of_that_name_is_refused(join, dataset, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    join(elsewhere(output))
    with pytest.raises(ClusterError, match=rf"on host .* does not see the client's {output}"):
        dataset.to_webdataset(output)
    assert [path for path in output.rglob("*") if path.is_file()] == []


def test_a_worker_that_comes_later_with_another_folder_is_refused(join, tmp_path):
    join(elsewhere(tmp_path), wait=False)
    tasks = [dask.delayed(slow, pure=False)(number) for number in range(300)]
    with (
        pytest.raises(ClusterError, match=rf"does not see the client's {tmp_path}"),
        locks.exclusive(str(tmp_path)),
    ):
        jobs.compute_all(tasks, [str(number) for number in range(300)], "count")


def test_a_worker_without_the_input_is_refused(join, dataset, tmp_path):
    join(elsewhere(Path(dataset.path)))
    with pytest.raises(ClusterError, match=rf"does not see {dataset.path}/00000.tar"):
        dataset.save_metadata(tmp_path / "out")


def test_workers_that_differ_in_threads_or_are_slow_are_told(join, caplog):
    join([], OMP_NUM_THREADS="7", MALLOC_TRIM_THRESHOLD_="65536")
    for _ in range(2):
        assert jobs.compute_all(numbers(2), list("ab"), "count") == [0, 1]
    assert "1 with 7" in caplog.text
    assert caplog.text.count("MALLOC_TRIM_THRESHOLD_=") == 1
