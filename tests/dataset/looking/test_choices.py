"""Rows worth looking at, against plain sorting."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import frames
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking import choices
from nemo_image_curate.dataset.looking.choices import View, choose
from nemo_image_curate.dataset.looking.rows import rows_of
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.make_data import jpeg, write_sidecar, write_tar

VIEWS = [
    *(View("best", "score"), View("worst", "score"), View("best", "flag")),
    *(View("below", "score", 4.5), View("above", "score", 4.5), View("random"), View("first")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six shards; scores with ties, nulls and NaN; a column that is null in all but one."""
    root = tmp_path_factory.mktemp("choices")
    rng = np.random.default_rng(0)
    rows = []
    for shard in range(6):
        count = 20 * shard
        scores = [None if s == 0 else s for s in rng.integers(0, 9, count).tolist()]
        table = {
            "key": pa.array([f"{shard}-{n:03d}" for n in rng.permutation(count)], pa.string()),
            "score": pa.array(scores, pa.float64()),
            "flag": pa.array([bool(s and s % 2) for s in scores], pa.bool_()),
            "rare": pa.array(["x" if shard == 4 else None] * count, pa.string()),
        }
        write_tar(
            root / f"{shard}.tar", [(f"{key}.jpg", jpeg(1)) for key in table["key"].to_pylist()]
        )
        write_sidecar(root / f"{shard}.parquet", table)
        rows += [row | {"shard": f"{shard}.tar"} for row in pa.table(table).to_pylist()]
    return root, rows


def plain(rows, view, n):
    if view.how == "first":
        return [row["key"] for row in rows[:n]]
    have = [row for row in rows if row[view.by] is not None]
    if view.how in ("below", "above"):
        have = [row for row in have if (row[view.by] < view.value) == (view.how == "below")]
    sign = -1 if view.how in ("best", "below") else 1
    have.sort(key=lambda row: (sign * row[view.by], row["key"], row["shard"]))
    return [row["key"] for row in have[:n]]


@pytest.mark.parametrize("few", [64, 2])
def test_rows_are_those_of_plain_sorting(made, backend, monkeypatch, few):
    monkeypatch.setattr(choices, "_FIRST_LOOK", few)
    root, rows = made
    dataset = ImageTextPairDataset.from_webdataset(root, backend=backend)
    chosen = choose(dataset, VIEWS, 15, ["rare"])
    for view, choice in zip(VIEWS, chosen, strict=True):
        assert choice.view == view
        assert choice.rows.column_names == ["key", "shard", "score", "flag", "rare"]
        if view.how != "random":
            assert choice.rows["key"].to_pylist() == plain(rows, view, 15)
    assert chosen[1].title == "score: lowest"
    by_key = {row["key"]: row for row in rows}
    assert all(row == by_key[row["key"]] for row in chosen[5].rows.to_pylist())


def test_random_rows_do_not_depend_on_partitions_but_on_the_seed(made, backend):
    dataset = ImageTextPairDataset.from_webdataset(made[0], backend=backend)
    views = [View("random"), View("worst", "score")]
    chosen = choose(dataset, views, 9)
    other = dataset.replace(dataset.metadata.repartition(npartitions=2))
    again = choose(other, views, 9)
    assert [one.rows for one in again] == [one.rows for one in chosen]
    (elsewhere,) = choose(dataset, views[:1], 9, seed=1)
    assert elsewhere.rows != chosen[0].rows
    (all_rows,) = choose(dataset, [View("random")], 1000)
    assert sorted(all_rows.rows["key"].to_pylist()) == sorted(row["key"] for row in made[1])


def test_conditions_and_nothing_to_see(made):
    dataset = ImageTextPairDataset.from_webdataset(made[0])
    (few,) = choose(dataset, [View("best", "score")], 5, where="flag and rare == 'x'")
    expected = [row for row in made[1] if row["flag"] and row["rare"]]
    assert few.rows["key"].to_pylist() == plain(expected, View("best", "score"), 5)
    (none,) = choose(dataset, [View("above", "score", 99.0)], 5)
    assert len(none.rows) == 0


def test_whole_numbers_that_are_no_floats(tmp_path):
    values = [0, 2**53 + 1, 2**63, 2**64 - 2, 2**64 - 1]
    keys = [f"{number}" for number in range(len(values))]
    write_tar(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(1)) for key in keys])
    write_sidecar(tmp_path / "0.parquet", {"key": keys, "phash": pa.array(values, pa.uint64())})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    views = [View("below", "phash", 2**64 - 1), View("above", "phash", 1e19)]
    below, above, small = choose(dataset, [*views, View("below", "phash", 5)], 2)
    assert below.rows["key"].to_pylist() == ["3", "2"]
    assert above.rows["key"].to_pylist() == ["3", "4"]
    assert small.rows["key"].to_pylist() == ["0"]
    far = [View("below", "phash", 10**30), View("above", "phash", 2**64)]
    far += [View("above", "phash", -(10**30)), View("below", "phash", -1)]
    chosen = [one.rows["key"].to_pylist() for one in choose(dataset, far, 2)]
    assert chosen == [["4", "3"], [], ["0", "1"], []]


def test_rows_of_many_views_are_taken_once(tmp_path, monkeypatch):
    columns = {f"c{number}": [3, 1, 2] for number in range(50)}
    write_tar(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(1)) for key in "abc"])
    write_sidecar(tmp_path / "0.parquet", {"key": ["a", "b", "c"], **columns})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")
    taken = []
    to_arrow = frames.to_arrow
    monkeypatch.setattr(frames, "to_arrow", lambda one: taken.append(len(one)) or to_arrow(one))
    chosen = choose(dataset, [View("best", name) for name in columns], 2, progress=False)
    assert {tuple(one.rows["key"].to_pylist()) for one in chosen} == {("a", "c")}
    assert len(taken) < 10


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View("best"), "need a column"),
        (View("random", "score"), "and no other"),
        (View("above", "score"), "need a value"),
        (View("best", "score", 1.0), "and no other"),
        (View("best", "rare"), "'rare' holds string"),
        (View("middle", "score"), "'middle' is none of best"),
    ],
)
def test_views_that_there_are_not(made, view, message):
    with pytest.raises(ConfigError, match=message):
        choose(ImageTextPairDataset.from_webdataset(made[0]), [view], 5)


def test_rows_of_keys_in_their_order(made, backend):
    dataset = ImageTextPairDataset.from_webdataset(made[0], backend=backend)
    rows = rows_of(dataset, ["4-007", "absent", "2-001", "4-007"], ["rare"])
    assert rows.to_pydict() == {
        "key": ["4-007", "2-001"],
        "shard": ["4.tar", "2.tar"],
        "rare": ["x", None],
    }
    with pytest.raises(ColumnNotFoundError):
        rows_of(dataset, ["4-007"], ["raer"])
