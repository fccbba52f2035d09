import os
import shutil
from pathlib import Path

import pytest

from nemo_image_curate import get_client, locks
from nemo_image_curate.errors import DatasetError, JobError
from nemo_image_curate.index.kinds import ivf
from nemo_image_curate.index.staging import StagedPartitions
from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import KINDS, kinds, opened, with_lists, write_shard
from tests.make_data import digests


def test_same_bytes_for_any_number_of_workers(tmp_path, client):
    vectors = planted(2500, dim=48, copies=0.1)
    dataset = write_embeddings(tmp_path / "data", vectors, 600)

    def build(name: str) -> None:
        for kind, rerank in KINDS:
            path = tmp_path / name / f"{kind}-{rerank}"
            build_index(dataset, kind=kind, rerank=rerank, path=path)

    build("2-workers")
    with get_client("cpu", n_workers=1):
        build("1-workers")
    assert digests(tmp_path / "1-workers") == digests(tmp_path / "2-workers")
    for kind, rerank in KINDS:
        names = os.listdir(tmp_path / "1-workers" / f"{kind}-{rerank}")
        wanted = {"index", "rows", "index.json"} | (
            {"vectors"} if (kind, rerank) == KINDS[1] else set()
        )
        assert {name.partition("-")[0] for name in names} == wanted


class Stopping:
    """Notes each partition it sees, and fails at one while a file says so."""

    def __init__(self, folder: Path):
        self.log, self.broken = folder / "log", folder / "broken"

    def __dask_tokenize__(self):
        return ("Stopping",)

    def __call__(self, frame):
        if len(frame) and frame.key.iloc[0] != "a":
            with self.log.open("a") as file:
                file.write(f"{frame.key.iloc[0]}\n")
            if self.broken.exists() and frame.key.iloc[0] == "001000":
                raise RuntimeError("the disk is full")
        return frame


@pytest.mark.parametrize("where", ["read", "encode", "rows"])
def test_a_build_that_stopped_goes_on(tmp_path, where, monkeypatch):
    dataset = write_embeddings(tmp_path / "data", planted(2500, dim=40), 500)
    whole = build_index(dataset, kind="ivf", path=tmp_path / "whole")
    stopping = Stopping(tmp_path)
    frame = dataset.metadata
    dataset.metadata = frame.map_partitions(stopping, meta=frame._meta)
    path = tmp_path / "index"
    with monkeypatch.context() as patched:
        if where == "read":
            stopping.broken.touch()
        else:
            owner, at = {
                "encode": (ivf, "_encode_partition"),
                "rows": (StagedPartitions, "write_row_table"),
            }[where]
            patched.setattr(owner, at, lambda *args, **more: 1 / 0)
        with pytest.raises((JobError, ZeroDivisionError)):
            build_index(dataset, kind="ivf", path=path)
    with pytest.raises(DatasetError, match="not finished"):
        VectorIndex.load(path)
    stopping.broken.unlink(missing_ok=True)
    stopping.log.unlink()
    build_index(dataset, kind="ivf", path=path)
    # Only what had failed was computed again.
    seen = stopping.log.read_text().split() if stopping.log.exists() else []
    assert seen == (["001000"] if where == "read" else [])
    same = [name for name in digests(path) if name != "index.json"]
    assert same == [name for name in digests(Path(whole.path)) if name != "index.json"]
    assert not (path / "parts").exists()


def test_what_is_made_already_is_opened(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(300), 100)
    first = build_index(dataset)
    before = {path: path.stat().st_mtime_ns for path in Path(first.path).iterdir()}
    build_index(dataset)
    assert before == {path: path.stat().st_mtime_ns for path in Path(first.path).iterdir()}
    assert build_index(dataset, kind="ivf").recipe["kind"] == "ivf"
    # Nothing of the flat one is left.
    assert len(list(Path(first.path).iterdir())) == 4


def test_one_at_a_time(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(50))
    with (
        locks.exclusive(index_path(dataset)),
        pytest.raises(DatasetError, match="another process"),
    ):
        build_index(dataset)


