"""Zero-shot labels against the formulas in NumPy, over any labels, templates and rows."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset, ZeroShotClassifier
from nemo_image_curate.classifiers.prompts import template_sets
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.open_clip import OpenCLIPEmbedder
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower
from nemo_image_curate.errors import (
    ConfigError,
    DatasetError,
    EncoderMismatchError,
)
from nemo_image_curate.models.open_clip import import_open_clip
from nemo_image_curate.shards.pack import pack
from tests.classifiers.test_base import with_vectors
from tests.embedders.open_clip_folders import clip_folder, siglip_folder
from tests.embedders.test_open_clip import dataset, folder, own_encode
from tests.make_data import jpeg, write_tar
from tests.make_embedders import SMALL, ThumbEmbedder, column, rows, thumb
from tests.shared import SHARED, needs_shared

__all__ = ["clip_folder", "folder", "siglip_folder"]

IMAGENET = SHARED / "data" / "imagenet"
COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}


class WordEmbedder(TextImageEmbedder):
    """Embeds pictures as thumbnails, and a text as one of the color it names, a little changed."""

    texts: list[str] = []

    def __init__(self, scale: float = 20.0, bias: float | None = None, **options):
        super().__init__("thumb", caption_column=None, **options)
        self.scale = scale
        self.bias = bias

    def preprocessing(self):
        return SMALL

    def load_embedding_model(self, device: str):
        return thumb

    def load_text_model(self, device: str):
        def encode(texts: list[str]) -> torch.Tensor:
            self.texts.extend(texts)
            return torch.from_numpy(np.stack([word(text) for text in texts])).to(device)

        return TextTower(encode, lambda text: None, lambda text: True, self.scale, self.bias)


def word(text: str) -> np.ndarray:
    """A color of the text's own, near that which it names."""
    noise = np.random.default_rng(zlib.crc32(text.encode())).normal(size=48)
    named = [color for name, color in COLORS.items() if name in text]
    vector = 0.3 * noise + 3 * (np.repeat(sum(map(np.array, named), np.zeros(3)), 16) - 0.5)
    return vector / np.linalg.norm(vector)


def class_vector(words: list[str], templates: list[str]) -> np.ndarray:
    """The formula of design and paper: the mean over prompts, scaled to length 1."""
    texts = [template.replace("{}", word) for word in words for template in templates]
    mean = np.mean([word(text) for text in texts], axis=0)
    return mean / np.linalg.norm(mean)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def vectors(n: int) -> list[np.ndarray]:
    found = np.random.default_rng(0).normal(size=(n, 48))
    return list(np.float32(found))


def unit(some: list[np.ndarray]) -> np.ndarray:
    return np.stack(some) / np.linalg.norm(some, axis=1, keepdims=True)


@pytest.mark.parametrize("templates", ["one", "simple-7", "openai-80", ["{}", "{} {{x}}"]])
@pytest.mark.parametrize("bias", [None, -3.0])
def test_labels_and_probabilities_are_those_of_the_formula(tmp_path, templates, bias, backend):
    some = vectors(11)
    with_vectors(tmp_path, [None, *some[:6]], some[6:], [None], encoder="thumb")
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    labels = {"warm": ["red", "red and white"], "green": "green", "blue": ["blue"]}
    stage = ZeroShotClassifier(WordEmbedder(bias=bias), labels, templates)
    saved = stage(ds).save_metadata(tmp_path / "out")
    lists = template_sets()[templates] if isinstance(templates, str) else templates
    words = [["red", "red and white"], ["green"], ["blue"]]
    logits = 20 * unit(some) @ np.stack([class_vector(one, lists) for one in words]).T
    expected = softmax(logits) if bias is None else 1 / (1 + np.exp(-(logits + bias)))
    names = [["warm", "green", "blue"][best] for best in expected.argmax(axis=1)]
    assert len(set(names)) > 1
    assert column(saved, "label") == [None, *names, None]
    scores = column(saved, "label_score")
    assert scores.pop(0) is scores.pop() is None
    np.testing.assert_allclose(scores, expected.max(axis=1), rtol=1e-5)
    for file in (tmp_path / "out").glob("*.parquet"):
        schema = pq.read_schema(file)
        assert pa.types.is_string(schema.field("label").type)
        assert schema.field("label_score").type == pa.float32()


