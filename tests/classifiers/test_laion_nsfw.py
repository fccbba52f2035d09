"""LAION's NSFW detector on a dataset, with the published file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_image_curate import ImageTextPairDataset, NsfwClassifier
from nemo_image_curate.errors import EncoderMismatchError, WeightsError
from tests.classifiers.test_base import with_vectors
from tests.classifiers.test_laion_aesthetic import WEIGHTS, B, L, ratings
from tests.make_embedders import column
from tests.shared import needs_shared

ZIP = {L: WEIGHTS / "clip_autokeras_binary_nsfw.zip", B: WEIGHTS / "clip_autokeras_nsfw_b32.zip"}
CONVERTED = {L: WEIGHTS / "nsfw_vit_l_14.pth", B: WEIGHTS / "nsfw_vit_b_32.pth"}


def by_hand(path: Path, vectors: np.ndarray) -> np.ndarray:
    """The network as it is described, in NumPy."""
    weights = {
        name: value.numpy()
        for name, value in torch.load(path, weights_only=True, map_location="cpu").items()
    }
    x = (vectors - weights["norm.mean"]) / np.sqrt(weights["norm.variance"])
    last = sum(name.endswith(".weight") for name in weights if name.startswith("linear"))
    for layer in range(1, last + 1):
        x = x @ weights[f"linear_{layer}.weight"].T + weights[f"linear_{layer}.bias"]
        x = np.maximum(x, 0) if layer < last else 1 / (1 + np.exp(-x))
    return x[:, 0]


@needs_shared
@pytest.mark.parametrize(("kind", "encoder"), [("vit_l_14", L), ("vit_b_32", B)])
def test_probabilities_are_those_of_the_published_network(tmp_path, kind, encoder, backend):
    vectors = ratings(kind)
    with_vectors(tmp_path, [None, *vectors[:9]], [vectors[9]], [None], encoder=encoder)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    stage = NsfwClassifier(model_path=str(ZIP[encoder]), trained_on=encoder)
    saved = stage(ds).save_metadata(tmp_path / "out")
    found = column(saved, "nsfw_score")
    assert found[0] is found[-1] is None
    np.testing.assert_allclose(
        found[1:-1], by_hand(CONVERTED[encoder], np.stack(vectors)), atol=1e-4
    )
    digest = hashlib.sha256(ZIP[encoder].read_bytes()).hexdigest()
    assert saved.provenance["nsfw_score"]["weights_sha256"] == digest
    assert saved.provenance["nsfw_score"]["encoder"] == encoder


@needs_shared
def test_one_row_stays_one_number(tmp_path):
    ds = with_vectors(tmp_path, ratings("vit_l_14")[:1], encoder=L)
    (found,) = column(NsfwClassifier(model_path=str(ZIP[L]))(ds), "nsfw_score")
    assert 0 <= found <= 1


@needs_shared
def test_the_column_has_the_name_that_was_asked_for(tmp_path):
    ds = with_vectors(tmp_path, ratings("vit_l_14"), encoder=L)
    stage = NsfwClassifier(model_path=str(ZIP[L]), pred_column="unsafe")
    assert "nsfw_score" not in stage(ds).metadata.columns
    assert len(column(stage(ds), "unsafe")) == 10


@needs_shared
def test_other_embeddings_and_other_files_are_refused(tmp_path):
    ds = with_vectors(tmp_path, ratings("vit_l_14"), encoder="laion/some-other-clip")
    with pytest.raises(EncoderMismatchError, match=r"laion/some-other-clip.*check_encoder=False"):
        NsfwClassifier(model_path=str(ZIP[L]))(ds)
    wrong = NsfwClassifier(
        model_path=str(WEIGHTS / "sa_0_4_vit_l_14_linear.pth"), check_encoder=False
    )
    with pytest.raises(WeightsError, match="NSFW head: expected"):
        wrong(ds).save_metadata(tmp_path / "out")