@kinds
def test_add_is_like_one_build_of_the_same_training(tmp_path, kind, rerank, monkeypatch):
    vectors = planted(2600, dim=40, copies=0.1)
    folder = tmp_path / "data"
    write_embeddings(folder, vectors[:2000], 500)
    trained, train = tmp_path / "trained-once.faiss", ivf.train

    def keep(*args):
        shutil.copy(train(*args), trained)
        return trained

    monkeypatch.setattr(ivf, "train", keep)
    first = build_index(opened(folder), kind=kind, rerank=rerank, path=tmp_path / "index")
    first = with_lists(first)
    old = first.search(vectors[2500:], 10)
    for number, start in enumerate(range(2000, 2600, 300)):
        write_shard(folder, f"1000{number}", vectors[start : start + 300])
    with pytest.raises(DatasetError, match=r"lacks 2 .* 10000.tar, 10001.tar.*add\(dataset\)"):
        VectorIndex.load(first.path, opened(folder))
    added = first.add(opened(folder))
    monkeypatch.setattr(ivf, "train", lambda *args: trained)
    whole = build_index(opened(folder), kind=kind, rerank=rerank, path=tmp_path / "whole")
    assert len(added) == len(whole) == 2600
    added, whole = with_lists(added), with_lists(whole)
    added.nprobe = whole.nprobe
    for one, other in zip(added.search(vectors, 10), whole.search(vectors, 10), strict=True):
        assert (one == other).all()
    assert added.nearest(vectors[[2301]], 1)[0][0].key == "10001-1"
    names = [digests(Path(one.path)) for one in (added, whole)]
    assert {*names[0]} == {*names[1]}
    # Who had opened the old one goes on with it.
    assert (first.search(vectors[2500:], 10)[1] == old[1]).all()
    assert len(VectorIndex.load(first.path, opened(folder))) == 2600
    assert len(first.add(opened(folder))) == 2600


def test_add_looks_at_new_shards_only(tmp_path):
    folder = tmp_path / "data"
    write_embeddings(folder, planted(100), 50)
    first = build_index(opened(folder), path=tmp_path / "index")
    write_shard(folder, "new", planted(30, seed=1))
    dataset, stopping = opened(folder), Stopping(tmp_path)
    frame = dataset.metadata
    dataset.metadata = frame.map_partitions(stopping, meta=frame._meta)
    # What is done to the frame has changed, so that all of it must be looked at...
    assert len(first.add(dataset)) == 130
    assert len(stopping.log.read_text().split()) == 3
    write_shard(folder, "newer", planted(20, seed=2))
    dataset = opened(folder)
    dataset.metadata = dataset.metadata.map_partitions(stopping, meta=frame._meta)
    stopping.log.unlink()
    assert len(first.add(dataset)) == 150
    # ... but not when it has not.
    assert stopping.log.read_text().split() == ["newer-0"]


def test_add_refuses(tmp_path):
    folder = tmp_path / "data"
    dataset = write_embeddings(folder, planted(100), 50)
    built = build_index(dataset)
    write_shard(folder, "wide", planted(10, dim=40))
    with pytest.raises(DatasetError, match="40"):
        built.add(opened(folder))
    os.remove(folder / "wide.tar")
    os.remove(folder / "wide.parquet")
    write_shard(folder, "00000", planted(50, seed=3))
    with pytest.raises(DatasetError, match="has 50 embeddings that the dataset has not"):
        built.add(opened(folder))
    assert len(VectorIndex.load(built.path)) == 100


@kinds
def test_new_columns_are_taken_over(tmp_path, kind, rerank):
    vectors = planted(300)
    dataset = write_embeddings(tmp_path / "data", vectors, 100)
    built = build_index(dataset, kind=kind, rerank=rerank)
    before = digests(Path(built.path))
    dataset.metadata["aesthetic_score"] = dataset.metadata.key.str[-1].astype("int64[pyarrow]")
    dataset.save_metadata()
    again = VectorIndex.load(built.path, opened(tmp_path / "data"))
    hits = again.nearest(vectors[[5]], 5, where="aesthetic_score == 7")[0]
    assert [int(hit.key) % 10 for hit in hits] == [7] * 5
    after = digests(Path(built.path))
    kept = {name for name in before if name in after and before[name] == after[name]}
    assert {name.partition("-")[0] for name in kept} >= {"index"}
    # From then on they are known without a look at them.
    stamps = {path: path.stat().st_mtime_ns for path in Path(built.path).iterdir()}
    VectorIndex.load(built.path, opened(tmp_path / "data"))
    assert stamps == {path: path.stat().st_mtime_ns for path in Path(built.path).iterdir()}


def test_columns_and_shards_at_once(tmp_path):
    vectors = planted(300)
    dataset = write_embeddings(tmp_path / "data", vectors[:200], 100)
    built = build_index(dataset)
    dataset.metadata["width"] = dataset.metadata.key.astype("int64[pyarrow]")
    dataset.save_metadata()
    write_shard(tmp_path / "data", "00002", vectors[200:], width=list(range(200, 300)))
    added = built.add(opened(tmp_path / "data"))
    assert added.rows.matching("width >= 150").tolist() == list(range(150, 300))