@pytest.mark.parametrize("bias", [None, -3.0])
def test_each_label_by_itself(tmp_path, bias, backend):
    some = vectors(5)
    with_vectors(tmp_path, [*some[:4], None], some[4:], encoder="thumb")
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    labels = ["bright red", "blue"]
    stage = ZeroShotClassifier(
        WordEmbedder(bias=bias), labels, "simple-7", multi_label=True, pred_column="has"
    )
    made = stage(ds)
    assert list(made.metadata.columns)[-2:] == ["has_bright_red", "has_blue"]
    templates = template_sets()["simple-7"]
    cosines = unit(some) @ np.stack([class_vector([one], templates) for one in labels]).T
    expected = cosines if bias is None else 1 / (1 + np.exp(-(20 * cosines + bias)))
    for number, name in enumerate(("has_bright_red", "has_blue")):
        found = column(made, name)
        assert found.pop(4) is None
        np.testing.assert_allclose(found, expected[:, number], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [None, -3.0])
def test_labels_over_their_thresholds(tmp_path, bias, backend):
    some = vectors(12)
    with_vectors(tmp_path, [*some[:7], None], some[7:], encoder="thumb")
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    classify = ZeroShotClassifier(
        WordEmbedder(bias=bias), ["bright red", "blue"], "one", multi_label=True
    )
    keys, scores = column(ds, "key"), column(classify(ds), "label_bright_red")
    order = sorted((score, key) for score, key in zip(scores, keys, strict=True) if key != "00007")
    # The four that are the most like it show it; the row without embedding says nothing.
    shown = {key: ["bright red"] if place >= 8 else [] for place, (_, key) in enumerate(order)}
    shown |= {"00007": ["blue"], "99999": ["blue"]}
    chosen = classify.choose_thresholds(ds, shown)
    assert (chosen.examples, chosen.not_in_dataset, chosen.without_embedding) == (12, 1, 1)
    assert order[7][0] < chosen.thresholds["bright red"] < order[8][0]
    # None that has an embedding shows it.
    assert list(chosen.thresholds) == ["bright red"]
    assert "bright red" in str(chosen)
    classify.thresholds = chosen.thresholds
    made = classify(ds)
    assert [*made.metadata.columns][-3:] == [
        "label_bright_red",
        "label_blue",
        "label_is_bright_red",
    ]
    over = {key for _, key in order[8:]}
    expected = [None if key == "00007" else key in over for key in keys]
    assert column(made, "label_is_bright_red") == expected
    assert {*column(made.filter("label_is_bright_red"), "key")} == over
    saved = made.save_metadata(tmp_path / "out")
    assert saved.provenance["label_is_bright_red"]["threshold"] == chosen.thresholds["bright red"]
    assert "threshold" not in saved.provenance["label_blue"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": {"red": 0.5}}, "need multi_label=True"),
        ({"thresholds": {"green": 0.5}, "multi_label": True}, "'green' is none of the labels red"),
        (
            {"thresholds": {"red": 0.5}, "multi_label": True, "labels": ["red", "is red"]},
            "would both be the column 'label_is_red'",
        ),
    ],
)
def test_unusable_thresholds(tmp_path, options, message):
    ds = with_vectors(tmp_path, vectors(2), encoder="thumb")
    options = {"labels": ["red", "blue"], **options}
    with pytest.raises(ConfigError, match=message):
        ZeroShotClassifier(WordEmbedder(), **options)(ds)
    classify = ZeroShotClassifier(WordEmbedder(), ["red", "blue"])
    with pytest.raises(ConfigError, match="need multi_label=True"):
        classify.choose_thresholds(ds, {"00000": "red"})
    classify.multi_label = True
    with pytest.raises(ConfigError, match="precision=2 should be"):
        classify.choose_thresholds(ds, {"00000": "red"}, precision=2)
    with pytest.raises(DatasetError, match="none of 1 labelled samples has an embedding"):
        classify.choose_thresholds(ds, {"77777": "red"})


