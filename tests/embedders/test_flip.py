"""Embeddings of mirrored pictures, beside those of the pictures as they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate import (
    ImageClassifier,
    ImageTextPairDataset,
    TimmImageEmbedder,
)
from nemo_image_curate.errors import ConfigError
from tests.make_data import jpeg, make_dataset, write_tar
from tests.make_embedders import (
    LoggingEmbedder,
    ThumbEmbedder,
    computed,
    embeddings,
    rows,
    thumb,
)

FLIPPED = "image_embedding_flipped"


@pytest.fixture
def ds(tmp_path):
    make_dataset(tmp_path / "in", sizes=[3, 2])
    return ImageTextPairDataset.from_webdataset(tmp_path / "in")


def mirrored(thumbs: np.ndarray) -> np.ndarray:
    return thumbs.reshape(-1, 3, 4, 4)[..., ::-1].reshape(-1, 48)


@pytest.mark.parametrize("normalize", [True, False])
def test_each_picture_is_embedded_mirrored_too(ds, normalize, backend):
    ds = ImageTextPairDataset.from_webdataset(ds.path, backend=backend)
    plain = ThumbEmbedder(normalize_embeddings=normalize)(ds)
    both = ThumbEmbedder(normalize_embeddings=normalize, flip=True, batch_size=2)(ds)
    assert (embeddings(both) == embeddings(plain)).all()
    found = embeddings(both, FLIPPED)
    np.testing.assert_allclose(found, mirrored(embeddings(plain)), atol=1e-6)
    assert abs(found - embeddings(plain)).max() > 0.1


def test_it_is_recorded_which_pictures_were_mirrored(ds, tmp_path):
    made = ThumbEmbedder(flip=True, image_embedding_column="thumb")(ds)
    saved = made.save_metadata(tmp_path / "out")
    names = [name for name in saved.metadata.columns if name.startswith("thumb")]
    assert names == ["thumb", "thumb_flipped"]
    plain = ThumbEmbedder(image_embedding_column="thumb")(ds).provenance["thumb"]
    assert saved.provenance["thumb"] == plain
    assert saved.provenance["thumb_flipped"] == {**plain, "flip": True}


def test_without_it_finished_work_is_finished(ds, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    LoggingEmbedder(str(log))(ds).save_metadata(out)
    assert "flip" not in str(ThumbEmbedder().content_token())
    LoggingEmbedder(str(log), flip=False)(ds).save_metadata(out)
    assert computed(log) == 5
    for _ in range(2):
        LoggingEmbedder(str(log), flip=True)(ds).save_metadata(out)
        assert computed(log) == 15
    # Texts and queries are embedded by the same model, whatever is made of a dataset.
    assert ThumbEmbedder(flip=True).encoder_token() == ThumbEmbedder().encoder_token()


def test_pictures_that_failed_have_neither_and_are_tried_again(ds, tmp_path):
    write_tar(tmp_path / "in" / "00002.tar", [("bad.jpg", b"no picture"), ("good.jpg", jpeg(7))])
    ds = ImageTextPairDataset.from_webdataset(ds.path)
    saved = ThumbEmbedder(flip=True)(ds).save_metadata(tmp_path / "out")
    assert [row["key"] for row in rows(saved) if row[FLIPPED] is None] == ["bad"]
    before = embeddings(saved, FLIPPED)
    again = ThumbEmbedder(flip=True)(ds).save_metadata(tmp_path / "out", retry=True)
    assert (embeddings(again, FLIPPED) == before).all()


class LeftQuarter(ThumbEmbedder):
    """Sees the left quarter alone, so that a picture may have a direction and its mirror none."""

    def load_embedding_model(self, device):
        return lambda pixels: (thumb(pixels) + 0.5)[:, ::4].relu()


def test_a_mirrored_picture_without_direction_is_told(tmp_path):
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    picture[:, :4] = 200
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_tar(tmp_path / "0.tar", [("a.png", buffer.getvalue())])
    (row,) = rows(LeftQuarter(flip=True)(ImageTextPairDataset.from_webdataset(tmp_path)))
    assert row["image_embedding"] is not None
    assert row[FLIPPED] is None
    assert row["image_error"].startswith("embed:")


def test_a_model_of_timm(ds):
    for row in rows(TimmImageEmbedder("offline", flip=True)(ds)):
        pair = np.array([row["image_embedding"], row[FLIPPED]])
        np.testing.assert_allclose(np.linalg.norm(pair, axis=1), 1, rtol=1e-5)
        assert 1e-4 < 1 - pair[0] @ pair[1] < 1


def test_a_column_of_this_name_is_written_once(ds):
    with pytest.raises(ConfigError, match="two stages of one pass write the column 'image_embed"):
        ThumbEmbedder(flip=True, classifiers=[ImageClassifier(FLIPPED)])(ds)
