"""A probe from labels to columns: the classes it learns, what it tells, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from nemo_image_curate import ImageTextPairDataset, LinearProbe
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import (
    ConfigError,
    DatasetError,
    EncoderMismatchError,
    WeightsError,
)
from tests.classifiers.test_base import with_vectors
from tests.make_embedders import ThumbEmbedder, column

NAMES = ("cat", "sea lion", "dog")
PER_SHARD = 30


def truth(key: str) -> str:
    return NAMES[int(key[1:]) % 3]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards of embeddings in three clusters, then rows without one, or without direction."""
    folder = tmp_path_factory.mktemp("clusters")
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(3, 12))
    parts = []
    for _ in range(2):
        noise = chance.normal(size=(PER_SHARD, 12))
        parts.append([*(centres[np.arange(PER_SHARD) % 3] + 0.4 * noise), None, np.zeros(12)])
    with_vectors(folder, *parts, encoder="acme/encoder")
    return folder


@pytest.fixture
def ds(shards, backend):
    return ImageTextPairDataset.from_webdataset(shards, backend=backend)


@pytest.fixture(scope="module")
def labels():
    """Of the first 15 rows of the first shard, and the first 6 of the second."""
    keys = [f"0{row:04d}" for row in range(15)] + [f"1{row:04d}" for row in range(6)]
    return {key: truth(key) for key in keys}


