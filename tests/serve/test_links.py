import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from nemo_image_curate.serve.links import image_url, is_signed


def test_signed_links(bare):
    hit = bare.http.post("/search/text-to-image", json={"text": "red"}).json()["hits"][0]
    link = bare.url + hit["url"]
    assert httpx.get(link).content == bare.http.get(hit["url"]).content
    assert "s3cret" not in link
    query = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    path = link.partition("?")[0]
    other = bare.url + image_url(None, "red 1 ü", None)
    for url, changes in (
        (path, {"signature": ""}),
        (path, {"signature": "²"}),
        (path, {"signature": "x.y.z"}),
        (path, {"shard": "00001.tar"}),
        (path, {"shard": ""}),
        (other, {}),
        (bare.url + "/stats", {}),
    ):
        assert httpx.get(url, params=query | changes).status_code == 401, (url, changes)
    assert httpx.get(path, params={"signature": query["signature"]}).status_code == 401
    assert httpx.post(path, params=query).status_code == 401


def test_of_several_shards_in_a_link_the_one_that_is_served_counts(bare):
    link = bare.url + image_url("s3cret", "red 0 ü", "00000.tar")
    assert httpx.get(link).status_code == 200
    assert httpx.get(f"{link}&shard=00001.tar").status_code == 401
    assert httpx.get(link.replace("?", "?shard=00001.tar&")).status_code == 200


def test_a_line_break_at_the_end_belongs_to_the_key(bare):
    signed = bare.url + image_url("s3cret", "red 0 ü\n", "00000.tar")
    assert httpx.get(signed).status_code == 404


def signature_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["signature"][0]


def test_every_character_of_a_signature_counts():
    """Of the last one base64 leaves two bits unused: four spellings of the same bytes."""
    signature = signature_of(image_url("s3cret", "key", None))
    assert is_signed("s3cret", "key", None, signature)
    for place in range(len(signature)):
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/.! ":
            if letter != signature[place]:
                changed = signature[:place] + letter + signature[place + 1 :]
                assert not is_signed("s3cret", "key", None, changed), changed
    for changed in (
        signature[:-1],
        signature + "=",
        signature + "A",
        f" {signature}",
        f".{signature}",
    ):
        assert not is_signed("s3cret", "key", None, changed), changed


@pytest.mark.parametrize(
    ("key", "shard"),
    [
        ("key", "shard"),
        ("keys", None),
        ("", "key"),
        ("key", ""),
        ("keyshar", "d"),
        ('key", null]', None),
        ("key.", None),
        ("\ud800", None),
    ],
)
def test_a_signature_is_for_one_image(key, shard):
    given = signature_of(image_url("s3cret", "key", None))
    assert not is_signed("s3cret", key, shard, given)
    assert not is_signed("another", "key", None, given)


def test_signed_links_work_one_to_two_hours(monkeypatch):
    def at(minutes: float) -> None:
        monkeypatch.setattr(time, "time", lambda: 1_700_000_000 // 3600 * 3600 + minutes * 60)

    at(0)
    early = image_url("s3cret", "key", None)
    at(59.9)
    # Also from a browser's cache: the same link for an hour.
    assert image_url("s3cret", "key", None) == early
    for minutes, works in ((0, True), (119.9, True), (120, False), (10_000, False), (-1, False)):
        at(minutes)
        assert is_signed("s3cret", "key", None, signature_of(early)) is works, minutes
    at(60)
    assert image_url("s3cret", "key", None) != early


def test_signed_links_end(bare, monkeypatch):
    then = time.time() - 3 * 3600
    monkeypatch.setattr(time, "time", lambda: then)
    old = image_url("s3cret", "red 0 ü", "00000.tar")
    monkeypatch.undo()
    assert httpx.get(bare.url + old).status_code == 401
    assert httpx.get(bare.url + image_url("s3cret", "red 0 ü", "00000.tar")).status_code == 200
