"""Columns are named so that expressions find them."""

import pandas as pd
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.expressions.names import can_be_quoted, quoted_name
from tests.make_data import make_dataset


@pytest.mark.parametrize("name", ["width", "a b", "class", "1st", "ﬁ", "é", "</script>", "it's"])
def test_a_quoted_column_is_found(tmp_path, name):
    truth = make_dataset(tmp_path, sizes=[3])
    ds = ImageTextPairDataset.from_webdataset(truth.root, backend="cpu")
    ds.metadata = ds.metadata.assign(**{name: pd.Series([1.0, 2.0, 3.0])})
    assert can_be_quoted(name)
    assert len(ds.filter(f"{quoted_name(name)} > 1.5")) == 2


def test_a_name_with_a_backtick_has_no_form():
    assert not can_be_quoted("a`b")
    assert quoted_name("width") == "width"
    assert quoted_name("a b") == "`a b`"
