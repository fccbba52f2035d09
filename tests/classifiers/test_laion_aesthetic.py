"""LAION's aesthetic predictor on a dataset, with the real weights and real embeddings."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
import torch

from nemo_image_curate import AestheticClassifier, ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import (
    ConfigError,
    DatasetError,
    EncoderMismatchError,
    WeightsError,
)
from tests.classifiers.test_base import with_vectors
from tests.make_embedders import column
from tests.shared import SHARED, needs_shared

L, B = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
WEIGHTS = SHARED / "weights"
V2 = str(WEIGHTS / "sac+logos+ava1-l14-linearMSE.pth")
V1_L = str(WEIGHTS / "sa_0_4_vit_l_14_linear.pth")
V1_B = str(WEIGHTS / "sa_0_4_vit_b_32_linear.pth")


def ratings(kind: str) -> list[np.ndarray]:
    """Real embeddings of images that people rated 0 to 9, in this order."""
    folder = SHARED / "data" / "laion_ratings" / f"{kind}_embeddings"
    return [np.load(folder / f"rating{n}.npy")[0] for n in range(10)]


@needs_shared
@pytest.mark.parametrize(
    ("kind", "encoder", "version", "path"),
    [
        ("vit_l_14", L, "v1", V1_L),
        ("vit_b_32", B, "v1", V1_B),
    ],
)
def test_what_people_like_better_scores_higher(tmp_path, kind, encoder, version, path, backend):
    vectors = ratings(kind)
    with_vectors(tmp_path, [*vectors[:5], None], vectors[5:], encoder=encoder)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    stage = AestheticClassifier(model_path=path, trained_on=encoder, version=version)
    found = column(stage(ds).save_metadata(tmp_path / "out"), "aesthetic_score")
    assert found.pop(5) is None
    assert found == sorted(found)
    weights = torch.load(path, weights_only=True, map_location="cpu")
    expected = np.stack(vectors) @ weights["weight"][0].numpy() + weights["bias"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@needs_shared
def test_v2_against_its_layers_one_after_another(tmp_path):
    vectors = ratings("vit_l_14")
    ds = with_vectors(tmp_path, [3 * vector for vector in vectors], encoder=L)
    found = column(AestheticClassifier(model_path=V2)(ds), "aesthetic_score")
    weights = torch.load(V2, weights_only=True, map_location="cpu")
    x = torch.from_numpy(np.stack(vectors))
    for layer in (0, 2, 4, 6, 7):
        x = x @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
    np.testing.assert_allclose(found, x[:, 0], atol=2e-3)
    assert np.corrcoef(found, range(10))[0, 1] > 0.9


@needs_shared
def test_weights_decide_what_is_computed_again(tmp_path):
    ds = with_vectors(tmp_path, ratings("vit_l_14"), encoder=L)
    copy = tmp_path / "another-name.pth"
    shutil.copy(V2, copy)

    def token(**options) -> str:
        return Lineage(AestheticClassifier(**options)(ds).metadata).token

    assert token(model_path=V2) == token(model_path=str(copy))
    assert token(model_path=V2) != token(model_path=V1_L, version="v1")
    one = AestheticClassifier(model_path=V2)(ds).save_metadata(tmp_path / "out")
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    assert one.provenance["aesthetic_score"]["weights_sha256"] == digest
    shutil.copytree(tmp_path / "out", tmp_path / "kept")
    changed = torch.load(V2, weights_only=True, map_location="cpu")
    changed["layers.7.bias"] += 1
    torch.save(changed, copy)
    once = ImageTextPairDataset.from_webdataset(tmp_path / "kept")
    other = AestheticClassifier(model_path=str(copy))(ds).save_metadata(tmp_path / "out")
    before, after = (column(saved, "aesthetic_score") for saved in (once, other))
    assert len(after) == 10
    np.testing.assert_allclose(after, np.add(before, 1), atol=1e-4)


@needs_shared
def test_other_embeddings_are_refused(tmp_path):
    ds = with_vectors(tmp_path / "b", ratings("vit_b_32"), encoder=B)
    with pytest.raises(EncoderMismatchError) as caught:
        AestheticClassifier(model_path=V2)(ds)
    assert L in str(caught.value)
    assert B in str(caught.value)
    unchecked = AestheticClassifier(model_path=V2, check_encoder=False)(ds)
    with pytest.raises(DatasetError, match="takes embeddings of 768 values, but these have 512"):
        unchecked.save_metadata(tmp_path / "out")


@needs_shared
def test_the_cache_folder_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("NEMO_IMAGE_CURATE_HOME", str(WEIGHTS))
    ds = with_vectors(tmp_path, ratings("vit_l_14"), encoder=L)
    assert len(column(AestheticClassifier()(ds), "aesthetic_score")) == 10


def test_a_head_that_was_never_published(tmp_path):
    ds = with_vectors(tmp_path, [[1.0] * 512])
    with pytest.raises(ConfigError) as caught:
        AestheticClassifier(trained_on=B)(ds)
    assert f"no aesthetic head 'v2' for {B!r}" in str(caught.value)
    assert f"v1 for {B}" in str(caught.value)


def test_a_weights_file_that_is_not_there(tmp_path):
    ds = with_vectors(tmp_path, [[1.0] * 768], encoder=L)
    path = str(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"none\.pth' does not exist"):
        AestheticClassifier(model_path=path)(ds)
    os.mkdir(path)
    with pytest.raises(WeightsError, match="is not a file"):
        AestheticClassifier(model_path=path)(ds)


@needs_shared
def test_the_weights_of_another_head(tmp_path):
    ds = with_vectors(tmp_path, [[1.0] * 768], encoder=L)
    wrong = str(WEIGHTS / "nsfw_vit_l_14.pth")
    with pytest.raises(WeightsError, match="aesthetic V2 head: expected"):
        AestheticClassifier(model_path=wrong)(ds).save_metadata(tmp_path / "out")
