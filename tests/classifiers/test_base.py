"""The base of classifiers: any embedding column, any rows, and no encoder but the right one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nemo_image_curate import ImageClassifier, ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    EncoderMismatchError,
)
from tests.make_data import write_sidecar, write_tar
from tests.make_embedders import column

LISTS = pa.list_(pa.field("item", pa.float32()))


def with_vectors(folder: Path, *shards: list, encoder: str | None = None) -> ImageTextPairDataset:
    """A dataset of which only the embeddings matter; `encoder` is what is recorded of them."""
    for number, vectors in enumerate(shards):
        keys = [f"{number}{row:04d}" for row in range(len(vectors))]
        write_tar(folder / f"{number}.tar", [(f"{key}.txt", b"x") for key in keys])
        table = pa.table(
            {
                "key": pa.array(keys, pa.string()),
                "image_embedding": pa.array(
                    [None if one is None else np.float32(one) for one in vectors], LISTS
                ),
            }
        )
        record = {"columns": {"image_embedding": {"encoder": encoder}}} if encoder else {}
        text = json.dumps(record).encode()
        write_sidecar(
            folder / f"{number}.parquet", table.replace_schema_metadata({"nemo_image_curate": text})
        )
    return ImageTextPairDataset.from_webdataset(folder)


class FirstTwice(ImageClassifier):
    """Two times the first number of a unit vector, and 10 added afterwards."""

    def __init__(self, **options):
        super().__init__("first", **options)

    def load_model(self, device):
        return lambda embeddings: 2 * embeddings[:, 0]

    def postprocess(self, scores):
        return scores + 10

    def embedding_dim(self):
        return 2


class Particular(FirstTwice):
    def encoder(self):
        return "acme/encoder"


def test_scores_are_of_unit_vectors(tmp_path, backend):
    ds = with_vectors(tmp_path, [[3, 4], [1, 0]], [[0, 5]])
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    assert column(FirstTwice()(ds), "first") == pytest.approx([11.2, 12, 10])


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([], []),
        ([[0, 1]], [10]),
        ([None], [None]),
        ([None, None, None], [None] * 3),
        ([None, [1, 0], None, [0, -1], None], [None, 12, None, 10, None]),
    ],
)
def test_rows_without_embeddings_have_null_scores(tmp_path, vectors, expected, backend):
    with_vectors(tmp_path, vectors, [[1, 0]])
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    scored = FirstTwice()(ds)
    assert column(scored, "first") == [*expected, 12]
    saved = scored.save_metadata(tmp_path / "out")
    for file in (tmp_path / "out").glob("*.parquet"):
        assert pq.read_schema(file).field("first").type == pa.float32()
    assert column(saved, "first") == [*expected, 12]


def test_many_rows_are_scored_in_blocks(tmp_path):
    angles = np.linspace(0, 6, 9001)
    ds = with_vectors(tmp_path, list(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    np.testing.assert_allclose(
        column(FirstTwice()(ds), "first"), 2 * np.cos(angles) + 10, atol=1e-5
    )


def test_moved_rows_keep_their_scores(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0], None, [0, 1]], [[-1, 0]])
    ds.metadata = ds.metadata.sort_values("key", ascending=False).repartition(npartitions=3)
    assert column(FirstTwice()(ds), "first") == [8, 10, None, 12]


def test_vectors_of_the_wrong_width_are_refused(tmp_path):
    ds = with_vectors(tmp_path, [[1, 2, 3]])
    with pytest.raises(DatasetError, match=r"takes embeddings of 2 values, but these have 3"):
        FirstTwice()(ds).save_metadata(tmp_path / "out")


def test_a_missing_column_is_named_with_the_closest(tmp_path):
    ds = with_vectors(tmp_path, [[1, 2]])
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'image_embedding'"):
        FirstTwice(embedding_column="image_embeding")(ds)


def test_the_right_encoder_is_taken(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0]], encoder="acme/encoder")
    assert column(Particular()(ds), "first") == [12]


@pytest.mark.parametrize(
    ("encoder", "what"), [("other/encoder", "made by 'other/encoder'"), (None, "of unknown origin")]
)
def test_other_encoders_are_refused_with_a_remedy(tmp_path, encoder, what):
    ds = with_vectors(tmp_path, [[1, 0]], encoder=encoder)
    with pytest.raises(EncoderMismatchError) as caught:
        Particular()(ds)
    for part in ("Particular", "'acme/encoder'", what, "check_encoder=False"):
        assert part in str(caught.value)
    assert column(Particular(check_encoder=False)(ds), "first") == [12]
    assert column(FirstTwice()(ds), "first") == [12], "one that takes any encoder"


def test_shards_of_different_encoders_are_refused(tmp_path):
    with_vectors(tmp_path, [[1, 0]], [[0, 1]], encoder="acme/encoder")
    with_vectors(tmp_path / "new", [[1, 0]], encoder="other/encoder")
    (tmp_path / "new" / "0.parquet").rename(tmp_path / "0.parquet")
    (tmp_path / "new" / "0.tar").unlink()
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    with pytest.raises(EncoderMismatchError, match="not the same in all shards"):
        Particular()(ds)
    assert column(Particular(check_encoder=False)(ds), "first") == [12, 10]


class Square(FirstTwice):
    def load_model(self, device):
        return lambda embeddings: embeddings[:, :1]


def test_scores_of_the_wrong_shape_are_told(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0], [0, 1]])
    with pytest.raises(ConfigError, match=r"\(2, 1\) for 2 embeddings"):
        Square()(ds).metadata.compute()
    with pytest.raises(ConfigError, match="ImageClassifier does not define load_model"):
        ImageClassifier("score")(ds).metadata.compute()


def test_what_was_scored_how_is_recorded(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0]], encoder="acme/encoder")
    Particular()(ds).save_metadata(tmp_path / "out")
    made = json.loads(pq.read_schema(tmp_path / "out" / "0.parquet").metadata[b"nemo_image_curate"])
    record = made["columns"]["first"]
    assert record["stage"] == "Particular"
    assert record["encoder"] == record["embedding_encoder"] == "acme/encoder"
    assert record["embedding_column"] == "image_embedding"
    assert made["columns"]["image_embedding"] == {"encoder": "acme/encoder"}


class Scaled(FirstTwice):
    """With a parameter of its own, of which `config` knows nothing."""

    def __init__(self, factor: float, **options):
        super().__init__(**options)
        self.factor = factor

    def postprocess(self, scores):
        return scores * self.factor


def test_a_parameter_of_a_subclass_tells_classifiers_apart(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0]])
    assert column(Scaled(1)(ds).save_metadata(tmp_path / "out"), "first") == [2]
    assert column(Scaled(3)(ds).save_metadata(tmp_path / "out"), "first") == [6]


def test_fingerprints(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0]], encoder="acme/encoder")

    def token(stage: ImageClassifier) -> str:
        return Lineage(stage(ds).metadata).token

    assert token(FirstTwice()) == token(FirstTwice())
    assert token(Particular()) == token(Particular(check_encoder=False))
    assert len({token(one) for one in (FirstTwice(), Particular(), Scaled(1), Scaled(2))}) == 4


class Counted(FirstTwice):
    built: list[int] = []

    def load_model(self, device):
        self.built.append(1)
        return super().load_model(device)


def test_the_model_is_loaded_once_per_process(tmp_path):
    ds = with_vectors(tmp_path, [[1, 0]], [[0, 1]], [None])
    Counted.built.clear()
    assert column(Counted()(ds), "first") == [12, 10, None]
    assert len(Counted.built) == 1


def test_vectors_that_were_not_normalised_are_told_of(tmp_path, caplog):
    ds = with_vectors(tmp_path, [[3, 4]])
    ds.provenance["image_embedding"] = {"encoder": "acme/encoder", "normalized": False}
    with caplog.at_level(logging.WARNING):
        assert column(Particular()(ds), "first") == pytest.approx([11.2])
    assert "Particular expects unit vectors; they are normalised" in caplog.text


def test_nothing_is_learned_while_scoring(tmp_path):
    grads: list[bool] = []

    class Watched(FirstTwice):
        def load_model(self, device):
            weight = torch.nn.Parameter(torch.ones(2))

            def model(embeddings):
                scores = embeddings @ weight
                grads.append(scores.requires_grad)
                return scores

            return model

    column(Watched()(with_vectors(tmp_path, [[1, 0]])), "first")
    assert grads == [False]


def test_vectors_of_any_length_and_of_none(tmp_path, backend):
    """One direction gives one score; a vector without one gives none."""
    vectors = [[3, 4], [3e-30, 4e-30], [3e30, 4e30], [0, 0], [np.nan, 1]]
    with_vectors(tmp_path, vectors)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    made = column(FirstTwice()(ds), "first")
    assert made[:3] == pytest.approx([11.2] * 3)
    assert made[3:] == [None, None]
