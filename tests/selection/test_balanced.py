"""BalancedSample: exact numbers, even, the same for any partitions; with HierarchicalClusters."""

from __future__ import annotations

import shutil
from collections import Counter

import dask.dataframe as dd
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from scipy.stats import entropy

from nemo_image_curate import (
    BalancedSample,
    HierarchicalClusters,
    ImageTextPairDataset,
    compare_with_random,
)
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.vectors.sampling import random_score
from tests.dedup.make_embeddings import write_embeddings
from tests.make_data import digests
from tests.selection.make_choices import rearranged, table, values
from tests.vectors.make_blocks import five_rings

N = 900


@pytest.fixture(scope="module")
def columns():
    """Clusters in two levels, of very different sizes, with distances; some are null."""
    chance = np.random.default_rng(0)
    fine = np.minimum(chance.geometric(0.12, N), 30).tolist()
    coarse = [f"part {number % 4}" for number in fine]
    fine[3], coarse[4] = None, None
    distance = chance.integers(0, 5, N) / 8
    return {"cluster_1": fine, "cluster_2": coarse, "centroid_distance": distance.tolist()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, columns):
    folder = tmp_path_factory.mktemp("balanced") / "data"
    write_embeddings(folder, [None] * N, 250, **columns)
    return folder


def opened(folder, backend="cpu"):
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def _members(columns, which, seed):
    """The rows of each cluster of each part, in the order in which they are taken."""
    keys = [f"{number:06d}" for number in range(N)]
    score = random_score(pa.array(keys), seed)
    members: dict[str, dict[int, list[int]]] = {}
    for row in range(N):
        if columns["cluster_1"][row] is not None and columns["cluster_2"][row] is not None:
            inner = members.setdefault(columns["cluster_2"][row], {})
            inner.setdefault(columns["cluster_1"][row], []).append(row)
    for inner in members.values():
        for rows in inner.values():
            distance = [
                columns["centroid_distance"][row] if which == "closest" else 0 for row in rows
            ]
            rows[:] = [rows[place] for place in np.lexsort([score[rows], distance])]
    return members


@pytest.mark.parametrize("which", ["random", "closest"])
def test_each_cluster_gives_as_many_as_the_smaller_ones_allow(
    folder, tmp_path, backend, columns, which
):
    result = BalancedSample(100, which=which, random_state=3, work_dir=tmp_path)(
        opened(folder, backend)
    )
    selected = values(result, "selected")
    assert sum(map(bool, selected)) == 100
    assert [row for row, value in enumerate(selected) if value is None] == [3, 4]
    members = _members(columns, which, 3)
    quotas = {}
    for part, inner in members.items():
        for cluster, rows in inner.items():
            chosen = [bool(selected[row]) for row in rows]
            # The first ones of the cluster, and no other.
            assert chosen == sorted(chosen, reverse=True)
            quotas[part, cluster] = sum(chosen)
        of_part = {cluster: quotas[part, cluster] for cluster in inner}
        could_give = [got for cluster, got in of_part.items() if got < len(inner[cluster])]
        assert max(of_part.values()) <= min(could_give) + 1
    parts = [sum(got for (of, _), got in quotas.items() if of == part) for part in members]
    assert max(parts) - min(parts) <= 1, "each part of four has more than it gives"


def test_the_same_for_any_partitions_and_workers(folder, tmp_path, request):
    dataset = opened(folder)
    stage = BalancedSample(100, work_dir=tmp_path / "work")
    alone = table(stage(dataset))
    stage(dataset).save_metadata(tmp_path / "alone")
    other = BalancedSample(100, work_dir=tmp_path / "other")(rearranged(dataset))
    assert table(other).equals(alone)
    request.getfixturevalue("client")
    BalancedSample(100, work_dir=tmp_path / "two")(dataset).save_metadata(tmp_path / "saved")
    assert digests(tmp_path / "saved") == digests(tmp_path / "alone")
    another = BalancedSample(100, random_state=1, work_dir=tmp_path / "work")(dataset)
    assert values(another, "selected") != alone["selected"].to_pylist()


