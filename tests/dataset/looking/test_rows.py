"""Rows by key, in bounds."""

from __future__ import annotations

import pyarrow as pa

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking.choices import View, choose
from nemo_image_curate.dataset.looking.rows import MAX_TEXT, rows_of
from tests.make_data import jpeg, write_sidecar, write_tar


def test_columns_may_be_called_as_ours_and_long_texts_are_cut(tmp_path, backend):
    texts = ["short", "ü" * (MAX_TEXT + 1), None, "x" * MAX_TEXT]
    table = pa.table({"rank": list("abcd"), "place": [3, 1, 2, 4], "bits": texts, "row": texts})
    write_tar(tmp_path / "a.tar", [(f"{key}.jpg", jpeg(1)) for key in "abcd"])
    write_sidecar(tmp_path / "a.parquet", table)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, id_col="rank", backend=backend)
    (best,) = choose(dataset, [View("best", "place")], 3, ["bits", "row"], progress=False)
    assert best.rows["rank"].to_pylist() == ["d", "a", "c"]
    assert best.rows["row"].to_pylist() == ["x" * MAX_TEXT, "short", None]
    named = rows_of(dataset, ["b", "a"], ["place", "bits"], progress=False)
    assert named["place"].to_pylist() == [1, 3]
    assert named["bits"].to_pylist() == ["ü" * MAX_TEXT + "…", "short"]
