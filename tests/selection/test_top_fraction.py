"""Top fractions: which rows, however they lie, and what is recorded."""

from __future__ import annotations

import logging
import math

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset, TopFraction
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.make_data import make_dataset, write_sidecar

SIZES = [4, 0, 5, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards whose sidecars have scores with ties, nulls and NaN, and other columns."""
    root = tmp_path_factory.mktemp("top")
    make_dataset(root, sizes=SIZES, sidecars=False, text=False, with_json=False)
    scores = [0.5, 0.1, None, 0.9, 0.7, 0.7, math.nan, 0.2, 0.3, 0.7, 0.4, 0.8]
    start = 0
    for shard, size in enumerate(SIZES):
        rows = range(start, start + size)
        columns = {
            "key": pa.array([f"{shard:03d}{number:06d}" for number in range(size)], pa.string()),
            "x": pa.array([scores[row] for row in rows], pa.float32()),
            "number": pa.array([2**62 + row for row in rows], pa.int64()),
            "flag": pa.array([row % 3 == 0 for row in rows], pa.bool_()),
            "nothing": pa.nulls(size, pa.float64()),
        }
        write_sidecar(root / f"{shard:05d}.parquet", pa.table(columns))
        start += size
    return root


@pytest.fixture
def ds(folder, backend) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def chosen(ds: ImageTextPairDataset, name: str = "selected") -> list[int]:
    computed = ds.metadata[name].compute()
    assert not computed.isna().any()
    return np.flatnonzero(computed.to_numpy().astype(bool)).tolist()


@pytest.mark.parametrize(
    ("stage", "rows"),
    [
        # Of 10 rows that have a value.
        (TopFraction("x", 0.1), [3]),
        (TopFraction("x", 0.25), [3, 11]),
        # The third is one of three equal ones.
        (TopFraction("x", 0.3), [3, 4, 5, 9, 11]),
        (TopFraction("x", 0.2, largest=False), [1, 7]),
        (TopFraction("x", 1), [0, 1, 3, 4, 5, 7, 8, 9, 10, 11]),
        (TopFraction("x", count=1, largest=False), [1]),
        (TopFraction("x", 0.05), []),
        (TopFraction("nothing", 0.5), []),
        (TopFraction("number", count=2), [10, 11]),
        (TopFraction("number", 0.1, largest=False), [0]),
        (TopFraction("flag", 0.3), [0, 3, 6, 9]),
    ],
)
def test_the_rows(ds, stage, rows):
    assert chosen(stage(ds)) == rows


def test_several_beside_each_other_survive_a_save(ds, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        both = TopFraction("number", 0.5, prefix="late_")(TopFraction("x", 0.1)(ds))
    assert "selected: 2 of 12 rows have no x and are not selected" in caplog.text
    saved = both.save_metadata(tmp_path / "saved")
    assert chosen(saved) == [3]
    assert chosen(saved, "late_selected") == [6, 7, 8, 9, 10, 11]
    record = saved.provenance["selected"]
    assert (record["stage"], record["column"], record["fraction"]) == ("TopFraction", "x", 0.1)
    assert record["threshold"] == pytest.approx(0.9)
    assert (record["with_value"], record["without_value"]) == (10, 2)


def test_saved_columns_go_with_the_threshold(folder, tmp_path):
    """Of the same parameters: other rows of the dataset decide about those of a shard."""
    whole = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    first = ImageTextPairDataset.from_webdataset(folder / "00000.tar", backend="cpu")
    assert chosen(TopFraction("x", 0.5)(first).save_metadata(tmp_path / "saved")) == [3]
    tokens = [Lineage(TopFraction("x", 0.5)(ds).metadata).token for ds in (first, whole, whole)]
    assert tokens[0] != tokens[1] == tokens[2]


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [
        (TopFraction("x"), ConfigError, "fraction=None, count=None: give one of the two"),
        (TopFraction("x", 1.5), ConfigError, "1.5 is no fraction over 0 and at most 1"),
        (TopFraction("key", 0.5), ConfigError, "'key' holds string, which has no threshold"),
        (TopFraction("y", 0.5), ColumnNotFoundError, "no column 'y'"),
    ],
)
def test_unusable_parameters(folder, stage, error, message):
    with pytest.raises(error, match=message):
        stage(ImageTextPairDataset.from_webdataset(folder, backend="cpu"))


def test_a_prefix_that_would_overwrite(folder):
    ds = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    ds.metadata = ds.metadata.assign(selected=ds.metadata.x)
    with pytest.raises(ConfigError, match="prefix='' would overwrite the column 'selected'"):
        TopFraction("selected", 0.5)(ds)
