import numpy as np
import pytest

from nemo_image_curate.index.recall import _highest
from nemo_image_curate.index.vector_file import VectorFile, write_vectors
from nemo_image_curate.index.vector_index import build_index
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import recall, truth


def test_lists_find_what_the_recipe_tells(tmp_path, backend):
    vectors = planted(6000, dim=48, copies=0.1, centres=30)
    dataset = write_embeddings(tmp_path / "data", vectors[:5000], 1200, backend)
    built = build_index(dataset, kind="ivf", target_recall=0.9)
    built.scan_rows = 0
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


def test_the_highest_cosines_are_those_of_brute_force(tmp_path, device, monkeypatch):
    monkeypatch.setattr("nemo_image_curate.index.recall._ROWS", 12_000)
    vectors = planted(20_000, dim=24, copies=0.1, centres=30)
    write_vectors(tmp_path / "vectors", [vectors])
    np.save(tmp_path / "queries.npy", vectors[:50])
    for start, end in ((0, 12_000), (12_000, 20_000)):
        highest = _highest(tmp_path / "vectors", 24, start, tmp_path / "queries.npy", device)
        stored = VectorFile(tmp_path / "vectors", 24).read(slice(start, end))
        cosines = vectors[:50].astype(np.float64) @ stored.T.astype(np.float64)
        expected = -np.sort(-cosines, axis=1)[:, :11]
        np.testing.assert_allclose(-np.sort(-highest, axis=1), expected, atol=1e-6)


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
