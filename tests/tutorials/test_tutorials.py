"""The tutorials run as they are printed."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nemo_image_curate import ImageTextPairDataset
from tests.dedup.photographs import flickr, flipped, scaled
from tests.forked import Forked
from tests.make_data import make_dataset
from tests.make_embedders import embeddings
from tests.shared import SHARED, needs_shared

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"


Run = Callable[..., str]


@pytest.fixture
def environment(workers) -> dict[str, str]:
    """With it get_client connects to the workers of all tests in place of some of its own."""
    return {**os.environ, "DASK_SCHEDULER_ADDRESS": workers.scheduler_address}


@pytest.fixture
def run(environment) -> Run:
    """What a script prints, in a forked process: others show that one imports what it needs."""

    def printed(script: str, *arguments: object) -> str:
        command = ["tests.forked:run_script", TUTORIALS / script, *arguments]
        process = Forked(*command, env=environment)
        told, errors = process.communicate()
        assert process.returncode == 0, errors
        return told

    return printed


def test_an_embedder_of_ones_own(run, environment, tmp_path):
    make_dataset(tmp_path / "in", sizes=[3, 2])
    words = ["custom_embedder.py", tmp_path / "in", tmp_path / "out"]
    told = run(*words)
    assert "histogram" in told
    found = embeddings(ImageTextPairDataset.from_webdataset(tmp_path / "out"), "histogram")
    assert found.shape == (5, 24)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert (found >= 0).all()
    # A class that stands in the script itself: a run with another seed must know its work again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert len(before) == 2
    command = [sys.executable, TUTORIALS / words[0], *words[1:]]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_one_script_for_cpus_and_gpus(backend, tmp_path):
    truth = make_dataset(tmp_path / "in", sizes=[3, 2])
    script = TUTORIALS / "local_cuda_cluster.py"
    out = tmp_path / "out"
    subprocess.run([sys.executable, script, backend, truth.root, out], check=True)
    marked = ImageTextPairDataset.from_webdataset(out / "deduplicated", backend="cpu")
    rows = marked.metadata.compute()
    assert list(rows["key"]) == truth.keys
    assert rows["image_error"].isna().all()
    curated = ImageTextPairDataset.from_webdataset(out / "curated", backend="cpu")
    assert len(curated) == (~rows["is_duplicate"]).sum() > 0


@needs_shared
def test_duplicates_side_by_side(run, tmp_path):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for path in flickr(12):
        (photographs / path.name).write_bytes(path.read_bytes())
    first = Image.open(flickr(1)[0])
    (photographs / "smaller.jpg").write_bytes(scaled(0.7, 80)(first))
    (photographs / "mirrored.jpg").write_bytes(flipped(first))
    (photographs / "broken.jpg").write_bytes(b"no picture")
    run("deduplicate_photographs.py", photographs, tmp_path / "out")
    page = (tmp_path / "out" / "groups.html").read_text()
    group = page.split("<h3>")[1]
    assert group.count("<img") == 3
    for name in (flickr(1)[0].name, "smaller.jpg", "mirrored.jpg"):
        assert name in group
    clean = ImageTextPairDataset.from_webdataset(tmp_path / "out" / "clean")
    assert set(clean.metadata["file"].compute()) == {path.name for path in flickr(12)}


def outputs_of(name, environment):
    """What the cells of a notebook show when a real kernel runs it."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(TUTORIALS / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300).execute(env=environment)
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_photographs_are_chosen_in_a_notebook(tmp_path):
    environment = {**os.environ, "OUTPUT": str(tmp_path / "out"), "WANTED": "10"}
    photographs = 11  # of the demo
    if SHARED.is_dir():
        photographs = 30
        environment["PHOTOGRAPHS"] = str(tmp_path / "photographs")
        (tmp_path / "photographs").mkdir()
        for path in flickr(photographs):
            (tmp_path / "photographs" / path.name).write_bytes(path.read_bytes())
    outputs = outputs_of("choose_photographs.ipynb", environment)
    shown = "".join(output["data"].get("text/html", "") for output in outputs if "data" in output)
    assert shown.count("<img") > 12
    told = "".join(output.get("text", "") for output in outputs)
    in_benchmark = len(range(0, photographs, 3))
    assert f"{in_benchmark} of {photographs} are in the benchmark, too" in told
    assert (tmp_path / "out" / "leaks.html").is_file()
    chosen = pd.read_parquet(tmp_path / "out" / "chosen.parquet")
    exported = ImageTextPairDataset.from_webdataset(tmp_path / "out" / "chosen", backend="cpu")
    assert len(chosen) == len(exported) > 0


