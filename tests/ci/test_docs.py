"""The Python of README and docs/ runs as it is printed, and the site's own checks find faults.

The blocks of a page run one after the other, in a folder with datasets of photographs. A block
after `<!-- not run: REASON -->` is only compiled; one after `<!-- run: NAME -->` has a test
elsewhere.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import (
    ClipScore,
    ConseEmbedder,
    ImageDigest,
    ImageStatistics,
    ImageTextPairDataset,
    PerceptualHash,
    catalog,
)
from nemo_image_curate.demo import pack_photographs, photographs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a line prints, where a comment says so.
PRINTED = re.compile(r"^print\(.*\)  # (.+)$", re.M)
BLOCK = re.compile(r"(?:<!-- (run|not run): (.+) -->\n)?```python\n(.*?)```", re.S)


class Block(NamedTuple):
    mark: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(mark, code) for mark, _, code in BLOCK.findall(page.read_text())]


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pool() -> pa.Table:
    """Metadata as DataComp's are, of images that are not downloaded."""
    n = 40
    return pa.table(
        {
            "uid": [f"{number:032x}" for number in range(n)],
            "text": ["a dog runs on green grass", "dog"] * (n // 2),
            "original_width": [150, 300, 450, 600] * (n // 4),
            "original_height": [300] * n,
            "clip_l14_similarity_score": [number / n for number in range(n)],
        }
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """What pages find: the demo's shards, some of them embedded, two of them as a benchmark, and
    metadata alone."""
    folder = tmp_path_factory.mktemp("docs")
    pack_photographs(folder / "demo-output" / "shards")
    everything = ImageTextPairDataset.from_webdataset(
        folder / "demo-output" / "shards", backend="cpu"
    )
    # As img2dataset calls it.
    everything = ImageDigest()(everything)
    everything.metadata = everything.metadata.rename(columns={"image_sha256": "sha256"})
    everything.filter("file.str.startswith('ch')").to_webdataset(folder / "shards")
    embedder = ConseEmbedder(image_stages=[ImageStatistics(), PerceptualHash(flips=True)])
    dataset = ImageTextPairDataset.from_webdataset(folder / "shards", backend="cpu")
    scored = ClipScore()(embedder(dataset)).save_metadata(folder / "scored")
    scored.filter("variant == 'original'").to_webdataset(folder / "benchmark")
    (folder / "metadata").mkdir()
    pq.write_table(pool(), folder / "metadata" / "0.parquet")
    (folder / "photos").mkdir()
    for name, picture in photographs():
        if name in ("chelsea", "coffee"):
            picture.save(folder / "photos" / f"{name}.jpg")
    return folder


@pytest.fixture
def here(photos, tmp_path, monkeypatch) -> Path:
    """A folder of a page's own, with copies of these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEMO_IMAGE_CURATE_BACKEND", "cpu")
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not block.mark for block in blocks(page))], ids=_id
)
def test_a_page_runs_and_prints_what_it_says(page, here, monkeypatch, capsys):
    # Classes that a page defines are described by their code, which is found by the file's name.
    script = here / "page.py"
    code = "\n".join(block.code for block in blocks(page) if not block.mark)
    script.write_text(code)
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("documented_page", script)
    )
    monkeypatch.setitem(sys.modules, "documented_page", module)
    module.__spec__.loader.exec_module(module)
    told = capsys.readouterr().out
    for text in PRINTED.findall(code):
        assert text.partition("...")[0] in told


def test_a_site_that_loads_from_elsewhere_or_lacks_a_name_has_faults(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "ci"))
    docs = importlib.import_module("docs")
    (tmp_path / "api").mkdir()
    anchors = [
        f'<h2 id="nemo_image_curate.{entry.module}.{name}">'
        for name, entry in catalog.PUBLIC.items()
        if name != "Query"
    ]
    link = '<a href="https://example.org">a link</a>'
    (tmp_path / "api" / "all.html").write_text(link + "".join(anchors))
    (tmp_path / "page.html").write_text('<script src="https://cdn.example.org/x.js"></script>')
    assert docs.faults(tmp_path) == [
        "Query is not in the reference",
        'page.html loads <script src="https://cdn.example.org/x.js',
    ]