def test_one_label_by_itself(tmp_path):
    ds = with_vectors(tmp_path, vectors(3), encoder="thumb")
    made = ZeroShotClassifier(WordEmbedder(), ["red"], multi_label=True)(ds)
    assert len(set(column(made, "label_red"))) == 3


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("nulls", ["", "x", "xxx", ".", "x.x"])
def test_any_rows(tmp_path, nulls, multi_label, backend):
    some = vectors(len(nulls))
    given = [None if mark == "x" else one for mark, one in zip(nulls, some, strict=True)]
    with_vectors(tmp_path, given, vectors(1), encoder="thumb")
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    made = ZeroShotClassifier(WordEmbedder(), ["red", "blue"], "one", multi_label)(ds)
    saved = made.save_metadata(tmp_path / "out")
    for name in ("label_red", "label_blue") if multi_label else ("label", "label_score"):
        assert [one is None for one in column(saved, name)] == [*(m == "x" for m in nulls), False]


def test_an_embedding_of_no_number_has_no_label(tmp_path):
    ds = with_vectors(tmp_path, [[np.nan] * 48, *vectors(1)], encoder="thumb")
    made = rows(ZeroShotClassifier(WordEmbedder(), ["red", "blue"], "one")(ds))
    assert made[0]["label"] is None
    assert made[1]["label"] is not None


def test_equally_likely_labels_give_the_first(tmp_path):
    ds = with_vectors(tmp_path, vectors(4), encoder="thumb")
    labels = {"one": "red", "two": "red"}
    made = ZeroShotClassifier(WordEmbedder(), labels, "one")(ds)
    assert column(made, "label") == ["one"] * 4
    assert column(made, "label_score") == pytest.approx([0.5] * 4)


def pictures(folder) -> None:
    """Two shards of pictures, one of which cannot be decoded."""
    write_tar(folder / "0.tar", [("a.jpg", b"no picture"), ("b.jpg", jpeg(1)), ("c.jpg", jpeg(2))])
    write_tar(folder / "1.tar", [(f"{number}.jpg", jpeg(number)) for number in range(10, 16)])


def test_in_the_pass_of_the_embedder_as_afterwards(tmp_path, backend):
    pictures(tmp_path / "in")
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend=backend)
    embedder = WordEmbedder()
    stage = ZeroShotClassifier(embedder, list(COLORS), "simple-7")
    marks = ZeroShotClassifier(embedder, list(COLORS), "one", multi_label=True, pred_column="has")
    after = marks(stage(embedder(ds)))
    within = WordEmbedder(classifiers=[stage, marks])(ds).save_metadata(tmp_path / "out")
    names = ["label", "label_score", *(f"has_{name}" for name in COLORS)]
    assert len(set(column(within, "label"))) > 2
    for name in names:
        found, expected = column(within, name), column(after, name)
        assert [one is None for one in found] == [one is None for one in expected]
        assert [one is None for one in found].count(True) == 1
        if name == "label":
            assert found == expected
        else:
            kept = [[one for one in some if one is not None] for some in (found, expected)]
            np.testing.assert_allclose(*kept, rtol=1e-5, atol=1e-6)


def test_an_embedder_may_run_a_classifier_of_its_own(tmp_path):
    pictures(tmp_path)
    embedder = WordEmbedder()
    embedder.classifiers = [ZeroShotClassifier(embedder, ["red", "blue"], "one")]
    ds = embedder(ImageTextPairDataset.from_webdataset(tmp_path))
    assert set(column(ds, "label")) == {"red", "blue", None}


def test_prompts_are_embedded_once_per_process(tmp_path):
    ds = with_vectors(tmp_path, vectors(2), vectors(1), [None], encoder="thumb")
    worker_cache.clear()
    WordEmbedder.texts.clear()
    column(ZeroShotClassifier(WordEmbedder(), ["red", "blue"], ["a {}.", "the {}."])(ds), "label")
    assert WordEmbedder.texts == ["a red.", "the red.", "a blue.", "the blue."]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 40), min_size=1))
def test_any_number_of_words_for_each_label(counts):
    labels = {name: [f"{name} {n}" for n in range(count)] for name, count in counts.items()}
    templates = ["{}.", "a {}.", "the {}."]
    found = ZeroShotClassifier(WordEmbedder(), labels, templates).class_vectors()
    expected = [class_vector(words, templates) for words in labels.values()]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)


