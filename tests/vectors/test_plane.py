"""The principal plane, against a singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_image_curate.vectors.plane import Plane


def test_it_is_that_of_the_singular_values():
    vectors = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    vectors[:, 3] *= 9
    vectors[:, 7] *= 5
    plane = Plane.of(vectors)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(np.sum(plane.axes * axes[:2], axis=1)) == pytest.approx([1, 1])
    assert plane.explained == pytest.approx(values[:2] ** 2 / (values**2).sum())
    points = plane.project(vectors)
    assert points.shape == (200, 2)
    np.testing.assert_allclose(np.abs(points), np.abs(centred @ axes[:2].T), atol=1e-4)
    assert (np.take_along_axis(plane.axes, np.abs(plane.axes).argmax(1)[:, None], 1) > 0).all()
    # Mirrored vectors give the same axes.
    np.testing.assert_allclose(Plane.of(-vectors).axes, plane.axes, atol=1e-9)


@pytest.mark.parametrize("vectors", [[[1.0]], [[1.0], [2.0]], [[1.0, 2.0]] * 3])
def test_fewer_dimensions_than_a_plane(vectors):
    plane = Plane.of(np.array(vectors, dtype=np.float32))
    assert np.isfinite(plane.project(np.array(vectors))).all()
    assert sum(plane.explained) == pytest.approx(1.0 if vectors == [[1.0], [2.0]] else 0.0)
