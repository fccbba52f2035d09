"""The normalised CLIP score against its formula in NumPy, written plainly over all pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset, NegClipLoss
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError
from nemo_image_curate.vectors.sampling import random_score
from tests.make_data import digests, write_sidecar, write_tar
from tests.make_embedders import column, rows

LISTS = pa.list_(pa.float32())
DIM = 16
SIZES = (40, 0, 25, 1)


def some_pairs(n: int, seed: int = 0) -> list[tuple]:
    """Captions are near to their images, and some rows lack one of both or its direction."""
    chance = np.random.default_rng(seed)
    images = chance.normal(size=(n, DIM)) + 0.7
    texts = images + chance.normal(size=(n, DIM))
    pairs: list[tuple] = list(zip(images, texts, strict=True))
    # Copies: cosines of 1.
    pairs[3] = (images[3], images[3])
    pairs[5:8] = [(None, texts[5]), (images[6], None), (images[7], np.zeros(DIM))]
    return pairs


def write(folder: Path, shards: list[list[tuple]], backend: str = "cpu") -> ImageTextPairDataset:
    names = ("image_embedding", "text_embedding")
    records = {"columns": {name: {"encoder": "acme/encoder"} for name in names}}
    start = 0
    for shard, pairs in enumerate(shards):
        keys = [f"{row:04d}" for row in range(start, start + len(pairs))]
        start += len(pairs)
        write_tar(folder / f"{shard}.tar", [(f"{key}.txt", b"x") for key in keys])
        columns = {"key": pa.array(keys, pa.string())}
        for side, name in enumerate(names):
            vectors = [pair[side] for pair in pairs]
            lists = [None if one is None else np.float32(one) for one in vectors]
            columns[name] = pa.array(lists, LISTS)
        metadata = {"nemo_image_curate": json.dumps(records).encode()}
        table = pa.table(columns).replace_schema_metadata(metadata)
        write_sidecar(folder / f"{shard}.parquet", table)
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


PAIRS = some_pairs(sum(SIZES))
SCORED = [row for row in range(len(PAIRS)) if row not in (5, 6, 7)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    cuts = np.cumsum(SIZES)[:-1]
    write(root, [list(part) for part in np.split(np.array(PAIRS, dtype=object), cuts)])
    return root


@pytest.fixture
def ds(root, backend):
    return ImageTextPairDataset.from_webdataset(root, backend=backend)


def formula(row: int, batch: list[int], temperature: float) -> float:
    """What the score of a row is in a batch that it is in."""

    def unit(index: int, side: int) -> np.ndarray:
        vector = np.float32(PAIRS[index][side]).astype(np.float64)
        return vector / np.linalg.norm(vector)

    images = np.array([unit(index, 0) for index in batch])
    texts = np.array([unit(index, 1) for index in batch])
    x, y = unit(row, 0), unit(row, 1)

    def log_sum(cosines: np.ndarray) -> float:
        exponents = cosines / temperature
        return exponents.max() + math.log(np.exp(exponents - exponents.max()).sum())

    return x @ y - temperature / 2 * (log_sum(texts @ x) + log_sum(images @ y))


def batch_of(row: int, order: list[int], size: int) -> list[int]:
    return [row, *[other for other in order if other != row][: size - 1]]


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("options", [{"batch": "all", "batch_size": 2}, {"batch_size": 100}])
def test_of_all_rows(ds, tmp_path, temperature, options):
    stage = NegClipLoss(temperature, work_dir=tmp_path / "work", **options)
    saved = stage(ds).save_metadata(tmp_path / "out")
    found = column(saved, "neg_clip_loss")
    assert [row for row, value in enumerate(found) if value is None] == [5, 6, 7]
    expected = [formula(row, SCORED, temperature) for row in SCORED]
    np.testing.assert_allclose([found[row] for row in SCORED], expected, atol=1e-5)
    assert max(found[row] for row in SCORED) <= 0
    assert column(saved, "neg_clip_loss_error") == [None] * len(PAIRS)


@pytest.mark.parametrize(("size", "repeats"), [(10, 3), (20, 7), (2, 1)])
def test_of_batches_that_are_drawn_by_hash(ds, tmp_path, size, repeats):
    """Each row with the first others of some that a hash of the keys puts in order."""
    stage = NegClipLoss(batch_size=size, repeats=repeats, random_state=4, work_dir=tmp_path)
    found = rows(stage(ds))
    keys = pa.array([f"{row:04d}" for row in SCORED])
    of_order = len(SCORED) // size
    scores = []
    for repeat in range(repeats):
        hashes = random_score(keys, 4 + repeat // of_order)
        order = [SCORED[place] for place in np.argsort(hashes)]
        start = repeat % of_order * size
        drawn = order[start : start + size]
        scores.append([formula(row, batch_of(row, drawn, size), 0.01) for row in SCORED])
    means = np.mean(scores, axis=0)
    np.testing.assert_allclose([found[row]["neg_clip_loss"] for row in SCORED], means, atol=1e-5)
    errors = [found[row]["neg_clip_loss_error"] for row in SCORED]
    if repeats == 1:
        assert errors == [None] * len(SCORED)
    else:
        expected = np.std(scores, axis=0, ddof=1) / math.sqrt(repeats)
        np.testing.assert_allclose(errors, expected, atol=1e-5)
    assert all(found[row]["neg_clip_loss"] is None for row in (5, 6, 7))


def test_partitions_and_workers_do_not_show(root, tmp_path, client):
    ds = ImageTextPairDataset.from_webdataset(root, backend="cpu")
    names = ["key", "neg_clip_loss", "neg_clip_loss_error"]
    for options in ({"batch": "all"}, {"batch_size": 10, "repeats": 8}):
        stage = NegClipLoss(work_dir=tmp_path, **options)
        made = [rows(stage(ds.replace(ds.metadata.repartition(npartitions=n)))) for n in (4, 1)]
        many, one = (sorted(tuple(row[name] for name in names) for row in each) for each in made)
        assert many == one


def test_copies_of_one_pair_do_not_overflow(tmp_path):
    """A sum of exp(cosine / T) in float32 is infinite for cosines above 0.887."""
    same = [([3, 4], [3, 4])] * 300
    ds = write(tmp_path / "in", [same])
    found = column(NegClipLoss(batch="all", work_dir=tmp_path)(ds), "neg_clip_loss")
    np.testing.assert_allclose(found, -0.01 * math.log(300), atol=1e-6)


def test_an_interrupted_job_goes_on_and_the_same_again_is_done(ds, tmp_path):
    def run():
        stage = NegClipLoss(batch_size=10, repeats=2, work_dir=tmp_path / "work")
        return stage(ds).save_metadata(tmp_path / "out")

    run()
    whole = digests(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    (tmp_path / "out" / "2.parquet").unlink()
    run()
    again = digests(tmp_path / "out")
    assert {name: again[name] for name in again if name.endswith(".parquet")} == {
        name: whole[name] for name in whole if name.endswith(".parquet")
    }
    kept = {path for path, time in times.items() if path.stat().st_mtime_ns == time}
    assert {path.name for path in times} - {path.name for path in kept} == {"2.parquet"}


def test_two_encoders_stand_side_by_side_and_what_was_done_is_recorded(ds, tmp_path):
    one = NegClipLoss(batch="all", prefix="learner_", work_dir=tmp_path)(ds)
    both = NegClipLoss(batch="all", prefix="reference_", work_dir=tmp_path)(one)
    row = rows(both)[0]
    assert row["learner_neg_clip_loss"] == row["reference_neg_clip_loss"] < 0
    record = both.provenance["learner_neg_clip_loss"]
    assert record["stage"] == "NegClipLoss"
    assert (record["temperature"], record["batch"]) == (0.01, "all")
    assert record["embedding_encoders"] == ["acme/encoder"] * 2
    assert json.dumps(record)


def test_what_counts_is_part_of_the_token(root, ds, tmp_path):
    def token(dataset=ds, **options) -> str:
        stage = NegClipLoss(batch_size=10, **{"work_dir": tmp_path / "a", **options})
        return Lineage(stage(dataset).metadata).token

    assert token() == token(check_encoder=False) == token(work_dir=tmp_path / "b")
    others = [token(random_state=1), token(repeats=2), token(batch="all"), token(temperature=0.02)]
    assert len({token(), token(prefix="own_"), *others}) == 6
    # Other rows are compared with.
    assert token(ds.filter("key != '0004'")) != token()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temperature": 0}, "temperature=0 should be a number above 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"batch_size": 1}, "batch_size=1 should be an integer of at least 2"),
        ({"repeats": 0}, "repeats=0 should be"),
        ({"repeats": 1.5}, "repeats=1.5 should be"),
        ({"batch": "some"}, "batch='some' should be one of 'hash', 'all'"),
    ],
)
def test_unusable_settings_are_refused(ds, options, reason):
    with pytest.raises(ConfigError, match=reason):
        NegClipLoss(**options)(ds)


def test_columns_of_two_encoders_are_refused(ds, tmp_path):
    ds.provenance["text_embedding"] = {"encoder": "someone/else"}
    with pytest.raises(EncoderMismatchError, match=r"NegClipLoss .* 'someone/else'.*check_encoder"):
        NegClipLoss()(ds)
    made = NegClipLoss(check_encoder=False, batch="all", work_dir=tmp_path)(ds)
    assert column(made, "neg_clip_loss")[0] < 0


def test_columns_of_unknown_encoders_are_taken_as_they_are(ds, tmp_path):
    ds.provenance.clear()
    made = NegClipLoss(batch="all", work_dir=tmp_path)(ds)
    assert column(made, "neg_clip_loss")[0] < 0
    ds.provenance["text_embedding"] = {"encoder": "someone/else"}
    with pytest.raises(EncoderMismatchError, match="of unknown origin"):
        NegClipLoss(work_dir=tmp_path)(ds)


def test_different_widths_are_refused(tmp_path):
    ds = write(tmp_path / "in", [[([1, 0, 0], [1, 0]), ([0, 1, 0], [0, 1])]])
    with pytest.raises(DatasetError, match="3 values in column 'image_embedding', of 2 in"):
        NegClipLoss(work_dir=tmp_path)(ds).metadata.compute()


def test_a_dataset_without_pairs(tmp_path):
    ds = write(tmp_path / "in", [[(None, None), ([1, 0], None)]])
    for options in ({}, {"batch": "all"}):
        made = rows(NegClipLoss(work_dir=tmp_path, **options)(ds))
        assert [row["neg_clip_loss"] for row in made] == [None, None]