class OtherWords(WordEmbedder):
    def weights_sha256(self):
        return "other"


def test_what_decides_labels_decides_what_is_computed_again(tmp_path):
    ds = with_vectors(tmp_path, vectors(2), encoder="thumb")

    def token(embedder=None, labels=("red", "blue"), templates="one", **options) -> str:
        stage = ZeroShotClassifier(embedder or WordEmbedder(), labels, templates, **options)
        return Lineage(stage(ds).metadata).token

    same = {
        token(),
        token(labels=["red", "blue"]),
        token(labels={"red": "red", "blue": ["blue"]}),
        token(templates=["a photo of a {}."]),
        token(check_encoder=False),
        token(WordEmbedder(batch_size=7)),
    }
    assert len(same) == 1
    others = [
        token(labels=["blue", "red"]),
        token(labels={"red": ["red", "white"], "blue": "blue"}),
        token(labels={"red": "red", "blu": "blue"}),
        token(templates="simple-7"),
        token(multi_label=True),
        token(pred_column="color"),
        token(WordEmbedder(scale=1.0)),
        token(OtherWords()),
    ]
    assert len({*same, *others}) == 1 + len(others)


def test_workers_give_the_same_bytes(tmp_path, request):
    ds = with_vectors(tmp_path, vectors(3), [None], vectors(2), encoder="thumb")
    stage = ZeroShotClassifier(WordEmbedder(), list(COLORS), "simple-7")
    stage(ds).save_metadata(tmp_path / "none")
    request.getfixturevalue("client")
    stage(ds).save_metadata(tmp_path / "two")
    for number in range(3):
        one, other = (tmp_path / name / f"{number}.parquet" for name in ("none", "two"))
        assert one.read_bytes() == other.read_bytes()


def test_what_was_asked_for_is_recorded(tmp_path):
    ds = with_vectors(tmp_path, vectors(2), encoder="thumb")
    labels = {"red": ["red", "crimson"], "blue": "blue"}
    saved = ZeroShotClassifier(WordEmbedder(), labels)(ds).save_metadata(tmp_path / "out")
    made = json.loads(pq.read_schema(tmp_path / "out" / "0.parquet").metadata[b"nemo_image_curate"])
    for name in ("label", "label_score"):
        record = made["columns"][name]
        assert record == saved.provenance[name]
        assert record["stage"] == "ZeroShotClassifier"
        assert record["labels"] == {"red": ["red", "crimson"], "blue": ["blue"]}
        assert record["templates"] == "openai-80"
        assert record["encoder"] == record["embedding_encoder"] == "thumb"
        assert record["embedder"]["stage"] == "WordEmbedder"
    own = ZeroShotClassifier(OtherWords(), labels, ["a {}"], multi_label=True)(ds).provenance
    assert own["label_red"]["labels"] == {"red": ["red", "crimson"]}
    assert own["label_blue"]["labels"] == {"blue": ["blue"]}
    assert own["label_red"]["templates"] == ["a {}"]
    assert own["label_red"]["weights_sha256"] == "other"


def test_other_embeddings_are_refused(tmp_path):
    ds = with_vectors(tmp_path, [[1.0, 2.0]], encoder="acme/encoder")
    with pytest.raises(EncoderMismatchError, match=r"'thumb'.*'acme/encoder'.*check_encoder=False"):
        ZeroShotClassifier(WordEmbedder(), ["red", "blue"])(ds)
    stage = ZeroShotClassifier(WordEmbedder(), ["red", "blue"], check_encoder=False)
    with pytest.raises(DatasetError, match="takes embeddings of 48 values, but these have 2"):
        stage(ds).save_metadata(tmp_path / "out")


