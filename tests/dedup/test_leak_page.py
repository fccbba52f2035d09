"""The leak page and the list of clean rows."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nemo_image_curate import Decontaminate, ImageTextPairDataset
from nemo_image_curate.dedup.leak_summary import summarise
from nemo_image_curate.errors import ColumnNotFoundError
from tests.dedup.photographs import saved
from tests.make_data import jpeg, write_sidecar, write_tar

HOSTILE = '<script>alert("x")</script>&"\''


class Page(HTMLParser):
    """Tags, pictures and text of a page."""

    def __init__(self, content: str):
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A stage and what it found: two leaks, a clean row, one that was not compared."""
    folder = tmp_path_factory.mktemp("page")
    write_tar(folder / "val" / "0.tar", [(f"v{n}.jpg", jpeg(n, 160, 120)) for n in range(3)])
    flat = saved(Image.new("RGB", (64, 48), (200, 30, 30)))
    for number, numbers in enumerate(([0, 9], [1])):
        members = [(f"k{one}.jpg", jpeg(one, 160, 120)) for one in numbers]
        members += [("flat.jpg", flat)] * (number == 1)
        write_tar(folder / "in" / f"{number}.tar", members)
        keys = [name.removesuffix(".jpg") for name, _ in members]
        columns = {"key": keys, "caption": [HOSTILE] * len(keys)}
        write_sidecar(folder / "in" / f"{number}.parquet", columns)
    stage = Decontaminate({"<b>val": folder / "val"}, ["exact", "perceptual"])
    return stage, stage(ImageTextPairDataset.from_webdataset(folder / "in"))


def test_page(found, tmp_path):
    stage, ds = found
    summary = stage.report(ds, tmp_path / "leaks.html")
    assert summary.counts() == {
        "leaks": 2,
        "leaks_by": {"exact": 2},
        "leaks_of": {"<b>val": 2},
        "clean": 1,
        "not_compared": 1,
        "not_compared_why": {"no hash": 1},
    }
    content = (tmp_path / "leaks.html").read_text()
    page = Page(content)
    # Nothing is run, nothing is fetched, nothing of a caption or name is a tag.
    assert "script" not in page.tags
    assert "b" in page.tags
    assert "<b>val" not in content
    assert any(HOSTILE in text for text in page.texts)
    assert len(page.pictures) == 4
    assert all(one.startswith("data:image/jpeg;base64,") for one in page.pictures)
    assert "<title>in: leaks</title>" in content
    assert "<h1>in: leaks</h1>" in content
    text = " ".join(page.texts)
    for told in ("0.tar: k0", "<b>val: 0.tar: v1", "no hash", "leaks.clean.parquet"):
        assert told in text
    clean = pq.read_table(tmp_path / "leaks.clean.parquet").to_pylist()
    assert clean == [{"key": "k9", "shard": "0.tar"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaks.clean.parquet", "leaks.html"]


def test_few_pairs_are_shown_of_many(found, tmp_path):
    stage, ds = found
    summary = stage.report(ds, tmp_path / "one.html", pairs=1)
    assert len(summary.sample) == 1
    assert len(Page((tmp_path / "one.html").read_text()).pictures) == 2
    assert summary.leaks.total() == 2
    other_way = ds.replace(ds.metadata.repartition(npartitions=1))
    assert summarise(other_way, pairs=1).sample == summary.sample


def test_histogram(found):
    summary = summarise(found[1])
    assert summary.histogram["leak"][99] == 2
    assert np.sum(summary.histogram["clean"]) == 0


def test_needs_the_columns(found):
    with pytest.raises(ColumnNotFoundError, match="is_leak"):
        summarise(found[1].select(["caption"]))
