"""Columns from tar members and from sidecars, and one schema for all of them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset, frames, tables
from nemo_image_curate.errors import SchemaError
from nemo_image_curate.shards import columns, sidecars
from nemo_image_curate.shards.reader import TarShard
from tests.make_data import jpeg, make_dataset, write_tar


def from_tar(path, id_col="key") -> pa.Table:
    with TarShard(str(path)) as shard:
        return columns.read_tar(shard, id_col)[0]


def from_json(tmp_path, *values: object) -> pa.Table:
    members = []
    for number, value in enumerate(values):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        members += [(f"{number}.jpg", b"i"), (f"{number}.json", raw)]
    return from_tar(write_tar(tmp_path / "a.tar", members))


def test_text_and_json_become_columns(tmp_path):
    truth = make_dataset(tmp_path, sizes=[3], sidecars=False)
    table = from_tar(tmp_path / "00000.tar")
    assert set(table.column_names) == {"key", "caption", "url", "width", "score"}
    for found, row in zip(table.to_pylist(), truth.rows, strict=True):
        assert found == {name: row[name] for name in table.column_names}
    assert table.schema.field("width").type == pa.int64()
    assert table.schema.field("score").type == pa.float64()


def test_the_text_member_wins_over_the_json_caption(tmp_path):
    members = [("a.jpg", b""), ("a.txt", b"text\n"), ("a.json", b'{"caption": "json", "key": "a"}')]
    members += [("b.jpg", b""), ("b.json", b'{"caption": "only json"}')]
    table = from_tar(write_tar(tmp_path / "a.tar", members))
    assert table.to_pylist() == [
        {"key": "a", "caption": "text"},
        {"key": "b", "caption": "only json"},
    ]


def test_a_key_of_their_own_is_kept_and_told(tmp_path):
    members = [("a.jpg", b""), ("a.json", b'{"key": "ID-1"}')]
    members += [("b.jpg", b""), ("b.json", b'{"key": "b"}')]
    with TarShard(str(write_tar(tmp_path / "a.tar", members))) as shard:
        table, faults = columns.read_tar(shard, "key")
    assert table.to_pylist() == [
        {"key": "a", "key_original": "ID-1"},
        {"key": "b", "key_original": None},
    ]
    assert [(fault.kind, fault.key) for fault in faults] == [("renamed", "a")]


def test_fields_whose_names_are_no_text_stay_apart(tmp_path):
    table = from_json(tmp_path, b'{"\\ud800": 1, "\\ud801": 2}')
    assert table.select(["\\ud800", "\\ud801"]).to_pylist() == [{"\\ud800": 1, "\\ud801": 2}]


@pytest.mark.parametrize("depth", [1, 8, 9, 100, 400, 900])
def test_lists_that_no_parquet_holds_become_text(tmp_path, depth):
    value: object = 7
    for _ in range(depth):
        value = [value]
    (tmp_path / "in").mkdir()
    path = write_tar(tmp_path / "in" / "0.tar", [("0.jpg", jpeg(1)), ("0.json", deep(depth))])
    field = from_tar(path).schema.field("v")
    assert pa.types.is_string(field.type) == (depth > 8)
    saved = ImageTextPairDataset.from_webdataset(tmp_path / "in").save_metadata(tmp_path / "out")
    found = frames.to_arrow(saved.metadata.compute())["v"].to_pylist()
    assert found == [f"{'[' * depth}7{']' * depth}" if depth > 8 else value]


def deep(depth: int) -> bytes:
    return b'{"v": ' + b"[" * depth + b"7" + b"]" * depth + b"}"


@pytest.mark.parametrize("extension", ["txt", "caption", "text"])
def test_captions_by_other_names(tmp_path, extension):
    tar = write_tar(tmp_path / "a.tar", [("0.jpg", jpeg(1)), (f"0.{extension}", b"a dog")])
    assert from_tar(tar)["caption"].to_pylist() == ["a dog"]


def test_of_two_captions_the_txt_counts_and_the_other_is_told(tmp_path):
    members = [("0.txt", b"a dog"), ("0.caption", b"a cat"), ("1.caption", b"a bird")]
    with TarShard(str(write_tar(tmp_path / "a.tar", members))) as shard:
        table, (fault,) = columns.read_tar(shard, "key")
    assert table["caption"].to_pylist() == ["a dog", "a bird"]
    assert (fault.kind, fault.key) == ("conflict", "0")
    assert "a cat" in fault.detail


@pytest.mark.parametrize(
    ("text", "record", "told"),
    [
        (b"new", b'{"caption": "old"}', '"old"'),
        (b"new\n", b'{"caption": " new "}', None),
        (b"new", b'{"caption": null}', None),
        (b"1", b'{"caption": 1}', None),
        (b"new", b'{"caption": ["a", "b"]}', '["a", "b"]'),
    ],
)
def test_a_text_that_differs_from_the_json_field_is_told(tmp_path, text, record, told):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.txt", text), ("a.json", record)])
    with TarShard(str(path)) as shard:
        faults = columns.read_tar(shard, "key")[1]
    expected = [("conflict", "a", f"the .txt counts more than {told} of another member")]
    assert list(map(tuple, faults)) == (expected if told else [])


@pytest.mark.parametrize(
    ("values", "told"),
    [([1, 2**70], f"'n', such as {2**70}"), ([None, "x", [1]], "such as ")],
)
def test_what_becomes_text_is_told_also_when_the_column_is_text_anyhow(tmp_path, values, told):
    members = [(f"{n}.json", json.dumps({"n": value}).encode()) for n, value in enumerate(values)]
    path = write_tar(tmp_path / "a.tar", members)
    for schema in (None, pa.schema({"key": pa.string(), "n": pa.string()})):
        with TarShard(str(path)) as shard:
            table, (fault,) = columns.read_tar(shard, "key", schema)
        assert table.schema.field("n").type == pa.string()
        assert fault.kind == "mixed"
        assert told in fault.detail


def test_images_alone_and_empty_tars(tmp_path):
    table = from_tar(write_tar(tmp_path / "a.tar", [("x y.jpg", jpeg(1)), ("日本.JPG", jpeg(2))]))
    assert table.to_pydict() == {"key": ["x y", "日本"]}
    table = from_tar(write_tar(tmp_path / "b.tar", []), id_col="id")
    assert table.schema == pa.schema({"id": pa.string()})
    assert len(table) == 0


def test_mixed_types_become_text(tmp_path):
    table = from_json(tmp_path, {"a": 1, "b": [1]}, {"a": "x", "b": {"z": 1}}, {"a": "y"})
    assert table["a"].to_pylist() == ["1", "x", "y"]
    assert table["b"].to_pylist() == ["[1]", '{"z": 1}', None]


@pytest.mark.parametrize(
    ("values", "expected", "told"),
    [
        ([512, 640, "n/a", 800], [512, 640, None, 800], ["2"]),
        ([512, "640", 800], [512, 640, 800], []),
        ([5, " 6.5 ", 1.0, "1e2"], [5.0, 6.5, 1.0, 100.0], []),
        ([1, True, 2, [3], 4], [1, None, 2, None, 4], ["1", "3"]),
        (["n/a", 640, None], ["n/a", "640", None], ["1"]),
        (["a", "b", 3], ["a", "b", "3"], ["2"]),
        ([1, {"a": 1}], ["1", '{"a": 1}'], ["1"]),
        (["640", "n/a"], ["640", "n/a"], []),
        ([True, "yes"], ["true", "yes"], ["1"]),
    ],
)
def test_values_of_several_kinds_are_numbers_or_text_and_told(tmp_path, values, expected, told):
    members = []
    for number, value in enumerate(values):
        members += [(f"{number}.jpg", b"i"), (f"{number}.json", json.dumps({"w": value}).encode())]
    with TarShard(str(write_tar(tmp_path / "a.tar", members))) as shard:
        table, faults = columns.read_tar(shard, "key")
        wanted = pa.schema({"w": pa.string()})
        as_text, _ = columns.read_tar(shard, "key", wanted)
    assert table["w"].to_pylist() == expected
    assert [(fault.kind, fault.key) for fault in faults] == [("mixed", key) for key in told]
    for fault in faults:
        assert "'w'" in fault.detail
    texts = [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
    assert as_text["w"].to_pylist() == texts, "where other shards have text, nothing is null"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([b"3", b"12\n", b"0"], [3, 12, 0]),
        ([b"-1", b" 7 "], [-1, 7]),
        ([b"cat", b"7"], ["cat", "7"]),
        ([b"007", b"8"], ["007", "8"]),
        ([b"9" * 30], ["9" * 30]),
        ([b""], [""]),
    ],
)
def test_class_labels(tmp_path, labels, expected):
    members = [(f"{n}.cls", label) for n, label in enumerate(labels)] + [("z.jpg", b"")]
    table = from_tar(write_tar(tmp_path / "a.tar", members))
    assert table["cls"].to_pylist() == [*expected, None]
    with TarShard(str(tmp_path / "a.tar")) as shard:
        table, _ = columns.read_tar(shard, "key", pa.schema({"cls": pa.string()}))
    assert table["cls"].type == pa.string()


@pytest.mark.parametrize("name", ["shard", "image_error"])
def test_fields_called_as_our_columns_get_another_name(tmp_path, name):
    record = json.dumps({name: "mine", "x": 1}).encode()
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.json", record)])
    with TarShard(str(path)) as shard:
        table, faults = columns.read_tar(shard, "key")
    assert table.to_pylist() == [{"key": "a", f"{name}_original": "mine", "x": 1}]
    assert [(fault.kind, fault.key) for fault in faults] == [("renamed", "a")]


@pytest.mark.parametrize(
    "content",
    ["größer".encode("utf-16"), "größer".encode("utf-8-sig"), "größer".encode("utf-32")],
)
def test_captions_with_a_byte_order_mark(tmp_path, content):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.txt", content)])
    with TarShard(str(path)) as shard:
        table, faults = columns.read_tar(shard, "key")
    assert table["caption"].to_pylist() == ["größer"]
    assert faults == []


def test_a_caption_in_another_encoding_is_told(tmp_path):
    members = [("a.jpg", b""), ("a.txt", b"caf\xe9"), ("b.jpg", b""), ("b.txt", b"tea")]
    with TarShard(str(write_tar(tmp_path / "a.tar", members))) as shard:
        table, faults = columns.read_tar(shard, "key")
    assert table["caption"].to_pylist() == ["caf\ufffd", "tea"]
    ((kind, key, detail),) = faults
    assert (kind, key) == ("encoding", "a")
    assert ".txt" in detail
    assert "cp1252" in detail


def test_objects_become_their_json_text(tmp_path):
    table = from_json(tmp_path, {"a": {"b": [1, "ü"]}}, {"a": {}}, {"a": None})
    assert table["a"].to_pylist() == ['{"b": [1, "ü"]}', "{}", None]
    table = from_json(tmp_path, {"a": [{"b": 1}]}, {"a": []})
    assert table["a"].to_pylist() == ['[{"b": 1}]', "[]"]


def test_a_field_that_is_text_in_other_shards_is_text_here(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.json", b'{"x": 5, "y": [1]}')])
    schema = pa.schema({"x": pa.string(), "y": pa.string(), "z": pa.int64()})
    with TarShard(str(path)) as shard:
        table, _ = columns.read_tar(shard, "key", schema)
    assert table.to_pylist() == [{"key": "a", "x": "5", "y": "[1]"}]


def test_mixed_booleans(tmp_path):
    table = from_json(tmp_path, {"c": True}, {"c": None}, {})
    assert table["c"].to_pylist() == [True, None, None]


@pytest.mark.parametrize("values", [[1, 2**70], [2**53 + 1, 1.5], [None, -(2**63) - 1]])
def test_numbers_that_become_text_are_told(tmp_path, values):
    members = [(f"{row}.json", json.dumps({"x": x}).encode()) for row, x in enumerate(values)]
    with TarShard(str(write_tar(tmp_path / "a.tar", members))) as shard:
        table, (fault,) = columns.read_tar(shard, "key")
    assert table["x"].to_pylist() == [None if x is None else str(x) for x in values]
    assert fault.kind == "mixed"
    assert "holds all values of 'x', such as" in fault.detail


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([2**70, 1], [str(2**70), "1"]),
        ([2**63, 1], None),
        ([None, None], [None, None]),
        ([{"a": {"b": 1}}, {"a": {"b": 2}, "c": "x"}], None),
        ([[], [1, 2]], [[], [1, 2]]),
        ([[None], [1.5]], [[None], [1.5]]),
        ([{}, {}], None),
        ([True, 1], None),
        (["\ud800 lone", "fine"], None),
        ([["\udc00"], ["x"]], None),
        ([{"\ud800": 1}, {}], None),
        ([float("nan"), 1.0], None),
        ([float("inf"), 1.0], [float("inf"), 1.0]),
    ],
)
def test_values_that_strain_arrow(tmp_path, values, expected):
    table = from_json(tmp_path, *[{"x": value} for value in values])
    assert len(table) == len(values)
    if expected is not None:
        assert table["x"].to_pylist() == expected
    # What was read can be written and read again.
    pq.write_table(table, tmp_path / "x.parquet")
    assert sidecars.read_sidecar(str(tmp_path / "x.parquet")).schema == table.schema


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"a": 1}{', b"[" * 100_000, b"7" * 5000],
)
def test_broken_json_gives_nulls_and_leaves_the_others_alone(tmp_path, broken):
    table = from_json(tmp_path, {"a": 1}, broken, {"a": 3})
    assert table.to_pydict() == {"key": ["0", "1", "2"], "a": [1, None, 3]}


def test_field_names_that_are_no_plain_text(tmp_path):
    table = from_json(tmp_path, {"\ud800": 1, "": 2, "a b.c": 3, "shard": "mine"})
    assert len(table) == 1
    pq.write_table(table, tmp_path / "x.parquet")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), min_size=1, max_size=4))
def test_any_json_becomes_columns_that_parquet_holds(tmp_path, values):
    table = from_json(tmp_path, *values)
    with TarShard(str(tmp_path / "a.tar")) as shard:
        told = {(fault.key, fault.detail[1]) for fault in columns.read_tar(shard, "key")[1]}
    assert table["key"].to_pylist() == [str(number) for number in range(len(values))]
    pq.write_table(table, tmp_path / "x.parquet")
    again = sidecars.read_sidecar(str(tmp_path / "x.parquet"))
    assert again.schema == table.schema
    assert repr(again.to_pylist()) == repr(table.to_pylist())
    for name in "abc":
        if name in table.column_names:
            for row, value in enumerate(table[name].to_pylist()):
                is_told = (str(row), name) in told
                assert value is not None or is_told or values[row].get(name) is None
                assert value is None or values[row].get(name) is not None


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_captions_in_any_unicode(tmp_path, captions):
    members = []
    for number, caption in enumerate(captions):
        raw = caption.encode("utf-8", "surrogatepass")
        members += [(f"{number}.jpg", b"i"), (f"{number}.txt", raw)]
    found = from_tar(write_tar(tmp_path / "a.tar", members))["caption"].to_pylist()
    for text, caption in zip(found, captions, strict=True):
        if caption.isprintable() or caption.encode("utf-8", "ignore").decode() == caption:
            assert text == caption.rstrip("\r\n")
        text.encode()


def test_captions_that_are_not_utf8_and_names_that_are_not(tmp_path):
    members = [("a.jpg", b""), ("a.txt", b"caf\xe9"), ("caf\udce9.jpg", b"")]
    path = tmp_path / "a.tar"
    import io
    import tarfile

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    table = from_tar(path)
    assert table["caption"].to_pylist() == ["caf\ufffd", None]
    assert table["key"].to_pylist() == ["a", "caf\\xe9"]


def unify(*types: pa.DataType) -> pa.DataType:
    schemas = [(f"{n:05d}.tar", pa.schema({"x": one})) for n, one in enumerate(types)]
    return columns.unify(schemas).field("x").type


@pytest.mark.parametrize("order", [1, -1])
def test_a_column_of_nulls_takes_the_type_of_the_others(order):
    known = pa.schema({"n": pa.int64(), "list": pa.list_(pa.float32()), "none": pa.null()})
    nulls = pa.schema({"n": pa.null(), "list": pa.list_(pa.null()), "none": pa.null()})
    found = columns.unify([("a", known), ("b", nulls)][::order])
    assert [str(field.type) for field in found] == ["int64", "list<item: float>", "string"]
    table = pa.table({"n": pa.nulls(2), "list": pa.array([None, []], nulls.field(1).type)})
    assert tables.conform(table, found).to_pydict()["list"] == [None, []]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([pa.int64(), pa.float64()], pa.float64()),
        ([pa.int32(), pa.int64()], pa.int64()),
        ([pa.float32(), pa.float64()], pa.float64()),
        ([pa.int8(), pa.uint8()], pa.int16()),
        ([pa.string(), pa.string()], pa.string()),
        ([pa.list_(pa.float32()), pa.list_(pa.float32())], pa.list_(pa.float32())),
        ([pa.list_(pa.float32()), pa.list_(pa.float64())], pa.list_(pa.float64())),
    ],
)
def test_types_are_widened(types, expected):
    assert unify(*types) == expected
    assert unify(*reversed(types)) == expected


def test_absent_columns_are_kept_in_order_of_appearance():
    schemas = [
        ("a", pa.schema({"key": pa.string(), "x": pa.int64()})),
        ("b", pa.schema({"key": pa.string(), "y": pa.bool_(), "x": pa.int64()})),
    ]
    assert columns.unify(schemas).names == ["key", "x", "y"]


@pytest.mark.parametrize(
    "types",
    [
        (pa.int64(), pa.string()),
        (pa.string(), pa.list_(pa.float32())),
        (pa.bool_(), pa.timestamp("s")),
        (pa.struct({"a": pa.int64()}), pa.int64()),
    ],
)
def test_types_with_nothing_in_common_are_refused_by_name(types):
    for first, second in (types, types[::-1]):
        with pytest.raises(SchemaError) as caught:
            unify(first, second)
        message = str(caught.value)
        assert "shard 00001.tar" in message
        assert "column 'x'" in message
        assert str(first) in message
        assert str(second) in message


def test_columns_of_tars_without_a_common_type_become_text():
    schemas = [
        ("a.tar", pa.schema({"x": pa.int64(), "y": pa.list_(pa.int64())})),
        ("b.tar", pa.schema({"x": pa.string(), "y": pa.string()})),
        ("c.parquet", pa.schema({"x": pa.float64()})),
    ]
    found = columns.unify(schemas, {"a.tar", "b.tar"})
    assert found == pa.schema({"x": pa.string(), "y": pa.string()})
    with pytest.raises(SchemaError, match=r"shard b\.tar: column 'x'"):
        columns.unify(schemas)
    with pytest.raises(SchemaError, match=r"column 'y'"):
        columns.unify(schemas, {"b.tar"})  # a list in a sidecar has no text
