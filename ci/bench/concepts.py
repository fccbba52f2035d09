"""A million captions balanced by 500,000 queries, against the bare matching library.

Words have Zipf's frequencies. The peer is daachorse alone, which is given one caption after the
other and does nothing with what it finds, on as many cores and as often as we: to count, and to
select.
"""

from __future__ import annotations

import os
import string
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_image_curate import ConceptBalance, ImageTextPairDataset, build_queries, get_client

CAPTIONS = 1_000_000
QUERIES = 500_000
PER_SHARD = 10_000
# Words there are, those that are too frequent to be queries, and those of a caption.
WORDS, FREQUENT, LENGTH = 500_000, 8_000, 10
USEFUL = 200
SECONDS = 120
WORKER_MB = 200


def _words(chance: np.random.Generator) -> list[str]:
    letters = np.array(list(string.ascii_lowercase))
    weights = np.arange(26, 0, -1) / 351
    rows = letters[chance.choice(26, (WORDS + WORDS // 2, 9), p=weights)]
    lengths = chance.integers(3, 10, len(rows))
    words = ("".join(row[:length]) for row, length in zip(rows, lengths, strict=True))
    return list(dict.fromkeys(words))[:WORDS]


def _texts(captions: int, queries: int) -> tuple[list[list[str]], list[str]]:
    """Captions by shards, and queries: half of them pairs of words."""
    chance = np.random.default_rng(0)
    words = np.array(_words(chance), dtype=object)
    frequencies = 1 / np.arange(1, len(words) + 1)
    frequencies /= frequencies.sum()
    shards = []
    for _ in range(0, captions, PER_SHARD):
        numbers = chance.choice(len(words), (min(PER_SHARD, captions), LENGTH), p=frequencies)
        shards.append([" ".join(row) for row in words[numbers]])
    pairs = words[chance.choice(len(words), (queries, 2), p=frequencies)]
    listed = list(words[FREQUENT : FREQUENT + queries // 2])
    listed += list(dict.fromkeys(map(" ".join, pairs)))[: queries - len(listed)]
    return shards, listed


def _write(folder: Path, shards: list[list[str]]) -> None:
    folder.mkdir()
    for number, captions in enumerate(shards):
        with tarfile.open(folder / f"{number:05d}.tar", "w"):
            pass
        keys = [f"{number:05d}{row:05d}" for row in range(len(captions))]
        table = pa.table({"key": keys, "caption": captions})
        pq.write_table(table, folder / f"{number:05d}.parquet")


def _bare(serialised: bytes, shards: list[list[str]]) -> float:
    """Seconds that the library takes for all captions on one core, judged by some shards."""
    from daachorse import DoubleArrayAhoCorasick

    automaton = DoubleArrayAhoCorasick.deserialize(serialised)
    sample = shards[: max(1, len(shards) // 10)]
    began = time.perf_counter()
    for captions in sample:
        for text in captions:
            automaton.find_overlapping(f" {text} ".encode())
    return (time.perf_counter() - began) * len(shards) / len(sample)


def _memory() -> float:
    """Resident megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(
    scratch: Path, rounds: int, captions: int = CAPTIONS, queries: int = QUERIES
) -> list[dict[str, Any]]:
    shards, listed = _texts(captions, queries)
    _write(scratch / "in", shards)
    (scratch / "queries.txt").write_text("\n".join(listed))
    rows = []
    with get_client("cpu") as client:
        before = max(client.run(_memory).values())
        for rule in ("probability", "cap"):
            began = time.perf_counter()
            ds = ImageTextPairDataset.from_webdataset(scratch / "in")
            stage = ConceptBalance(
                scratch / "queries.txt", USEFUL, rule, work_dir=scratch / f"work-{rule}"
            )
            stage(ds).save_metadata(scratch / rule, progress=False)
            rows.append((rule, time.perf_counter() - began))
        grown = max(client.run(_memory).values()) - before
        sidecars = sorted((scratch / "cap").glob("*.parquet"))
        tables = [pq.read_table(path, columns=["concepts"]) for path in sidecars]
        lengths = pc.list_value_length(pa.concat_tables(tables)["concepts"]).to_numpy()
        began = time.perf_counter()
        build_queries(ds, wordnet=None, work_dir=scratch, progress=False)
        built = time.perf_counter() - began
        cores = len(client.scheduler_info()["workers"])
    automaton = next((scratch / "work-cap").rglob("automaton-*.bin")).read_bytes()
    bare = 2 * _bare(automaton, shards) / cores
    size = f"{captions:,} captions x {len(listed):,} queries"
    summary = f"{lengths.mean():.1f} concepts a caption, {(lengths == 0).mean():.0%} have none"
    lines: list[dict[str, Any]] = [
        {
            "what": f"{size}, rule {rule}: read, count, select, save ({summary})",
            "ours": f"{seconds:.1f} s, {captions / seconds:,.0f} captions/s",
            "peer": f"daachorse alone, twice: {bare:.1f} s",
            "ratio": bare / seconds,
            "bar": f"{SECONDS} s",
            "met": seconds < SECONDS,
        }
        for rule, seconds in rows
    ]
    lines.append(
        {
            "what": "what a worker grew by meanwhile",
            "ours": f"{grown:.0f} MB",
            "peer": f"the automaton in a file: {len(automaton) / 1e6:.0f} MB",
            "ratio": len(automaton) / 1e6 / grown,
            "bar": f"{WORKER_MB} MB",
            "met": grown < WORKER_MB,
        }
    )
    lines.append(
        {
            "what": f"queries built of {captions:,} captions",
            "ours": f"{built:.1f} s",
            "peer": f"daachorse alone, twice: {bare:.1f} s",
            "ratio": bare / built,
            "bar": f"{SECONDS} s",
            "met": built < SECONDS,
        }
    )
    return lines
