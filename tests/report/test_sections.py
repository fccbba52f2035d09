"""Duplicates, eps, clusters, leaks, the map and a comparison: against what is known of the rows."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.report import (
    clusters,
    columns,
    compare,
    duplicates,
    eps,
    leaks,
    map,
    overview,
    steps,
)
from nemo_image_curate.report.page import report_page
from nemo_image_curate.report.settings import Settings
from tests.report.sets import COPIES, GROUPS, rows, vectors, write
from tests.report.test_page import Page

_RECORD = {"stage": "SemanticDedup", "keep": "best", "by": ["-sharpness", "key"], "eps": 0.2}
_RECORD |= {"embedding_column": "image_embedding", "rule": "greedy"}
QUIET = Settings(progress=False)


def leaking() -> list[dict]:
    """The rows with leaks among them, and one that could not be compared."""
    made = []
    for row in rows():
        number = int(row["key"])
        leak = {
            "is_leak": number % 10 == 0,
            "leak_of": f"{number % 3:04d}" if number < 50 else None,
            "leak_of_shard": "00000.tar" if number < 50 else None,
            "leak_of_dataset": ("val", "<test>")[number % 2] if number < 50 else None,
            "leak_similarity": 1 - (number % 10) / 20 if number < 50 else None,
            "leak_by": "perceptual" if number % 10 == 0 and number < 50 else None,
            "leak_error": "no hash" if number == 55 else None,
        }
        if number == 50:
            leak["is_leak"] = False
        made.append({**row, **leak})
    return made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = write(tmp_path_factory.mktemp("sections"), leaking(), 3)
    made.provenance |= dict.fromkeys(["is_duplicate", "cluster"], _RECORD)
    made.provenance["is_leak"] = {"reference": ["val", "<test>", "none"], "by": ["perceptual"]}
    made.provenance["is_leak"]["radius"] = 6
    return made


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return write(tmp_path_factory.mktemp("reference"), rows()[:3], 1)


@pytest.fixture(scope="module")
def page(dataset, reference):
    settings = Settings(progress=False, against=reference, references={"val": reference})
    return report_page(dataset, settings)


def test_the_title_names_both_datasets(page, dataset, reference):
    first, second = compare.names_of(dataset, reference)
    assert f"<title>{first} against {second}: report</title>" in page
    assert f"<h1>{first} against {second}</h1>" in page


def test_groups_have_the_kept_row_first_and_say_why_it_stays(dataset, page):
    (found,) = duplicates.gather(dataset, QUIET)
    assert found.found.duplicates == GROUPS * (COPIES - 1)
    assert found.found.n_groups == GROUPS
    for group in found.found.groups:
        kept, *others = group.rows.to_pylist()
        assert not kept["is_duplicate"]
        assert {row["duplicate_of"] for row in others} == {kept["key"]}
    text = Page(page).text("duplicates")
    assert "stays: the one of the lowest sharpness, then highest key" in text
    assert f"{GROUPS * (COPIES - 1)} of {GROUPS * COPIES} rows are duplicates" in text
    assert "32 x 24 pixels" in text


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"keep": "first"}, "first by its key"),
        ({"keep": "random", "random_state": 3}, "seed 3"),
        ({"keep": "hard"}, "least like the centroid"),
        ({"keep": "best", "by": "width"}, "highest width"),
        ({}, "not recorded"),
    ],
)
def test_the_reason_is_that_of_the_keep_rule(record, words):
    assert words in duplicates.reason_of(record)


def test_a_kept_row_that_is_gone_is_said_to_be(dataset):
    left = dataset.filter("is_duplicate")
    text = report_page(left, QUIET)
    assert "the one that stays is not in this dataset" in text
    assert "00000.tar: not in this dataset" in text


def test_the_curve_counts_every_row_where_the_sample_is_all(dataset):
    curve = eps.gather(dataset, QUIET)
    assert (curve.rows, curve.sampled, curve.without) == (60, 59, 1)
    counts = [one.count for one in curve.removals]
    assert counts == sorted(counts)
    assert all(one.low <= one.count <= one.high for one in curve.removals)
    bounds = [one.eps for one in curve.removals[:: curve.each]]
    assert bounds == pytest.approx([round(bound, 2) for bound in bounds])
    assert (curve.done.eps, curve.done.count) == (0.2, GROUPS * (COPIES - 1))
    every = vectors()
    for before, last, pairs in zip(bounds, bounds[1:], curve.examples, strict=False):
        for row, other in zip(pairs.rows.to_pylist(), pairs.partners.to_pylist(), strict=True):
            cosine = every[int(row["key"])] @ every[int(other["key"])]
            assert 1 - last - 1e-5 <= cosine <= 1 - before + 1e-5


def test_an_interval_of_a_proportion_is_that_of_scipy():
    from scipy.stats import binomtest

    for hits, total in ((0, 10), (3, 40), (500, 501)):
        expected = binomtest(hits, total).proportion_ci(method="wilson")
        assert eps.wilson(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_clusters_have_their_middle_edge_words_and_share(dataset):
    found = clusters.gather(dataset, QUIET)
    assert found.kept == "selected"
    every = vectors().astype(np.float64)
    for one in found.shown:
        own = [row for row in leaking() if row["cluster"] == one.number]
        numbers = [int(row["key"]) for row in own if row["image_embedding"] is not None]
        middle = every[numbers].sum(axis=0)
        distance = 1 - every[numbers] @ (middle / np.linalg.norm(middle))
        assert (one.rows, one.kept) == (len(own), sum(row["selected"] for row in own))
        assert one.distance == pytest.approx(distance.mean(), abs=1e-6)
        order = [f"{numbers[place]:04d}" for place in np.argsort(distance)]
        assert one.medoids["key"].to_pylist() == order[:4]
        assert one.farthest["key"].to_pylist() == order[: -4 - 1 : -1]
        # "here" is in all captions.
        assert one.words == [("dog", "snow", "car")[one.number]]


def test_leaks_are_beside_the_reference_that_is_given(dataset, page):
    (found,) = leaks.gather(dataset, QUIET)
    assert found.summary.leaks.total() == 5
    text = Page(page).text("leaks")
    assert "5 of 60 rows are leaks" in text
    assert "1 could not be compared" in text
    assert "shown with --reference <test>=DATASET" in text
    assert re.search(r"none\s*0\s*0", text)
    assert 'ds.filter("not is_leak and leak_error.isna()")' in text


def test_the_map_has_each_row_its_class_and_its_condition(dataset, page):
    found = map.gather(dataset, QUIET)
    assert found.points.sample.without == 1
    told = json.loads(re.search(r'id="map-data">(.*?)</script>', page)[1])
    assert len(told["keys"]) == len(told["places"]) == 59
    columns = {one["column"]: one for one in told["colourings"]}
    assert told["colourings"][0]["column"] == "cluster"
    assert {"selected", "is_leak", "sharpness"} <= columns.keys()
    assert len(columns["caption"]["members"]) == 3
    for column in ("cluster", "selected", "sharpness"):
        for colour, _, condition in columns[column]["members"]:
            chosen = dataset.filter(condition).metadata["key"].compute()
            own = [
                key
                for key, one in zip(told["keys"], columns[column]["classes"], strict=True)
                if int(one) == colour
            ]
            # The one row without an embedding is on no map.
            assert set(own) == set(chosen) - {"0007"}


def test_two_datasets_are_compared(dataset, reference, page):
    found = compare.gather(dataset, Settings(progress=False, against=reference))
    assert not found.join.by_shard
    assert (found.found.both, found.found.only) == (3, (57, 0))
    text = Page(page).text("comparison")
    assert "Columns only in" in text
    assert "is_leak" in text


def test_other_settings_of_a_column_are_told(dataset, reference):
    other = ImageTextPairDataset.from_webdataset(dataset.path, backend="cpu")
    other.provenance["is_duplicate"] = {**_RECORD, "eps": 0.3, "preprocessing": {"size": 7}}
    found = compare.gather(dataset, Settings(progress=False, against=other))
    assert found.names[1].endswith("(again)")
    assert found.found.changed == {}
    text = re.sub("<[^>]*>", " ", compare.render(found, None))
    assert re.search(r"is_duplicate\s+eps\s+0.2\s+0.3", text)
    assert re.search(r"preprocessing.size\s+not recorded\s+7", text)
    assert "All columns that both have hold the same values" in text


def test_what_made_the_columns_is_a_recipe_with_the_conditions(dataset):
    condition = "not is_duplicate and caption != '</pre>'"
    text = steps.gather(dataset, Settings(progress=False, conditions=(condition,)))
    recipe = Recipe.parse(text, "report")
    names = [step.name for step in recipe.steps]
    assert names == ["SemanticDedup", "filter", "save"]
    assert recipe.steps[0].options["eps"] == 0.2
    assert recipe.steps[1].options == {"condition": condition}
    # What cannot be told is a comment.
    assert "# is_leak" in text
    assert "&lt;/pre&gt;" in steps.render(text, None)
    bare = dataset.replace(dataset.metadata)
    bare.provenance = {}
    assert steps.gather(bare, QUIET) is None


def test_a_run_that_is_no_recipe_is_told(dataset, tmp_path):
    (tmp_path / "_run.json").write_text(json.dumps({"command": "run", "recipe": "steps: 3"}))
    moved = dataset.replace(dataset.metadata)
    moved.home = str(tmp_path)
    problem = steps.gather(moved, QUIET)
    assert "No recipe: " in steps.render(problem, None)
    assert "steps" in str(problem)
    (tmp_path / "_run.json").write_text("[" * 100_000)
    assert overview.gather(moved, QUIET).run == {}
    assert steps.gather(moved, QUIET) is not None


def test_columns_may_be_called_as_those_of_sections(tmp_path):
    """The same rows are chosen, and values of the columns are those of the dataset."""
    taken = ("part", "bits", "nearest", "nearest_shard", "nearest_similarity")
    taken += ("distance_to_centroid", "in")
    made = [{**row, **dict.fromkeys(taken, "own")} for row in rows()]
    named, plain = write(tmp_path / "named", made, 2), write(tmp_path / "plain", rows(), 2)

    def shown(one):
        tables = [pairs.rows for pairs in eps.gather(one, QUIET).examples]
        tables += [cluster.farthest for cluster in clusters.gather(one, QUIET).shown]
        strips = [column.strips for column in columns.gather(one, QUIET).columns]
        tables += [strip.table for each in strips for strip in each.values()]
        return tables

    assert [table["key"] for table in shown(named)] == [table["key"] for table in shown(plain)]
    assert {value for table in shown(named) for value in table["part"].to_pylist()} == {"own"}
    text = report_page(named, Settings(progress=False, against=plain))
    assert "Columns only in named" in text
    assert not compare.gather(named, Settings(progress=False, against=plain)).found.changed
