"""The offline pair of text and image: what it finds among real photographs."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from nemo_image_curate import ConseEmbedder, ImageTextPairDataset, embedder_of
from nemo_image_curate.errors import ConfigError
from tests.make_data import jpeg, write_tar
from tests.make_embedders import column, embeddings
from tests.shared import SHARED, needs_shared


def test_photographs_of_packages_are_found():
    """Each photograph's own name is nearer to it than to the others."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    files = [f"{skimage.data.data_dir}/{name}" for name in ("chelsea.png", "coffee.png")]
    sample = {name.rsplit("/")[-1]: name for name in load_sample_images().filenames}
    pictures = []
    for file in [*files, sample["flower.jpg"]]:
        with open(file, "rb") as opened:
            pictures.append(opened.read())
    embedder = ConseEmbedder()
    images, errors = embedder.embed_images(pictures)
    texts = embedder.embed_text(["a cat", "a cup of coffee", "a flower in bloom"])
    assert errors == [None] * 3
    assert images.shape == texts.shape == (3, 384)
    assert np.linalg.norm(images, axis=1) == pytest.approx(1, abs=1e-5)
    assert (texts @ images.T).argmax(axis=1).tolist() == [0, 1, 2]


@needs_shared
def test_text_to_image_on_flickr8k():
    """R@10 of the 1k-image measure is 29.8 %; of 300 images 43 % (chance 3.3 %)."""
    folder = SHARED / "data" / "flickr8k"
    with open(folder / "captions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["image"] for row in rows})[:300]
    captions = [next(row["caption"] for row in rows if row["image"] == name) for name in names]
    embedder = ConseEmbedder()
    images, _ = embedder.embed_images([(folder / name).read_bytes() for name in names])
    scores = embedder.embed_text(captions) @ images.T
    own = scores[np.arange(300), np.arange(300)]
    recall = ((scores > own[:, None]).sum(axis=1) < 10).mean()
    assert recall > 0.38


def test_a_dataset_gets_both_columns_and_is_searchable_again(tmp_path, backend):
    members = [("a.jpg", jpeg(1)), ("a.txt", b"a dog"), ("b.jpg", b"no picture")]
    members += [("b.txt", "ᚠᛇᚻ".encode()), ("c.jpg", jpeg(3)), ("c.txt", b"word " * 400)]
    write_tar(tmp_path / "0.tar", members)
    embedder = ConseEmbedder()
    opened = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    ds = embedder(opened).save_metadata(tmp_path / "out")
    assert [one is None for one in column(ds, "image_embedding")] == [False, True, False]
    assert [one is None for one in column(ds, "text_embedding")] == [False, True, False]
    again = embedder_of(ds.provenance["image_embedding"])
    dog = again.embed_text(["a dog"])[0]
    assert embeddings(ds, "text_embedding")[0] @ dog == pytest.approx(1, abs=1e-4)


def test_there_is_one_model_of_this_name():
    with pytest.raises(
        ConfigError, match="'mobilenet': ConseEmbedder has one model, 'offline-conse'"
    ):
        ConseEmbedder("mobilenet").embed_text(["a dog"])


def test_texts_that_say_nothing():
    embedder = ConseEmbedder()
    with pytest.raises(ConfigError, match="none of its characters"):
        embedder.embed_text(["ᚠᛇᚻ"])
    with pytest.raises(ConfigError, match=r"has 402 tokens, MiniLM takes 256"):
        embedder.embed_text(["word " * 400])
    assert embedder.embed_text([]).shape == (0, 0)
