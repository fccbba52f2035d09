import base64
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.serve.models import MAX_ITEMS
from tests.serve.pictures import picture


def form(*images: bytes, **fields):
    return {"files": [("files", (f"{n}.jpg", image)) for n, image in enumerate(images)]} | (
        {"data": fields} if fields else {}
    )


def add(service, **body):
    answer = service.http.post("/index/images", **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def found(service, data: bytes, **options):
    image = {"data": base64.b64encode(data).decode()}
    answer = service.http.post("/search/similar-images", json={"image": image, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def stripes(seed: int) -> bytes:
    """A picture like no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def odd_pictures() -> dict[str, bytes]:
    """Whole pictures of the kinds that trip decoders."""
    noise = np.random.default_rng(5).integers(0, 65536, (40, 40)).astype(np.uint16)
    made: dict[str, bytes] = {}

    def save(name: str, image: Image.Image, kind: str, **options) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        made[name] = buffer.getvalue()

    plain = Image.open(io.BytesIO(stripes(77))).convert("RGB")
    save("16 bit", Image.fromarray(noise), "PNG")
    save("CMYK", plain.convert("CMYK"), "JPEG")
    save("palette", plain.convert("P"), "PNG")
    save("transparent", plain.convert("RGBA"), "WEBP", lossless=True)
    frames = [Image.open(io.BytesIO(stripes(seed))).convert("P") for seed in (78, 79, 80)]
    save("animated", frames[0], "GIF", save_all=True, append_images=frames[1:])
    save("one pixel", Image.new("RGB", (1, 1), (200, 10, 10)), "PNG")
    return made


def test_uploads_are_found_at_once(service):
    images = [stripes(seed) for seed in (1, 2)]
    added = add(service, **form(*images, captions=["the first", "<b>the second</b>"]))
    assert (added["added"], added["failed"]) == (2, 0)
    keys = [item["key"] for item in added["items"]]
    assert keys == [hashlib.sha256(image).hexdigest() for image in images]
    best = found(service, images[1], k=1)[0]
    assert (best["key"], best["shard"], best["caption"]) == (keys[1], None, "<b>the second</b>")
    answer = service.http.get(best["url"])
    assert answer.content == images[1]
    assert answer.headers["content-type"] == "image/png"


def test_adding_again_changes_nothing(service):
    add(service, **form(stripes(3)))
    before = service.http.get("/stats").json()["store_images"]
    again = add(service, **form(stripes(3), stripes(3)))
    assert again["added"] == 1
    assert service.http.get("/stats").json()["store_images"] == before


def test_json_with_key_and_metadata(service, root):
    (root / "here.png").write_bytes(stripes(4))
    body = {
        "images": [
            {"image": {"path": str(root / "here.png")}, "key": "a/b c?d#e", "caption": "by path"},
            {
                "image": {"data": base64.b64encode(stripes(5)).decode()},
                "key": "by data",
                "metadata": {"width": 7, "author": "Ada"},
            },
        ]
    }
    assert add(service, json=body)["added"] == 2
    one = found(service, stripes(4), k=1)[0]
    assert (one["key"], one["caption"]) == ("a/b c?d#e", "by path")
    assert service.http.get(one["url"]).content == stripes(4)
    two = found(service, stripes(5), k=1, where="width == 7")[0]
    assert two["metadata"]["author"] == "Ada"


@pytest.mark.parametrize(
    "key",
    ["a/../b", "//", "\\", "%2F", "\n", "a\nb", "a\0", "?x#y", "&shard=0", "\u202egpj", "猫😀"],
)
def test_odd_keys_have_links_that_work(service, key):
    image = stripes(500 + sum(map(ord, key)))
    body = {"image": {"data": base64.b64encode(image).decode()}, "key": key}
    assert add(service, json={"images": [body]})["added"] == 1
    hit = found(service, image, k=1)[0]
    assert hit["key"] == key
    assert service.http.get(hit["url"]).content == image


def test_odd_pictures_are_taken(service):
    odd = odd_pictures()
    added = add(service, **form(*odd.values(), keys=list(odd)))
    assert [item["error"] for item in added["items"]] == [None] * len(odd)
    # The first frame stands for an animation.
    assert found(service, stripes(78), k=1)[0]["key"] == "animated"


def test_bad_pictures_are_told_and_keep_none_out(service):
    images = [b"", b"<html></html>", picture("red")[:400], bomb(), stripes(6)]
    added = add(service, **form(*images, keys=["empty", "page", "torn", "bomb", "good"]))
    assert (added["added"], added["failed"]) == (1, 4)
    errors = {item["key"]: item["error"] for item in added["items"]}
    assert "empty" in errors["empty"]
    assert "not an image" in errors["page"]
    assert "decode" in errors["torn"]
    assert "too large: 60000x60000" in errors["bomb"]
    assert service.http.get("/images/torn").status_code == 404
    assert found(service, stripes(6), k=1)[0]["key"] == "good"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (form(stripes(7), stripes(8), captions=["only one"]), 422, "one for each"),
        (form(stripes(7), stripes(8), keys=["same", "same"]), 422, "the key 'same'"),
        (form(stripes(7), keys=[""]), 422, "keys"),
        (form(stripes(7), colour="red"), 422, "unknown fields: colour"),
        ({"data": {"captions": "x"}, "files": {"other": b"x"}}, 422, "unknown fields"),
        (form(*[b"x"] * (MAX_ITEMS + 1)), 400, str(MAX_ITEMS)),
        ({"json": {"images": []}}, 422, "at least 1"),
        ({"json": {"images": [{"image": {"data": "AAAA"}, "k": 1}]}}, 422, "Extra"),
        ({"content": b"x", "headers": {"content-type": "image/png"}}, 415, "multipart"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, ""),
        (
            {
                "content": b"--x\r\nno header\r\n",
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            (400, 422),
            "",
        ),
    ],
)
def test_unusable_requests(service, body, status, said):
    answer = service.http.post("/index/images", **body)
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


def test_texts(service):
    body = {"texts": [{"text": "red"}, {"text": "purple", "key": "p"}, {"text": "blue"}]}
    answer = service.http.post("/index/texts", json=body)
    # One that cannot be embedded: told, whether alone or with the whole request.
    assert answer.status_code in (200, 422)
    assert "names no colour" in answer.text


def test_without_a_store(bare):
    for path, body in (
        ("/index/texts", {"json": {"texts": [{"text": "red"}]}}),
        ("/index/images", form(stripes(9))),
    ):
        answer = bare.http.post(path, **body)
        assert answer.status_code == 409
        assert "--store" in answer.json()["detail"]
