"""What partitions are read from, and which of them go into one task."""

from __future__ import annotations

import pytest

from nemo_image_curate.dataset.sources import Source, bundle_sizes
from nemo_image_curate.storage import FileInfo


def sources(count: int, tar_bytes: int, sidecar_bytes: int = 2_000) -> list[Source]:
    tar = FileInfo("a.tar", tar_bytes, 0.0, 0.0)
    sidecar = FileInfo("a.parquet", sidecar_bytes, 0.0, 0.0)
    return [Source(f"{number}.tar", "a.parquet", tar, sidecar) for number in range(count)]


def test_few_shards_are_a_task_each():
    assert bundle_sizes(sources(127, 10_000)) == [1] * 127


@pytest.mark.parametrize(
    ("count", "tar_bytes", "sidecar_bytes", "longest"),
    [
        (128, 10_000, 2_000, 11),
        (10_000, 10_000, 2_000, 64),
        (10_000, 2**20, 2_000, 32),
        (10_000, 10_000, 2**18, 4),
        (500, 300 * 2**20, 2**20, 1),
    ],
)
def test_small_ones_go_together(count, tar_bytes, sidecar_bytes, longest):
    sizes = bundle_sizes(sources(count, tar_bytes, sidecar_bytes))
    assert sum(sizes) == count
    assert set(sizes[:-1]) == {longest}


def test_a_large_one_between_small_ones_is_alone():
    mixed = sources(100, 10_000) + sources(1, 2**30) + sources(99, 10_000)
    sizes = bundle_sizes(mixed)
    assert sum(sizes[: sizes.index(1)]) == 100
    assert sum(sizes) == 200
