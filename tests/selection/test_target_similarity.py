"""Similarity to a target against NumPy over all pairs."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import TargetSimilarity, frames
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    EncoderMismatchError,
)
from tests.dedup.make_embeddings import write_embeddings
from tests.make_data import digests
from tests.make_embedders import column, rows

DIM = 24
N, M = 150, 70


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.float32(vectors).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


CHANCE = np.random.default_rng(0)
# One side longer than the other, and all with something in common.
IMAGES = CHANCE.normal(size=(N, DIM)) * 3 + 0.8
TARGETS = CHANCE.normal(size=(M, DIM)) + 0.2
IMAGES[10] = 2 * TARGETS[33]
WITHOUT = {4: None, 7: np.zeros(DIM), 9: np.full(DIM, np.nan)}
COSINES = unit(IMAGES) @ unit(TARGETS).T


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu", marks=[pytest.mark.gpu])])
def made(request, tmp_path_factory):
    """The dataset and the target, as a dataset of the same backend."""
    if request.param == "gpu" and (problem := frames.gpu_problem()):
        pytest.skip(f"no GPU: {problem}")
    root = tmp_path_factory.mktemp("target")
    some = [WITHOUT.get(row, vector) for row, vector in enumerate(IMAGES)]
    ds = write_embeddings(root / "in", some, 40, request.param)
    target = write_embeddings(root / "target", [None, *TARGETS, None], 30, request.param)
    return ds, target


@pytest.fixture(params=["dataset", "path", "array"])
def target(request, made):
    dataset = made[1]
    return {"dataset": dataset, "path": dataset.path, "array": TARGETS}[request.param]


@pytest.mark.parametrize("p", [math.inf, "inf"])
def test_the_nearest_of_the_target(made, target, p, tmp_path):
    stage = TargetSimilarity(target, p, work_dir=tmp_path / "work")
    saved = rows(stage(made[0]).save_metadata(tmp_path / "out"))
    first = 0 if target is TARGETS else 1
    for row, values in enumerate(saved):
        if row in WITHOUT:
            assert values["target_similarity"] is values["target_of"] is None
            continue
        assert values["target_similarity"] == pytest.approx(COSINES[row].max(), abs=2e-6)
        expected = COSINES[row].argmax() + first
        assert int(values["target_of"]) == expected
    assert saved[10]["target_similarity"] == 1


def test_the_root_of_all_squares(made, target, tmp_path):
    ds = TargetSimilarity(target, p=2, pred_column="near", work_dir=tmp_path)(made[0])
    found = column(ds, "near")
    expected = np.linalg.norm(COSINES, axis=1)
    assert [row for row, value in enumerate(found) if value is None] == sorted(WITHOUT)
    has_one = [row for row in range(N) if row not in WITHOUT]
    np.testing.assert_allclose([found[row] for row in has_one], expected[has_one], rtol=1e-6)
    assert "target_of" not in ds.metadata.columns


def test_partitions_and_workers_do_not_show(made, tmp_path, client):
    ds, target = made
    for p in (math.inf, 2):
        stage = TargetSimilarity(target, p, work_dir=tmp_path)
        many = column(stage(ds), "target_similarity")
        one = ds.replace(ds.metadata.repartition(npartitions=1))
        assert column(stage(one), "target_similarity") == many


def test_what_counts_is_the_content_of_the_target(made, tmp_path):
    ds, target = made

    def token(target=target, **options) -> str:
        stage = TargetSimilarity(target, **{"work_dir": tmp_path / "a", **options})
        return Lineage(stage(ds).metadata).token

    assert token() == token(target.path) == token(work_dir=tmp_path / "b")
    others = [token(TARGETS), token(TARGETS[1:]), token(p=2), token(pred_column="other")]
    assert len({token(), *others}) == 5


def test_the_same_again_is_done_and_recorded(made, tmp_path):
    ds, target = made
    contents = []
    for work in ("a", "b"):
        stage = TargetSimilarity(target.path, work_dir=tmp_path / work)
        saved = stage(ds).save_metadata(tmp_path / "out")
        files = (tmp_path / "out").glob("*.parquet")
        contents.append(
            (digests(tmp_path / "out").keys(), {f: f.stat().st_mtime_ns for f in files})
        )
    assert contents[0] == contents[1]
    record = saved.provenance["target_similarity"]
    assert (record["stage"], record["p"]) == ("TargetSimilarity", "inf")
    assert record["compared_with"]
    assert "Infinity" not in json.dumps(record)
    # A stage that was called is what it was.
    assert stage.target == target.path


@pytest.mark.parametrize("p", [1, 0, -math.inf, "two", math.nan])
def test_other_norms_are_refused(made, p):
    with pytest.raises(ConfigError, match="should be inf"):
        TargetSimilarity(TARGETS, p)(made[0])


def test_what_is_no_target_is_refused(made, tmp_path):
    ds, target = made
    with pytest.raises(ConfigError, match="target is list; it should be a dataset"):
        TargetSimilarity([1, 2])(ds)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        TargetSimilarity(np.ones(3))(ds)
    with pytest.raises(ColumnNotFoundError, match="no column 'text_embedding'"):
        TargetSimilarity(target, target_column="text_embedding")(ds)
    nothing = write_embeddings(tmp_path / "none", [None, None])
    with pytest.raises(DatasetError, match="has no embedding in its column 'image_embedding'"):
        TargetSimilarity(nothing)(ds)
    narrow = TargetSimilarity(TARGETS[:, :5], work_dir=tmp_path)(ds)
    with pytest.raises(DatasetError, match="of 24 values in column 'image_embedding', of 5 in"):
        narrow.metadata.compute()


def test_embeddings_of_another_encoder_are_refused(made, tmp_path):
    ds, target = made
    one = ds.replace(ds.metadata, {"image_embedding": {"encoder": "acme/a"}})
    other = target.replace(target.metadata, {"image_embedding": {"encoder": "acme/b"}})
    with pytest.raises(EncoderMismatchError, match=r"'acme/a'.*'acme/b'.*check_encoder=False"):
        TargetSimilarity(other)(one)
    with pytest.raises(EncoderMismatchError, match="unknown origin"):
        TargetSimilarity(target)(one)
    stages = TargetSimilarity(other, check_encoder=False), TargetSimilarity(TARGETS)
    for stage in stages:
        stage.work_dir = tmp_path
        assert column(stage(one), "target_similarity")[10] == 1


def test_texts_may_be_the_target(made, tmp_path):
    """Columns of another name, on either side."""
    ds, target = made
    texts = target.replace(target.metadata.rename(columns={"image_embedding": "text_embedding"}))
    images = ds.replace(ds.metadata.rename(columns={"image_embedding": "vector"}))
    stage = TargetSimilarity(
        texts,
        embedding_column="vector",
        target_column="text_embedding",
        key_column=None,
        work_dir=tmp_path,
    )
    found = stage(images)
    assert column(found, "target_similarity")[10] == 1
    assert "target_of" not in found.metadata.columns
    assert pa.types.is_float32(stage.columns()["target_similarity"])


def test_lost_files_are_told(made, tmp_path):
    ds = TargetSimilarity(TARGETS, work_dir=tmp_path / "work")(made[0])
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(DatasetError, match=r"is gone.* Run TargetSimilarity again; give work_dir"):
        ds.metadata.compute()
