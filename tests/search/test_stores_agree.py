"""The same vectors in an index, in Chroma and in Milvus: the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nemo_image_curate.index.vector_index import build_index
from nemo_image_curate.search.captions import build_captions
from nemo_image_curate.search.live.store import open_store
from nemo_image_curate.search.searcher import Searcher
from tests.make_data import jpeg
from tests.search.make_search import WordEmbedder, embedded_dataset


@pytest.fixture(scope="module")
def searchers(tmp_path_factory) -> Iterator[dict[str, Searcher]]:
    """A searcher of the index, and two of stores alone."""
    root, embedder = tmp_path_factory.mktemp("data"), WordEmbedder()
    dataset, _ = embedded_dataset(root, (12, 12, 6))
    stores = [open_store(str(root / place), embedder) for place in ("live", "live.db")]
    for store in stores:
        store.add_dataset(dataset)
    with pytest.raises(Exception, match="no index"):
        Searcher.open(dataset, embedder)
    build_captions(dataset)
    # Before there is an index: none is needed.
    chroma, milvus = (Searcher.open(dataset, embedder, store) for store in stores)
    build_index(dataset)
    assert [len(one.searchables("images")) for one in (chroma, milvus)] == [1, 1]
    yield {"index": Searcher.open(dataset, embedder), "chroma": chroma, "milvus": milvus}
    for store in stores:
        store.close()


@pytest.mark.parametrize("where", [None, "width >= 36 and shard != '00001.tar'", "width > 10000"])
@pytest.mark.parametrize(
    "query",
    [
        {"text": "7"},
        {"image": jpeg(1003)},
        {"text": "3", "image": jpeg(1004), "text_weight": 0.4, "negative_text": "5"},
        {"text": "3", "collapse": 0.9},
        {"like": "000010005", "k": 50},
        {"text": "7", "fuse_captions": True},
    ],
    ids=["text", "image", "hybrid", "collapse", "like", "captions"],
)
def test_the_answers_are_the_same(searchers, query, where):
    options: dict[str, Any] = {"k": 8, **query, "where": where}
    expected, *others = [one.search(**options) for one in searchers.values()]
    assert bool(expected) == (where != "width > 10000")
    for hits in others:
        assert [hit.sample for hit in hits] == [hit.sample for hit in expected]
        # Chroma keeps what it searches in single precision, and so does the index in half of it.
        assert [hit.score for hit in hits] == pytest.approx(
            [hit.score for hit in expected], abs=1e-3
        )
        assert [hit.similar for hit in hits] == [hit.similar for hit in expected]
        assert [hit.caption for hit in hits] == [hit.caption for hit in expected]
