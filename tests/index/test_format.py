import hashlib
import json
import os
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.vector_index import VectorIndex, build_index
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import opened, with_lists


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("role", ["index", "rows", "vectors"])
@pytest.mark.parametrize(
    "damage", [flip, lambda path: os.truncate(path, path.stat().st_size // 2), os.remove]
)
def test_damaged_files(tmp_path, role, damage):
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind="ivf")
    name = built.recipe["files"][role]["name"]
    damage(Path(built.path) / name)
    with pytest.raises(DatasetError, match=rf"{name} is (damaged|gone).*again"):
        VectorIndex.load(built.path)
    # A build mends it.
    assert len(build_index(opened(tmp_path / "data"), kind="ivf")) == 200


def test_large_files_are_hashed_when_asked_for(tmp_path, monkeypatch):
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind="ivf")
    monkeypatch.setattr("nemo_image_curate.index.format._HASHED_BYTES", 10)
    flip(Path(built.path) / built.recipe["files"]["vectors"]["name"])
    VectorIndex.load(built.path)
    with pytest.raises(DatasetError, match="hash differs"):
        VectorIndex.load(built.path, check_files=True)


def forge(built: VectorIndex, role: str, content: bytes) -> str:
    """Put another file in the place of one, with its hash; returns its name."""
    record = built.recipe["files"][role]
    (Path(built.path) / record["name"]).write_bytes(content)
    recipe = Path(built.path) / "index.json"
    saved = json.loads(recipe.read_text())
    digest = hashlib.sha256(content).hexdigest()
    saved["files"][role] |= {"size": len(content), "sha256": digest}
    recipe.write_text(json.dumps(saved))
    return record["name"]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_foreign_files_of_the_right_hash(tmp_path, kind):
    """What another program wrote there is no reason to crash."""
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind=kind)
    dim = built.recipe["dim"]
    others = [faiss.IndexFlatIP(dim), faiss.IndexFlatIP(dim // 2), faiss.IndexFlatL2(dim)]
    others[1].add(np.ones((400, dim // 2), np.float32))
    others[2].add(np.ones((200, dim), np.float32))
    for content in (b"IxFI" + bytes(5), *(faiss.serialize_index(one).tobytes() for one in others)):
        name = forge(built, "index", content)
        with pytest.raises(DatasetError, match=f"{name} is damaged.* Build the index again"):
            VectorIndex.load(built.path)


@pytest.mark.parametrize("rerank", [True, False])
def test_lists_of_other_rows_are_damaged(tmp_path, rerank):
    dataset = write_embeddings(tmp_path / "data", planted(200))
    built = build_index(dataset, kind="ivf", rerank=rerank)
    path = Path(built.path) / built.recipe["files"]["index"]["name"]
    for last in (0, 200, 2**40):
        index = faiss.read_index(str(path))
        lists = faiss.downcast_index(index.index).invlists
        number = max(range(lists.nlist), key=lists.list_size)
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))[-2:] = (0, last)
        content = path.read_bytes()
        forge(built, "index", faiss.serialize_index(index).tobytes())
        with pytest.raises(DatasetError, match="its lists do not hold each of 200 rows once"):
            VectorIndex.load(built.path)
        forge(built, "index", content)
    assert len(VectorIndex.load(built.path)) == 200


def test_other_rows_and_vectors_of_the_right_hash(tmp_path):
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind="ivf")
    record = built.recipe["files"]
    rows, vectors = (Path(built.path) / record[role]["name"] for role in ("rows", "vectors"))
    whole = vectors.read_bytes()
    forge(built, "vectors", whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"vectors-.* is damaged: .* are not 200 vectors"):
        VectorIndex.load(built.path)
    forge(built, "vectors", whole)
    assert len(VectorIndex.load(built.path)) == 200
    for table in (built.rows.batches(), pa.table({"a": range(200)}).to_batches()):
        batch = next(iter(table))
        place = tmp_path / "rows"
        with place.open("wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch[:150] if "key" in batch.schema.names else batch)
        forge(built, "rows", place.read_bytes())
        with pytest.raises(DatasetError, match="is damaged: its rows are not 200 with key, shard"):
            VectorIndex.load(built.path)
    assert rows.exists()


@pytest.mark.parametrize(
    ("kind", "role", "number_type"), [("flat", "index", np.float32), ("ivf", "vectors", np.float16)]
)
def test_vectors_that_are_not_finite_are_like_none(tmp_path, kind, role, number_type):
    built = build_index(write_embeddings(tmp_path / "data", planted(200)), kind=kind)
    dim = built.recipe["dim"]
    content = (Path(built.path) / built.recipe["files"][role]["name"]).read_bytes()
    # Both files end in the vectors.
    nan = np.full(50 * dim, np.nan, number_type).tobytes()
    forge(built, role, content[: -len(nan)] + nan)
    index = VectorIndex.load(built.path)
    for searched in (index, with_lists(index)):
        scores, rows = searched.search(np.ones((3, dim)), 200)
        assert (np.sort(rows) == [*[-1] * 50, *range(150)]).all()
        assert np.isneginf(scores[:, 150:]).all()
        assert np.isfinite(scores[:, :150]).all()
        assert len(searched.nearest(np.ones((1, dim)), 200)[0]) == 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("[" * 100_000, "is damaged: .*nested too deep"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 99}', "has format 99; this version reads 1"),
    ],
)
def test_damaged_description(tmp_path, content, message):
    built = build_index(write_embeddings(tmp_path / "data", planted(20)))
    (Path(built.path) / "index.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        VectorIndex.load(built.path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[(("files", "rows"), value) for value in (None, 5, "x", [])],
        *[(("files", "rows", "name"), value) for value in (None, 5, "/etc/passwd", "../a")],
        *[(("files", "rows", "size"), value) for value in (None, "x", -1, 1.5, True)],
        *[(("files", "index", "sha256"), None), (("files", "index"), None)],
        *[(("files",), []), (("recipe",), []), (("recipe", "options"), []), (("partitions",), 5)],
        *[(("recipe", "kind"), value) for value in (None, [], {})],
        *[(("recipe", "dim"), value) for value in ("x", -1, 2**40, 0, float("inf"))],
        *[(("recipe", "count"), value) for value in (None, 2**40, 7)],
        *[(("recipe", name), []) for name in ("factory", "id_col", "column", "encoder", "recall")],
        *[(("recipe", "options", "rerank"), "x"), (("recipe", "bytes"), None)],
        *[(("recipe", "nprobe"), "x"), (("recipe", "candidates"), 0)],
        *[(("partitions", 0), None), (("partitions", 0, "rows"), "x")],
        *[(("partitions", 0, "changed"), None), (("recipe", "id_col"), "none")],
    ],
)
def test_a_description_of_other_types_is_damaged(tmp_path, path, value):
    built = build_index(write_embeddings(tmp_path / "d", np.eye(8), 4))
    place = Path(built.path) / "index.json"
    whole = json.loads(place.read_text())
    part = whole
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    place.write_text(json.dumps(whole))
    with pytest.raises(DatasetError, match=r"is damaged: .*Build the index again"):
        VectorIndex.load(built.path)


