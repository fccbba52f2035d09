"""A dataset that grew or changed: only what is new or changed is computed, as if from scratch."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ExactDedup, ImageStatistics
from tests.dataset.opened import open_dataset
from tests.make_data import digests, jpeg, make_dataset, write_sidecar, write_tar
from tests.make_embedders import LoggingEmbedder, computed

SIZES = [5, 4, 3, 6, 2]


def change(root: Path, sidecar: bool) -> int:
    """Two shards more, one tar changed, one shard gone, perhaps one sidecar changed.

    Returns
    -------
    int
        How many images are in what is new or changed.
    """
    more = make_dataset(root.parent / "more", sizes=[*SIZES, 3, 4])
    for stem in ("00005", "00006"):
        for path in more.root.glob(f"{stem}.*"):
            path.rename(root / path.name)
    shutil.rmtree(more.root)
    keys = pq.read_table(root / "00001.parquet")["key"].to_pylist()
    write_tar(root / "00001.tar", [(f"{key}.jpg", jpeg(900 + n)) for n, key in enumerate(keys)])
    for path in root.glob("00003.*"):
        path.unlink()
    changed = ["00001.tar"]
    if sidecar:
        table = pq.read_table(root / "00002.parquet")
        place = table.column_names.index("score")
        scores = pa.array([9.5] * len(table))
        write_sidecar(root / "00002.parquet", table.set_column(place, "score", scores))
        changed.append("00002.parquet")
    later = time.time() + 1
    for name in changed:
        os.utime(root / name, (later, later))
    return 3 + 4 + SIZES[1] + (SIZES[2] if sidecar else 0)


@pytest.fixture
def run(tmp_path):
    """Embeds; gives the number of images that the model saw."""
    log = tmp_path / "log"

    def run(tars: Path, folder: Path | None) -> int:
        before = computed(log)
        embedder = LoggingEmbedder(str(log), batch_size=2, image_stages=[ImageStatistics()])
        embedder(open_dataset(tars)).save_metadata(folder)
        return computed(log) - before

    return run


def test_new_and_changed_shards_alone(run, tmp_path):
    root, meta, full = tmp_path / "tars", tmp_path / "meta", tmp_path / "full"
    make_dataset(root, sizes=SIZES)
    assert run(root, meta) == sum(SIZES)
    expected = change(root, sidecar=True)
    assert run(root, meta) == expected
    assert run(root, full) == sum(SIZES) - SIZES[3] + 3 + 4
    assert digests(meta) == digests(full)


def test_beside_the_tars(run, tmp_path):
    root, fresh = tmp_path / "tars", tmp_path / "fresh"
    make_dataset(root, sizes=SIZES)
    assert run(root, None) == sum(SIZES)
    assert run(root, None) == 0
    expected = change(root, sidecar=False)
    assert run(root, None) == expected
    make_dataset(fresh, sizes=SIZES)
    change(fresh, sidecar=False)
    run(fresh, None)
    assert digests(root) == digests(fresh)


def test_what_is_decided_over_all_rows_is_decided_anew(tmp_path):
    """Of two equal pictures in a new and an old shard one goes, as from scratch."""
    root = tmp_path / "tars"
    make_dataset(root, sizes=SIZES[:2])

    def run(name: str) -> dict[str, str]:
        ExactDedup()(open_dataset(root)).save_metadata(tmp_path / name)
        return digests(tmp_path / name)

    run("meta")
    key = "000020000"
    write_tar(root / "00002.tar", [(f"{key}.jpg", jpeg(0)), ("000020001.jpg", jpeg(77))])
    assert run("meta") == run("full")
    table = pq.read_table(tmp_path / "meta" / "00002.parquet", columns=["key", "is_duplicate"])
    assert table.to_pylist()[0] == {"key": key, "is_duplicate": True}
