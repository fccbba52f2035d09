import logging
import shutil

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from nemo_image_curate import TimmImageEmbedder, frames, get_client
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dedup import extraction, members
from nemo_image_curate.dedup.semantic import SemanticDedup
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.shards.pack import pack
from tests.dedup.make_embeddings import brute_force, planted, write_embeddings
from tests.dedup.photographs import flickr, recompressed
from tests.make_data import digests
from tests.shared import needs_shared

NAMES = ["is_duplicate", "duplicate_of", "duplicate_of_shard", "duplicate_similarity", "cluster"]


def found(dataset, *more):
    """The columns as lists, in the order of the dataset."""
    return frames.to_arrow(dataset.metadata[["key", *NAMES, *more]].compute()).to_pydict()


def stands_for(dataset):
    columns = found(dataset)
    row_of = {key: row for row, key in enumerate(columns["key"])}
    return {
        row: None if other is None else row_of[other]
        for row, other in enumerate(columns["duplicate_of"])
    }


@pytest.mark.parametrize("rule", ["greedy", "reference", "components"])
@pytest.mark.parametrize("n_clusters", ["auto", 7])
def test_equals_brute_force(tmp_path, backend, rule, n_clusters):
    vectors = planted(400) * np.random.default_rng(0).uniform(0.1, 9, (400, 1)).astype(np.float32)
    dataset = write_embeddings(tmp_path / "data", vectors, 90, backend)
    stage = SemanticDedup(
        0.05, n_clusters, keep="first", rule=rule, n_probe=7, work_dir=tmp_path / "work"
    )
    result = stage(dataset)
    assert stands_for(result) == brute_force(vectors, range(400), 0.05, rule)
    columns = found(result)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, other in stands_for(result).items():
        assert columns["is_duplicate"][row] == (other is not None)
        similarity = columns["duplicate_similarity"][row]
        if other is None:
            assert similarity is None
            assert columns["duplicate_of_shard"][row] is None
        else:
            assert similarity == pytest.approx(float(unit[row] @ unit[other]), abs=2e-6)
            assert columns["duplicate_of_shard"][row] == f"{other // 90:05d}.tar"
    assert set(columns["cluster"]) <= set(range(400 if n_clusters == "auto" else 7))


@pytest.mark.parametrize("keep", ["first", "best", "hard"])
def test_several_partitions_without_rows(tmp_path, backend, keep):
    dataset = write_embeddings(tmp_path / "data", planted(40), 10, backend, score=[1.0] * 40)
    by = "score" if keep == "best" else None
    stage = SemanticDedup(0.1, keep=keep, by=by, work_dir=tmp_path / "work")
    assert found(stage(dataset.filter("score > 2")))["key"] == []


@pytest.mark.parametrize("keep", ["first", "random", "best", "hard", "easy"])
def test_keep_policies(tmp_path, backend, keep):
    vectors = planted(300, copies=0.5)
    scores = [None if row % 11 == 0 else float(row * 7919 % 13) for row in range(300)]
    dataset = write_embeddings(tmp_path / "data", vectors, 70, backend, score=scores)
    stage = SemanticDedup(
        n_clusters=1, keep=keep, by="score" if keep == "best" else None, work_dir=tmp_path / "work"
    )
    told = stands_for(stage(dataset))
    middle = vectors.mean(axis=0)
    closeness = vectors @ (middle / np.linalg.norm(middle))
    if keep == "best":
        order = sorted(range(300), key=lambda row: (-(scores[row] or -1), row))
        assert told == brute_force(vectors, order, 0.05, "greedy")
    elif keep == "first":
        assert told == brute_force(vectors, range(300), 0.05, "greedy")
    elif keep == "random":
        assert told != brute_force(vectors, range(300), 0.05, "greedy")
        stage.random_state = 1
        assert stands_for(stage(dataset)) != told
    else:
        # The centroid's products are in bfloat16, so only clear cases are told apart.
        sign = 1 if keep == "hard" else -1
        worse = [
            sign * (closeness[row] - closeness[other])
            for row, other in told.items()
            if other is not None
        ]
        assert len(worse) > 100
        assert min(worse) > -1e-6


