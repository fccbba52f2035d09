import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.vector_index import VectorIndex, build_index
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import opened


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


def test_foreign_files_of_the_right_hash(tmp_path):
    """What another program wrote there is no reason to crash."""
    built = build_index(write_embeddings(tmp_path / "data", planted(200)))
    name = built.recipe["files"]["index"]["name"]
    place = Path(built.path) / name
    place.write_bytes(b"IxFI" + bytes(5))
    recipe = Path(built.path) / "index.json"
    saved = json.loads(recipe.read_text())
    saved["files"]["index"] |= {
        "size": 9,
        "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
    }
    recipe.write_text(json.dumps(saved))
    with pytest.raises(DatasetError, match=f"{name} is damaged"):
        VectorIndex.load(built.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 99}', "has format 99; this version reads 1"),
    ],
)
def test_damaged_description(tmp_path, content, message):
    built = build_index(write_embeddings(tmp_path / "data", planted(20)))
    (Path(built.path) / "index.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
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
