"""Examples in the docstrings of public names run, on a small dataset called `ds`."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset, catalog
from tests.make_data import make_dataset

WORDS = "a dog runs along the beach", "two cats sleep on a red sofa", "rocket at night"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """`data/` with scores and embeddings, and what examples call by other names."""
    folder = tmp_path_factory.mktemp("docstrings")
    make_dataset(folder / "data", sizes=[20, 20])
    random = np.random.default_rng(0)
    for path in sorted((folder / "data").glob("*.parquet")):
        table = pq.read_table(path).drop_columns(["caption", "width"])
        vectors = random.normal(size=(len(table), 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        captions = [WORDS[row % len(WORDS)] for row in range(len(table))]
        more = {
            "caption": pa.array(captions),
            "image_embedding": pa.array(list(vectors), pa.list_(pa.float32())),
            "text_embedding": pa.array(list(vectors[::-1]), pa.list_(pa.float32())),
            "aesthetic_score": pa.array(random.normal(5, 1, len(table)), pa.float32()),
            "clip_score": pa.array(random.uniform(0, 0.5, len(table)), pa.float32()),
            "width": pa.array(random.integers(200, 400, len(table)), pa.int32()),
            "height": pa.array(random.integers(200, 400, len(table)), pa.int32()),
            "split": pa.array(["train", "val"] * (len(table) // 2)),
        }
        for name, column in more.items():
            table = table.append_column(name, column)
        pq.write_table(table, path)
    for name in ("imagenet-val", "coco-val", "imagenet", "curated", "seeds"):
        shutil.copytree(folder / "data", folder / name)
    (folder / "queries.txt").write_text("dog\ncats\n")
    return folder


def examples(name: str) -> list[doctest.DocTest]:
    """Those of a public name and of what is defined in it; without those that are skipped."""
    thing = catalog.load(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(thing, name, globs={})
    return [
        test
        for test in found
        if not all(example.options.get(doctest.SKIP) for example in test.examples)
    ]


@pytest.mark.parametrize("name", [name for name in catalog.PUBLIC if examples(name)])
def test_the_example_runs(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    dataset = ImageTextPairDataset.from_webdataset("data/", backend="cpu")
    for test in examples(name):
        test.globs = {other: catalog.load(other) for other in catalog.PUBLIC}
        test.globs |= {"ds": dataset, "new": dataset, "Path": Path}
        told: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=told.append)
        assert not told, "".join(told)
