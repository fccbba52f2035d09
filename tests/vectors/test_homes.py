from __future__ import annotations

import numpy as np
import pytest
import torch

from nemo_image_curate.vectors.homes import COSINE_GRAIN, cosines, homes
from tests.dedup.make_embeddings import planted


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("offset", [0, 1000])
def test_the_nearest_of_all(device, spherical, offset):
    vectors, centroids = planted(900), planted(70, seed=1)
    if not spherical:
        vectors, centroids = vectors * 3 + np.float32(offset), centroids * 3 + np.float32(offset)
    on_device = [torch.from_numpy(each).to(device) for each in (vectors, centroids)]
    index, distance = (each.cpu().numpy() for each in homes(*on_device, spherical))
    gaps = vectors[:, None].astype(float) - centroids.astype(float)
    squares = np.square(gaps).sum(axis=2)
    assert (index == squares.argmin(axis=1)).all()
    nearest = squares.min(axis=1)
    np.testing.assert_allclose(distance, nearest / 2 if spherical else np.sqrt(nearest), atol=1e-6)


@pytest.mark.parametrize("spherical", [True, False])
def test_what_is_beside_a_vector_does_not_matter(spherical):
    centroids = planted(50, seed=1)
    # Between two centroids, up to the last bit; and centroids that are there twice.
    middle = (centroids[:-1] + centroids[1:]) / 2
    vectors = np.concatenate([middle / np.linalg.norm(middle, axis=1, keepdims=True), planted(200)])
    both = torch.from_numpy(np.concatenate([centroids, centroids[:9]]))
    whole = homes(torch.from_numpy(vectors), both, spherical)
    assert whole[0].max() < 50, "the lowest number of equal ones"
    for size in (1, 7):
        parts = [
            homes(torch.from_numpy(vectors[start : start + size]), both, spherical)
            for start in range(0, 60, size)
        ]
        for together, single in zip(whole, zip(*parts, strict=True), strict=True):
            alone = torch.cat(single)
            assert (alone == together[: len(alone)]).all()


def test_one_centroid_and_no_vector():
    one = torch.ones(1, 4) / 2
    assert homes(torch.ones(3, 4) / 2, one)[0].tolist() == [0, 0, 0]
    assert [len(each) for each in homes(torch.empty(0, 4), one)] == [0, 0]


def test_cosines_are_exact_sums():
    a, b = planted(300, dim=700), planted(300, dim=700, seed=1)
    found = cosines(torch.from_numpy(a), torch.from_numpy(b)).numpy() * COSINE_GRAIN
    np.testing.assert_allclose(found, (a.astype(float) * b).sum(axis=1), atol=700 * COSINE_GRAIN)
    order = np.random.default_rng(0).permutation(700)
    again = cosines(torch.from_numpy(a[5:6][:, order]), torch.from_numpy(b[5:6][:, order]))
    assert again.item() * COSINE_GRAIN == found[5]
