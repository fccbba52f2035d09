import base64
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve.models import MAX_ITEMS, MAX_K, MAX_TEXT
from tests.make_embedders import pillow_thumb
from tests.serve.pictures import COLOURS, NASTY, PER_COLOUR, ColourEmbedder, picture


def as_data(data: bytes) -> dict:
    return {"data": base64.b64encode(data).decode()}


def hits(service, path, **body):
    answer = service.http.post(f"/search/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def refused(service, path, status=422, **body):
    answer = service.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    return answer.json()["detail"]


@pytest.fixture(scope="module")
def searcher(data):
    dataset = ImageTextPairDataset.from_webdataset(data / "data", backend="cpu")
    return Searcher.open(dataset, ColourEmbedder())


@pytest.mark.parametrize("colour", ["red", "blue", "white"])
def test_text_finds_what_it_names(bare, colour):
    found = hits(bare, "text-to-image", text=f"something {colour}", k=PER_COLOUR)
    assert {hit["key"].split()[0] for hit in found} == {colour}
    assert [hit["score"] for hit in found] == sorted((h["score"] for h in found), reverse=True)
    assert found[0]["score"] > 0.9
    assert found[0]["metadata"]["width"] >= 64


@pytest.mark.parametrize(
    "options",
    [
        {"text": "red"},
        {"text": "red", "k": 1000},
        {"text": "red", "where": "width >= 66", "k": 4},
        {"text": "red and blue", "negative_text": "blue", "negative_weight": 0.3},
        {"text": "green", "collapse": 0.9, "k": 3},
        {"text": "a yellow picture", "fuse_captions": True},
    ],
)
def test_same_answers_as_python(bare, searcher, options):
    found = hits(bare, "text-to-image", **options)
    wanted = [hit.to_dict() for hit in searcher.search(**options)]
    assert [{**hit, "url": None} for hit in found] == [{**hit, "url": None} for hit in wanted]


def test_same_answers_in_company(bare, searcher):
    """64 clients at once with all kinds of options, some of them unusable."""
    queries: list[dict] = [
        {"text": f"{colour} thing", "k": number + 1, **more}
        for number in range(4)
        for colour in COLOURS
        for more in ({}, {"where": "width > 65"}, {"collapse": 0.99})
    ]
    queries += [{"text": "nothing"}, {"text": "red", "where": "widht > 1"}] * 4
    with ThreadPoolExecutor(65) as threads:
        # While this one is being embedded, the others gather.
        threads.submit(bare.http.post, "/search/text-to-image", json={"text": "slow red"})
        ask = partial(bare.http.post, "/search/text-to-image")
        answers = list(threads.map(lambda query: ask(json=query), queries))
    for query, answer in zip(queries, answers, strict=True):
        if query["text"] == "nothing" or "widht" in query.get("where", ""):
            assert answer.status_code == 422, answer.text
            continue
        assert answer.status_code == 200, answer.text
        found, wanted = answer.json()["hits"], searcher.search(**query)
        assert [hit["key"] for hit in found] == [hit.key for hit in wanted]
        np.testing.assert_allclose([h["score"] for h in found], [h.score for h in wanted], 1e-5)
    sizes = bare.http.get("/stats").json()["batch_sizes"]
    assert max(map(int, sizes)) >= 8, sizes


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA"), ("JPEG", "CMYK"), ("GIF", "P")]
)
def test_similar_images(bare, kind, mode):
    data = picture("green", 2, kind, mode)
    found = hits(bare, "similar-images", image=as_data(data), k=3)
    assert found[0]["key"] == "green 2 ü"
    assert {hit["key"].split()[0] for hit in found} == {"green"}


def test_data_url_and_line_breaks(bare):
    text = base64.encodebytes(picture("blue", 1)).decode()
    found = hits(bare, "similar-images", image={"data": f"data:image/jpeg;base64,{text}"}, k=1)
    assert found[0]["key"] == "blue 1 ü"


def test_data_url_with_escapes(bare):
    """RFC 2397: a data URL is a URL, whose +, / and = may be percent escapes."""
    text = base64.b64encode(picture("blue", 2)).decode()
    escaped = "".join(f"%{ord(letter):02X}" if letter in "+/=" else letter for letter in text)
    assert escaped != text
    for data in (f"data:image/jpeg;base64,{escaped}", escaped):
        assert hits(bare, "similar-images", image={"data": data}, k=1)[0]["key"] == "blue 2 ü"


def test_like_an_indexed_image(bare):
    key = {"key": "red 1 ü", "shard": "00000.tar"}
    for image in (key, {"key": "red 1 ü"}):
        found = hits(bare, "similar-images", image=image, k=4)
        assert {hit["key"] for hit in found} == {f"red {n} ü" for n in (0, 2, 3, 4)}
    assert "red 9" in refused(bare, "/search/similar-images", 404, image={"key": "red 9"})


