"""A small dataset with captions, and what recipes say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.make_data import make_dataset


@pytest.fixture(scope="package")
def data(tmp_path_factory) -> Path:
    """Two shards; rows 0 to 10 have the width 32 and more."""
    folder = tmp_path_factory.mktemp("recipe") / "in"
    folder.mkdir()
    make_dataset(folder, sizes=[6, 5])
    return folder
