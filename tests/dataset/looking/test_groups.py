"""Groups of duplicates, largest first, with the row that stays."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking import groups as module
from nemo_image_curate.dataset.looking.groups import groups
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.make_data import jpeg, write_sidecar, write_tar


def write(root, prefix=""):
    """Two shards with the same keys: a of 0 has four duplicates, a of 1 has two, c of 0 one."""
    of = {
        0: [None, ("a", 0, 0.9), None, ("a", 1, 0.8), ("a", 0, 0.95), ("c", 0, 0.7)],
        1: [None, ("a", 0, 0.95), ("a", 1, 0.99), ("a", 0, 1.0), None, None],
    }
    for shard, decisions in of.items():
        keys = list("abcdef")
        table = {
            "key": keys,
            f"{prefix}duplicate_of": pa.array([d and d[0] for d in decisions], pa.string()),
            f"{prefix}duplicate_of_shard": pa.array(
                [d and f"{d[1]}.tar" for d in decisions], pa.string()
            ),
            f"{prefix}duplicate_similarity": pa.array(
                [d and d[2] for d in decisions], pa.float32()
            ),
            "width": list(range(6)),
        }
        write_tar(root / f"{shard}.tar", [(f"{key}.jpg", jpeg(1)) for key in keys])
        write_sidecar(root / f"{shard}.parquet", table)
    return root


def places(group):
    rows = group.rows
    return list(zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True))


@pytest.mark.parametrize("prefix", ["", "semantic_"])
def test_the_largest_come_first_and_the_kept_row_in_each(tmp_path, backend, prefix):
    dataset = ImageTextPairDataset.from_webdataset(write(tmp_path, prefix), backend=backend)
    found = groups(dataset, f"{prefix}duplicate_of", columns=["width"])
    assert (found.rows, found.duplicates, found.n_groups, found.sampled) == (12, 7, 3, 1)
    assert [group.size for group in found.groups] == [5, 3, 2]
    first, second, third = map(places, found.groups)
    assert first == [("0.tar", "a"), ("1.tar", "d"), ("1.tar", "b"), ("0.tar", "e"), ("0.tar", "b")]
    assert second == [("1.tar", "a"), ("1.tar", "c"), ("0.tar", "d")]
    assert third == [("0.tar", "c"), ("0.tar", "f")]
    assert found.groups[0].rows["width"].to_pylist() == [0, 3, 1, 4, 1]
    assert all(group.has_kept for group in found.groups)
    few = groups(dataset, f"{prefix}duplicate_of", n=1, members=3)
    assert (few.n_groups, few.groups[0].size, places(few.groups[0])) == (3, 5, first[:3])


def test_a_kept_row_that_was_dropped_is_told(tmp_path):
    dataset = ImageTextPairDataset.from_webdataset(write(tmp_path)).filter("key != 'c'")
    (third,) = [group for group in groups(dataset).groups if not group.has_kept]
    assert third.size == 2
    assert places(third) == [("0.tar", "f")]


def test_where_there_are_too_many_groups_a_sample_of_them_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_COUNTED", 4)
    monkeypatch.setattr(module, "_FEWEST", 1)
    n = 60
    for shard in range(2):
        keys = [f"{shard}-{row}" for row in range(n)]
        of = [None if row < n / 2 else f"{shard}-{row - n // 2}" for row in range(n)]
        write_tar(tmp_path / f"{shard}.tar", [(f"{key}.jpg", jpeg(1)) for key in keys])
        write_sidecar(tmp_path / f"{shard}.parquet", {"key": keys, "duplicate_of": of})
    found = groups(ImageTextPairDataset.from_webdataset(tmp_path))
    assert found.duplicates == n
    assert 0 < found.sampled < 0.2
    assert 2 <= found.n_groups <= 4
    assert all(group.has_kept and group.size == 2 for group in found.groups)


def test_no_duplicates_and_no_such_column(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1))])
    none = pa.array([None], pa.string())
    write_sidecar(tmp_path / "0.parquet", {"key": ["a"], "duplicate_of": none})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    found = groups(dataset)
    assert (found.groups, found.duplicates, found.rows) == ([], 0, 1)
    with pytest.raises(ColumnNotFoundError):
        groups(dataset, "semantic_duplicate_of")
    with pytest.raises(ConfigError, match="at least 1 group of 2"):
        groups(dataset, members=1)
