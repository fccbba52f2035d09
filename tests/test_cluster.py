"""Clients, and jobs whose failing partitions do not stop the others."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import pytest

from nemo_image_curate import SemanticDedup, frames
from nemo_image_curate.compute import devices, jobs, worker_cache
from nemo_image_curate.compute.client import current_client, get_client
from nemo_image_curate.errors import BackendError, ConfigError, DatasetError, JobError
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import digests


@pytest.fixture(params=["no client", "two workers"])
def anyhow(request):
    """With and without a cluster."""
    if request.param == "two workers":
        request.getfixturevalue("client")


def square(number: int, log: str) -> int:
    with open(log, "a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise ValueError(f"negative: {number}")
    return number * number


def squares(numbers: list[int], log: object) -> list[object]:
    return [dask.delayed(square, pure=False)(number, str(log)) for number in numbers]


@pytest.mark.usefixtures("anyhow")
def test_results_come_in_the_order_of_the_tasks(tmp_path):
    done: list[int] = []
    numbers = list(range(20))
    found = jobs.compute_all(
        squares(numbers, tmp_path / "log"), [str(n) for n in numbers], "square", done=done.append
    )
    assert found == [number * number for number in numbers]
    assert sorted(done) == found
    assert jobs.compute_all([], [], "nothing") == []


@pytest.mark.usefixtures("anyhow")
def test_a_failing_task_is_named_and_the_others_are_done(tmp_path):
    done: list[int] = []
    numbers = [1, -2, 3, -4, 5]
    labels = [f"{n}.tar" for n in numbers]
    with pytest.raises(JobError) as caught:
        jobs.compute_all(squares(numbers, tmp_path / "log"), labels, "square", done=done.append)
    message = str(caught.value)
    assert "2 of 5 partitions failed" in message
    assert "-2.tar: ValueError: negative: -2" in message
    assert "-4.tar: ValueError: negative: -4" in message
    assert sorted(done) == [1, 9, 25]
    counts = (tmp_path / "log").read_text().split()
    assert sorted(map(int, counts)) == sorted(numbers), "each was run exactly once"


def refuse() -> None:
    raise DatasetError("the disk is full")


@pytest.mark.usefixtures("anyhow")
def test_one_common_error_of_ours_is_passed_on():
    tasks = [dask.delayed(refuse)() for _ in range(3)]
    with pytest.raises(DatasetError, match=r"^the disk is full$"):
        jobs.compute_all(tasks, ["a", "b", "c"], "write")


def shared(log: str) -> int:
    with open(log, "a") as file:
        file.write("shared\n")
    return 1


@pytest.mark.usefixtures("anyhow")
def test_what_tasks_share_is_computed_once(tmp_path):
    common = dask.delayed(shared)(str(tmp_path / "log"))
    tasks = [dask.delayed(lambda a, b: a + b)(common, number) for number in range(5)]
    assert jobs.compute_all(tasks, list("abcde"), "add", shared=True) == [1, 2, 3, 4, 5]
    assert (tmp_path / "log").read_text().count("shared") == 1


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


def test_contradicting_arguments():
    with pytest.raises(ConfigError, match="not both"):
        get_client(scheduler_address="tcp://x:1", scheduler_file="x.json")
    with pytest.raises(ConfigError, match="n_workers"):
        get_client(scheduler_address="tcp://x:1", n_workers=2)
    with pytest.raises(ConfigError, match="backend='tpu'"):
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


def test_kept_objects_are_built_once_and_old_ones_dropped():
    built: list[int] = []

    def build(number: int) -> object:
        built.append(number)
        return [number]

    worker_cache.clear()
    first = worker_cache.get_or_build("0", lambda: build(0))
    assert worker_cache.get_or_build("0", lambda: build(0)) is first
    assert built == [0]
    most = worker_cache.MOST_KEPT
    for number in range(1, most + 1):
        worker_cache.get_or_build(str(number), lambda number=number: build(number))
    worker_cache.get_or_build(str(most), lambda: build(most))
    assert built == list(range(most + 1))
    worker_cache.get_or_build("0", lambda: build(0))
    assert built[-1] == 0, "the oldest was dropped"
    assert built.count(0) == 2
    worker_cache.clear()
    worker_cache.get_or_build(str(most), lambda: build(most))
    assert built.count(most) == 2
    worker_cache.clear()


def keep() -> int:
    return len(worker_cache.get_or_build("large", lambda: [7]))


def number_kept() -> int:
    return len(worker_cache._objects)


def test_workers_forget_what_they_keep(client):
    client.run(keep)
    keep()
    assert min(client.run(number_kept).values()) >= 1
    worker_cache.clear_on_workers()
    assert {*client.run(number_kept).values(), number_kept()} == {0}


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        # As they were seen: torch, torch with RMM's allocator, cuBLAS, torch on a CPU, DALI.
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("std::bad_alloc: out_of_memory: CUDA error at: cuda_memory_resource"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("CUDA allocation failed"), True),
        (RuntimeError("Can't allocate 17179869184 bytes on device 0."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_memory_is_short(error, is_one):
    assert devices.is_out_of_memory(error) is is_one


def test_one_thread_builds_while_others_find_and_forget():
    worker_cache.clear()
    worker_cache.get_or_build("there", lambda: [1])
    begun, go_on, built = threading.Event(), threading.Event(), []

    def build():
        begun.set()
        assert go_on.wait(10)
        built.append(1)
        return [2]

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(worker_cache.get_or_build, "new", build) for _ in range(2)]
        assert begun.wait(10)
        assert worker_cache.get_or_build("there", lambda: [3]) == [1]
        worker_cache.clear()
        go_on.set()
        assert both[0].result() is both[1].result()
    assert built == [1]
    worker_cache.clear()