def test_rules_on_a_chain(tmp_path):
    """The worked example of the module `rules`: A ~ B ~ C, A and C not near enough."""
    angles = np.radians([0, 15, 30])
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for order, expected in {
        "ABC": {"greedy": "B", "reference": "BC", "components": "BC"},
        "BAC": {"greedy": "AC", "reference": "AC", "components": "AC"},
    }.items():
        rows = ["ABC".index(name) for name in order]
        dataset = write_embeddings(tmp_path / order, chain[rows], key=list(order))
        for rule, gone in expected.items():
            columns = found(SemanticDedup(0.05, keep="first", rule=rule)(dataset))
            removed = [
                key
                for key, duplicate in zip(columns["key"], columns["is_duplicate"], strict=True)
                if duplicate
            ]
            assert "".join(sorted(removed)) == gone, (order, rule)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 40),
    k=st.integers(1, 50),
    rule=st.sampled_from(["greedy", "reference", "components"]),
    limit=st.integers(1, 3),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_data_any_rule(tmp_path, seed, n, k, rule, limit):
    """Also with lists so short that the greedy rule has to look again."""
    vectors = planted(n, dim=4, copies=0.7, centres=2, seed=seed) if n else np.empty((0, 4))
    folder = tmp_path / f"{seed}-{n}-{k}-{rule}-{limit}"
    shutil.rmtree(folder, ignore_errors=True)
    dataset = write_embeddings(folder / "data", vectors, 7)
    before, extraction._LIMIT = extraction._LIMIT, limit
    try:
        stage = SemanticDedup(
            0.05, k, keep="first", rule=rule, n_probe=50, work_dir=folder / "work"
        )
        # All clusters, so that nothing is missed and brute force is the truth.
        result = stage(dataset)
    finally:
        extraction._LIMIT = before
    told = stands_for(result)
    if k == 1:
        assert told == brute_force(vectors, range(n), 0.05, rule)
    if rule == "greedy":
        kept = [row for row, other in told.items() if other is None]
        assert all(told[other] is None for other in told.values() if other is not None)
        assert n == 0 or kept


def test_rows_that_cannot_be_compared(tmp_path, backend):
    good = np.float32([0.6, 0.8])
    vectors = [good, None, [0, 0], [np.nan, 1], good, None, [0, 0], [np.inf, 0]]
    # The last shard holds nothing that can be compared.
    dataset = write_embeddings(tmp_path / "data", vectors, 6, backend)
    columns = found(SemanticDedup()(dataset), "dedup_error")
    assert columns["is_duplicate"] == [row == 4 for row in range(8)]
    uncompared = [None if row in (0, 4) else "no embedding" for row in range(8)]
    assert columns["dedup_error"] == uncompared
    assert columns["cluster"] == [0, None, None, None, 0, None, None, None]
    assert columns["duplicate_of"][4] == columns["key"][0]
    assert sum(other is not None for other in columns["duplicate_of"]) == 1


@pytest.mark.parametrize("rule", ["greedy", "reference", "components"])
@pytest.mark.parametrize("vectors", [[], [[1, 0]], [None, None], [[0, 0]]])
def test_hardly_any_rows(tmp_path, backend, vectors, rule):
    dataset = write_embeddings(tmp_path / "data", vectors, 1, backend)
    columns = found(SemanticDedup(rule=rule, n_clusters=5)(dataset))
    assert not any(columns["is_duplicate"])
    assert len(columns["key"]) == len(vectors)


@pytest.mark.parametrize("rule", ["greedy", "reference", "components"])
def test_thousands_of_copies(tmp_path, rule):
    vectors = np.concatenate([np.tile(planted(1, copies=0), (5000, 1)), planted(50, copies=0)])
    dataset = write_embeddings(tmp_path / "data", vectors, 1000)
    told = stands_for(SemanticDedup(0.0, 20, keep="first", rule=rule)(dataset))
    assert [told[row] for row in range(1, 5000)] == [0] * 4999
    assert all(told[row] is None for row in (0, *range(5000, 5050)))


