import concurrent.futures
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import faiss
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from nemo_image_curate import ImageTextPairDataset, get_client, storage
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    JobError,
)
from nemo_image_curate.index import building, rescoring, vector_index
from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import digests, make_dataset
from tests.make_embedders import ThumbEmbedder

KINDS = [("flat", True), ("ivf", True), ("ivf", False)]
kinds = pytest.mark.parametrize(("kind", "rerank"), KINDS)


def truth(vectors, queries, k, allowed=None):
    """Scores and rows of the nearest, by a sort of everything; equal ones by row."""
    x = np.asarray(vectors, dtype=np.float64)
    q = np.asarray(queries, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ x.T
    if allowed is not None:
        scores[:, np.setdiff1d(np.arange(len(x)), allowed)] = -np.inf
    order = np.argsort(-scores.round(9), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def recall(found, true):
    return np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True)]) / len(
        true[0]
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """3,000 vectors in shards of 700, with columns, and 50 more as queries."""
    vectors = planted(3050, dim=64, copies=0.1, centres=40)
    folder = tmp_path_factory.mktemp("many") / "data"
    columns = {
        "caption": [f"picture {row}" for row in range(3000)],
        "score": [float(row % 100) for row in range(3000)],
    }
    dataset = write_embeddings(folder, vectors[:3000], 700, **columns)
    built = {
        (kind, rerank): build_index(
            dataset, kind=kind, rerank=rerank, path=folder.parent / f"{kind}-{rerank}"
        )
        for kind, rerank in KINDS
    }
    return dataset, vectors[:3000], vectors[3000:], built


@pytest.fixture
def no_scan(monkeypatch):
    """Lists are searched although there are few vectors."""
    monkeypatch.setattr(vector_index, "_FEW", 0)


def test_flat_is_exact(tmp_path, backend):
    vectors = planted(500) * np.random.default_rng(0).uniform(0.1, 9, (500, 1)).astype(np.float32)
    dataset = write_embeddings(tmp_path / "data", vectors, 90, backend)
    built = build_index(dataset)
    assert built.recipe["kind"] == "flat"
    assert built.path == index_path(dataset, "image_embedding")
    queries = np.random.default_rng(1).standard_normal((20, 32))
    scores, rows = built.search(queries, 7)
    expected, order = truth(vectors, queries, 7)
    assert (rows == order).all()
    assert scores.dtype == np.float32
    assert np.allclose(scores, expected, atol=1e-6)
    own = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(built.vectors([3, 499, 3]), own[[3, 499, 3]], atol=1e-7)


def test_lists_find_what_the_recipe_tells(tmp_path, backend, no_scan):
    vectors = planted(6000, dim=48, copies=0.1, centres=30)
    dataset = write_embeddings(tmp_path / "data", vectors[:5000], 1200, backend)
    built = build_index(dataset, kind="ivf", target_recall=0.9)
    recipe = built.recipe
    assert 0.9 <= recipe["recall"] <= 1
    assert recipe["lists"] == 125
    assert 1 <= recipe["nprobe"] < recipe["lists"]
    _, order = truth(vectors[:5000], vectors[5000:], 10)
    scores, rows = built.search(vectors[5000:], 10)
    assert recall(rows, order) == pytest.approx(recipe["recall"], abs=0.04)
    exact = np.einsum("qd,qkd->qk", vectors[5000:], vectors[:5000][rows])
    assert np.allclose(scores, exact, atol=2e-4)
    built.nprobe = recipe["lists"]
    assert recall(built.search(vectors[5000:], 10)[1], order) > 0.995


@kinds
def test_scores_and_vectors(many, kind, rerank, no_scan):
    _, vectors, queries, built = many
    one = built[kind, rerank]
    assert one.recipe["count"] == len(one) == 3000
    scores, rows = one.search(queries, 10)
    _, order = truth(vectors, queries, 10)
    assert recall(rows, order) > 0.93
    near = 2e-4 if rerank else 0.01
    exact = np.einsum("qd,qkd->qk", queries, vectors[rows])
    assert np.allclose(scores, exact, atol=near)
    assert (np.diff(scores, axis=1) <= 0).all()
    stored = one.vectors([2999, 5])
    assert stored.dtype == np.float32
    assert np.allclose(stored, vectors[[2999, 5]], atol=near)
    assert np.allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-3)


