"""The Parquet file beside a tar: what is in it, and what we record there."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pytest

from nemo_image_curate.errors import DamagedError
from nemo_image_curate.shards import sidecars
from tests.make_data import fields_of, write_sidecar


def test_types_that_only_arrow_knows_are_made_plain(tmp_path):
    table = pa.table(
        {
            "key": pa.array(["a", "b"], pa.large_string()),
            "dictionary": pa.array(["x", None]).dictionary_encode(),
            "null": pa.nulls(2),
            "view": pa.array(["x", "y"], pa.string_view()),
            "fixed": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
            "large": pa.array([["x"], []], pa.large_list(pa.large_string())),
            "half": pa.array([1.5, None], pa.float16()),
            "binary": pa.array([b"x", None], pa.large_binary()),
            "struct": pa.array([{"a": 1}, None]),
        }
    )
    path = write_sidecar(tmp_path / "a.parquet", table)
    found = sidecars.read_sidecar(str(path))
    assert [str(field.type) for field in found.schema] == [
        "string",
        "string",
        "null",
        "string",
        "list<item: float>",
        "list<item: string>",
        "float",
        "binary",
        "struct<a: int64>",
    ]
    assert found.to_pylist() == table.to_pylist()
    assert sidecars.read_footer(str(path)).schema == found.schema


def test_read_only_the_columns_that_are_there(tmp_path):
    path = str(write_sidecar(tmp_path / "a.parquet", {"key": ["a"], "x": [1]}))
    assert sidecars.read_sidecar(path, ["x", "absent"]).to_pydict() == {"x": [1]}


def test_footer(tmp_path):
    rows = [fields_of(0, number) for number in range(3)]
    path = str(write_sidecar(tmp_path / "a.parquet", pa.Table.from_pylist(rows)))
    footer = sidecars.read_footer(path)
    assert (footer.rows, footer.record) == (3, {})
    assert sidecars.read_footer(path).digest == footer.digest
    rows[1]["score"] += 1000
    write_sidecar(tmp_path / "a.parquet", pa.Table.from_pylist(rows))
    assert sidecars.read_footer(path).digest != footer.digest


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"not parquet" * 100, b"PAR1" + bytes(50) + b"PAR1"]
)
def test_unreadable_sidecar_is_named_with_a_remedy(tmp_path, content):
    path = tmp_path / "00007.parquet"
    path.write_bytes(content)
    for read in (sidecars.read_footer, sidecars.read_sidecar):
        with pytest.raises(DamagedError, match=r"(?s)00007\.parquet is not a readable.*Write it"):
            read(str(path))


def test_foreign_record_in_the_footer_is_no_reason_to_fail(tmp_path):
    for raw in (b"not json", b"[1]", b"null", b"\xff"):
        table = pa.table({"key": ["a"]}).replace_schema_metadata({sidecars.RECORD_KEY: raw})
        path = str(write_sidecar(tmp_path / "a.parquet", table))
        assert sidecars.read_footer(path).record == {}


def test_columns_of_others_that_are_called_as_ours_get_another_name(tmp_path):
    table = {"key": ["a", "b"], "shard": ["x", "y"], "image_error": ["none", "blurred"]}
    path = str(write_sidecar(tmp_path / "a.parquet", table))
    footer = sidecars.read_footer(path, "a.tar")
    assert footer.renamed == {"shard": "shard_original", "image_error": "image_error_original"}
    assert footer.schema.names == ["key", "shard_original", "image_error_original"]
    found = sidecars.read_sidecar(path, shard="a.tar")
    assert found.to_pydict() == {
        "key": ["a", "b"],
        "shard_original": ["x", "y"],
        "image_error_original": ["none", "blurred"],
    }
    some = sidecars.read_sidecar(path, ["shard_original", "shard"], shard="a.tar")
    assert some.to_pydict() == {"shard_original": ["x", "y"]}


@pytest.mark.parametrize("with_record", [False, True])
def test_our_own_columns_keep_their_names_also_without_our_record(tmp_path, with_record):
    columns_of_ours = {
        "key": ["a", "b", "c"],
        "shard": ["a.tar"] * 3,
        "image_error": ["missing", None, "decode: broken"],
    }
    table = pa.table(columns_of_ours)
    if with_record:
        table = table.replace_schema_metadata({sidecars.RECORD_KEY: b'{"version": "1"}'})
    path = str(write_sidecar(tmp_path / "a.parquet", table))
    assert sidecars.read_footer(path, "a.tar").renamed == {}
    assert sidecars.read_sidecar(path, shard="a.tar").to_pydict() == columns_of_ours
    all_fine = table.set_column(2, "image_error", pa.nulls(3, pa.string()))
    path = str(write_sidecar(tmp_path / "b.parquet", all_fine))
    assert sidecars.read_footer(path, "a.tar").renamed == {}


def test_a_renamed_column_takes_no_name_that_is_there(tmp_path):
    table = {"key": ["a"], "shard": ["x"], "shard_original": ["y"]}
    path = str(write_sidecar(tmp_path / "a.parquet", table))
    assert sidecars.read_footer(path, "a.tar").schema.names == [
        "key",
        "shard_original_",
        "shard_original",
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"columns": []},
        {"columns": {"a": "b"}},
        {"account": 1, "fingerprint": "f"},
        {"origin": ["o"]},
        {"tar_size": "1"},
        {"summary": "none"},
        [],
    ],
)
def test_what_is_no_record_of_ours_is_none(tmp_path, record):
    content = json.dumps(record).encode()
    table = pa.table({"key": ["a"]}).replace_schema_metadata({sidecars.RECORD_KEY: content})
    path = write_sidecar(tmp_path / "a.parquet", table)
    assert sidecars.read_footer(str(path)).record == {}


def test_a_column_that_contradicts_the_schema_does_not_end_the_process(tmp_path):
    """pyarrow's own look at the columns of such a footer calls abort."""
    path = write_sidecar(tmp_path / "a.parquet", {"key": ["a"], "b": [True], "f": [0.5]})
    whole = path.read_bytes()
    code = (
        "import sys\n"
        "from nemo_image_curate.errors import DatasetError\n"
        "from nemo_image_curate.shards.sidecars import read_footer\n"
        "whole, path = open(sys.argv[1], 'rb').read(), sys.argv[1] + '.damaged'\n"
        "for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], 'little'), len(whole)):\n"
        "    for bit in (1, 4, 32):\n"
        "        changed = whole[place] ^ bit\n"
        "        damaged = whole[:place] + bytes([changed]) + whole[place + 1:]\n"
        "        open(path, 'wb').write(damaged)\n"
        "        try: read_footer(path)\n"
        "        except DatasetError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert len(whole) > 500


def test_texts_that_are_no_utf8_are_read_and_told(tmp_path, caplog):
    captions = pa.array([b"ok", None, b"caf\xe9", b"\xffnon"]).view(pa.string())
    path = str(write_sidecar(tmp_path / "a.parquet", {"key": list("abcd"), "caption": captions}))
    table = sidecars.read_sidecar(path)
    assert table["caption"].to_pylist() == ["ok", None, "caf\ufffd", "\ufffdnon"]
    (told,) = caplog.messages
    assert path in told
    assert "2 texts of column 'caption' are no UTF-8, the first in row 2" in told
    caplog.clear()
    assert sidecars.read_sidecar(path, ["key"])["key"].to_pylist() == list("abcd")
    assert not caplog.messages


def test_no_text_inside_of_a_list_is_told_with_file_and_column(tmp_path):
    texts = pa.array([b"ok", b"caf\xe9"]).view(pa.string())
    lists = pa.ListArray.from_arrays([0, 1, 2], texts)
    path = str(write_sidecar(tmp_path / "a.parquet", {"key": ["a", "b"], "tags": lists}))
    with pytest.raises(DamagedError, match=r"a\.parquet .* column 'tags': .*UTF8"):
        sidecars.read_sidecar(path)