@settings(max_examples=5)
@given(st.integers(0, 950))
def test_exactly_as_many_as_asked_for(folder, tmp_path_factory, n):
    work = tmp_path_factory.mktemp("work")
    selected = values(BalancedSample(n, ["cluster_1"], work_dir=work)(opened(folder)), "selected")
    assert sum(map(bool, selected)) == min(n, 899)


def test_too_few_rows_are_told(folder, tmp_path, caplog):
    BalancedSample(10_000, work_dir=tmp_path)(opened(folder))
    assert "only 898 rows have clusters, of n=10,000" in caplog.text


def test_keys_that_repeat_in_other_shards(tmp_path):
    keys = [f"{number:02d}" for number in range(20)] * 5
    dataset = write_embeddings(tmp_path / "data", [None] * 100, 20, key=keys, label=["a"] * 100)
    stage = BalancedSample(33, ["label"], work_dir=tmp_path / "work")
    chosen = table(stage(dataset))
    assert sum(chosen["selected"].to_pylist()) == 33
    other = BalancedSample(33, ["label"], work_dir=tmp_path / "other")(rearranged(dataset))
    assert table(other).equals(chosen)
    # A row that is there twice cannot be chosen once.
    twice = dataset.replace(dataset.metadata[["key", "shard", "label"]].query("key == '00'"))
    doubled = twice.replace(dd.concat([twice.metadata, twice.metadata]))
    with pytest.raises(DatasetError, match="Have each sample once"):
        BalancedSample(1, ["label"], work_dir=tmp_path / "twice")(doubled)


def test_no_rows_at_all(folder, tmp_path):
    dataset = opened(folder)
    none = dataset.replace(dataset.metadata[dataset.metadata.key == "no key"])
    assert values(BalancedSample(5, work_dir=tmp_path)(none), "selected") == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": -1}, ConfigError, "n=-1 should be an integer of at least 0"),
        (
            {"n": 5, "which": "hard"},
            ConfigError,
            "which='hard' should be one of 'random', 'closest'",
        ),
        ({"n": 5, "clusters": "cluster_1"}, ConfigError, "should be a list of columns"),
        ({"n": 5, "clusters": ["kluster_1"]}, ColumnNotFoundError, "Did you mean 'cluster_1'"),
        ({"n": 5, "clusters": ["image_embedding"]}, ConfigError, "groups are named by numbers"),
    ],
)
def test_what_cannot_be(folder, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        BalancedSample(**options, work_dir=tmp_path)(opened(folder))


def test_files_that_are_gone_are_told(folder, tmp_path):
    result = BalancedSample(5, work_dir=tmp_path / "work")(opened(folder))
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(DatasetError, match="Run BalancedSample again"):
        result.metadata.compute()


def test_five_rings_are_drawn_from_evenly(tmp_path):
    """The toy of the paper at a third of its size; ci/bench/balance.py has all of it."""
    points, rings = five_rings(0, share=0.3)
    dataset = write_embeddings(tmp_path / "data", points, 5000)
    stages = (
        HierarchicalClusters((300, 90), 5, normalize=False, work_dir=tmp_path / "work"),
        BalancedSample(300, work_dir=tmp_path / "work"),
    )
    for stage in stages:
        dataset = stage(dataset)
    selected = np.array(values(dataset, "selected"))
    drawn = Counter(rings[selected].tolist())
    evenness = entropy([drawn[ring] for ring in range(5)]) / np.log(5)
    assert evenness > 0.93


def test_coarser_clusters_of_another_run_are_none(tmp_path):
    ds = write_embeddings(tmp_path / "ds", np.random.default_rng(0).normal(size=(120, 8)), 50)
    options = {"resampling_steps": 0, "work_dir": tmp_path / "work"}
    once = HierarchicalClusters((30, 9, 2), **options)(ds).save_metadata(tmp_path / "once")
    again = HierarchicalClusters((20, 5), **options)(once).save_metadata(tmp_path / "again")
    assert "cluster_3" in again.metadata.columns
    for dataset in (again, ImageTextPairDataset.from_webdataset(tmp_path / "again")):
        ours = values(BalancedSample(40, work_dir=tmp_path / "work")(dataset), "selected")
        named = BalancedSample(40, ["cluster_1", "cluster_2"], work_dir=tmp_path / "work")(dataset)
        assert ours == values(named, "selected")
        assert compare_with_random(named).clusters == "cluster_2"
