"""What is heard of tasks that have not ended."""

from __future__ import annotations

import threading

import dask
import distributed
import pytest

from nemo_image_curate.compute import jobs, progress, watched
from nemo_image_curate.compute.watched import tell_rows

seen = threading.Event()


def slow(rows: int) -> dict:
    """Tell of rows, and go on when somebody has seen that."""
    for _ in range(rows // 10):
        tell_rows(10, {"decode": 2})
    assert seen.wait(20)
    return {"rows": rows, "errors": {"decode": rows // 10}}


def run() -> list[str]:
    """The lines of a job as they are while its only task runs, and at the end."""
    seen.clear()
    lines: list[str] = []

    def look() -> None:
        while not seen.wait(0.01):
            if (status := progress.status()) and "rows" in status[0]:
                lines.append(status[0])
                seen.set()

    looking = threading.Thread(target=look)
    looking.start()
    jobs.compute_all([dask.delayed(slow)(100)], ["a"], "embed", rows_expected=200)
    looking.join(20)
    lines.append(str(progress.finished()[-1]))
    return lines


@pytest.fixture(params=["threads", "workers"])
def where(request, monkeypatch):
    monkeypatch.setattr(watched, "_SECONDS", 0)
    if request.param == "threads":
        yield
        return
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        yield


@pytest.mark.usefixtures("where")
def test_rows_and_what_was_rejected_are_told_before_a_partition_ends():
    during, after = run()
    assert during.startswith("embed: 0 of 1 partitions, ")
    assert "rejected " in during
    assert " decode)" in during
    # What it returned has taken the place of what it said.
    assert "'rows': 100" in after
    assert "'rejected': {'decode': 10}" in after


def test_a_message_that_comes_late_counts_nothing():
    with progress.Progress("embed", 2, False).running() as job:
        job.hear(0, 50, {"decode": 1})
        job.hear(1, 20, {})
        assert (job.rows, job.rejected) == (70, {"decode": 1})
        job.stop_hearing(0)
        job.end({"rows": 60})
        job.hear(0, 55, {"decode": 1})
        assert (job.rows, job.rejected) == (80, {})


def test_rows_of_nobody_are_not_told():
    tell_rows(10, {})