@kinds
def test_a_query_is_answered_alike_alone_and_among_others(many, kind, rerank, no_scan):
    _, _, queries, built = many
    one = built[kind, rerank]
    scores, rows = one.search(queries, 10)
    for number, query in enumerate(queries):
        alone = one.search(query[None] * 7, 10)
        assert (alone[1][0] == rows[number]).all()
        assert np.allclose(alone[0][0], scores[number], atol=1e-6)
        assert (one.search(query[None], 10)[0][0] == scores[number]).all()


@kinds
def test_threads(many, kind, rerank, no_scan):
    _, _, queries, built = many
    one = built[kind, rerank]
    expected = [hits[0].key for hits in one.nearest(queries, 3, where="score < 90")]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(one.nearest, query[None], 3, "score < 90")
            for query in np.tile(queries, (4, 1))
        ]
        assert [job.result()[0][0].key for job in jobs] == expected * 4


def test_rows_without_a_direction_are_left_out(tmp_path, backend):
    good = np.float32([0.6, 0.8])
    vectors = [None, good, [0, 0], [np.nan, 1], [1, 0], None, [0, -2], [np.inf, 0]]
    # The last shard holds nothing that can be found, another one nothing at all.
    dataset = write_embeddings(tmp_path / "data", vectors, 7, backend)
    built = build_index(dataset)
    assert (len(built), built.recipe["left_out"]) == (3, 5)
    hits = built.nearest(np.float32([[0.6, 0.8]]), 9)[0]
    assert [hit.key for hit in hits] == ["000001", "000004", "000006"]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.6, -0.8])
    assert len(VectorIndex.load(built.path, dataset)) == 3


def test_nothing_to_index(tmp_path):
    for name, vectors in {"none": [], "null": [None, None], "zero": [[0, 0]]}.items():
        dataset = write_embeddings(tmp_path / name, vectors)
        with pytest.raises(DatasetError, match=r"none of .* has an embedding"):
            build_index(dataset)
    with pytest.raises(ColumnNotFoundError):
        build_index(dataset, "text_embedding")
    dataset = write_embeddings(tmp_path / "mixed", [[1, 0], [1, 0, 0]], 1)
    with pytest.raises(DatasetError, match=r"of 2 values in 00000.tar and of 3 in 00001.tar"):
        build_index(dataset)


@kinds
def test_hits(many, kind, rerank):
    _, vectors, queries, built = many
    one = built[kind, rerank]
    hits = one.nearest(vectors[[1234]], 3, with_vectors=True)[0]
    assert (hits[0].key, hits[0].shard) == ("001234", "00001.tar")
    assert hits[0].caption == "picture 1234"
    assert hits[0].metadata == {"score": 34.0}
    assert hits[0].score == pytest.approx(1, abs=0.01)
    assert hits[0].vector.shape == (64,)
    assert hits[0].vector @ vectors[1234] == pytest.approx(1, abs=0.01)
    assert one.nearest(queries[:1], 1)[0][0].vector is None
    assert one.nearest(queries[:0], 1) == []
    assert len(one) == 3000
    assert one.encoder is None


@kinds
@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize(
    "where", ["score < 50", "score == 17", "score == 17 and caption == 'picture 117'", "score < 0"]
)
def test_where(many, kind, rerank, few, where, monkeypatch):
    """All that are allowed come, whether they are compared one by one or looked for in lists."""
    _, vectors, queries, built = many
    monkeypatch.setattr(vector_index, "_FEW", few)
    one = built[kind, rerank]
    allowed = one.rows.matching(where)
    scores = np.arange(3000) % 100
    count = {"score < 50": 1500, "score == 17": 30, "score < 0": 0}.get(where, 1)
    assert len(allowed) == count
    _, order = truth(vectors, queries, 40, allowed)
    found = one.nearest(queries, 40, where=where)
    for query, hits, true in zip(queries, found, order, strict=True):
        rows = [int(hit.key) for hit in hits]
        assert len(rows) == len(set(rows)) == min(40, count)
        assert np.isin(rows, allowed).all()
        assert all(
            hit.metadata["score"] == scores[row] for hit, row in zip(hits, rows, strict=True)
        )
        if kind == "flat" or (few and rerank):
            # In float16 those of nearly the same score may change places.
            best = [vectors[chosen] @ query for chosen in (rows, true[:count])]
            assert np.allclose(*best, atol=1e-6 if kind == "flat" else 2e-4)
    with pytest.raises(ColumnNotFoundError):
        one.nearest(queries, 1, where="nothing > 3")
    with pytest.raises(ConfigError):
        one.nearest(queries, 1, where="score")


