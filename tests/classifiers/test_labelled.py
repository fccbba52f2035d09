"""The rows that labels are of, wherever they lie, and labels that are of none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.classifiers.labelled import labelled_rows
from nemo_image_curate.errors import ColumnNotFoundError, DatasetError
from tests.classifiers.test_base import with_vectors
from tests.make_data import write_sidecar, write_tar

EMBEDDING = "image_embedding"
KEYS = [f"{shard}{row:04d}" for shard in range(3) for row in range(4)]


def as_it_is(value):
    return value


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards of four rows, whose embedding is (shard, row); that of the last row is null."""
    folder = tmp_path_factory.mktemp("shards")
    parts = [[[shard, row] for row in range(4)] for shard in range(3)]
    parts[2][3] = None
    with_vectors(folder, *parts)
    return folder


@pytest.fixture
def ds(shards, backend):
    return ImageTextPairDataset.from_webdataset(shards, backend=backend)


def vector(key: str) -> list[float]:
    return [int(key[0]), int(key[1:])]


@settings(max_examples=10)
@given(
    labels=st.dictionaries(st.sampled_from([*KEYS, "9999"]), st.sampled_from(["a", "b", None])),
    with_shard=st.booleans(),
)
def test_each_label_goes_with_its_row(shards, labels, with_shard):
    ds = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    known = {key: label for key, label in labels.items() if label}
    listed = {(f"{key[0]}.tar", key) if with_shard else key: one for key, one in labels.items()}
    if not known:
        with pytest.raises(DatasetError, match="there are no labels"):
            labelled_rows(ds, listed, [EMBEDDING], as_it_is)
        return
    rows = labelled_rows(ds, listed, [EMBEDDING], as_it_is)
    expected = sorted(known.keys() & set(KEYS))
    assert rows.table["key"].to_pylist() == expected
    assert rows.row_names() == [(f"{key[0]}.tar", key) for key in expected]
    assert rows.labels == [known[key] for key in expected]
    assert rows.given == len(known)
    assert rows.empty == len(labels) - len(known)
    absent = ["9.tar: 9999" if with_shard else "9999"] * ("9999" in known)
    assert rows.names == absent
    assert rows.not_in_dataset == len(absent)
    for key, found in zip(expected, rows.table[EMBEDDING].to_pylist(), strict=True):
        assert found == (None if key == KEYS[-1] else vector(key))


def test_rows_that_were_moved_keep_their_labels(ds):
    ds.metadata = ds.metadata.sort_values("key", ascending=False).repartition(npartitions=2)
    rows = labelled_rows(ds, {"00001": "a", "10002": "b", "20000": "c"}, [EMBEDDING], as_it_is)
    assert rows.labels == ["a", "b", "c"]
    assert rows.table[EMBEDDING].to_pylist() == [[0, 1], [1, 2], [2, 0]]


def test_directions_of_those_that_have_one(ds):
    rows = labelled_rows(ds, dict.fromkeys([*KEYS], "x"), [EMBEDDING], as_it_is)
    vectors, row_numbers = rows.unit_vectors(EMBEDDING)
    # The first is all zero.
    assert row_numbers.tolist() == list(range(1, 11))
    expected = np.array([vector(key) for key in KEYS[1:11]], dtype=float)
    np.testing.assert_allclose(
        vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6
    )


def test_a_column_of_the_dataset(ds):
    def kinds(frame):
        return {"kind": pa.array(["even", None, "even", "odd"][: len(frame)], pa.string())}

    labelled = ds.with_columns(kinds, {"kind": pa.string()}, {})
    rows = labelled_rows(labelled, "kind", [EMBEDDING], as_it_is)
    assert rows.labels == ["even", "even", "odd"] * 3
    assert rows.given == 9
    assert rows.not_in_dataset == 0
    none = labelled_rows(labelled.filter("kind == 'none'"), "kind", [EMBEDDING], as_it_is)
    assert none.labels == []
    assert none.table.column_names == ["key", "shard", EMBEDDING]


def test_a_sample_with_several_labels_is_refused(ds):
    table = pd.DataFrame(
        {"key": ["00000", "00000", "10000", "10000"], "label": ["a", "b", "a", "a"]}
    )
    with pytest.raises(DatasetError, match=r"1 samples have several labels.*00000 \(a, b\)"):
        labelled_rows(ds, table, [EMBEDDING], as_it_is)
    assert labelled_rows(ds, table[2:], [EMBEDDING], as_it_is).given == 1


def test_a_key_in_several_shards_needs_its_shard(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [("same.txt", b"x"), (f"own{number}.txt", b"x")])
        columns = {"key": ["same", f"own{number}"], "number": [number, number]}
        write_sidecar(tmp_path / f"{number}.parquet", pa.table(columns))
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    with pytest.raises(DatasetError, match="1 keys are in several shards: same"):
        labelled_rows(ds, {"same": "a", "own0": "b"}, ["number"], as_it_is)
    rows = labelled_rows(ds, {("1.tar", "same"): "a", "own0": "b"}, ["number"], as_it_is)
    assert rows.row_names() == [("0.tar", "own0"), ("1.tar", "same")]
    assert rows.labels == ["b", "a"]
    assert rows.table["number"].to_pylist() == [0, 1]
    # One that is named, and all others.
    both = labelled_rows(ds, {("1.tar", "same"): "a", "same": "b"}, ["number"], as_it_is)
    assert both.labels == ["b", "a"]


def test_a_name_that_is_neither_column_nor_file(ds):
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'shard'"):
        labelled_rows(ds, "shards", [EMBEDDING], as_it_is)
    with pytest.raises(ColumnNotFoundError, match="no column 'embedding'"):
        labelled_rows(ds, {"00000": "a"}, ["embedding"], as_it_is)
