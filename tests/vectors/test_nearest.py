from __future__ import annotations

import numpy as np
import pytest
import torch

from nemo_image_curate.compute import devices
from nemo_image_curate.vectors.nearest import COARSE_MARGIN, nearest
from nemo_image_curate.vectors.unit import unit_vectors


def unit(rows: int, dim: int, seed: int, device: str = "cpu") -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return unit_vectors(values, device)[0]


@pytest.mark.parametrize("native", [True, False])
def test_nearest_finds_the_centroids_of_highest_cosine(native, device, monkeypatch):
    if native and not devices.has_bfloat16(device):
        pytest.skip("this device does not multiply bfloat16")
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: native)
    vectors, centroids = unit(5000, 24, 0, device), unit(40, 24, 1, device)
    index, similarity = (tensor.cpu() for tensor in nearest(vectors, centroids, 3))
    exact = (vectors @ centroids.T).cpu()
    np.testing.assert_allclose(similarity, exact.gather(1, index), atol=COARSE_MARGIN)
    best = exact.topk(3, dim=1).values
    assert (best - exact.gather(1, index)).max() <= 2 * COARSE_MARGIN
    assert (index.sort(1).values.diff(dim=1) > 0).all(), "each centroid once"


def test_nearest_by_euclidean_distance(device, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: True)  # not to be used here
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5000, 3, generator=generator).to(device)
    centroids = torch.randn(40, 3, generator=generator).to(device)
    index, similarity = nearest(vectors, centroids, 2, spherical=False)
    distances = torch.cdist(vectors.double(), centroids.double())
    assert (index == distances.topk(2, largest=False).indices).float().mean() > 0.999
    squared = distances.gather(1, index).square()
    expected = (vectors.double().square().sum(1, keepdim=True) - squared) / 2
    torch.testing.assert_close(similarity.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spherical", [True, False])
def test_nearest_of_no_vectors(device, spherical):
    index, similarity = nearest(unit(0, 4, 0, device), unit(3, 4, 1, device), 2, spherical)
    assert index.shape == similarity.shape == (0, 2)


def test_bfloat16_stays_within_its_margin():
    """The worst case of rounding, not only the usual one."""
    worst = torch.full((1, 64), 1.0 + 2**-8 - 2**-20)
    for vectors in (unit(3000, 7, 1), worst / worst.norm()):
        rough = (vectors.bfloat16() @ vectors.bfloat16().T).float()
        assert (rough - vectors @ vectors.T).abs().max() <= COARSE_MARGIN
