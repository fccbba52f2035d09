from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nemo_image_curate.vectors.unit import directions, unit_vectors

TYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("row", "direction"),
    [
        ([3, 4], [0.6, 0.8]),
        ([-2, 0], [-1, 0]),
        ([1e-30, 0], [1, 0]),
        ([-1e30, 1e30], [-(0.5**0.5), 0.5**0.5]),
        ([3e38, 0], [1, 0]),
        ([1e30, 1e-30], [1, 0]),
        ([0, 0], None),
        ([np.nan, 1], None),
        ([np.inf, 1], None),
        ([-np.inf, np.inf], None),
        ([np.nan, np.inf], None),
    ],
)
def test_each_row_that_has_a_direction_gets_it(row, direction, dtype, device):
    # Rows beside it make no difference.
    vectors = torch.tensor([[1, 0], row, [0, 5], [0, 0]], dtype=dtype, device=device)
    unit = directions(vectors)
    assert unit.dtype == dtype
    expected = [[1, 0], direction or [np.nan, np.nan], [0, 1], [np.nan, np.nan]]
    np.testing.assert_allclose(unit.cpu(), expected, atol=1e-6)


@pytest.mark.parametrize("exponent", [-323, -200, -160, 150, 200, 307])
def test_values_near_the_ends_of_float64(exponent, device):
    row = [float(f"3e{exponent}"), float(f"4e{exponent}")]
    unit = directions(torch.tensor([row], dtype=torch.float64, device=device))
    # 3e-323 is six times the smallest number there is.
    np.testing.assert_allclose(unit.cpu(), [[0.6, 0.8]], atol=0 if exponent > -300 else 0.1)


def float_rows(width: int) -> st.SearchStrategy[np.ndarray]:
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=5)
    return arrays(np.dtype(f"f{width // 8}"), shapes, elements=st.floats(width=width))


@settings(max_examples=300)
@given(float_rows(32) | float_rows(64))
@example(np.float32([[2.0**-149, 0]]))
@example(np.float32([[3.4e38] * 5]))
def test_directions_of_any_rows(rows):
    unit = directions(torch.from_numpy(rows)).numpy()
    assert (unit.shape, unit.dtype) == (rows.shape, rows.dtype)
    has_direction = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    assert np.isnan(unit[~has_direction]).all()
    given, unit = rows[has_direction].astype(np.longdouble), unit[has_direction]
    precision = 8 * np.finfo(rows.dtype).eps
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=precision)
    np.testing.assert_allclose(
        unit, given / np.sqrt((given**2).sum(axis=1, keepdims=True)), atol=precision
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
def test_directions_of_nothing(shape, dtype):
    assert directions(torch.empty(shape, dtype=dtype)).shape == shape


def test_unit_vectors_leave_out_what_has_no_direction(device):
    values = np.array(
        [[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-30, 0], [-1e30, 1e30]], dtype=np.float32
    )
    unit, row_numbers = unit_vectors(values, device)
    assert row_numbers.tolist() == [0, 4, 5]
    expected = [[0.6, 0.8], [1, 0], [-(0.5**0.5), 0.5**0.5]]
    np.testing.assert_allclose(unit.cpu(), expected, rtol=1e-6)


def test_unit_vectors_do_not_touch_their_input():
    values = np.full((2, 3), 2.0, dtype=np.float32)
    values.flags.writeable = False
    unit, _ = unit_vectors(values, "cpu")
    unit[:] = 0
    assert (values == 2).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
def test_unit_vectors_of_nothing(shape, device):
    unit, row_numbers = unit_vectors(np.empty(shape, dtype=np.float32), device)
    assert len(unit) == len(row_numbers) == 0
