"""Captions that are no texts."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_image_curate import ConseEmbedder, ImageTextPairDataset, similarity
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, ImageError
from tests.make_data import jpeg, write_sidecar, write_tar
from tests.make_embedders import ThumbEmbedder
from tests.serve.pictures import ColourEmbedder, picture


@pytest.mark.parametrize("values", [[1, 2], [True, None], [["a"], ["b"]], [b"a", b"b"]])
def test_captions_that_are_no_texts_are_refused(tmp_path, values, backend):
    if backend == "gpu" and isinstance(values[0], bytes):
        pytest.skip("cuDF has no type for bytes: such a dataset is refused")
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    write_sidecar(tmp_path / "0.parquet", {"key": ["a", "b"], "caption": values})
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    with pytest.raises(ConfigError, match=r"holds .*, no texts"):
        ConseEmbedder()(ds)
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'caption'"):
        ConseEmbedder(caption_column="captoin").embed_captions(ds)
    with pytest.raises(ConfigError, match="caption_column=None"):
        ConseEmbedder(caption_column=None).embed_captions(ds)
    assert "text_embedding" not in ConseEmbedder(caption_column=None)(ds).metadata.columns


def test_similarity_is_the_cosine_of_each_text_with_each_image(tmp_path):
    path = tmp_path / "red.jpg"
    path.write_bytes(picture("red"))
    embedder = ColourEmbedder()
    cosines = similarity(embedder, ["red", "blue", "red or blue"], [path, picture("blue")])
    assert (cosines.shape, cosines.dtype) == ((3, 2), np.float32)
    images, _ = embedder.embed_images([path, picture("blue")])
    np.testing.assert_allclose(
        cosines, embedder.embed_text(["red", "blue", "red or blue"]) @ images.T
    )
    assert cosines[0, 0] > 0.9 > cosines[0, 1]
    assert similarity(embedder, [], [path]).shape == (0, 1)
    with pytest.raises(ImageError, match=r"image 1 of 2 cannot be used: there is no image file"):
        similarity(embedder, ["red"], [path, tmp_path / "none.jpg"])
    with pytest.raises(ConfigError, match="embeds no texts"):
        similarity(ThumbEmbedder(), ["red"], [path])