def test_a_threshold_is_moved_in_a_notebook(environment, tmp_path):
    environment["OUTPUT"] = str(tmp_path / "out")
    outputs = outputs_of("look_and_choose.ipynb", environment)
    pages = [output["data"].get("text/html", "") for output in outputs if "data" in output]
    packed, first, embedded, bars, below, above, kept, groups, points, *_ = pages
    assert "<strong>ImageTextPairDataset</strong>" in packed
    assert first.count("<img") == 8
    assert "22 rows" in embedded
    assert "ImageStatistics" in embedded
    assert "Histogram: 22 rows" in bars
    # The pictures of the first strip are those just below the threshold.
    too_high, right = (page.split("and just above</h3>")[0] for page in (below, above))
    assert "sharpness: just below 300" in too_high
    assert too_high.count(blurred := "-blurred.jpg</figcaption>") == 0
    assert right.count(blurred) == 4
    assert "Histogram" in kept
    assert "<details class=kept" in groups
    assert "-mirrored.jpg" in groups
    assert "<script>" in points
    assert any("image/png" in output.get("data", {}) for output in outputs)
    told = "".join(output.get("text", "") for output in outputs)
    exported = ImageTextPairDataset.from_webdataset(tmp_path / "out" / "chosen", backend="cpu")
    assert f"samples={len(exported)}," in told
    assert 0 < len(exported) < 22


def test_search_by_words(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def found(*arguments: str) -> list[str]:
        told = run("search_your_photographs.py", *arguments)
        scores, files = zip(*(line.split() for line in told.splitlines()), strict=True)
        assert list(map(float, scores)) == sorted(map(float, scores), reverse=True)
        return list(files)

    assert found("a tabby cat")[0] == "chelsea.jpg"
    examples = tmp_path / "search-output" / "photographs"
    own = tmp_path / "own" / "trip"
    own.mkdir(parents=True)
    for name in ("coffee", "rocket"):
        (examples / f"{name}.jpg").rename(own / f"{name}.jpg")
    (own / "broken.jpg").write_bytes(b"no picture")
    assert found("a cup of coffee", "own", "out") == ["trip/coffee.jpg", "trip/rocket.jpg"]


@needs_shared
def test_a_classifier_of_ones_own(tmp_path):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    # Dogs, and what else there is: the name ends in the class, which begins with its number.
    pictures = sorted((SHARED / "data" / "imagenet").iterdir())
    dogs = [path for path in pictures if "n02085620" <= path.name[:9] <= "n02113978"][:12]
    others = [path for path in pictures if path.name > "n026"][:60:5]
    for path in (*dogs, *others):
        with Image.open(path) as picture:
            picture.convert("RGB").resize((224, 224)).save(photographs / f"{path.stem}.jpg")
    labels = pd.DataFrame(
        [(f"{path.stem}.jpg", path in dogs) for path in (*dogs[::2], *others[::2])],
        columns=["file", "label"],
    )
    labels.to_csv(tmp_path / "labels.csv", index=False)
    script = TUTORIALS / "classifier_of_your_own.py"
    command = [sys.executable, script, photographs, tmp_path / "labels.csv", tmp_path / "out"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "12 used of 12" in told
    assert (tmp_path / "out" / "near.html").read_text().count("<img") >= 8
    wanted = ImageTextPairDataset.from_webdataset(tmp_path / "out" / "wanted", backend="cpu")
    names = set(wanted.metadata["file"].compute())
    assert len(names & {f"{path.stem}.jpg" for path in dogs}) >= 10
    assert len(names & {f"{path.stem}.jpg" for path in others}) <= 1


def test_a_search_is_learned_from_captions(tmp_path, capsys):
    script = runpy.run_path(str(TUTORIALS / "learn_from_captions.py"))
    script["main"](output=str(tmp_path / "out"))
    told = capsys.readouterr().out
    assert "base: of 11 captions, 11 photographs" in told
    assert "chelsea.jpg" in told.splitlines()[-3:][0]
