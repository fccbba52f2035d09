import numpy as np
import pytest

from nemo_image_curate.dedup.semantic import SemanticDedup
from tests.dedup.make_embeddings import planted, write_embeddings


@pytest.mark.parametrize(("n_clusters", "n_probe"), [(1, 1), (90, 1), (90, 4)])
def test_whole_sample_counts_all_pairs(tmp_path, backend, n_clusters, n_probe):
    vectors = planted(2000, dim=16, centres=3)
    dataset = write_embeddings(tmp_path / "data", vectors, 700, backend)
    stage = SemanticDedup(0.05, n_clusters, n_probe=n_probe, work_dir=tmp_path / "work")
    clusters = stage.cluster(dataset)
    found = clusters.estimate_recall(sample_size=2000)
    unit = vectors.astype(np.float64)
    truth = int(np.tril(unit @ unit.T >= 1 - 0.05 - 1e-6, -1).sum())
    assert found.sample == 2000
    assert found.true_pairs == pytest.approx(2 * truth, abs=2), "each pair is met from both ends"
    reference = clusters.extract(rule="reference", keep="first").metadata["is_duplicate"]
    brute = (np.tril(unit @ unit.T >= 1 - 0.05 - 1e-6, -1)).any(axis=1).sum()
    missed = brute - int(reference.compute().sum())
    if n_clusters == 1:
        assert found.recall == 1
        assert missed == 0
    else:
        assert (found.recall < 1) == (found.found_pairs < found.true_pairs)
        assert missed <= (found.true_pairs - found.found_pairs) / 2
        assert n_probe > 1 or found.recall < 0.97
        assert n_probe == 1 or found.recall > 0.99
    assert found.precision == pytest.approx(1, abs=1e-3)


def test_a_sample_estimates_the_whole(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(3000, dim=16, centres=3), 1000)
    clusters = SemanticDedup(0.05, 110, n_probe=1, work_dir=tmp_path / "work").cluster(dataset)
    whole = clusters.estimate_recall(sample_size=3000)
    # Intervals of 95 per cent: some miss, which of them depends on how the processor rounds.
    holds = []
    for sample_size in range(500, 1600, 100):
        some = clusters.estimate_recall(sample_size=sample_size)
        low, high = some.interval
        holds.append(low <= whole.recall <= high)
    assert sum(holds) >= len(holds) - 3
    assert some == clusters.estimate_recall(sample_size=sample_size)


def test_no_pairs_and_no_rows(tmp_path):
    apart = np.eye(8, dtype=np.float32)
    for name, vectors in {"apart": apart, "none": [None, None]}.items():
        clusters = SemanticDedup().cluster(write_embeddings(tmp_path / name, vectors, 3))
        found = clusters.estimate_recall()
        assert found.recall is None
        assert str(found).startswith("unknown")
        assert found.true_pairs == 0
        assert found.interval == (0.0, 1.0)
