import concurrent.futures
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import KINDS, kinds, recall, truth, with_lists
from tests.make_data import make_dataset
from tests.make_embedders import ThumbEmbedder


@kinds
def test_scores_and_vectors(many, kind, rerank):
    _, vectors, queries, built = many
    one = with_lists(built[kind, rerank])
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
def test_a_query_is_answered_alike_alone_and_among_others(many, kind, rerank):
    _, _, queries, built = many
    one = with_lists(built[kind, rerank])
    scores, rows = one.search(queries, 10)
    for number, query in enumerate(queries):
        alone = one.search(query[None] * 7, 10)
        assert (alone[1][0] == rows[number]).all()
        assert np.allclose(alone[0][0], scores[number], atol=1e-6)
        assert (one.search(query[None], 10)[0][0] == scores[number]).all()


@kinds
def test_threads(many, kind, rerank):
    _, _, queries, built = many
    one = with_lists(built[kind, rerank])
    expected = [hits[0].key for hits in one.nearest(queries, 3, where="score < 90")]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(one.nearest, query[None], 3, "score < 90")
            for query in np.tile(queries, (4, 1))
        ]
        assert [job.result()[0][0].key for job in jobs] == expected * 4


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
def test_where(many, kind, rerank, few, where):
    """All that are allowed come, whether they are compared one by one or looked for in lists."""
    _, vectors, queries, built = many
    one = with_lists(built[kind, rerank], few)
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
def test_k(many, kind, rerank):
    _, _, queries, built = many
    one = with_lists(built[kind, rerank])
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
    for scale in (1e-300, 1e300):
        wide = queries.astype(np.float64) * scale
        assert (one.search(wide, 3)[1] == one.search(queries, 3)[1]).all()


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 90),
    k=st.integers(1, 100),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_data_any_rows(tmp_path, seed, n, k, share, kind):
    folder = tmp_path / f"{seed}-{n}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    vectors = planted(n, dim=5, copies=0.4, centres=3, seed=seed)
    built = build_index(
        write_embeddings(folder, vectors, 40), kind=kind[0], rerank=kind[1], target_recall=1.0
    )
    built.scan_rows = 0
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