@kinds
def test_k(many, kind, rerank, no_scan):
    _, _, queries, built = many
    one = built[kind, rerank]
    for k in (1, 700, 2999, 3000, 3001, 10_000):
        scores, rows = one.search(queries[:2], k)
        there = min(k, 3000)
        assert scores.shape == rows.shape == (2, k)
        assert all(len(set(found[:there].tolist())) == there for found in rows)
        assert (rows[:, :there] >= 0).all()
        assert (rows[:, there:] == -1).all()
        assert np.isneginf(scores[:, there:]).all()
    assert len(one.nearest(queries[:1], 3001)[0]) == 3000
    for k in (0, -1):
        with pytest.raises(ConfigError, match=f"k={k}"):
            one.search(queries, k)


def test_queries_that_cannot_be_used(many):
    _, _, queries, built = many
    one = built["ivf", True]
    with pytest.raises(ConfigError, match="NaN"):
        one.search(np.full((1, 64), np.nan), 3)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        one.search(np.full((1, 64), np.inf), 3)
    with pytest.raises(ConfigError, match="all zero"):
        one.search(np.zeros((1, 64)), 3)
    with pytest.raises(ConfigError, match=r"\(50, 65\) do not fit .* have 64 values"):
        one.search(np.ones((50, 65)), 3)
    with pytest.raises(ConfigError, match=r"\(64,\)"):
        one.search(queries[0], 3)
    for scale in (1e-30, 1e30):
        assert (one.search(queries * scale, 3)[1] == one.search(queries, 3)[1]).all()


@kinds
def test_copies_come_in_the_order_of_their_rows(tmp_path, kind, rerank, no_scan):
    one = planted(1, dim=32, copies=0, seed=5)[0]
    vectors = np.concatenate(
        [np.tile(one, (150, 1)), planted(300, copies=0), np.tile(one, (150, 1))]
    )
    dataset = write_embeddings(tmp_path / "data", vectors, 130)
    built = build_index(dataset, kind=kind, rerank=rerank)
    copies = [*range(150), *range(450, 600)]
    # With 3 hits there are many more copies than candidates.
    for k in (3, 10, 170, 300):
        assert built.search(one[None], k)[1][0].tolist() == copies[:k]
    assert built.search(one[None], 4, np.array([7, 200, 470, 599]))[1][0][:3].tolist() == [
        7,
        470,
        599,
    ]


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 90),
    k=st.integers(1, 100),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_data_any_rows(tmp_path, no_scan, seed, n, k, share, kind):
    folder = tmp_path / f"{seed}-{n}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    vectors = planted(n, dim=5, copies=0.4, centres=3, seed=seed)
    built = build_index(
        write_embeddings(folder, vectors, 40), kind=kind[0], rerank=kind[1], target_recall=1.0
    )
    chance = np.random.default_rng(seed)
    allowed = np.flatnonzero(chance.random(n) < share)
    queries = chance.standard_normal((3, 5))
    scores, rows = built.search(queries, k, allowed)
    expected, _ = truth(vectors, queries, k, allowed)
    there = min(k, len(allowed))
    assert (rows[:, there:] == -1).all()
    for found in rows[:, :there]:
        assert len(set(found.tolist())) == there
        assert np.isin(found, allowed).all()
    if kind[0] == "flat":
        assert np.allclose(scores[:, :there], expected[:, :there], atol=1e-5)