def test_a_cluster_too_large_for_memory(tmp_path, monkeypatch):
    vectors = planted(1500)
    dataset = write_embeddings(tmp_path / "data", vectors, 400)
    monkeypatch.setattr(members, "_MEMORY_BYTES", 10_000)
    told = stands_for(SemanticDedup(n_clusters=1, keep="first")(dataset))
    assert told == brute_force(vectors, range(1500), 0.05, "greedy")


def test_everything_is_a_duplicate_at_eps_1(tmp_path):
    vectors = abs(planted(200))
    dataset = write_embeddings(tmp_path / "data", vectors, 60)
    told = stands_for(SemanticDedup(1.0, keep="first")(dataset))
    assert [row for row, other in told.items() if other is None] == [0]


def test_pairs_that_a_border_parts(tmp_path):
    """What SemDeDup misses: with one cluster each, and with neighbours."""
    vectors = planted(3000, dim=16, copies=0.4, centres=3, seed=2)
    dataset = write_embeddings(tmp_path / "data", vectors, 1000)
    truth = brute_force(vectors, range(3000), 0.05, "greedy")
    duplicates = sum(other is not None for other in truth.values())
    found_by = {}
    for n_probe in (1, 4):
        stage = SemanticDedup(0.05, 110, keep="first", n_probe=n_probe)
        told = stands_for(stage(dataset))
        found_by[n_probe] = sum(other is not None for other in told.values()) / duplicates
    assert found_by[1] < 0.97
    assert found_by[4] > 0.99


def test_keys_in_any_script(tmp_path, backend):
    keys = ["größer", "画像 🐈", "a/b c", "Ω\u0301", "'; --", "\u200b", "é", "e\u0301"]
    vectors = np.tile(planted(4, copies=0), (2, 1))
    dataset = write_embeddings(tmp_path / "data", vectors, 3, backend, key=keys)
    columns = found(SemanticDedup(keep="random")(dataset))
    pairs = {
        frozenset([key, other])
        for key, other in zip(columns["key"], columns["duplicate_of"], strict=True)
        if other
    }
    assert pairs == {frozenset([keys[row], keys[row + 4]]) for row in range(4)}


def test_ties_are_broken_by_key(tmp_path):
    vectors = np.tile([1.0, 0.0], (5, 1))
    dataset = write_embeddings(
        tmp_path / "data", vectors, 2, key=["d", "b", "e", "a", "c"], score=[1, 1, 1, 1, 0]
    )
    columns = found(SemanticDedup(keep="best", by="score")(dataset))
    assert columns["duplicate_of"] == ["a", "a", "a", None, "a"]


def test_same_result_for_any_number_of_workers_and_threads(tmp_path, client):
    vectors = planted(3000, seed=5)
    dataset = write_embeddings(tmp_path / "data", vectors, 400)

    def result(name: str) -> dict[str, str]:
        stage = SemanticDedup(n_clusters=60, work_dir=tmp_path / f"work-{name}")
        stage(dataset).save_metadata(tmp_path / name, progress=False)
        return digests(tmp_path / name)

    of_two_processes = result("processes")
    with get_client("cpu", n_workers=1, threads_per_worker=4):
        assert result("threads") == of_two_processes


