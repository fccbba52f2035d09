"""What a worker keeps between its tasks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from nemo_image_curate.compute import worker_cache


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