def test_hybrid(bare, searcher):
    data = picture("red", 3)
    body = {"text": "blue", "text_weight": 0.5, "image_weight": 2.0, "k": 30}
    found = hits(bare, "hybrid", image=as_data(data), **body)
    wanted = searcher.search(image=data, **body)
    assert [hit["key"] for hit in found] == [hit.key for hit in wanted]
    fused = hits(bare, "hybrid", image=as_data(data), fuse_captions=True, **body)
    assert [hit["key"] for hit in fused] != [hit["key"] for hit in found]
    only_text = hits(bare, "hybrid", text="blue", k=5)
    assert only_text == hits(bare, "text-to-image", text="blue", k=5)
    assert refused(bare, "/search/hybrid")


def test_image_to_text(service):
    added = service.http.post(
        "/index/texts",
        json={"texts": [{"text": f"all {colour}", "key": colour} for colour in COLOURS]},
    )
    assert added.json()["added"] == len(COLOURS)
    found = hits(service, "image-to-text", image=as_data(picture("yellow")), k=1)
    assert (found[0]["caption"], found[0]["url"]) == ("all yellow", None)


def test_without_texts(bare):
    assert refused(bare, "/search/image-to-text", image=as_data(picture("red")))


def test_similarity(bare):
    texts, images = ["red", "blue"], [picture("red"), picture("blue"), picture("black")]
    body = {"texts": texts, "images": [as_data(image) for image in images]}
    answer = bare.http.post("/similarity", json=body)
    truth = ColourEmbedder().embed_text(texts) @ np.stack([pillow_thumb(one) for one in images]).T
    np.testing.assert_allclose(answer.json()["similarities"], truth, atol=1e-2)


def test_stored_images_keep_their_bytes(bare):
    found = hits(bare, "text-to-image", text="black", k=PER_COLOUR)
    for hit in found:
        answer = bare.http.get(hit["url"])
        assert answer.content == picture("black", int(hit["key"].split()[1]))
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert NASTY in {hit["caption"] for hit in found}


@pytest.mark.parametrize(
    "path",
    [
        "/images/none",
        "/images/none?shard=00000.tar",
        "/images/red%200%20%C3%BC?shard=../tars/00000.tar",
        "/images/red%200%20%C3%BC?shard=/etc/passwd",
        "/images/red%200%20%C3%BC?shard=00001.tar",
        "/images/..%2F..%2Fetc%2Fpasswd",
        "/images/%00",
    ],
)
def test_no_such_image(bare, path):
    answer = bare.http.get(path)
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": ""}, "text"),
        ({"text": "red" * MAX_TEXT}, "at most"),
        ({"text": "purple"}, "names no colour"),
        ({}, "text"),
        ({"text": "red", "k": 0}, "greater than or equal to 1"),
        ({"text": "red", "k": MAX_K + 1}, str(MAX_K)),
        ({"text": "red", "k": "3"}, "integer"),
        ({"text": "red", "kk": 3}, "Extra"),
        ({"text": "red", "where": "widht > 1"}, "Did you mean 'width'"),
        ({"text": "red", "where": "width >"}, "cannot use the expression"),
        ({"text": "red", "where": "__import__('os')"}, "not allowed"),
        ({"text": "red", "collapse": 2}, "less than or equal to 1"),
        # The schema says so, too; it is not left to the searcher.
        ({"text": "red", "collapse": 0}, "greater than 0"),
        ({"text": "red", "negative_text": "red", "negative_weight": 1.0}, ""),
        ({"text": "red", "negative_weight": -1}, "greater than or equal to 0"),
    ],
)
def test_unusable_queries(bare, body, said):
    assert said in refused(bare, "/search/text-to-image", **body)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least 1"),
        ("!!!", "base64"),
        ("data:image/png,abc", "base64"),
        (base64.b64encode(b"<html></html>").decode(), "not an image"),
        (base64.b64encode(picture("red")[:300]).decode(), "decode"),
        ("data:;base64,", "empty"),
    ],
)
def test_unusable_images(bare, text, said):
    assert said in refused(bare, "/search/similar-images", image={"data": text})


def test_one_bad_image_of_many(bare):
    body = {"texts": ["red"], "images": [as_data(picture("red")), as_data(b"GIF89a")]}
    assert "decode" in refused(bare, "/similarity", **body)
    body = {"texts": ["red"], "images": [as_data(picture("red"))] * (MAX_ITEMS + 1)}
    assert str(MAX_ITEMS) in refused(bare, "/similarity", **body)


def test_two_sources_for_an_image(bare):
    body = {"image": {"data": "abc", "path": "/etc/passwd"}}
    assert refused(bare, "/search/similar-images", **body)


def test_bodies_that_are_no_json(bare):
    post = bare.http.post
    assert post("/search/hybrid", content=b"{", headers=JSON).status_code == 422
    assert post("/search/hybrid", content=b"\xff\xfe", headers=JSON).status_code in (400, 422)
    nested = post("/search/hybrid", content=b"[" * 100_000, headers=JSON)
    assert nested.status_code == 400
    assert "nested" in nested.json()["detail"]
    assert post("/search/hybrid", content=b'{"text": "red"}').status_code == 415
    assert post("/search/hybrid", data={"text": "red"}).status_code == 415
    # A lone surrogate is JSON, but no text.
    answer = post("/search/text-to-image", content=b'{"text": "red \\ud800"}', headers=JSON)
    assert answer.status_code in (200, 422)


JSON = {"content-type": "application/json"}