def test_one_clustering_serves_several_eps(tmp_path, monkeypatch):
    vectors = planted(600)
    dataset = write_embeddings(tmp_path / "data", vectors, 200)
    work = tmp_path / "work"
    clusters = SemanticDedup(0.1, 5, keep="first", n_probe=5, work_dir=work).cluster(dataset)
    stored = digests(clusters.layout.folder)
    counts = []
    for eps in (0.001, 0.02, 0.1):
        told = stands_for(clusters.extract(eps))
        assert told == brute_force(vectors, range(600), eps, "greedy")
        counts.append(sum(other is not None for other in told.values()))
    assert counts == sorted(set(counts))
    assert stored.items() <= digests(clusters.layout.folder).items()
    with pytest.raises(ConfigError, match=r"eps=0.2 is more than the eps=0.1"):
        clusters.extract(0.2)
    by_rule = stands_for(clusters.extract(0.1, rule="components"))
    assert by_rule == brute_force(vectors, range(600), 0.1, "components")


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    dataset = write_embeddings(tmp_path / "data", planted(900), 100)
    whole = SemanticDedup(n_clusters=40, work_dir=tmp_path / "whole")(dataset)
    expected = found(whole)
    original = jobs.compute_all
    computed: list[str] = []

    def stopping(tasks, labels, what, *more, **options):
        computed.extend([what] * len(tasks))
        if what == stop:
            original(tasks[: len(tasks) // 2], labels, what, *more, **options)
            raise KeyboardInterrupt
        return original(tasks, labels, what, *more, **options)

    monkeypatch.setattr(jobs, "compute_all", stopping)
    counts = {}
    for stop in ("sample", "k-means", "assign", "compare", "nothing"):
        computed.clear()
        stage = SemanticDedup(n_clusters=40, work_dir=tmp_path / "work")
        if stop == "nothing":
            assert found(stage(dataset)) == expected
        else:
            with pytest.raises(KeyboardInterrupt):
                stage(dataset)
        counts[stop] = {what: computed.count(what) for what in ("assign", "compare")}
    assert counts["assign"]["assign"] == 9
    # Parts that were stored, and pairs that were found, are not computed again.
    assert counts["compare"]["assign"] == 5
    assert counts["nothing"]["assign"] == 0
    assert counts["nothing"]["compare"] < counts["compare"]["compare"]
    computed.clear()
    assert found(stage(dataset)) == expected
    assert set(computed) == {"read", "sample"}


def test_intermediate_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    dataset = write_embeddings(tmp_path / "data", planted(300), 100)
    result = SemanticDedup(n_clusters=9)(dataset)
    left = [path.name for path in (tmp_path / "temp").rglob("*") if path.is_file()]
    assert all(
        (name.startswith("block-") and name.endswith(".arrow")) or name in ("_done", "content")
        for name in left
        if not name.endswith(".lock")
    )
    saved = result.save_metadata(tmp_path / "out", progress=False)
    shutil.rmtree(tmp_path / "temp")
    assert sum(found(saved)["is_duplicate"]) > 50


def test_filtered_and_repartitioned_frames(tmp_path, backend):
    vectors = planted(300)
    dataset = write_embeddings(tmp_path / "data", vectors, 60, backend, number=list(range(300)))
    part = dataset.filter("number >= 100")
    part.metadata = part.metadata.repartition(npartitions=2)
    columns = found(SemanticDedup(keep="first")(part))
    truth = brute_force(vectors[100:], range(200), 0.05, "greedy")
    assert columns["is_duplicate"] == [truth[row] is not None for row in range(200)]


def test_users_filter_and_export(tmp_path):
    vectors = planted(200)
    dataset = write_embeddings(tmp_path / "data", vectors, 60)
    result = SemanticDedup()(dataset)
    kept = result.filter("not is_duplicate")
    told = stands_for(result)
    assert len(kept) == sum(other is None for other in told.values())


def test_in_place_and_again(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(200), 60)
    work = tmp_path / "work"
    saved = SemanticDedup(work_dir=work)(dataset).save_metadata(progress=False)
    first = digests(tmp_path / "data")
    again = SemanticDedup(work_dir=work)(saved)
    assert found(again) == found(saved)
    again.save_metadata(progress=False)
    assert digests(tmp_path / "data") == first
    assert saved.provenance["is_duplicate"]["eps"] == 0.05


def test_changed_columns_are_noticed(tmp_path):
    """Saved in place, without any provenance, between two runs with one work_dir."""
    dataset = write_embeddings(tmp_path / "data", np.tile([1.0, 0.0], (6, 1)), 3)
    kept = {}
    for best in (1, 4):
        scores = pd.Series([float(row == best) for row in range(6)])
        dataset.metadata = dataset.metadata.assign(
            score=dataset.metadata["key"].map(
                lambda key, scores=scores: scores[int(key)], meta=("score", "float64")
            )
        )
        dataset = dataset.save_metadata(progress=False)
        stage = SemanticDedup(keep="best", by="score", work_dir=tmp_path / "work")
        kept[best] = [row for row, other in stands_for(stage(dataset)).items() if other is None]
    assert kept == {1: [1], 4: [4]}


def test_embeddings_in_another_order_are_noticed(tmp_path):
    """Rewritten with the same values in other rows: the file's statistics are the same."""
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 1, 2, 3, 4]]
    dataset = write_embeddings(tmp_path / "data", vectors, 6)
    stage = SemanticDedup(keep="first", work_dir=tmp_path / "work")
    assert stands_for(stage(dataset))[1] == 0
    path = tmp_path / "data" / "00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "image_embedding", table[1].take([0, 2, 1, 3, 4, 5])), path)
    told = stands_for(stage(ImageTextPairDataset.from_webdataset(tmp_path / "data", backend="cpu")))
    assert (told[1], told[2]) == (None, 0)


