"""Clients: of a cluster of their own, or of a running scheduler."""

from __future__ import annotations

import json
import os

import pytest

from nemo_image_curate import SemanticDedup, frames
from nemo_image_curate.compute.client import current_client, get_client
from nemo_image_curate.errors import BackendError, ConfigError
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import digests


def test_a_started_cluster_ends_with_its_client():
    with get_client("cpu", n_workers=1, processes=False) as client:
        assert current_client() is client
        assert client.submit(os.getpid).result() == os.getpid()
        inner = client.cluster
    assert inner.status.name == "closed"
    assert current_client() is None


def test_connect_to_a_running_scheduler(client, tmp_path):
    address = client.scheduler.address
    with get_client(scheduler_address=address, set_as_default=False) as other:
        assert len(other.scheduler_info()["workers"]) == 2
    (tmp_path / "s.json").write_text(json.dumps({"address": address}))
    with get_client(scheduler_file=str(tmp_path / "s.json"), set_as_default=False) as other:
        assert len(other.scheduler_info()["workers"]) == 2
    assert client.submit(len, "abc").result() == 3, "the cluster of others lives on"


def test_contradicting_arguments():
    with pytest.raises(ConfigError, match="not both"):
        get_client(scheduler_address="tcp://x:1", scheduler_file="x.json")
    with pytest.raises(ConfigError, match="n_workers"):
        get_client(scheduler_address="tcp://x:1", n_workers=2)
    with pytest.raises(ConfigError, match="'tpu' is none of"):
        get_client("tpu")


@pytest.mark.skipif(frames.gpu_problem() is None, reason="a GPU works here")
def test_gpu_cluster_without_a_gpu():
    with pytest.raises(BackendError, match="does not work here"):
        get_client("gpu")


@pytest.mark.gpu
def test_more_workers_than_gpus_are_refused():
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    with pytest.raises(ConfigError, match=r"n_workers=99: there is one worker for each GPU"):
        get_client("gpu", n_workers=99)


@pytest.mark.gpu
def test_a_gpu_cluster_writes_the_same_files_as_no_cluster(tmp_path):
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    vectors = [None if row % 50 == 7 else one for row, one in enumerate(planted(900))]
    numbers = [None if row % 9 == 4 else row for row in range(900)]
    dataset = write_embeddings(tmp_path / "in", vectors, 200, "gpu", number=numbers)

    def save(name: str) -> dict[str, str]:
        stage = SemanticDedup(0.05, 9, keep="best", by="number", work_dir=tmp_path / f"work-{name}")
        marked = stage(dataset.filter("number >= 250"))
        marked.metadata["twice"] = marked.metadata["number"] * 2
        saved = marked.save_metadata(tmp_path / name)
        assert saved.backend == "gpu"
        assert 100 < int(saved.metadata["is_duplicate"].sum().compute()) < 400
        return digests(tmp_path / name)

    alone = save("alone")
    with get_client("gpu") as client:
        assert len(client.scheduler_info()["workers"]) >= 1
        assert save("spread") == alone
    assert [name for name in alone if name.endswith(".parquet")] == [
        f"{shard:05d}.parquet" for shard in range(5)
    ]
