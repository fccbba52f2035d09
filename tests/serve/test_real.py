"""Real photographs, a real encoder, from files to answers over HTTP."""

import base64
import io
import json

import pytest

from nemo_image_curate.demo import photographs
from tests.make_data import write_tar

pytest.importorskip("skimage")


def jpeg(image, kind="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def real(serve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    members = [(f"{name}.jpg", jpeg(image)) for name, image in photographs()]
    write_tar(folder / "tars" / "00000.tar", members)
    return serve(folder=folder, real=True, store=str(folder / "store"))


def best(service, path, k=1, **body):
    answer = service.http.post(f"/search/{path}", json={"k": k, **body})
    assert answer.status_code == 200, answer.text
    return [hit["key"] for hit in answer.json()["hits"]]


def test_texts(real):
    for text, key in (
        ("a tabby cat looking at you", "chelsea"),
        ("a cup of espresso", "coffee"),
        ("a space shuttle or a missile", "rocket"),
        ("a flower in a garden", "flower"),
    ):
        assert best(real, "text-to-image", text=text) == [key]
    motorbikes = best(real, "text-to-image", 2, text="a motorcycle")
    assert set(motorbikes) == {"motorcycle_left", "motorcycle_right"}


def test_images(real):
    pictures = dict(photographs())
    mirrored = pictures["chelsea"].transpose(0).resize((225, 150))
    image = {"data": base64.b64encode(jpeg(mirrored, "PNG")).decode()}
    assert best(real, "similar-images", image=image) == ["chelsea"]
    assert best(real, "similar-images", image={"key": "motorcycle_left"}) == ["motorcycle_right"]


def test_added_at_once(real):
    cropped = dict(photographs())["coffee"].crop((100, 50, 500, 350))
    files = {"files": ("cup.jpg", jpeg(cropped))}
    added = real.http.post("/index/images", files=files, data={"captions": "my cup"}).json()
    assert added["added"] == 1
    found = real.http.post("/search/text-to-image", json={"text": "espresso", "k": 2}).json()
    assert {hit["caption"] for hit in found["hits"]} == {"my cup", None}


@pytest.mark.parametrize(
    ("text", "said"), [("word " * 700, "tokens"), (" ", "empty"), ("ᚠᛇᚻ᛫ᛒᛦᚦ", ""), ("\ud800", "")]
)
def test_texts_that_cannot_be_embedded(real, text, said):
    body = json.dumps({"text": text})
    headers = {"Content-Type": "application/json"}
    answer = real.http.post("/search/text-to-image", content=body, headers=headers)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