def test_same_bytes_for_any_number_of_workers(tmp_path):
    vectors = planted(2500, dim=48, copies=0.1)
    dataset = write_embeddings(tmp_path / "data", vectors, 600)
    for workers in (1, 2):
        with get_client("cpu", n_workers=workers):
            for kind, rerank in KINDS:
                path = tmp_path / f"{workers}-workers" / f"{kind}-{rerank}"
                build_index(dataset, kind=kind, rerank=rerank, path=path)
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
            at = "encode" if where == "encode" else "write_row_table"
            patched.setattr(building, at, lambda *args, **more: 1 / 0)
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


def test_the_index_is_no_part_of_the_dataset(tmp_path):
    made = make_dataset(tmp_path / "in", sizes=[5, 4], sidecars=False)
    embedded = ThumbEmbedder()(ImageTextPairDataset.from_webdataset(made.root, backend="cpu"))
    saved = embedded.save_metadata(tmp_path / "meta")
    build_index(saved)
    again = ImageTextPairDataset.from_webdataset(tmp_path / "meta", backend="cpu")
    assert len(again) == 9
    assert again.orphans == []
    build_index(saved, path=tmp_path / "in" / "index" / "image_embedding")
    assert len(ImageTextPairDataset.from_webdataset(made.root, backend="cpu")) == 9
    built = VectorIndex.load(index_path(again, "image_embedding"), again)
    assert built.encoder == "thumb"
    assert built.recipe["provenance"]["stage"] == "ThumbEmbedder"


def test_only_local_folders(bucket, tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(50))
    with pytest.raises(ConfigError, match="Give path="):
        build_index(dataset, path=bucket() + "/index")
    with pytest.raises(ConfigError, match="Give path="):
        VectorIndex.load("s3://nothing/index")


def test_one_at_a_time(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(50))
    with (
        storage.exclusive(index_path(dataset)),
        pytest.raises(DatasetError, match="another process"),
    ):
        build_index(dataset)


# --- adding ---------------------------------------------------------------------------------------


def write_shard(folder: Path, stem: str, vectors, **columns) -> None:
    with tarfile.open(folder / f"{stem}.tar", "w"):
        pass
    keys = [f"{stem}-{number}" for number in range(len(vectors))]
    embeddings = pa.array([one.tolist() for one in vectors], pa.list_(pa.float32()))
    table = pa.table({"key": keys, "image_embedding": embeddings, **columns})
    pq.write_table(table, folder / f"{stem}.parquet")


def opened(folder: Path) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(folder, backend="cpu")


@kinds
def test_add_is_like_one_build_of_the_same_training(tmp_path, kind, rerank, no_scan, monkeypatch):
    vectors = planted(2600, dim=40, copies=0.1)
    folder = tmp_path / "data"
    write_embeddings(folder, vectors[:2000], 500)
    trained, train = tmp_path / "trained-once.faiss", building.train

    def keep(*args):
        shutil.copy(train(*args), trained)
        return trained

    monkeypatch.setattr(building, "train", keep)
    first = build_index(opened(folder), kind=kind, rerank=rerank, path=tmp_path / "index")
    old = first.search(vectors[2500:], 10)
    for number, start in enumerate(range(2000, 2600, 300)):
        write_shard(folder, f"1000{number}", vectors[start : start + 300])
    with pytest.raises(DatasetError, match=r"lacks 2 .* 10000.tar, 10001.tar.*add\(dataset\)"):
        VectorIndex.load(first.path, opened(folder))
    added = first.add(opened(folder))
    monkeypatch.setattr(building, "train", lambda *args: trained)
    whole = build_index(opened(folder), kind=kind, rerank=rerank, path=tmp_path / "whole")
    assert len(added) == len(whole) == 2600
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


# --- what belongs together ------------------------------------------------------------------------


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


def rewrite(sidecar: Path, change) -> None:
    pq.write_table(change(pq.read_table(sidecar)), sidecar)


