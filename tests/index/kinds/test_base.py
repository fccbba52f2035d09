from dataclasses import dataclass

import numpy as np
import pytest

from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.index.kinds import table
from nemo_image_curate.index.kinds.base import Engine, Kind
from nemo_image_curate.index.vector_file import VectorFile, write_vectors
from nemo_image_curate.index.vector_index import VectorIndex, build_index
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import KINDS, opened, recall, truth, with_lists, write_shard


@dataclass(frozen=True)
class Half(Kind):
    """Vectors in float16, all compared in NumPy: what a contributor would write."""

    name = "half"
    method = "all compared, in float16"
    roles = ("vectors",)

    def recipe(self):
        return {"factory": "Half", "lists": 0}

    @property
    def memory_bytes(self):
        return 0

    @property
    def disk_bytes(self):
        return self.count * self.dim * 2

    def make(self, staged, partitions, before):
        path = staged.folder / "vectors"
        arrays = (staged.vectors(number, self.dim) for number in partitions)
        write_vectors(path, arrays, before.get("vectors"))
        return self, {"vectors": path}

    def open(self, files):
        return HalfEngine(VectorFile(files["vectors"], self.dim))


class HalfEngine(Engine):
    lists = 0

    def __init__(self, vectors):
        self.file = vectors

    def decode(self, rows):
        return self.file.read(rows)

    def candidates(self, queries, k, nprobe, allowed):
        products = queries @ self.file.read(slice(None)).T
        if allowed is not None:
            bits = np.unpackbits(allowed, bitorder="little")[: len(self.file)]
            products[:, bits == 0] = -np.inf
        rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
        rows[np.isneginf(np.take_along_axis(products, rows, axis=1))] = -1
        return rows


def test_a_new_kind_is_one_class_and_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="kind='half'"):
        build_index(write_embeddings(tmp_path / "other", planted(10)), kind="half")
    monkeypatch.setitem(table.KINDS, "half", Half)
    vectors = planted(900)
    dataset = write_embeddings(
        tmp_path / "data", vectors[:600], 250, score=[float(row % 10) for row in range(600)]
    )
    built = with_lists(build_index(dataset, kind="half"))
    assert built.recipe["kind"] == "half"
    assert built.recipe["recall"] == 1.0
    assert built.recipe["bytes"] == {"memory": 0, "disk": 600 * 32 * 2}
    _, order = truth(vectors[:600], vectors[600:], 10)
    assert recall(built.search(vectors[600:], 10)[1], order) > 0.99
    hits = built.nearest(vectors[600:], 5, where="score == 3")
    assert all(hit.metadata == {"score": 3.0} for one in hits for hit in one)
    write_shard(tmp_path / "data", "new", vectors[600:], score=[0.0] * 300)
    added = built.add(opened(tmp_path / "data"))
    assert len(added) == 900
    assert added.nearest(vectors[[700]], 1)[0][0].key == "new-100"
    assert len(VectorIndex.load(built.path, opened(tmp_path / "data"))) == 900
    monkeypatch.delitem(table.KINDS, "half")
    with pytest.raises(DatasetError, match="kind 'half' is of a later version"):
        VectorIndex.load(built.path)


def test_an_experimental_kind_is_taken_only_when_it_is_asked_for(monkeypatch):
    cuvs = table.KINDS["cuvs"]
    assert cuvs.experimental
    assert table.choose(1000, 32, "cuvs") == cuvs(1000, 32)
    assert all(table.choose(count, 32).name != "cuvs" for count in (10, 10**5, 10**9))
    with pytest.raises(ConfigError, match=r"one of 'auto', 'flat', 'ivf'\."):
        table.check_settings("nothing", True, 0.9, None)


@pytest.mark.parametrize(("kind", "rerank"), KINDS)
def test_a_description_tells_what_was_made(many, kind, rerank):
    recipe = many[3][kind, rerank].recipe
    made = table.from_recipe(recipe)
    assert (made.name, made.count, made.dim) == (kind, 3000, 64)
    assert {**made.recipe(), **recipe} == recipe
    assert recipe["bytes"] == {"memory": made.memory_bytes, "disk": made.disk_bytes}
    assert set(made.roles) == set(recipe["files"]) - {"rows"}
    with pytest.raises(DatasetError, match="damaged"):
        table.from_recipe({"kind": kind, "dim": 64})
