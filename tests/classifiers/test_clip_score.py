"""Cosines of images and captions against NumPy, over any rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nemo_image_curate import ClipScore, ImageTextPairDataset
from nemo_image_curate.classifiers.clip_score import cosines
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import ColumnNotFoundError, DatasetError, EncoderMismatchError
from tests.classifiers.test_base import LISTS
from tests.make_data import write_sidecar, write_tar
from tests.make_embedders import column

SAME = ("acme/encoder", "acme/encoder")


def with_pairs(
    folder: Path,
    *shards: list[tuple],
    encoders: tuple[str | None, str | None] = SAME,
    backend: str = "auto",
) -> ImageTextPairDataset:
    """A dataset of which only (image embedding, text embedding) of each row matter."""
    names = ("image_embedding", "text_embedding")
    records = {name: {"encoder": one} for name, one in zip(names, encoders, strict=True) if one}
    text = json.dumps({"columns": records}).encode()
    for number, pairs in enumerate(shards):
        keys = [f"{number}{row:04d}" for row in range(len(pairs))]
        write_tar(folder / f"{number}.tar", [(f"{key}.txt", b"x") for key in keys])
        columns = {"key": pa.array(keys, pa.string())}
        for position, name in enumerate(names):
            some = [pair[position] for pair in pairs]
            columns[name] = pa.array(
                [None if one is None else np.float32(one) for one in some], LISTS
            )
        table = pa.table(columns).replace_schema_metadata({"nemo_image_curate": text})
        write_sidecar(folder / f"{number}.parquet", table)
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def test_cosines_of_pairs(tmp_path, backend):
    random = np.random.default_rng(0)
    some = [tuple(random.normal(size=(2, 7))) for _ in range(6)]
    ds = with_pairs(tmp_path, some[:4], some[4:], backend=backend)
    saved = ClipScore()(ds).save_metadata(tmp_path / "out")
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in some]
    assert min(expected) < 0 < max(expected)
    np.testing.assert_allclose(column(saved, "clip_score"), expected, atol=1e-6)
    assert pq.read_schema(tmp_path / "out" / "0.parquet").field("clip_score").type == pa.float32()


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], []),
        ([([1, 0], [0, 2])], [0]),
        ([(None, None)], [None]),
        ([(None, [1, 0]), (None, [0, 1])], [None, None]),
        ([([1, 0], None), (None, [0, 1])], [None, None]),
        (
            [([3, 4], [6, 8]), (None, [1, 0]), ([1, 0], None), ([1, 0], [-1, 0])],
            [1, None, None, -1],
        ),
        ([([0, 0], [1, 0]), ([1, 0], [np.nan, 0]), ([np.inf, 0], [1, 0])], [None] * 3),
    ],
)
def test_rows_without_both_have_no_score(tmp_path, pairs, expected, backend):
    ds = with_pairs(tmp_path, pairs, [([1, 1], [1, 0])], backend=backend)
    saved = ClipScore()(ds).save_metadata(tmp_path / "out")
    found = column(saved, "clip_score")
    assert found.pop() == pytest.approx(0.5**0.5)
    assert found == expected


def test_many_rows_are_compared_in_blocks(tmp_path):
    angles = np.linspace(0, 6, 9001)
    pairs = [([1, 0], [np.cos(angle), np.sin(angle)]) for angle in angles]
    pairs[5000] = (None, [1, 0])
    found = column(ClipScore()(with_pairs(tmp_path, pairs)), "clip_score")
    assert found[5000] is None
    found[5000] = np.cos(angles[5000])
    np.testing.assert_allclose(found, np.cos(angles), atol=1e-6)


NUMBERS = arrays(np.float32, (3, 4), elements=st.floats(width=32))


@given(NUMBERS, NUMBERS)
@example(np.full((3, 4), 1e-40, np.float32), np.full((3, 4), 3e38, np.float32))
def test_a_cosine_or_nothing(a, b):
    found = cosines(a, b)
    assert found.dtype == np.float32
    for x, y, cosine in zip(a.astype(np.float64), b.astype(np.float64), found, strict=True):
        if np.isfinite([*x, *y]).all() and x.any() and y.any():
            x, y = x / np.abs(x).max(), y / np.abs(y).max()
            expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            assert cosine == pytest.approx(expected, abs=1e-6)
            assert -1 <= cosine <= 1
        else:
            assert np.isnan(cosine)


@pytest.mark.parametrize(
    ("encoders", "reason"),
    [
        (
            ("acme/a", "acme/b"),
            "'image_embedding' is made by 'acme/a' and 'text_embedding' is made by 'acme/b'",
        ),
        (("acme/a", None), "'text_embedding' is of unknown origin"),
        ((None, None), "'image_embedding' is of unknown origin"),
    ],
)
def test_encoders_that_are_not_known_to_be_one_are_refused(tmp_path, encoders, reason):
    ds = with_pairs(tmp_path, [([1, 0], [1, 0])], encoders=encoders)
    with pytest.raises(EncoderMismatchError, match=rf"{reason}.*check_encoder=False"):
        ClipScore()(ds)
    assert column(ClipScore(check_encoder=False)(ds), "clip_score") == [1]


def test_shards_of_different_encoders_are_refused(tmp_path):
    with_pairs(tmp_path, [([1, 0], [1, 0])], [([1, 0], [1, 0])])
    with_pairs(tmp_path / "new", [([1, 0], [1, 0])], encoders=("other", "other"))
    (tmp_path / "new" / "0.parquet").rename(tmp_path / "0.parquet")
    (tmp_path / "new" / "0.tar").unlink()
    with pytest.raises(EncoderMismatchError, match="not the same in all shards"):
        ClipScore()(ImageTextPairDataset.from_webdataset(tmp_path))


def test_different_widths_are_refused(tmp_path):
    ds = with_pairs(tmp_path, [([1, 0, 0], [1, 0])])
    reason = "3 values in column 'image_embedding', of 2 in 'text_embedding'"
    with pytest.raises(DatasetError, match=reason):
        ClipScore()(ds).save_metadata(tmp_path / "out")


@pytest.mark.parametrize("name", ["image_embedding_column", "text_embedding_column"])
def test_a_missing_column_is_named(tmp_path, name):
    ds = with_pairs(tmp_path, [([1, 0], [1, 0])])
    with pytest.raises(ColumnNotFoundError, match="no column 'caption_embedding'"):
        ClipScore(**{name: "caption_embedding"})(ds)


def test_columns_of_other_names(tmp_path):
    ds = with_pairs(tmp_path, [([1, 0], [1, 1])])
    ds = ClipScore("text_embedding", "text_embedding", "self")(ds)
    assert column(ds, "self") == [1]
    assert "clip_score" not in ds.metadata.columns


def test_what_was_compared_is_recorded_and_decides_what_is_computed_again(tmp_path):
    ds = with_pairs(tmp_path, [([1, 0], [1, 0])])

    def token(*names: str, **options) -> str:
        return Lineage(ClipScore(*names, **options)(ds).metadata).token

    assert token() == token(check_encoder=False)
    others = [
        token(pred_column="fit"),
        token("text_embedding"),
        token("text_embedding", "image_embedding"),
    ]
    assert len({token(), *others}) == 4
    record = ClipScore()(ds).save_metadata(tmp_path / "out").provenance["clip_score"]
    assert record["stage"] == "ClipScore"
    assert record["embedding_columns"] == ["image_embedding", "text_embedding"]
    assert record["embedding_encoders"] == ["acme/encoder", "acme/encoder"]


def test_one_score_is_filtered_by_in_the_same_run(tmp_path, client):
    ds = with_pairs(tmp_path, [([1, 0], [1, 0]), ([1, 0], [0, 1])], [(None, [1, 0])])
    kept = ClipScore()(ds).filter("clip_score >= 0.3").save_metadata(tmp_path / "out")
    assert column(kept, "key") == ["00000"]


def test_scores_of_mirrored_pictures(tmp_path, backend):
    """Beside the others, which stay what they are."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(4, 3, 7)).astype(np.float32)
    names = ["image_embedding", "image_embedding_flipped", "text_embedding"]
    columns = {
        name: pa.array([*part, None], LISTS)
        for name, part in zip(names, vectors.swapaxes(0, 1), strict=True)
    }
    records = {name: {"encoder": "acme/encoder"} for name in names}
    table = pa.table({"key": pa.array(list("abcde")), **columns}).replace_schema_metadata(
        {"nemo_image_curate": json.dumps({"columns": records}).encode()}
    )
    write_tar(tmp_path / "0.tar", [(f"{key}.txt", b"x") for key in "abcde"])
    write_sidecar(tmp_path / "0.parquet", table)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    saved = ClipScore(flip=True)(ds).save_metadata(tmp_path / "out")
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    for name, images in (("clip_score", unit[:, 0]), ("clip_score_flipped", unit[:, 1])):
        assert column(saved, name)[4] is None
        expected = (images * unit[:, 2]).sum(axis=1)
        np.testing.assert_allclose(column(saved, name)[:4], expected, atol=1e-6)
    assert column(ClipScore()(ds), "clip_score") == column(saved, "clip_score")
    assert saved.provenance["clip_score"] == ClipScore()(ds).provenance["clip_score"]
    record = saved.provenance["clip_score_flipped"]
    assert record["embedding_columns"] == ["image_embedding_flipped", "text_embedding"]
    tokens = {Lineage(ClipScore(flip=flip)(ds).metadata).token for flip in (True, False)}
    assert len(tokens) == 2


def test_scores_of_mirrored_pictures_need_their_embeddings(tmp_path):
    ds = with_pairs(tmp_path, [([1, 0], [1, 0])])
    with pytest.raises(ColumnNotFoundError, match=r"'image_embedding_flipped'. Embed .* flip=True"):
        ClipScore(flip=True)(ds)
