"""SoftCapSample: the closed forms, exact sums, the same for any partitions; goes on when killed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2

from nemo_image_curate import SoftCapSample
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.selection import draws
from nemo_image_curate.selection.draws import Rule
from tests.dedup.make_embeddings import write_embeddings
from tests.make_data import digests
from tests.selection.make_choices import rearranged, table, values

N = 400


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    scores = np.random.default_rng(0).normal(size=N).tolist()
    scores[3], scores[4] = None, float("nan")
    equal = [1.5] * N
    bad = ["a"] * N
    return write_embeddings(
        tmp_path_factory.mktemp("soft") / "data",
        [None] * N,
        110,
        score=scores,
        equal=equal,
        text=bad,
        whole=list(range(N)),
    )


def drawn(dataset, work, *args, **options):
    return np.array(values(SoftCapSample(*args, **options, work_dir=work)(dataset), "multiplicity"))


def test_draws_add_up_and_good_rows_come_more_often(dataset, tmp_path):
    counts = drawn(dataset, tmp_path, "score", 1000, penalty=0.5, batch=60)
    assert counts.dtype == int
    assert counts.sum() == 1000
    assert counts[3] == counts[4] == 0
    scores = np.array(values(dataset, "score"), dtype=float)
    best = np.argsort(np.where(np.isnan(scores), -np.inf, scores))
    assert counts[best[-40:]].mean() > 2 * counts[best[2:202]].mean()
    harder = drawn(dataset, tmp_path, "score", 1000, penalty=5, batch=60)
    assert harder.sum() == 1000
    assert harder.max() < counts.max()
    assert drawn(dataset, tmp_path, "score", 300, batch=60, hard_cap=1).max() == 1


@pytest.mark.parametrize("penalty", [float("inf"), 1000.0])
@pytest.mark.parametrize("n", [250, 900])
def test_equal_scores_are_drawn_equally_often(dataset, tmp_path, penalty, n):
    counts = drawn(dataset, tmp_path, "equal", n, penalty=penalty, batch=70)
    assert counts.sum() == n
    assert counts.max() - counts.min() == 1


def test_without_return_it_is_the_top_of_perturbed_scores(dataset, tmp_path):
    """Gumbel's top k is nested: of one seed and batch, more draws are the same ones and more."""
    few, many = (
        drawn(dataset, tmp_path, "score", n, penalty=float("inf"), batch=N) for n in (50, 200)
    )
    assert few.sum() == 50
    assert many.sum() == 200
    assert (few <= many).all()
    assert many.max() == 1


def test_the_first_draw_goes_by_the_softmax(dataset):
    # A temperature of 2 halves twice the logarithms of 1, 2, 3, 4.
    scores = 2 * np.log([1.0, 2, 3, 4])
    few = table(dataset).slice(0, 4)
    few = few.set_column(few.column_names.index("score"), "score", pa.array(scores))
    firsts = np.zeros(4)
    for seed in range(400):
        rule = Rule("key", "score", 0.15, 2.0, None, seed)
        _, order = rule.values(rule.rows(few), np.zeros(4, dtype=np.int32), 0)
        firsts[order[0].argmin()] += 1
    odds = np.array([1, 2, 3, 4]) / 10 * 400
    assert (np.square(firsts - odds) / odds).sum() < chi2.ppf(0.999, 3)


def test_the_same_for_any_partitions_and_workers(dataset, tmp_path, request):
    options = {"weights": "score", "n": 500, "batch": 150}
    stage = SoftCapSample(**options, work_dir=tmp_path / "work")
    alone = table(stage(dataset))
    assert table(stage(rearranged(dataset))).equals(alone)
    stage(dataset).save_metadata(tmp_path / "alone")
    request.getfixturevalue("client")
    SoftCapSample(**options, work_dir=tmp_path / "two")(dataset).save_metadata(tmp_path / "saved")
    assert digests(tmp_path / "saved") == digests(tmp_path / "alone")
    others = drawn(dataset, tmp_path / "work", **options, random_state=1)
    assert others.tolist() != alone["multiplicity"].to_pylist()


@pytest.mark.parametrize("after", ["before the cut", "after the cut"])
def test_a_run_that_was_stopped_goes_on(dataset, tmp_path, monkeypatch, after):
    options = {"weights": "score", "n": 500, "batch": 100}
    whole = drawn(dataset, tmp_path / "whole", **options)
    lowest, calls = draws.lowest, []

    class Stopped(Exception):
        pass

    def stopping(*args):
        calls.append(args)
        cuts = lowest(*args)
        if len(calls) == 3 and after == "before the cut":
            raise Stopped
        return cuts

    save = draws.Draws.save

    def saving(self, path):
        save(self, path)
        if len(self.cuts) == len(calls) == 3 and after == "after the cut":
            raise Stopped

    monkeypatch.setattr(draws, "lowest", stopping)
    monkeypatch.setattr(draws.Draws, "save", saving)
    with pytest.raises(Stopped):
        drawn(dataset, tmp_path / "work", **options)
    assert (drawn(dataset, tmp_path / "work", **options) == whole).all()
    assert len(calls) == (6 if after == "before the cut" else 5)
    assert not list((tmp_path / "work").rglob("values-*")), "only cuts stay"


def test_numbers_of_numpy_are_numbers(dataset, tmp_path):
    stage = SoftCapSample("score", np.int32(50), np.float32(0.5), work_dir=tmp_path / "work")
    stage(dataset).save_metadata(tmp_path / "saved")
    saved = dataset.from_webdataset(tmp_path / "saved", backend="cpu")
    assert sum(values(saved, "multiplicity")) == saved.provenance["multiplicity"]["n"] == 50


def test_no_row_is_left(dataset, tmp_path, caplog):
    assert drawn(dataset, tmp_path, "score", 2000, hard_cap=2).sum() == 2 * (N - 2)
    assert "only 796 of n=2,000 draws were made" in caplog.text
    assert drawn(dataset, tmp_path, "whole", 0).sum() == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": -1}, ConfigError, "n=-1 should be an integer of at least 0"),
        ({"penalty": -0.1}, ConfigError, "penalty=-0.1 should be a number of at least 0"),
        ({"penalty": float("nan")}, ConfigError, "penalty=nan should be a number"),
        ({"batch": 0}, ConfigError, "batch=0 should be an integer of at least 1"),
        ({"hard_cap": 0}, ConfigError, "hard_cap=0 should be an integer of at least 1"),
        ({"temperature": 0}, ConfigError, "temperature=0 should be a number above 0"),
        ({"weights": "text"}, ConfigError, "weights='text' should be a column of numbers"),
        ({"weights": "scores"}, ColumnNotFoundError, "Did you mean 'score'"),
    ],
)
def test_what_cannot_be(dataset, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        SoftCapSample(**{"weights": "score", "n": 5, **options}, work_dir=tmp_path)(dataset)