def other_embeddings(table: pa.Table) -> pa.Table:
    values = np.array(table["image_embedding"].to_pylist(), dtype=np.float32)
    values[3] = -values[3]
    column = pa.array(values.tolist(), pa.list_(pa.float32()))
    return table.set_column(table.column_names.index("image_embedding"), "image_embedding", column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(0, 90), r"has 10 embeddings that the dataset has not.*000190"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1).set_column(
            table.column_names.index("key"), "key", pa.array(["new"]))]),
         r"dataset has 1 embeddings that the index .* has not.*'new' of 00001.tar"),
        (other_embeddings, r"other embeddings.*in 1 partitions: 00001\.tar"),
        (lambda table: table.take(list(range(99, -1, -1))), "rows in another order"),
    ],
)  # fmt: skip
def test_another_dataset_is_refused(tmp_path, change, message):
    dataset = write_embeddings(tmp_path / "data", planted(300), 100)
    built = build_index(dataset)
    rewrite(tmp_path / "data" / "00001.parquet", change)
    with pytest.raises(DatasetError, match=message) as caught:
        VectorIndex.load(built.path, opened(tmp_path / "data"))
    assert "build_index(dataset)" in str(caught.value)
    # Refused as before, and the index is as it was.
    with pytest.raises(DatasetError, match=message):
        VectorIndex.load(built.path, opened(tmp_path / "data"))
    assert len(VectorIndex.load(built.path)) == 300
    assert len(build_index(opened(tmp_path / "data"))) in (290, 300, 301)


def test_a_part_of_a_dataset_is_refused(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(300), 100, width=list(range(300)))
    built = build_index(dataset)
    with pytest.raises(DatasetError, match="where="):
        VectorIndex.load(built.path, dataset.filter("width < 150"))
    os.remove(tmp_path / "data" / "00001.tar")
    os.remove(tmp_path / "data" / "00001.parquet")
    with pytest.raises(DatasetError, match="has 100 embeddings that the dataset has not"):
        VectorIndex.load(built.path, opened(tmp_path / "data"))


def test_a_dataset_that_was_moved(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(300), 100)
    build_index(dataset)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = opened(tmp_path / "moved")
    assert len(VectorIndex.load(index_path(moved), moved)) == 300


def test_another_encoder_is_refused(tmp_path):
    made = make_dataset(tmp_path / "in", sizes=[5, 4])
    plain = opened(made.root)
    saved = ThumbEmbedder()(plain).save_metadata(tmp_path / "meta")
    built = build_index(saved)

    class Other(ThumbEmbedder):
        def encoder(self):
            return "other"

    other = Other()(plain).save_metadata(tmp_path / "other")
    with pytest.raises(DatasetError, match=r"by 'thumb', but the dataset's are by 'other'"):
        VectorIndex.load(built.path, other)
    with pytest.raises(DatasetError, match="by 'thumb'"):
        built.add(other)
    mixed = saved.replace(saved.metadata, {"image_embedding": {"conflict": "by two models"}})
    with pytest.raises(DatasetError, match="by two models"):
        build_index(mixed, path=tmp_path / "mixed")


# --- damage ---------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("role", ["index", "rows", "vectors"])
@pytest.mark.parametrize(
    "damage", [flip, lambda path: os.truncate(path, path.stat().st_size // 2), os.remove]
)
def test_damaged_files(tmp_path, role, damage):
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind="ivf")
    name = built.recipe["files"][role]["name"]
    damage(Path(built.path) / name)
    with pytest.raises(DatasetError, match=rf"{name} is (damaged|gone).*again"):
        VectorIndex.load(built.path)
    # A build mends it.
    assert len(build_index(opened(tmp_path / "data"), kind="ivf")) == 200


def test_large_files_are_hashed_when_asked_for(tmp_path, monkeypatch):
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind="ivf")
    monkeypatch.setattr("nemo_image_curate.index.format._HASHED_BYTES", 10)
    flip(Path(built.path) / built.recipe["files"]["vectors"]["name"])
    VectorIndex.load(built.path)
    with pytest.raises(DatasetError, match="hash differs"):
        VectorIndex.load(built.path, check_files=True)


