"""Images of all kinds, side by side."""

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate import grid
from nemo_image_curate.errors import DatasetError
from tests.make_data import jpeg


def test_images_stand_in_squares_on_white(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1, 64, 32))
    wide, tall = Image.new("RGB", (80, 20), "red"), Image.new("RGBA", (20, 80), (0, 0, 255, 0))
    sheet = grid([wide, tall, path, jpeg(2, 8, 8)], side=40)
    assert (sheet.mode, sheet.size) == ("RGB", (84, 84))
    pixels = np.asarray(sheet)
    # Of the wide one 40 x 10 pixels are left, in the middle.
    assert pixels[20, 20].tolist() == [255, 0, 0]
    assert (pixels[:15, :40] == 255).all()
    # What is transparent is white, too.
    assert (pixels[:40, 44:] == 255).all()
    assert not (pixels[50:78, :40] == 255).all()
    # Small ones are not enlarged.
    assert (pixels[44:58, 44:] == 255).all()


def test_rows_are_as_wide_as_asked_for():
    images = [Image.new("RGB", (4, 4))] * 5
    assert grid(images, side=10, across=5).size == (66, 10)
    assert grid(images, side=10).size == (38, 24)
    assert grid([]).size == (1, 1)


def test_an_image_that_cannot_be_used_is_told():
    with pytest.raises(DatasetError, match=r"nowhere\.jpg"):
        grid([jpeg(1), "nowhere.jpg"])
