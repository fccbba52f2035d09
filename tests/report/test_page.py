"""The page: whole without a script, each picture once, the same bytes for the same rows."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from html.parser import HTMLParser

import fsspec
import pytest

from nemo_image_curate import ImageTextPairDataset, write_report
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.report import album, columns
from nemo_image_curate.report.page import report_page
from nemo_image_curate.report.settings import Settings
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar
from tests.report.conftest import BROKEN, HOSTILE, SIZES

WHERE = ["score > 4", "is_dark or width < 50"]


class Page(HTMLParser):
    """Tags with their attributes, and texts by the section they are in."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = collections.defaultdict(list)
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "section" or tag == "article":
            self._section = attributes["id"]

    def handle_data(self, data):
        self.texts[self._section].append(data)

    def all(self, tag: str, name: str) -> list[str]:
        return [one[name] for found, one in self.tags if found == tag and name in one]

    def text(self, section: str) -> str:
        return " ".join("".join(self.texts[section]).split())


@pytest.fixture(scope="module")
def written(tars, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    dataset = ImageTextPairDataset.from_webdataset(tars, backend="cpu")
    write_report(dataset.filter(WHERE[0]), path, where=WHERE[1:], pictures=4, progress=False)
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_every_link_leads_somewhere_and_no_id_is_given_twice(page):
    ids = [one["id"] for _, one in page.tags if "id" in one]
    assert len(ids) == len(set(ids))
    links = page.all("a", "href")
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_a_picture_is_stored_once_and_nothing_comes_from_elsewhere(page):
    symbols = page.all("symbol", "id")
    images = page.all("image", "href")
    assert len(set(images)) == len(symbols) == len(set(symbols))
    assert all(image.startswith("data:image/jpeg;base64,") for image in images)
    shown = collections.Counter(page.all("use", "href"))
    assert shown.keys() == {f"#{symbol}" for symbol in symbols}
    # In its entry, and where a section shows it.
    assert min(shown.values()) > 1
    assert not page.all("img", "src") + page.all("link", "href") + page.all("script", "src")
    assert not [one for _, one in page.tags if "style" in one or any(n[:2] == "on" for n in one)]


def test_texts_of_the_dataset_stay_texts(page):
    *kinds, last = [one.get("type") for tag, one in page.tags if tag == "script"]
    assert set(kinds) == {"application/json"}
    assert last is None
    assert "img" not in {tag for tag, _ in page.tags}
    assert any(HOSTILE in text for text in page.texts.values() for text in text)


def test_a_funnel_counts_as_brute_force_does(page, rows):
    first = [row["score"] is not None and row["score"] > 4 for row in rows]
    second = [row["is_dark"] or row["width"] < 50 for row in rows]
    both = sum(map(all, zip(first, second, strict=True)))
    only_first = sum(b and not a for a, b in zip(first, second, strict=True))
    text = page.text("funnel")
    assert f"{both} of {len(rows)} rows stay" in text
    drops = len(rows) - sum(first)
    unknown = sum(row["score"] is None for row in rows)
    assert f"score > 4{sum(first)}" in text
    assert f"{drops}{drops}{only_first}{unknown}" in text


def test_a_column_shows_its_borderline(page, rows):
    text = page.text("column-score")
    scores = sorted(row["score"] for row in rows if row["score"] is not None)
    kept = sum(score > 4 for score in scores)
    assert f"{kept} of {len(rows)} rows stay" in text
    assert 'ds.filter("score > 4") (from the conditions)' in text
    below = [score for score in scores if score < 4][-4:]
    above = [score for score in scores if score >= 4][:4]
    shown = "".join(f"{score:.4g}" for score in below)
    assert (
        f"Just below 4{shown}4 and just above{''.join(f'{score:.4g}' for score in above)}" in text
    )


def test_other_columns_say_what_they_hold(page, rows):
    assert "60 values, all of them 7." in page.text("column-constant")
    assert 'a "b" </table>' in page.text("column-label")
    dark = sum(row["is_dark"] for row in rows)
    assert f"true{dark}" in page.text("column-is-dark")
    assert 'ds.filter("width >= ' in page.text("column-width")
    assert "nothing60" in page.text("columns")


def test_what_a_script_reads_is_what_the_page_says(page, rows):
    (text,) = [one for text in page.texts.values() for one in text if one.startswith('{"columns"')]
    data = json.loads(text)
    score = data["columns"]["score"]
    assert sum(score["counts"]) == sum(row["score"] is not None for row in rows)
    assert data["pictures"].keys() <= set(page.all("article", "id"))


def test_failures_are_counted_and_named(page):
    text = page.text("what-is-missing-or-broken")
    assert "1 images could not be read" in text
    assert f"00000.tar{BROKEN}decode: no image" in text
    assert f"rows in sidecars{sum(SIZES)}" in text


def test_the_same_rows_give_the_same_bytes(written, tars, tmp_path, client):
    dataset = ImageTextPairDataset.from_webdataset(tars, backend="cpu")
    dataset.metadata = dataset.metadata.repartition(npartitions=2)
    write_report(dataset.filter(WHERE[0]), tmp_path / "a.html", where=WHERE[1:], pictures=4)
    assert (tmp_path / "a.html").read_text("utf-8") == written


def test_pictures_beyond_the_budget_are_named(dataset, page):
    text = report_page(dataset, Settings(byte_budget=80_000, progress=False))
    assert "not shown: the page is large enough" in text
    assert 0 < len(Page(text).all("image", "href")) < len(page.all("image", "href"))


def test_of_too_many_columns_some_have_no_pictures_and_some_no_section(dataset, monkeypatch):
    monkeypatch.setattr(columns, "_MOST_SECTIONS", 3)
    small = Settings(byte_budget=30_000, progress=False, thresholds={"width": 40})
    page = Page(report_page(dataset, small))
    text = page.text("columns")
    assert "3 of them have no section of their own and 1 more have no pictures" in text
    assert "strips are of 4" in text
    sections = [one for one in page.all("section", "id") if one.startswith("column-")]
    assert sections == ["column-width", "column-score", "column-constant"]
    assert "Highest" in page.text("column-width")
    assert "rows stay" in page.text("column-score")
    assert "Highest" not in page.text("column-score")
    named = Page(
        report_page(dataset, dataclasses.replace(small, columns=("score",), thresholds={}))
    )
    assert "Highest" in named.text("column-score")


def test_what_is_asked_for_and_cannot_be_shown_is_said(dataset):
    asked = Settings(progress=False, columns=("nothing", "width"), thresholds={"constant": 7})
    page = Page(report_page(dataset, asked))
    text = page.text("columns")
    assert "nothing has no section: it holds neither numbers nor few different values." in text
    assert "constant has no threshold: all its values are the same" in text
    sections = [one for one in page.all("section", "id") if one.startswith("column-")]
    assert sections == ["column-width", "column-constant"]


@pytest.mark.parametrize("column", ["key", "image_embedding"])
def test_columns_that_never_have_a_section(dataset, column):
    with pytest.raises(ConfigError, match=rf"'{column}' holds .* have a section"):
        Settings(columns=(column,)).check(dataset)


def test_of_too_many_values_an_entry_tells_the_first_and_the_last(dataset, monkeypatch):
    monkeypatch.setattr(album, "MOST_TOLD", 4)
    page = Page(report_page(dataset, Settings(progress=False)))
    told = page.text(page.all("article", "id")[0])
    assert "6 more columns: ds.show([" in told
    assert "key" in told
    assert "image_error" in told
    assert "label" not in told


def test_a_dataset_on_s3_reads_as_one_on_disk(written, tars, bucket, tmp_path):
    root = f"{bucket()}/photos"
    fsspec.filesystem("s3").put(f"{tars}/", root, recursive=True)
    remote = ImageTextPairDataset.from_webdataset(root, backend="cpu")
    write_report(
        remote.filter(WHERE[0]), f"{root}.html", where=WHERE[1:], pictures=4, progress=False
    )
    with fsspec.open(f"{root}.html") as file:
        page, local = Page(file.read().decode()), Page(written)
    assert page.all("image", "href") == local.all("image", "href")
    assert page.text("column-score") == local.text("column-score")


def test_a_dataset_without_anything_to_show(tmp_path):
    make_dataset(tmp_path / "tars", sizes=[0], sidecars=False)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path / "tars", backend="cpu")
    write_report(dataset, tmp_path / "empty.html", progress=False)
    assert "The dataset has no rows." in (tmp_path / "empty.html").read_text("utf-8")


