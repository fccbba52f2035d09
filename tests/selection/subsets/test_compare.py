"""compare_subsets: what differs is found, what does not is not, and no row is lost in silence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset, SubsetComparison, compare_subsets
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.selection.subsets import taken
from tests.selection.make_choices import rearranged
from tests.selection.subsets.make_pairs import ROWS, ColourEmbedder, write_pairs

QUICK = {"samples_seen": 600, "batch_size": 30, "seeds": 2, "held_out": 0.3}
PARTS = {"chosen": "score > -1", "noisy": "score <= -1"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ImageTextPairDataset:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "tars")


@pytest.fixture(scope="module")
def compared(dataset) -> SubsetComparison:
    return compare_subsets(dataset, PARTS, **QUICK | {"samples_seen": 900, "seeds": 4})


def test_pairs_that_fit_are_better(compared):
    assert compared.verdict("chosen", "noisy") == "better"
    assert compared.verdict("noisy", "chosen") == "worse"
    assert compared.verdicts == {("chosen", "noisy"): "better"}
    first = compared.differences.iloc[0]
    assert first["low"] > 0
    means = compared.table["retrieval"]
    assert first["difference"] == pytest.approx(means["chosen"] - means["noisy"])


def test_random_halves_show_no_difference(dataset):
    is_first = np.random.default_rng(0).random(ROWS) < 0.5
    halves = {"first": is_first, "second": ~is_first}
    assert compare_subsets(dataset, halves, **QUICK).verdict("first", "second") == (
        "no difference shown"
    )


def test_all_rows_are_accounted_for(compared):
    counts = ["no_image", "no_text", "kept_out", "leaks", "not_sampled", "trained_on"]
    table = compared.table
    assert (table[counts].sum(axis=1) == table["rows"]).all()
    assert table["rows"].sum() == compared.about["rows"] == ROWS
    assert table["kept_out"].sum() == compared.about["held_out"]
    assert not table["not_sampled"].any()


def test_it_is_the_same_however_rows_lie_and_subsets_are_given(dataset, tmp_path):
    ds = rearranged(dataset)
    dataset.filter("score <= -1").to_selection(tmp_path / "noisy.parquet")
    other = compare_subsets(
        ds,
        {"chosen": ds.metadata["score"] > -1, "noisy": tmp_path / "noisy.parquet"},
        **QUICK,
    )
    assert other.to_dict() == compare_subsets(dataset, PARTS, **QUICK).to_dict()


def test_a_comparison_is_read_back(compared, tmp_path):
    compared.save(tmp_path / "new" / "compared.json")
    read = SubsetComparison.load(tmp_path / "new" / "compared.json")
    assert repr(read) == repr(compared)
    assert "A proxy" in repr(read)
    assert "chosen" in read._repr_html_()
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DatasetError, match="no comparison of subsets"):
        SubsetComparison.load(tmp_path / "other.json")


def test_copies_of_held_out_rows_are_not_trained_on(dataset):
    # Each row has a copy; of some both are held out, or neither.
    frame = dataset.metadata
    pair = frame["number"] // 2
    tied = dataset.replace(frame.assign(sha256=pair.astype(str), none_duplicate_of=None))
    compared = compare_subsets(
        tied, {"even": frame["number"] % 2 == 0, "odd": frame["number"] % 2 == 1}, **QUICK
    )
    leaks = compared.table["leaks"]
    assert leaks.sum() == compared.about["leaks"]["sha256"] > 0
    # A pair is left whole or not at all.
    assert compared.table["trained_on"].nunique() == 1


def test_held_out_rows_can_be_named(dataset):
    compared = compare_subsets(
        dataset, {"chosen": "score > -1", "all": None}, **QUICK | {"held_out": "number < 90"}
    )
    assert compared.about["held_out"] == compared.table.loc["all", "kept_out"] == 90


def test_labels_are_told_by_prompts(dataset):
    compared = compare_subsets(
        dataset,
        {"chosen": "score > -1", "all": None},
        label_column="colour",
        embedder=ColourEmbedder("colours"),
        templates=["a {}.", "something {}."],
        **QUICK,
    )
    labelled = compared.about["labelled"]
    assert 0 < labelled < compared.about["held_out"]
    assert compared.about["classes"] == 4
    assert compared.table.loc["chosen", "zero_shot_top1"] > 0.33
    assert f"{labelled} held-out rows have a label, of 4 classes" in repr(compared)
    assert compared.verdict("chosen", "all", "zero_shot_top1")


def test_texts_of_an_unknown_encoder_need_one_for_prompts(dataset):
    with pytest.raises(ConfigError, match="give the embedder that made them as embedder="):
        compare_subsets(dataset, {"low": "score > -1", "all": None}, label_column="colour", **QUICK)


def test_rows_without_embeddings_are_counted(tmp_path):
    texts = [None if number % 4 == 0 else [1.0, float(number)] for number in range(ROWS)]
    dataset = write_pairs(tmp_path / "tars", text_embedding=texts)
    compared = compare_subsets(dataset, {"low": "number < 200", "all": None}, **QUICK)
    assert compared.table["no_text"].to_dict() == {"low": 50, "all": 100}


def test_large_subsets_are_sampled(dataset, monkeypatch):
    monkeypatch.setattr(taken, "MOST_ROWS", 180)
    monkeypatch.setattr(taken, "MOST_HELD_OUT", 50)
    compared = compare_subsets(dataset, {"chosen": "score > -1", "all": None}, **QUICK)
    assert 30 < compared.about["held_out"] < 70
    assert 140 < compared.table.loc["all", "trained_on"] < 220
    assert compared.table["not_sampled"].all()
    assert "the same share of each" in repr(compared)


@pytest.mark.parametrize(
    ("subsets", "options", "told"),
    [
        ({"one": None}, {}, "two subsets or more"),
        ({"none": "score > 99", "all": None}, {}, "subset 'none' has no rows"),
        ({"few": "number < 50", "all": None}, {}, "subset 'few' is too small"),
        ({"all": None, "every": "number >= 0"}, {}, "have the same rows"),
        ({"all": None, "array": np.ones(3, bool)}, {}, "has 3 values, the dataset 400 rows"),
        ({"all": None, "array": np.ones(ROWS)}, {}, "is ndarray of float64"),
        ({"all": None, "array": pa.array([True, None])}, {}, "has 2 values"),
        ({"all": None, "array": pa.array([1, 2])}, {}, "is Int64Array of int64"),
        ({"all": None, "low": "number < 200"}, {"held_out": 0.01}, "a larger held_out="),
        ({"all": None, "low": "number < 200"}, {"held_out": 1.0}, "held_out=1.0"),
        ({"all": None, "low": "number < 200"}, {"samples_seen": 300}, "fewer than 20 batches"),
        ({"all": None, "low": "number < 200"}, {"baseline": "x"}, "baseline='x' is none"),
        ({"all": None, "low": "number < 200"}, {"label_column": "number"}, "give one of texts"),
    ],
)
def test_what_cannot_be_compared_is_refused(dataset, subsets, options, told):
    with pytest.raises(ConfigError, match=told):
        compare_subsets(dataset, subsets, **QUICK | options)


def test_missing_labels_are_told(dataset):
    with pytest.raises(ColumnNotFoundError, match="colour"):
        compare_subsets(dataset, {"low": "number < 200", "all": None}, label_column="color")


def test_missing_embeddings_are_told_with_the_command_that_makes_them(dataset):
    without = dataset.replace(dataset.metadata.drop(columns=["text_embedding"]))
    with pytest.raises(ColumnNotFoundError, match="embed DATASET --model offline-conse"):
        compare_subsets(without, {"low": "number < 200", "all": None})