@pytest.fixture(scope="module")
def trained(shards, labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "made" / "animals.safetensors"
    ds = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    return LinearProbe.fit(ds, labels, path, pred_column="animal")


def test_all_rows_get_the_class_of_their_cluster(ds, trained, tmp_path):
    made = LinearProbe(trained.model_path, each_class=True)(ds)
    names = ["animal", "animal_score", "animal_cat", "animal_dog", "animal_sea_lion"]
    assert list(made.metadata.columns)[-5:] == names
    saved = made.save_metadata(tmp_path / "out")
    rows = {name: column(saved, name) for name in ["key", *names]}
    expected = [None if int(key[1:]) >= PER_SHARD else truth(key) for key in rows["key"]]
    assert rows["animal"] == expected
    for row, name in enumerate(expected):
        each = [rows[one][row] for one in names[2:]]
        if name is None:
            assert each == [None] * 3
            assert rows["animal_score"][row] is None
        else:
            assert sum(each) == pytest.approx(1, abs=1e-5)
            assert rows["animal_score"][row] == max(each)
    schema = pq.read_schema(tmp_path / "out" / "0.parquet")
    assert schema.field("animal").type == pa.string()
    assert schema.field("animal_score").type == pa.float32()


def test_probabilities_are_those_of_the_file(ds, trained):
    file = trained.file
    vectors = np.stack([one for one in column(ds, "image_embedding") if one is not None])
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = unit @ file.weight.T.astype(float) + file.bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    found = [one for one in column(trained(ds), "animal_score") if one is not None]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_device_changes_next_to_nothing(trained, device):
    unit = torch.nn.functional.normalize(torch.randn(50, 12), dim=1)
    found = trained.load_model(device)(unit.to(device)).cpu()
    torch.testing.assert_close(found, trained.load_model("cpu")(unit), rtol=1e-4, atol=1e-6)


def test_what_it_was_trained_on_is_in_its_file(trained, labels):
    with safe_open(trained.model_path, "numpy") as file:
        recipe = json.loads(file.metadata()["nemo_image_curate"])
    assert recipe["kind"] == "LinearProbe"
    assert recipe["encoder"] == trained.encoder() == "acme/encoder"
    assert recipe["classes"] == trained.classes == ["cat", "dog", "sea lion"]
    report = trained.report
    assert report.counts == {"cat": 7, "dog": 7, "sea lion": 7}
    assert (report.given, report.not_in_dataset, report.without_embedding) == (21, 0, 0)
    assert (report.rows, report.folds, report.few) == (21, 5, [])
    assert report.accuracy == 1
    low, high = report.accuracy_interval
    # Wilson: z^2 / (n + z^2) below 1.
    assert low == pytest.approx(1 - 1.96**2 / (21 + 1.96**2), abs=1e-3)
    assert high == 1
    assert report.majority == pytest.approx(1 / 3)
    assert report.by_class["dog"] == {"labels": 7, "precision": 1, "recall": 1, "f1": 1}
    assert report.confusion == {name: {name: 7} for name in trained.classes}
    assert sum(one["rows"] for one in report.calibration) == 21
    assert "accuracy    1.000" in str(report)


def test_the_same_labels_give_the_same_bytes(shards, labels, trained, tmp_path):
    table = pd.DataFrame({"key": list(labels), "label": list(labels.values())})[::-1]
    table.to_csv(tmp_path / "labels.csv", index=False)
    ds = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    ds.metadata = ds.metadata.repartition(npartitions=1)
    path = tmp_path / "again.safetensors"
    LinearProbe.fit(ds, tmp_path / "labels.csv", path, pred_column="animal")
    assert path.read_bytes() == Path(trained.model_path).read_bytes()


def test_labels_that_go_wrong_are_told(ds, labels, tmp_path, caplog):
    wrong = {**labels, "00002": "cat", "00030": "dog", "10031": "dog", "77777": "cat", "00020": ""}
    report = LinearProbe.fit(ds, wrong, tmp_path / "p.safetensors").report
    assert (report.given, report.not_in_dataset, report.without_embedding) == (24, 1, 2)
    assert report.empty == 1
    assert report.names == {
        "not in the dataset": ["77777"],
        "without embedding": ["0.tar: 00030", "1.tar: 10031"],
    }
    # What was labelled wrongly is the first to look at again.
    first = report.doubtful[0]
    assert (first["key"], first["label"], first["predicted"]) == ("00002", "cat", "dog")
    assert report.accuracy == pytest.approx(20 / 21)
    assert report.confusion["cat"] == {"cat": 7, "dog": 1}
    assert "1 labels are of no sample of the dataset: 77777" in caplog.text
    assert "2 labelled samples have no embedding" in caplog.text
    assert "look again: 0.tar: 00002 is labelled 'cat'" in str(report)


def test_few_labels_are_told(ds, tmp_path, caplog):
    one_each = {"00000": "cat", "00001": "sea lion", "00002": "dog"}
    report = LinearProbe.fit(ds, one_each, tmp_path / "p.safetensors").report
    assert report.few == ["cat", "dog", "sea lion"]
    assert report.accuracy is None
    assert "no class has two labels" in str(report)
    assert "fewer than 5 labels: cat, dog, sea lion" in caplog.text


def test_yes_and_no(ds, labels, tmp_path):
    wanted = {key: name == "dog" for key, name in labels.items()}
    probe = LinearProbe.fit(ds, wanted, tmp_path / "p.safetensors", pred_column="wanted")
    made = probe(ds)
    keys, flags, scores = (column(made, name) for name in ("key", "wanted", "wanted_score"))
    has = [int(key[1:]) < PER_SHARD for key in keys]
    expected = [truth(key) == "dog" if one else None for key, one in zip(keys, has, strict=True)]
    assert flags == expected
    assert [score > 0.5 for score in scores if score is not None] == [
        flag for flag in flags if flag is not None
    ]
    assert column(made.filter("wanted and wanted_score > 0.5"), "wanted") == [True] * 20


def test_it_knows_its_work_again_and_another_file_by_what_is_in_it(ds, labels, trained, tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(trained.model_path).read_bytes())
    token = Lineage(trained(ds).metadata).token
    assert Lineage(LinearProbe(moved)(ds).metadata).token == token
    LinearProbe.fit(ds, labels, moved, pred_column="animal", C=1.0)
    assert Lineage(LinearProbe(moved)(ds).metadata).token != token
    assert Lineage(LinearProbe(trained.model_path, "other")(ds).metadata).token != token


def test_it_scores_in_the_pass_of_an_embedder(tmp_path):
    from tests.make_data import make_dataset

    data = make_dataset(tmp_path / "in", sizes=[4, 4])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="cpu")
    embedded = ThumbEmbedder()(ds).save_metadata(tmp_path / "embedded")
    some = {key: f"picture {number % 2}" for number, key in enumerate(data.keys)}
    probe = LinearProbe.fit(embedded, some, tmp_path / "p.safetensors", C=1e5)
    later = column(probe(embedded), "label")
    assert later == list(some.values())
    at_once = ThumbEmbedder(classifiers=[LinearProbe(tmp_path / "p.safetensors")])(ds)
    assert column(at_once, "label") == later


def test_other_embeddings_are_refused(trained, labels, tmp_path):
    others = with_vectors(tmp_path / "a", [[1.0] * 12], encoder="other/encoder")
    with pytest.raises(EncoderMismatchError, match=r"'acme/encoder'.*'other/encoder'"):
        trained(others)
    unchecked = LinearProbe(trained.model_path, check_encoder=False)
    assert len(column(unchecked(others), "animal")) == 1
    narrow = with_vectors(tmp_path / "b", [[1.0, 2.0]], encoder="acme/encoder")
    with pytest.raises(DatasetError, match="takes embeddings of 12 values"):
        trained(narrow).save_metadata(tmp_path / "out")


