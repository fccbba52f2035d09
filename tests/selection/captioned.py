"""Datasets whose captions matter, and MetaCLIP's definitions as one would write them down."""

from __future__ import annotations

import csv
import functools
import math
import random
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from nemo_image_curate import ImageTextPairDataset
from tests.make_data import jpeg, write_sidecar, write_tar
from tests.shared import SHARED

PUNCTUATION = string.punctuation + "，。、；：？！“”‘’（）【】《》〈〉「」『』～—"
# First and last letters of scripts that are written without spaces.
UNSPACED = ("一龥", "㐀䶵", "ぁゖ", "ァヺ", "กฮ", "ກຮ", "កអ", "ကအ", "ཀཨ")


def dataset(
    folder: Path, *shards: Sequence[str | None], backend: str = "cpu"
) -> ImageTextPairDataset:
    """A shard for each list of captions; keys tell shard and row."""
    for number, captions in enumerate(shards):
        keys = [f"{number:03d}-{row:05d}" for row in range(len(captions))]
        write_tar(folder / f"{number:03d}.tar", [(f"{key}.jpg", jpeg(1)) for key in keys])
        columns = {"key": keys, "caption": list(captions)}
        write_sidecar(folder / f"{number:03d}.parquet", columns)
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def flickr_captions() -> list[str]:
    """7,500 captions that people wrote."""
    with open(SHARED / "data" / "flickr8k" / "captions.csv", newline="") as file:
        return [row["caption"] for row in csv.DictReader(file)]


def zipf_captions(count: int, words: int = 150, length: int = 3) -> list[str]:
    """Captions of words whose frequencies fall as in a language: w0, w1, ..."""
    chance = random.Random(0)
    weights = [1 / (rank + 1) for rank in range(words)]
    numbers = chance.choices(range(words), weights, k=count * length)
    return [
        " ".join(f"w{number}" for number in numbers[start : start + length])
        for start in range(0, count * length, length)
    ]


def spaced(text: str) -> str:
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for character in "\t\n\r":
        text = text.replace(character, " ")
    return f" {text} "


@functools.cache
def padded(query: str) -> str:
    """A query with a space at each end, but beside punctuation and unspaced scripts."""

    def stands_alone(character: str) -> bool:
        return character in PUNCTUATION or any(a <= character <= b for a, b in UNSPACED)

    before = "" if stands_alone(query[0]) else " "
    return before + query + ("" if stands_alone(query[-1]) else " ")


def concepts_of(caption: str, queries: Iterable[str]) -> list[str]:
    text = spaced(caption)
    return [query for query in queries if padded(query) in text]


def counts_of(captions: Iterable[str], queries: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(queries, 0)
    for caption in captions:
        for query in concepts_of(caption, queries):
            counts[query] += 1
    return counts


def keep_probability(concepts: Iterable[str], counts: dict[str, int], useful: int) -> float:
    return 1 - math.prod(1 - min(1, useful / counts[query]) for query in concepts)