def test_numbers_at_the_ends_and_names_that_no_expression_has(tmp_path):
    columns = {
        "all infinite": [math.inf, -math.inf, math.inf],
        "a`b": [1.0, 2.0, math.inf],
        "\ufb01": [1.0, 2.0, math.inf],
        "huge": [-1e300, 0.0, 1e300],
        "`text`": ["x", "y", "x"],
    }
    write_tar(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(key)) for key in range(3)])
    write_sidecar(tmp_path / "0.parquet", {"key": ["0", "1", "2"], **columns})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")
    path = tmp_path / "report.html"
    write_report(dataset, path, where=["huge < 1e400", f"huge > -{10**30}"], progress=False)
    page = Page(path.read_text("utf-8"))
    columns_shown = [page.text(name) for name in page.texts if name.startswith("column-")]
    texts = {name: text for name in columns for text in columns_shown if text.startswith(name)}
    assert "3 values, 3 infinite, which are in no bar." in texts["all infinite"]
    assert "rows stay" not in texts["a`b"]
    assert 'by ds.filter("`\ufb01` >= ' in texts["\ufb01"]
    assert "(about the median)" in texts["\ufb01"]
    assert f'ds.filter("huge > -{10**30}")' in texts["huge"]
    assert not page.all("span", "data-condition")