def test_an_index_without_the_file_of_its_kind_is_damaged(tmp_path):
    built = build_index(write_embeddings(tmp_path / "d", np.eye(8), 4))
    place = Path(built.path) / "index.json"
    whole = json.loads(place.read_text())
    del whole["files"]["index"]
    place.write_text(json.dumps(whole))
    with pytest.raises(DatasetError, match="is damaged: it names no file of index"):
        VectorIndex.load(built.path)


@pytest.mark.parametrize("change", [{"files": {}}, {"recipe": {}}, {"partitions": [{}]}])
def test_a_description_that_lacks_something_is_damaged(tmp_path, change):
    dataset = write_embeddings(tmp_path / "d", np.eye(8), 4)
    path = Path(build_index(dataset).path)
    saved = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**saved, **change}))
    with pytest.raises(DatasetError, match="is damaged"):
        VectorIndex.load(path, dataset)
    assert len(build_index(dataset)) == 8  # made again


def test_no_index(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DatasetError, match=r"holds no index. Run build_index"):
            VectorIndex.load(path)


@pytest.mark.parametrize("again", ["add", "build"])
def test_what_a_killed_process_left_is_removed(tmp_path, again):
    """Killed after the new description was written, before the old files were removed."""
    dataset = write_embeddings(tmp_path / "d", np.eye(8), 4)
    made = build_index(dataset)
    whole = sorted(os.listdir(made.path))
    (Path(made.path) / "parts").mkdir()
    (Path(made.path) / "parts" / "0123.vectors").write_bytes(b"x" * 100)
    (Path(made.path) / "index-0123456789abcdef.faiss").write_bytes(b"x")
    made.add(dataset) if again == "add" else build_index(dataset)
    assert sorted(os.listdir(made.path)) == whole
