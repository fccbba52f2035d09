"""Fixtures that tests of several modules share."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import hypothesis
import pytest

# Before Dask and torch are imported. Processes of pytest share few cores, and threads of each that
# wait for each other spin: without that a third of the time is saved where vectors are multiplied.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each server of a cluster looks after itself up to a hundred times a second: so three clusters
# without work, one of each process of pytest, take a third of a core.
os.environ.update(
    DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL="10s",
    DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL="1s",
    DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL="1s",
    DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED="false",
)

from nemo_image_curate import frames
from tests.s3_proxy import Traffic, proxied

# Whole folders for one process of pytest, where others have whole files: they share what takes long
# to make, services and indexes.
TOGETHER = ("tests/serve", "tests/index")
# What takes a minute and more comes first, so that no process is left alone with it at the end.
LONG = ("tests/cli", "tests/serve", "tests/tutorials", "tests/compute/slurm", "tests/test_kill.py")

# How long an example takes says nothing of the code on a machine that has other work.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Until all tests are imported: see `pytest_collection_finish`.
gc.disable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def is_short(item: pytest.Item) -> bool:
        return not item.path.relative_to(config.rootpath).as_posix().startswith(LONG)

    items.sort(key=is_short)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folders = (folder for folder in TOGETHER if nodeid.startswith(f"{folder}/"))
            return next(folders, super()._split_scope(nodeid))

    return ByFileOrFolder(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Before any fixture is made for it.
    if item.get_closest_marker("gpu") and (problem := frames.gpu_problem()):
        pytest.skip(f"no GPU: {problem}")
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def pytest_collection_finish() -> None:
    # What was imported stays; looking through it again and again takes a thirtieth of all time.
    gc.freeze()
    gc.enable()


@pytest.fixture(
    params=["cpu", pytest.param("gpu", marks=[pytest.mark.gpu])],
)
def backend(request: pytest.FixtureRequest) -> str:
    """Every frame backend that works here."""
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.cuda])])
def device(request: pytest.FixtureRequest) -> str:
    """Every device of torch that works here."""
    return request.param


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=":0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster:
        yield cluster


@pytest.fixture
def client(workers: object) -> Iterator[object]:
    """A real Dask client with two worker processes; closed when the test ends."""
    from distributed import Client

    with Client(workers) as connected:
        yield connected


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def traffic(bucket: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """What goes to the S3 server of `bucket` from here on, through a proxy."""
    with proxied(os.environ["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        # Filesystems are kept by their arguments, not by the environment.
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield between
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(_s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes empty buckets on a real S3 server, reached as users do: by the environment."""
    import boto3

    settings = {
        "AWS_ENDPOINT_URL": _s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def make() -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket=name)
        return f"s3://{name}"

    return make