def test_what_cannot_be_shown_is_refused_before_any_work(dataset, tmp_path):
    path = tmp_path / "report.html"
    for options in ({"where": "scroe > 1"}, {"columns": ["scroe"]}, {"thresholds": {"scroe": 1}}):
        with pytest.raises(ColumnNotFoundError, match="score"):
            write_report(dataset, path, **options)
    with pytest.raises(ConfigError, match="pictures=0"):
        write_report(dataset, path, pictures=0)
    shard = tmp_path / "00000.tar"
    shard.write_bytes(b"a shard")
    with pytest.raises(ConfigError, match="is a folder; give a file"):
        write_report(dataset, tmp_path)
    with pytest.raises(ConfigError, match=r"00000\.tar is no folder"):
        write_report(dataset, shard / "report.html")
    with pytest.raises(ConfigError, match=r"00000\.tar exists and is no HTML file"):
        write_report(dataset, shard)
    assert shard.read_bytes() == b"a shard"
    with pytest.raises(ConfigError, match="label"):
        write_report(dataset, path, thresholds={"label": 1.0})
    with pytest.raises(ConfigError, match="inf of 'score' should be a finite number"):
        write_report(dataset, path, thresholds={"score": math.inf})
    assert not path.exists()


def test_the_title_names_the_run(tars, tmp_path):
    dataset = ImageTextPairDataset.from_webdataset(tars, backend="cpu")
    run = dataset.save_metadata(tmp_path / "second-run", progress=False)
    text = report_page(run, Settings(columns=("score",), pictures=1, progress=False))
    assert "<title>second-run: report</title>" in text
    assert "<h1>second-run</h1>" in text
    assert f"{tmp_path / 'second-run'}, images in {run.path}" in text


def test_names_of_files_get_a_line_and_no_section(tmp_path):
    keys = [f"{row:03}" for row in range(30)]
    write_tar(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(int(key))) for key in keys])
    names = [f"IMG_{key}.jpg" for key in keys]
    kinds = ["cat", "dog", "cat"] * 10
    write_sidecar(tmp_path / "0.parquet", {"key": keys, "file": names, "kind": kinds})
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")
    page = Page(report_page(ds, Settings(pictures=1, progress=False)))
    assert "file30 values, each once0" in page.text("columns")
    assert set(page.all("section", "data-column")) == {"kind"}
    asked = Page(report_page(ds, Settings(pictures=1, columns=("file",), progress=False)))
    assert set(asked.all("section", "data-column")) == {"file"}