def test_foreign_files_of_the_right_hash(tmp_path):
    """What another program wrote there is no reason to crash."""
    built = build_index(write_embeddings(tmp_path / "data", planted(200)))
    name = built.recipe["files"]["index"]["name"]
    place = Path(built.path) / name
    place.write_bytes(b"IxFI" + bytes(5))
    recipe = Path(built.path) / "index.json"
    saved = json.loads(recipe.read_text())
    saved["files"]["index"] |= {
        "size": 9,
        "sha256": storage.hashlib.sha256(place.read_bytes()).hexdigest(),
    }
    recipe.write_text(json.dumps(saved))
    with pytest.raises(DatasetError, match=f"{name} is damaged"):
        VectorIndex.load(built.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 99}', "has format 99; this version reads 1"),
    ],
)
def test_damaged_description(tmp_path, content, message):
    built = build_index(write_embeddings(tmp_path / "data", planted(20)))
    (Path(built.path) / "index.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        VectorIndex.load(built.path)


def test_no_index(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DatasetError, match=r"holds no index. Run build_index"):
            VectorIndex.load(path)


# --- the rest -------------------------------------------------------------------------------------


@kinds
def test_lookup(many, kind, rerank):
    _, vectors, _, built = many
    one = built[kind, rerank]
    found = one.lookup(
        [(None, "002999"), ("00000.tar", "000007"), ("00001.tar", "000007"), (None, "x")]
    )
    assert [hit and hit.key for hit in found] == ["002999", "000007", None, None]
    assert found[0].score == 1.0
    assert found[0].vector @ vectors[2999] == pytest.approx(1, abs=0.01)
    assert found[1].metadata == {"score": 7.0}
    where = [
        hit and hit.key for hit in one.lookup([(None, "000007"), (None, "000008")], "score < 8")
    ]
    assert where == ["000007", None]


def test_lookup_of_a_key_that_is_in_two_shards(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(4), 2, key=["a", "b", "a", "c"])
    built = build_index(dataset)
    with pytest.raises(DatasetError, match=r"several shards: 00000\.tar, 00001\.tar"):
        built.lookup([(None, "a")])
    assert [hit.shard for hit in built.lookup([("00001.tar", "a")])] == ["00001.tar"]


def test_faiss_alone_can_use_the_file(many):
    _, vectors, queries, built = many
    one = built["ivf", True]
    own = faiss.read_index(str(Path(one.path) / one.recipe["files"]["index"]["name"]))
    _, order = truth(vectors, queries, 1)
    # FAISS rounds a query to whole numbers, so it wants a longer one.
    options = faiss.SearchParametersPreTransform(
        index_params=faiss.SearchParametersIVF(nprobe=one.recipe["lists"])
    )
    assert recall(own.search(queries, 10, params=options)[1], order) > 0.9


def test_recall_out_of_reach_is_told(tmp_path, caplog):
    """Vectors without any structure in a few dimensions of very short codes."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((3000, 400)).astype(np.float32)
    dataset = write_embeddings(tmp_path / "data", vectors, 1000)
    built = build_index(dataset, kind="ivf", max_memory=300_000)
    assert built.recipe["width"] < 60
    assert built.recipe["bytes"]["memory"] <= 300_000
    assert built.recipe["recall"] < 0.96
    assert "below target_recall" in caplog.text


def test_a_search_ends(many, no_scan, monkeypatch):
    """Looking further has an end, however many rows are alike."""
    monkeypatch.setattr(rescoring, "MOST_CANDIDATES", 64)
    _, _, queries, built = many
    began = time.perf_counter()
    built["ivf", True].search(queries, 10)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("change", [{"files": {}}, {"recipe": {}}, {"partitions": [{}]}])
def test_a_description_that_lacks_something_is_damaged(tmp_path, change):
    dataset = write_embeddings(tmp_path / "d", np.eye(8), 4)
    path = Path(build_index(dataset).path)
    saved = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**saved, **change}))
    with pytest.raises(DatasetError, match="is damaged"):
        VectorIndex.load(path, dataset)
    assert len(build_index(dataset)) == 8  # made again


@pytest.mark.parametrize("again", ["add", "build"])
def test_what_a_killed_process_left_is_removed(tmp_path, again):
    """Killed after the new description was written, before the old files were removed."""
    dataset = write_embeddings(tmp_path / "d", np.eye(8), 4)
    made = build_index(dataset)
    whole = sorted(os.listdir(made.path))
    (Path(made.path) / "parts").mkdir()
    (Path(made.path) / "parts" / "0123.vectors").write_bytes(b"x" * 100)
    (Path(made.path) / "index-0123456789abcdef.faiss").write_bytes(b"x")
    made.add(dataset) if again == "add" else build_index(dataset)
    assert sorted(os.listdir(made.path)) == whole