def test_two_datasets_that_look_alike(tmp_path):
    """Shards of the same names and sizes, one work_dir."""
    copies = np.tile([1.0, 0.0], (4, 1))
    stage = SemanticDedup(work_dir=tmp_path / "work")
    one = stage(write_embeddings(tmp_path / "one", copies, 2))
    other = stage(write_embeddings(tmp_path / "other", np.eye(4), 2))
    assert sum(found(one)["is_duplicate"]) == 3
    assert sum(found(other)["is_duplicate"]) == 0


def test_copies_are_ranked_alike_in_any_company(tmp_path):
    """A row that needs another way to be normalised changes nothing for its neighbours."""
    vectors = np.tile(planted(10, copies=0), (3, 1))
    vectors = np.concatenate([vectors, np.zeros((1, 32)), vectors])
    dataset = write_embeddings(tmp_path / "data", vectors, 31)
    told = stands_for(SemanticDedup(keep="hard")(dataset))
    for row in range(61):
        expected = None if row < 10 or row == 30 else (row % 10 if row < 30 else (row - 31) % 10)
        assert told[row] == expected


def test_removed_vectors_are_missed_at_once(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(60), 20)
    clusters = SemanticDedup(work_dir=tmp_path / "work").cluster(dataset)
    before = found(clusters.extract())
    clusters.remove_vectors()
    assert found(clusters.extract()) == before, "what was extracted stays"
    for use in (clusters.estimate_recall, lambda: clusters.extract(0.01)):
        with pytest.raises(DatasetError, match="were removed; cluster again"):
            use()
    assert found(SemanticDedup(0.05, work_dir=tmp_path / "work")(dataset)) == before


def test_the_users_frame_may_change_between_extracts(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(60), 20, number=list(range(60)))
    clusters = SemanticDedup(work_dir=tmp_path / "work").cluster(dataset)
    dataset.metadata = dataset.metadata[dataset.metadata["number"] > 30]
    assert len(found(clusters.extract())["key"]) == 60


def test_shuffled_frames(tmp_path):
    vectors = planted(300)
    dataset = write_embeddings(tmp_path / "data", vectors, 60)
    dataset.metadata = dataset.metadata.shuffle("key", npartitions=4)
    table = frames.to_arrow(SemanticDedup(work_dir=tmp_path / "w")(dataset).metadata.compute())
    unit = {row["key"]: np.array(row["image_embedding"]) for row in table.to_pylist()}
    pairs = [row for row in table.to_pylist() if row["is_duplicate"]]
    assert len(pairs) > 50
    for row in pairs:
        likeness = unit[row["key"]] @ unit[row["duplicate_of"]]
        assert row["duplicate_similarity"] == pytest.approx(likeness, abs=1e-5)


def test_changed_embeddings_are_noticed(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(40), 20)
    work = tmp_path / "work"
    first = found(SemanticDedup(work_dir=work)(dataset))
    dataset.metadata["image_embedding"] = dataset.metadata["image_embedding"].map(
        lambda vector: [1.0, *vector[1:]], meta=dataset.metadata["image_embedding"]._meta
    )
    dataset = dataset.save_metadata(progress=False)
    again = found(SemanticDedup(work_dir=work)(dataset))
    assert sum(again["is_duplicate"]) > sum(first["is_duplicate"])


