"""Decisions made by many tasks, each over few rows, are those that are made of all at once."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nemo_image_curate import ExactDedup, ImageTextPairDataset, PerceptualDedup, SemanticDedup
from nemo_image_curate.dedup import extraction, staged
from nemo_image_curate.dedup.keep import keep_scores, keep_sorted, sort_table
from nemo_image_curate.dedup.rules import RULES, Pairs, decide
from nemo_image_curate.stages.base import Stage
from tests.make_embedders import rows

SCORES = [None, 0.0, 1.0, -np.inf, np.inf, np.nan]


def make(folder: Path, seed: int, sizes: list[int]) -> ImageTextPairDataset:
    """Rows of few keys, hashes near each other, equal digests and alike embeddings, and nulls."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chance, n = np.random.default_rng(seed), sum(sizes)
    hashes = chance.integers(0, 2**64, 4, dtype=np.uint64)[chance.integers(0, 4, (2, n))]
    for _ in range(5):
        flipped = np.uint64(1) << chance.integers(0, 64, hashes.shape, dtype=np.uint64)
        hashes = np.where(chance.random(hashes.shape) < 0.6, hashes ^ flipped, hashes)
    vectors = chance.standard_normal((3, 8))[chance.integers(0, 3, n)]
    vectors = vectors + chance.standard_normal((n, 8)) * chance.choice([0, 0.1, 0.3], (n, 1))
    no_hash = chance.random(n) < 0.1
    contents = [hashlib.sha256(str(one).encode()).hexdigest() for one in range(max(1, n // 2))]
    table = pa.table(
        {
            "key": pa.array([f"k{one}" for one in chance.integers(0, n + 1, n)], pa.string()),
            "phash": pa.array(hashes[0], mask=no_hash),
            "phash_flipped": pa.array(hashes[1], mask=no_hash),
            "image_sha256": pa.array([str(chance.choice(contents)) for _ in range(n)], pa.string()),
            "score": pa.array([SCORES[one] for one in chance.integers(0, 6, n)], pa.float64()),
            "size": pa.array(chance.integers(0, 3, n), mask=chance.random(n) < 0.2),
            "image_embedding": pa.array(
                [None if one[0] > 1.5 else one for one in vectors.astype(np.float32)],
                pa.list_(pa.float32()),
            ),
        }
    )
    start = 0
    for number, size in enumerate(sizes):
        pq.write_table(table[start : start + size], folder / f"{number:05d}.parquet")
        with tarfile.open(folder / f"{number:05d}.tar", "w"):
            start += size
    return ImageTextPairDataset.from_webdataset(folder, backend="cpu")


def keeps(*policies: str) -> st.SearchStrategy[dict]:
    by = st.sampled_from(["score", ["score", "-size"], ["-size", "score"]])
    return st.builds(
        lambda keep, by: {"keep": keep, "by": by if keep == "best" else None},
        st.sampled_from(policies),
        by,
    )


COLUMNS = keeps("first", "random", "best")
EXACT = COLUMNS.map(lambda keep: ExactDedup(**keep))
PERCEPTUAL = st.builds(
    lambda keep, **options: PerceptualDedup(**keep, **options),
    COLUMNS,
    radius=st.integers(0, 9),
    flips=st.booleans(),
    rule=st.sampled_from(RULES),
)
SEMANTIC = st.builds(
    lambda keep, **options: SemanticDedup(**keep, **options),
    keeps("first", "random", "best", "hard", "easy"),
    eps=st.sampled_from([0.01, 0.1, 0.3]),
    n_clusters=st.integers(1, 4),
    n_probe=st.integers(1, 3),
    rule=st.sampled_from(RULES),
)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=7)
SETTINGS = settings(
    max_examples=8,
    # To look for a smaller example would take minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "BLOCK_ROWS", 3)
    # So that the greedy rule has to look again.
    monkeypatch.setattr(extraction, "_LIMIT", 2)


def run(stage: Stage, ds: ImageTextPairDataset, work: Path) -> list[dict]:
    shutil.rmtree(work, ignore_errors=True)
    stage.work_dir = work
    if not isinstance(stage, SemanticDedup):
        # As if they were made by the stage that makes them.
        records = stage.measure().provenance()
        ds = ds.replace(ds.metadata, {name: records[name] for name in stage.inputs()})
    return rows(stage(ds))


def in_memory(stage: ExactDedup | PerceptualDedup, rows_before: list[dict]) -> Iterator[tuple]:
    """Whether each row goes, for which, and how near that is: every pair of rows compared."""
    n = len(rows_before)
    kinds = {"key": pa.string(), "score": pa.float64(), "size": pa.int64()}
    columns = {name: [row[name] for row in rows_before] for name in kinds}
    table = pa.table(columns, schema=pa.schema(kinds))
    order = np.arange(n)
    if stage.keep != "first":
        scores = keep_scores(stage.keep, stage.by, stage.random_state, table, "key")
        order = keep_sorted(sort_table(scores, table["key"], order))
    values = [[row[name] for name in stage.inputs()] for row in rows_before]
    later, earlier, similarity = [], [], []
    for place in range(n):
        for before in range(place):
            one, other = values[order[place]], values[order[before]]
            if None in (one[0], other[0]):
                continue
            if isinstance(stage, ExactDedup):
                distance = 0 if one == other else 64
            else:
                crossed = zip(one[1:] + one[:1], other[:1] + other[1:], strict=True)
                distances = [(one[0], other[0]), *(crossed if stage.flips else ())]
                distance = min((a ^ b).bit_count() for a, b in distances)
                distance = 0 if one == other else distance
            if distance <= getattr(stage, "radius", 0):
                later.append(place)
                earlier.append(before)
                similarity.append(1 - distance / 64)
    pairs = Pairs(np.array(later, int), np.array(earlier, int), np.float32(similarity))
    decided = decide(getattr(stage, "rule", "greedy"), pairs, n)
    for row in np.argsort(order):
        gone = decided.duplicate_of[row]
        partner = rows_before[order[gone]] if gone >= 0 else {"key": None, "shard": None}
        near = decided.similarity[row]
        yield gone >= 0, partner["key"], partner["shard"], None if np.isnan(near) else near


@SETTINGS
@given(stage=EXACT | PERCEPTUAL, seed=st.integers(0, 999), sizes=SIZES)
def test_equals_what_is_decided_in_memory(tmp_path, small_blocks, stage, seed, sizes):
    ds = make(tmp_path / "in", seed, sizes)
    names = ("is_duplicate", "duplicate_of", "duplicate_of_shard", "duplicate_similarity")
    found = [tuple(row[name] for name in names) for row in run(stage, ds, tmp_path / "work")]
    assert found == list(in_memory(stage, rows(ds)))


@SETTINGS
@given(stage=SEMANTIC, seed=st.integers(0, 999), sizes=SIZES)
def test_embeddings_too(tmp_path, monkeypatch, stage, seed, sizes):
    ds = make(tmp_path / "in", seed, sizes)
    whole = run(stage, ds, tmp_path / "work")
    with monkeypatch.context() as small:
        small.setattr(staged, "BLOCK_ROWS", 3)
        small.setattr(extraction, "_LIMIT", 2)
        small.setattr(extraction, "_TASK_BYTES", 100)
        assert run(stage, ds, tmp_path / "work") == whole
