"""A dataset to save and to export."""

from __future__ import annotations

import pytest

from tests.make_data import make_dataset


@pytest.fixture
def made(tmp_path):
    return make_dataset(tmp_path / "tars", sizes=[4, 5, 3])
