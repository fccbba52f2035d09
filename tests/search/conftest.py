from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_image_curate.search.live.store import ChromaStore
from tests.search.make_search import WordEmbedder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChromaStore]:
    """An empty live store."""
    store = ChromaStore(tmp_path / "store", WordEmbedder())
    yield store
    store.close()
