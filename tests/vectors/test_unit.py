import numpy as np
import pytest
import torch

from nemo_image_curate.compute import devices
from nemo_image_curate.vectors.nearest import COARSE_MARGIN, nearest
from nemo_image_curate.vectors.unit import unit_vectors


@pytest.fixture
def device(backend):
    return "cuda" if backend == "gpu" else "cpu"


def test_unit_leaves_out_what_has_no_direction(device):
    values = np.array(
        [[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-30, 0], [-1e30, 1e30]], dtype=np.float32
    )
    unit, rows = unit_vectors(values, device)
    assert rows.tolist() == [0, 4, 5]
    expected = [[0.6, 0.8], [1, 0], [-(0.5**0.5), 0.5**0.5]]
    np.testing.assert_allclose(unit.cpu(), expected, rtol=1e-6)


def test_unit_does_not_touch_its_input():
    values = np.full((2, 3), 2.0, dtype=np.float32)
    values.flags.writeable = False
    unit, _ = unit_vectors(values, "cpu")
    unit[:] = 0
    assert (values == 2).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 4)])
def test_unit_of_nothing(shape, device):
    unit, rows = unit_vectors(np.empty(shape, dtype=np.float32), device)
    assert len(unit) == len(rows) == 0


@pytest.mark.parametrize("native", [True, False])
def test_nearest_finds_the_nearest_centroids(native, device, monkeypatch):
    if native and not devices.has_bfloat16(device):
        pytest.skip("this device does not multiply bfloat16")
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: native)
    chance = np.random.default_rng(0)
    x, _ = unit_vectors(chance.standard_normal((5000, 24)).astype(np.float32), device)
    centroids, _ = unit_vectors(chance.standard_normal((40, 24)).astype(np.float32), device)
    index, similarity = (found.cpu() for found in nearest(x, centroids, 3))
    exact = (x @ centroids.T).cpu()
    np.testing.assert_allclose(similarity, exact.gather(1, index), atol=COARSE_MARGIN)
    truth = exact.topk(3, dim=1).values
    assert (truth - exact.gather(1, index)).max() <= 2 * COARSE_MARGIN
    assert (index.sort(1).values.diff(dim=1) > 0).all(), "each centroid once"


def test_bfloat16_stays_within_its_margin():
    """The worst case of rounding, not only the usual one."""
    chance = np.random.default_rng(1)
    x, _ = unit_vectors(chance.standard_normal((3000, 7)).astype(np.float32), "cpu")
    worst = torch.full((1, 64), 1.0 + 2**-8 - 2**-20)
    for some in (x, worst / worst.norm()):
        rough = (some.bfloat16() @ some.bfloat16().T).float()
        assert (rough - some @ some.T).abs().max() <= COARSE_MARGIN