@pytest.mark.parametrize(
    ("some", "options", "message"),
    [
        ({"00000": "cat", "00003": "cat"}, {}, "two classes or more.*2 'cat'"),
        ({"77777": "cat", "88888": "dog"}, {}, "are: none, 2 labels are of no sample"),
        ({"00000": 0.5}, {}, "0.5 is neither a name"),
        ({"00000": "a b", "00001": "a_b"}, {}, "would both be the column 'label_a_b'"),
        ({"00000": "a", "00001": "b"}, {"C": 0}, "C=0 should be"),
        ({"00000": "a", "00001": "b"}, {"C": "best"}, "C='best' should be"),
        (
            {"00000": "a", "00001": "b"},
            {"pred_column": "key"},
            "'key' is a column of every dataset",
        ),
        ({"00000": "a", "00001": "b"}, {"seed": -1}, "seed=-1 should be 0 or more"),
    ],
)
def test_unusable_labels_and_settings(ds, some, options, message, tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises((ConfigError, DatasetError), match=message):
        LinearProbe.fit(ds, some, path, **options)
    assert not path.exists()


def test_unusable_files(ds, tmp_path):
    with pytest.raises(ConfigError, match=r"should end in \.safetensors"):
        LinearProbe.fit(ds, {"00000": "a"}, tmp_path / "probe.pkl")
    with pytest.raises(WeightsError, match=r"cannot read .*absent"):
        LinearProbe(tmp_path / "absent.safetensors")(ds)
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(WeightsError, match="is no safetensors file"):
        LinearProbe(tmp_path / "broken.safetensors")(ds)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be made: .*/file is no folder"):
        LinearProbe.fit(ds, {"00000": "a"}, tmp_path / "file" / "probe.safetensors")
    recipe = {"nemo_image_curate": json.dumps({"kind": "LinearProbe", "classes": ["a", "b"]})}
    tensors = {"weight": np.zeros((2, 12), np.float32), "bias": np.zeros(2, np.float32)}
    save_file(tensors, tmp_path / "edited.safetensors", recipe)
    with pytest.raises(WeightsError, match="is damaged: it lacks 'is_bool'"):
        LinearProbe(tmp_path / "edited.safetensors")(ds)
    save_file({"weight": np.zeros((2, 12), np.float32)}, tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match="other weights than those of a probe"):
        LinearProbe(tmp_path / "head.safetensors")(ds)


WEIGHTS = {"weight": np.zeros((2, 12), np.float32), "bias": np.zeros(2, np.float32)}
RECIPE = {"kind": "LinearProbe", "classes": ["a", "b"], "is_bool": False, "encoder": None}
RECIPE |= {"pred_column": "label"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"classes": 5}, "its classes are no list of names"),
        ({"classes": ["a", 1]}, "its classes are no list of names"),
        ({"classes": ["a", "a"]}, "two of its classes have one name"),
        ({"classes": ["a", "b", "c"]}, r"shapes \(2, 12\) and \(2,\), are not those of 3 classes"),
        ({"is_bool": None}, "is_bool=None does not suit"),
        ({"is_bool": True, "classes": ["a"]}, "is_bool=True does not suit its 1 classes"),
        *[({"pred_column": name}, "is no name for its column") for name in (7, "", None)],
        *[({"pred_column": name}, "is no name") for name in ("key", "shard", "image_error")],
        ({"encoder": [1]}, r"its encoder is \[1\], no name"),
        ({"weight": np.zeros(2, np.float32)}, r"shapes \(2,\) and \(2,\)"),
        ({"bias": np.zeros((2, 2), np.float32)}, r"shapes \(2, 12\) and \(2, 2\)"),
        ({"weight": np.zeros((2, 12), np.int8)}, "not finite numbers in float32"),
        ({"weight": np.full((2, 12), np.nan, np.float32)}, "not finite numbers in float32"),
    ],
)
def test_files_whose_parts_do_not_fit_are_refused_when_read(ds, tmp_path, changes, problem):
    path = tmp_path / "edited.safetensors"
    parts = {**RECIPE, **WEIGHTS, **changes}
    recipe = json.dumps({name: parts[name] for name in RECIPE})
    save_file({name: parts[name] for name in WEIGHTS}, path, {"nemo_image_curate": recipe})
    with pytest.raises(WeightsError, match=rf"is damaged: .*{problem}.*\. Write it again with"):
        LinearProbe(path)(ds)


@pytest.mark.parametrize(
    ("header", "problem"), [("[1]", "other weights than those"), ("[" * 100_000, "nested too deep")]
)
def test_a_header_that_is_no_object_is_refused(ds, tmp_path, header, problem):
    save_file(WEIGHTS, tmp_path / "p.safetensors", {"nemo_image_curate": header})
    with pytest.raises(WeightsError, match=problem):
        LinearProbe(tmp_path / "p.safetensors")(ds)
