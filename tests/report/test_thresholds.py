"""Where columns are cut that nobody named a threshold for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking.distributions import distributions
from nemo_image_curate.report import columns
from nemo_image_curate.report.settings import Settings
from nemo_image_curate.report.thresholds import thresholds_of
from tests.make_data import jpeg, write_sidecar, write_tar

QUIET = Settings(progress=False)
ROWS = 100
SPREAD = np.concatenate([np.linspace(0, 0.001, 90), np.linspace(0.999, 1, 10)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("thresholds")
    keys = [f"{n:03d}" for n in range(ROWS)]
    seldom = np.arange(ROWS) % 20 == 0
    content = {"key": keys, "whole": seldom.astype(int), "real": seldom * 0.7, "spread": SPREAD}
    write_tar(root / "a.tar", [(f"{key}.jpg", jpeg(1)) for key in keys])
    write_sidecar(root / "a.parquet", pa.table(content))
    return ImageTextPairDataset.from_webdataset(root, backend="cpu")


def test_two_values_are_parted(dataset):
    every = list(distributions(dataset, progress=False).values())
    found = thresholds_of(dataset, QUIET, every)
    told = {name: (one.limit.expression(name), one.kept) for name, one in found.items()}
    assert told["whole"] == ("whole >= 1", 5)
    assert told["real"] == ("real >= 0.7", 5)
    assert found["whole"].origin == "between its two values"
    # Two bars, and many values.
    assert found["spread"].origin == "about the median"


def test_none_of_two_values_is_the_lowest(dataset):
    strips = {one.distribution.column: one.strips for one in columns.gather(dataset, QUIET).columns}
    assert strips["whole"].keys() == strips["real"].keys() == {"below", "above", "along"}
    assert set(strips["whole"]["above"].table["whole"].to_pylist()) == {1}
    assert {"worst", "best"} < strips["spread"].keys()