def test_prefix_keeps_columns_apart(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(200), 60)
    both = SemanticDedup(0.05, prefix="wide_")(SemanticDedup(0.01, prefix="narrow_")(dataset))
    table = frames.to_arrow(both.metadata.compute()).to_pydict()
    narrow, wide = table["narrow_is_duplicate"], table["wide_is_duplicate"]
    assert sum(narrow) < sum(wide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, r"eps=-0.1 should be"),
        ({"eps": 1.5}, r"eps=1.5 should be"),
        ({"keep": "worst"}, r"keep='worst' should be one of 'first'"),
        ({"keep": "best"}, r"needs by=COLUMN"),
        ({"by": "score"}, r"by='score' goes with keep='best'"),
        ({"rule": "any"}, r"rule='any' should be one of 'greedy'"),
        ({"n_clusters": 0}, r"n_clusters=0 should be an integer of at least 1"),
        ({"n_clusters": "many"}, r"n_clusters='many' should be"),
        ({"n_clusters": True}, r"n_clusters=True should be"),
        ({"n_probe": 0}, r"n_probe=0 should be"),
        ({"eps": "0.05"}, r"eps='0.05' should be"),
        ({"random_state": None}, r"random_state=None should be"),
        ({"random_state": -1}, r"random_state=-1 should be an integer of at least 0"),
        ({"embedding_column": "caption"}, r"column 'caption' holds string, not embeddings"),
        ({"work_dir": "s3://bucket/work"}, r"work_dir='s3://bucket/work' should be on a local"),
        ({"keep": "best", "by": "caption"}, r"by='caption' should be a column of numbers or"),
    ],
)
def test_unusable_parameters(tmp_path, options, message):
    dataset = write_embeddings(tmp_path / "data", planted(20), caption=["a b"] * 20)
    with pytest.raises(ConfigError, match=message):
        SemanticDedup(**options)(dataset)


def test_missing_columns(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(20), aesthetic_score=[1.0] * 20)
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'image_embedding'"):
        SemanticDedup(embedding_column="image_embeddings")(dataset)
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'aesthetic_score'"):
        SemanticDedup(keep="best", by="aesthetic_scores")(dataset)


def test_embeddings_of_different_lengths(tmp_path):
    vectors = [[1, 0]] * 5 + [[1, 0, 0]] * 5
    dataset = write_embeddings(tmp_path / "data", vectors, 5)
    with pytest.raises(DatasetError, match=r"different lengths \(2 and 3\)"):
        SemanticDedup()(dataset)


@needs_shared
def test_real_photographs_and_their_copies(tmp_path, client):
    """EfficientNet on real photographs: as brute force tells, embedded once, copies found."""
    images = []
    for number, path in enumerate(flickr(120)):
        images.append((path, f"{number:04d}-a.jpg"))
        if number % 3 == 0:
            copy = tmp_path / f"{number}.jpg"
            copy.write_bytes(recompressed(85)(Image.open(path)))
            images.append((copy, f"{number:04d}-b.jpg"))
    pack(images, tmp_path / "shards", samples_per_shard=60)
    dataset = TimmImageEmbedder("offline")(
        ImageTextPairDataset.from_webdataset(tmp_path / "shards", backend="cpu")
    )
    result = SemanticDedup(0.1, keep="first", work_dir=tmp_path / "work")(dataset)
    assert "image_embedding" in result.source()[0].schema.names, "embedded and stored on the way"
    table = frames.to_arrow(result.metadata.compute())
    vectors = np.array(table["image_embedding"].to_pylist(), dtype=np.float32)
    assert stands_for(result) == brute_force(vectors, range(160), 0.1, "greedy")
    assert sum(table["is_duplicate"].to_pylist()) >= 36


def test_progress_is_silent_when_told(tmp_path, caplog, capsys):
    dataset = write_embeddings(tmp_path / "data", planted(20))
    with caplog.at_level(logging.WARNING):
        SemanticDedup()(dataset)
    assert capsys.readouterr().err == ""
