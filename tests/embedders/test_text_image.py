"""Captions that are no texts."""

from __future__ import annotations

import pytest

from nemo_image_curate import ConseEmbedder, ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.make_data import jpeg, write_sidecar, write_tar


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
