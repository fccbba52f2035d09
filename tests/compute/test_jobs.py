"""Jobs whose failing partitions do not stop the others."""

from __future__ import annotations

import logging
import os
import signal

import dask
import pytest

from nemo_image_curate.compute import jobs
from nemo_image_curate.compute.client import get_client
from nemo_image_curate.errors import DatasetError, JobError


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
    numbers = list(range(20))
    tasks = squares(numbers, tmp_path / "log")
    results = jobs.compute_all(tasks, [str(n) for n in numbers], "square")
    assert results == [number * number for number in numbers]
    assert jobs.compute_all([], [], "nothing") == []


@pytest.mark.usefixtures("anyhow")
def test_a_failing_task_is_named_and_the_others_are_done(tmp_path):
    numbers = [1, -2, 3, -4, 5]
    labels = [f"{n}.tar" for n in numbers]
    with pytest.raises(JobError) as caught:
        jobs.compute_all(squares(numbers, tmp_path / "log"), labels, "square")
    message = str(caught.value)
    assert "2 of 5 partitions failed" in message
    assert "-2.tar: ValueError: negative: -2" in message
    assert "-4.tar: ValueError: negative: -4" in message
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


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_its_workers_is_told_to_need_memory():
    options = {"memory_limit": "1GiB", "silence_logs": logging.CRITICAL}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        get_client("cpu", n_workers=1, **options),
        pytest.raises(JobError, match=r"0\.tar: .* 1 workers were killed .* had 1\.0 GiB.*memory"),
    ):
        jobs.compute_all([dask.delayed(die)()], ["0.tar"], "embed")


def refuse_each(number: int) -> None:
    raise ValueError(f"row {number} of /data/{number:05d}.tar is odd")


def test_many_errors_of_a_kind_are_told_once(caplog):
    tasks = [dask.delayed(refuse_each)(number) for number in range(50)]
    with pytest.raises(JobError, match="and 49 more like this") as caught:
        jobs.compute_all(tasks, [f"{number}.tar" for number in range(50)], "read")
    assert len(str(caught.value).splitlines()) == 3
    assert len(caplog.records) == 1
