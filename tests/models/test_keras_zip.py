from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models.keras_zip import nsfw_state_dict, read_variables
from tests.shared import SHARED, needs_shared

INDEX, DATA = "m/variables/variables.index", "m/variables/variables.data-00000-of-00001"


# A second implementation, of the writing side, so that the reader is tested without the real
# files. Keys are prefix-compressed as LevelDB does it.
def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(pairs: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    out, last = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    return out + bytes(4) + (1).to_bytes(4, "little") + bytes([compression]) + bytes(4)


def index_file(entries: dict[str, bytes], header: bytes, compression: int = 0) -> bytes:
    pairs = sorted((k.encode(), v) for k, v in {"": header, **entries}.items())
    half = len(pairs) // 2
    content, handles = b"", []
    for part in (pairs[:half], pairs[half:]):
        one = block(part, compression)
        if part:
            handles.append((part[-1][0], varint(len(content)) + varint(len(one) - 5)))
        content += one
    meta, index = block([]), block(handles)
    footer = varint(len(content)) + varint(len(meta) - 5)
    footer += varint(len(content) + len(meta)) + varint(len(index) - 5)
    magic = bytes.fromhex("57fb808b247547db")
    return content + meta + index + footer.ljust(40, b"\0") + magic


def keras_zip(arrays: dict[str, np.ndarray], header: bytes = field(1, 1), **options: int) -> bytes:
    data, entries = b"", {}
    for name, array in arrays.items():
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        kind = {"f": 1, "l": 9}[array.dtype.char]
        raw = array.tobytes()
        entry = field(1, kind) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        entries[f"{name}/.ATTRIBUTES/VARIABLE_VALUE"] = entry + varint(6 << 3 | 5) + bytes(4)
        data += raw
    entries["graph"] = field(1, 7) + field(2, b"")
    return zipped(index_file(entries, header, **options), data)


def zipped(index: bytes, data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(INDEX, index)
        archive.writestr(DATA, data)
    return target.getvalue()


def head() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "layer_with_weights-1/mean": rng.normal(size=4),
        "layer_with_weights-1/variance": rng.random(4),
        "layer_with_weights-2/kernel": rng.normal(size=(4, 3)),
        "layer_with_weights-2/bias": rng.normal(size=3),
        "layer_with_weights-3/kernel": rng.normal(size=(3, 1)),
        "layer_with_weights-3/bias": rng.normal(size=1),
    }
    counts = {"layer_with_weights-1/count": np.array(7)}
    return {name: array.astype("f4") for name, array in arrays.items()} | counts


@needs_shared
@pytest.mark.parametrize(
    ("published", "converted"),
    [
        ("clip_autokeras_binary_nsfw.zip", "nsfw_vit_l_14.pth"),
        ("clip_autokeras_nsfw_b32.zip", "nsfw_vit_b_32.pth"),
    ],
)
def test_the_published_heads_convert_exactly(published, converted):
    expected = torch.load(SHARED / "weights" / converted, weights_only=True)
    found = nsfw_state_dict(SHARED / "weights" / published)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)


def test_variables_come_back_as_written(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(keras_zip(head()))
    found = read_variables(path)
    assert sorted(found) == sorted(head())
    for name, array in head().items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_the_head_has_pytorch_names_and_layout(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(keras_zip(head()))
    found = nsfw_state_dict(path)
    assert {name: array.shape for name, array in found.items()} == {
        "norm.mean": (4,),
        "norm.variance": (4,),
        "linear_1.weight": (3, 4),
        "linear_1.bias": (3,),
        "linear_2.weight": (1, 3),
        "linear_2.bias": (1,),
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (keras_zip(head(), compression=1), "compressed"),
        (keras_zip(head(), header=field(1, 2)), "2 data files"),
        (keras_zip(head(), header=field(1, 1) + field(2, 1)), "endianness 1"),
        (keras_zip({"other/kernel": np.ones((2, 2), "f4")}), "not LAION's NSFW head"),
        (zipped(b"", b""), "does not end like"),
        (zipped(index_file({"x": field(1, 1) + field(5, 400)}, field(1, 1)), bytes(4)), "claims"),
        (zipped(bytes((1 << 20) + 1), b""), "larger than"),
        (b"no zip", "not a readable Keras zip"),
    ],
)
def test_what_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        nsfw_state_dict(path)
    assert str(path) in str(caught.value)


def survives(path) -> None:
    try:
        for array in nsfw_state_dict(path).values():
            array.sum()
    except WeightsError:
        pass


FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD_ZIP = keras_zip(head())
with zipfile.ZipFile(io.BytesIO(GOOD_ZIP)) as _archive:
    GOOD_INDEX, GOOD_DATA = _archive.read(INDEX), _archive.read(DATA)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8)


def damaged(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    out = bytearray(content)
    for position, value in changes:
        out[position % len(out)] = value
    return bytes(out)


@FUZZ
@given(changes=CHANGES, keep=st.integers(0, len(GOOD_ZIP)))
def test_a_damaged_zip_is_a_weights_error(tmp_path, changes, keep):
    path = tmp_path / "a.zip"
    for content in (damaged(GOOD_ZIP, changes), GOOD_ZIP[:keep]):
        path.write_bytes(content)
        survives(path)


@FUZZ
@given(changes=CHANGES, keep=st.integers(0, len(GOOD_DATA)))
def test_a_damaged_index_in_a_sound_zip_is_a_weights_error(tmp_path, changes, keep):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(damaged(GOOD_INDEX, changes), GOOD_DATA[:keep]))
    survives(path)


@FUZZ
@given(
    entry=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 1 << 70) | st.binary(max_size=12)), max_size=6
    )
)
@example([(1, 1), (2, field(2, field(1, 0)) + field(2, field(1, 1 << 63)))])
@example([(1, 1), (2, field(2, field(1, 0)) * 70)])
@example([(1, 1), (4, 1 << 62), (5, 4)])
def test_any_entry_is_an_array_or_a_weights_error(tmp_path, entry):
    message = b"".join(field(number, value) for number, value in entry)
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(index_file({"x": message}, field(1, 1)), bytes(16)))
    survives(path)
