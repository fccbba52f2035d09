import io

import httpx
import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.errors import ImageError
from nemo_image_curate.serve.thumbnails import MAX_SIDE, MIN_SIDE, Thumbnails
from tests.serve.pictures import COLOURS, picture


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_small_jpeg_by_the_signed_link_of_the_original(bare):
    hit = bare.http.post("/search/text-to-image", json={"text": "blue", "k": 1}).json()["hits"][0]
    link = bare.url + hit["url"] + "&size=32"
    first, again = httpx.get(link), httpx.get(link)
    assert first.headers["content-type"] == "image/jpeg"
    small = opened(first.content)
    assert (small.format, max(small.size)) == ("JPEG", 32)
    middle = np.asarray(small.convert("RGB"))[-3, -3]
    assert np.abs(middle.astype(int) - COLOURS["blue"]).max() < 20
    assert again.content == first.content
    # A token or a signature is needed as for the original.
    assert httpx.get(bare.url + hit["url"].partition("?")[0] + "?size=32").status_code == 401


def test_no_larger_than_the_original(bare):
    (hit,) = bare.http.post("/search/text-to-image", json={"text": "red", "k": 1}).json()["hits"]
    original = opened(bare.http.get(hit["url"]).content)
    small = opened(bare.http.get(f"{hit['url']}&size={MAX_SIDE}").content)
    assert small.size == original.size


@pytest.mark.parametrize("size", [MIN_SIDE - 1, MAX_SIDE + 1, "large"])
def test_sizes_that_are_refused(bare, size):
    answer = bare.http.get(f"/images/red%200%20%C3%BC?size={size}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("size: ")


def test_those_of_the_dataset_are_read_once_and_those_of_the_store_anew():
    asked = []

    def read(key, shard):
        asked.append(shard)
        return picture("red") if key == "red" else b"GIF89a"

    thumbnails = Thumbnails(read)
    for shard in ("0.tar", "0.tar", None, None):
        assert max(opened(thumbnails.get("red", shard, 20)).size) == 20
    assert asked == ["0.tar", None, None]
    for _ in range(2):
        with pytest.raises(ImageError):
            thumbnails.get("broken", "0.tar", 20)


def test_large_photographs_are_decoded_small():
    """Eight times smaller in each direction: near to what the whole picture gives."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((1920, 1280), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=95)
    thumbnails = Thumbnails(lambda key, shard: buffer.getvalue())
    made = opened(thumbnails.get("k", "0.tar", 96))
    assert made.size == (96, 64)
    wanted = np.asarray(photograph.resize((96, 64), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(np.asarray(made, dtype=int) - wanted).mean() < 4
