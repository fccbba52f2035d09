"""Histograms in notebooks and terminals."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError
from tests.make_data import jpeg, write_sidecar, write_tar


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("histogram")
    n = 1200
    columns = {
        "key": [str(row) for row in range(n)],
        "score": pa.array([5.0 + row % 3 for row in range(n - 10)] + [None] * 10),
        "steep": [1] * (n - 2) + [2, 40],
        "label": ["<cat>"] * (n - 1) + [None],
        "empty": pa.array([None] * n, pa.float64()),
        "flag": [row % 2 == 0 for row in range(n)],
    }
    write_tar(root / "0.tar", [("0.jpg", jpeg(1))])
    write_sidecar(root / "0.parquet", columns)
    return ImageTextPairDataset.from_webdataset(root)


def test_bars_and_nulls_as_svg_and_as_text(dataset):
    shown = dataset.hist("score", bins=3)
    page = shown._repr_html_()
    assert "1,200 rows, 10 null, 5 to 7, mean 5.999" in page
    assert len(re.findall("<rect ", page)) == 3, "two bars and that of nulls"
    assert "10 null" in page
    lines = repr(shown).splitlines()
    assert lines[0] == "score: 1,200 rows, 10 null, 5 to 7, mean 5.999"
    assert [line.split()[0] for line in lines[1:]] == ["5", "6", "null"]
    assert lines[-1].endswith(" 10")
    assert dataset.hist("score", where="score > 5").distribution.low == 6


def test_bars_that_would_not_be_seen_are_logarithmic(dataset):
    shown = dataset.hist("steep")
    assert shown.is_logarithmic
    assert "bars of log(1 + count)" in repr(shown)
    assert not dataset.hist("score").is_logarithmic


def test_categories(dataset):
    shown = dataset.hist("label")
    assert "<cat>" not in shown._repr_html_()
    assert "&lt;cat&gt;" in shown._repr_html_()
    assert [line.split()[0] for line in repr(shown).splitlines()[1:]] == ["<cat>", "(null)"]
    assert "true" in repr(dataset.hist("flag"))


def test_columns_without_bars(dataset):
    assert repr(dataset.hist("empty")).splitlines()[0] == "empty: 1,200 rows, 1,200 null"
    assert "too many" in dataset.hist("key")._repr_html_()
    with pytest.raises(ColumnNotFoundError):
        dataset.hist("scroe")
