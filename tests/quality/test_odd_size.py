"""Odd sizes against CleanVision's formula in NumPy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset, OddSize
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.make_data import make_dataset, write_sidecar
from tests.make_embedders import rows


def dataset(folder, megapixels: list[float | None], shards: int = 2, backend: str = "cpu"):
    parts = np.array_split(np.arange(len(megapixels)), shards)
    truth = make_dataset(folder, sizes=[len(part) for part in parts], sidecars=False)
    keys = iter(truth.keys)
    for number, part in enumerate(parts):
        values = pa.array([megapixels[n] for n in part], pa.float32())
        columns = {"key": pa.array([next(keys) for _ in part], pa.string()), "megapixels": values}
        write_sidecar(folder / f"{number:05d}.parquet", columns)
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def flags(ds: ImageTextPairDataset, **options: float) -> list[bool | None]:
    return [row["is_odd_size"] for row in rows(OddSize(**options)(ds))]


def test_against_the_formula(tmp_path, backend):
    chance = np.random.default_rng(0)
    sizes = chance.normal(600, 40, 41)
    sizes[[3, 17, 30]] = 20, 4000, 900
    megapixels = [float(size**2 / 1e6) for size in sizes]
    found = flags(dataset(tmp_path / "a", [*megapixels, None], backend=backend))
    for factor in (1.0, 3.0):
        low, high = np.percentile(sizes, [25, 75])
        margin = factor * (high - low)
        expected = [bool(size < low - margin or size > high + margin) for size in sizes]
        assert sum(expected) >= 3
        ds = dataset(tmp_path / f"{factor}", [*megapixels, None], backend=backend)
        found = flags(ds, iqr_factor=factor)
        assert found[:-1] == expected
        assert found[-1] is None


def test_partitions_make_no_difference(tmp_path):
    megapixels = [0.1 * n for n in range(1, 20)] + [90.0]
    few = OddSize()(dataset(tmp_path / "few", megapixels, 1))
    many = OddSize()(dataset(tmp_path / "many", megapixels, 5))
    assert few.provenance["is_odd_size"] == many.provenance["is_odd_size"]
    assert flags(few) == flags(many) == [False] * 19 + [True]


@pytest.mark.parametrize(
    ("megapixels", "expected"),
    [
        ([1.0] * 8 + [2.0, 0.5], [False] * 8 + [True, True]),
        ([0.3, 7.0], [False, False]),
        ([None, None], [None, None]),
        ([], []),
    ],
)
def test_few_and_equal_sizes(tmp_path, megapixels, expected):
    assert flags(dataset(tmp_path, megapixels, 1)) == expected


def test_what_is_refused(tmp_path):
    make_dataset(tmp_path, sizes=[1])
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")
    with pytest.raises(ColumnNotFoundError, match="megapixels"):
        OddSize()(ds)
    with pytest.raises(ConfigError, match="iqr_factor=-1"):
        OddSize(-1)(ds)