@pytest.mark.parametrize(
    ("embedder", "options", "reason"),
    [
        (ThumbEmbedder, {}, "ThumbEmbedder embeds no texts: .* OpenCLIPEmbedder or Conse"),
        (lambda: "ViT-B-32", {}, "str embeds no texts"),
        (WordEmbedder, {"labels": []}, "labels is empty"),
        (WordEmbedder, {"labels": ["red", "red"]}, "there twice"),
        (WordEmbedder, {"labels": ["red"]}, "leaves nothing to choose from: .* always 1"),
        (WordEmbedder, {"templates": ["red"]}, "template 'red' should be"),
        (
            WordEmbedder,
            {"labels": ["dark red", "dark-red"], "multi_label": True},
            "labels 'dark red' and 'dark-red' would both be the column 'label_dark_red'",
        ),
        (WordEmbedder, {"labels": ["?", "!"], "multi_label": True}, r"label '\?' has no letters"),
    ],
)
def test_unusable_arguments_are_told_before_anything_is_computed(
    tmp_path, embedder, options, reason
):
    ds = with_vectors(tmp_path, vectors(1), encoder="thumb")
    stage = ZeroShotClassifier(embedder(), **{"labels": ["red", "blue"], **options})
    with pytest.raises(ConfigError, match=reason):
        stage(ds)
    with pytest.raises(ConfigError, match=reason):
        ThumbEmbedder(classifiers=[stage])(ds)


def test_columns_of_two_stages_do_not_meet(tmp_path):
    ds = with_vectors(tmp_path, vectors(1), encoder="thumb")
    stage = ZeroShotClassifier(WordEmbedder(), ["red", "blue"])
    marks = ZeroShotClassifier(WordEmbedder(), ["score"], multi_label=True)
    with pytest.raises(ConfigError, match="two stages of one pass write the column 'label_score'"):
        ThumbEmbedder(classifiers=[stage, marks])(ds)


def test_labels_are_those_of_open_clip(folder, tmp_path, backend):
    """Class vectors by its own builder, the rest as its documentation has it."""
    images, _, model = own_encode(folder)
    open_clip = import_open_clip()
    labels = ["dog", "green ball", "woman on the beach"]
    vectors = open_clip.build_zero_shot_classifier(
        model,
        open_clip.get_tokenizer(folder),
        labels,
        open_clip.OPENAI_IMAGENET_TEMPLATES,
    )
    logits = model.logit_scale.exp().item() * images @ vectors.numpy()
    if model.logit_bias is None:
        expected = softmax(logits)
    else:
        expected = 1 / (1 + np.exp(-(logits + model.logit_bias.item())))
    embedder = OpenCLIPEmbedder(folder, autocast=False)
    made = ZeroShotClassifier(embedder, labels)(embedder(dataset(tmp_path, backend)))
    assert column(made, "label") == [labels[best] for best in expected.argmax(axis=1)]
    np.testing.assert_allclose(column(made, "label_score"), expected.max(axis=1), rtol=0.01)


# Classes of ImageNet under plain words, to which the photographs of each are counted.
COARSE = {
    "dog": "Maltese_dog Pekinese basset whippet",
    "cat": "tabby Persian_cat Egyptian_cat",
    "bird": "cock ostrich junco bald_eagle",
    "fish": "tench goldfish barracouta",
    "snake": "hognose_snake water_snake diamondback",
    "insect": "weevil dragonfly ringlet",
    "monkey": "orangutan gibbon spider_monkey",
    "vehicle": "cab jeep moped",
    "ship": "aircraft_carrier liner speedboat",
    "musical instrument": "acoustic_guitar oboe upright",
    "building": "barn palace yurt",
    "clothing": "jersey kimono sarong",
    "food": "guacamole cheeseburger burrito",
}


@needs_shared
def test_real_photographs_under_plain_words(tmp_path):
    truth = {name: coarse for coarse, names in COARSE.items() for name in names.split()}
    found = {path: path.stem.split("_", 1)[1] for path in IMAGENET.glob("*.JPEG")}
    files = sorted(path for path, name in found.items() if name in truth)
    assert len(files) == len(truth)
    pack([(path, path.name) for path in files], tmp_path / "in")
    embedder = ConseEmbedder()
    stage = ZeroShotClassifier(embedder, list(COARSE), "simple-7")
    within = ConseEmbedder(classifiers=[stage])
    ds = within(ImageTextPairDataset.from_webdataset(tmp_path / "in"))
    made = rows(ds.save_metadata(tmp_path / "out", columns=["file", "label", "label_score"]))
    right = np.array([row["label"] == truth[found[IMAGENET / row["file"]]] for row in made])
    scores = np.array([row["label_score"] for row in made])
    assert right.mean() > 0.9
    assert scores[right].mean() > 0.8
