"""The service over a store of Milvus' that holds the dataset."""

from __future__ import annotations

import base64

from starlette.testclient import TestClient

from nemo_image_curate.search.live.store import MilvusStore
from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import create_app
from tests.make_data import jpeg
from tests.search.make_search import WordEmbedder, embedded_dataset


def test_the_service_searches_and_fills_a_store_of_milvus(tmp_path):
    dataset, _ = embedded_dataset(tmp_path, (4, 3))
    store = MilvusStore(tmp_path / "live.db", WordEmbedder())
    store.add_dataset(dataset)
    app = create_app(Searcher.open(dataset, WordEmbedder(), store), dataset, store)
    client = TestClient(app, base_url="http://127.0.0.1")
    image = {"data": base64.b64encode(jpeg(70)).decode()}
    added = client.post("/index/images", json={"images": [{"key": "new", "image": image}]})
    assert added.json()["added"] == 1
    assert client.post("/index/texts", json={"texts": [{"key": "t", "text": "70"}]}).is_success
    for query, samples in (
        ("70", [(None, "new")]),
        ("1001", [("00001.tar", "000010001")]),
    ):
        answer = client.post("/search/text-to-image", json={"text": query, "k": 1})
        hits = answer.json()["hits"]
        assert [(hit["shard"], hit["key"]) for hit in hits] == samples
        assert client.get(hits[0]["url"]).content == jpeg(int(query))
    texts = client.post("/search/image-to-text", json={"image": image}).json()["hits"]
    assert [hit["caption"] for hit in texts] == ["70"]
    stats = client.get("/stats").json()
    assert (stats["images"], stats["store_images"], stats["store_texts"]) == (8, 8, 1)
    app.state.service.close()
    store.close()
