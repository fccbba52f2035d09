"""The commands that search: a dataset with real captions, indexed, asked, served."""

from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import urllib.request

import numpy as np
import pytest

from nemo_image_curate import ImageTextPairDataset, Searcher, TimmImageEmbedder, build_index
from nemo_image_curate.cli.search import one_line
from nemo_image_curate.demo import CAPTIONS, photographs
from tests.cli.conftest import COMMAND
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_embedders import column


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, shell):
    """The packages' photographs with captions: packed, embedded, indexed by the command."""
    folder = tmp_path_factory.mktemp("indexed")
    (folder / "photographs").mkdir()
    lines = ["image,caption"]
    for name, image in photographs():
        if name in CAPTIONS:
            image.save(folder / "photographs" / f"{name}.jpg")
            lines.append(f'{name}.jpg,"{CAPTIONS[name]}"')
    (folder / "captions.csv").write_text("\n".join(lines))
    words = ["--captions", folder / "captions.csv", "--output", folder / "shards"]
    shell("pack", folder / "photographs", *words, cluster=False)
    model = ["--model", "offline-conse", "--stats"]
    shell("embed", folder / "shards", *model, "--output", folder / "meta")
    shell("index", folder / "meta")
    return folder


def files(told: str) -> list[str]:
    return [hit["metadata"]["file"].rpartition("/")[2] for hit in json.loads(told)]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("a caption", None, "a caption"),
        ("x" * 5000, None, "x" * 5000),
        ("x" * 5000, 80, "x" * 79 + "…"),
        ("x" * 80, 80, "x" * 80),
        ("猫" * 50, 80, "猫" * 39 + "…"),
        ("e\u0301" * 50, 50, "e\u0301" * 50),
        ("", 80, ""),
        ("two\nlines\r\n", 80, "two lines  "),
        ("\x1b[2Jgone\x07\x00\x9b", None, " [2Jgone   "),
        ("abc\u202ecba\u2028x", None, "abc cba x"),
        ("half a pair \ud83d", None, "half a pair  "),
        ("👩\u200d🚀", 80, "👩\u200d🚀"),
    ],
)
def test_captions_of_strangers_stay_in_their_line(text, width, shown):
    assert one_line(text, width) == shown


def test_a_terminal_gets_lines_of_its_width(indexed, shell):
    # In a new process, so that no other test needs one for it.
    (shell.begun / "search").touch()
    words = [str(COMMAND), "search", str(indexed / "meta"), "--text", "a cat"]
    inner, outer = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "NEMO_IMAGE_CURATE_BACKEND": "cpu"}
    subprocess.run(words, stdout=outer, stderr=subprocess.PIPE, env=environment, check=True)
    os.close(outer)
    lines = os.read(inner, 1 << 16).decode().splitlines()
    os.close(inner)
    assert lines
    assert max(map(len, lines)) == 40
    assert any(line.endswith("…") for line in lines)


def test_photographs_are_found(indexed, run):
    def search(*words: str, code: int = 0) -> str:
        return run("search", indexed / "meta", *words, code=code, cluster=False)

    assert files(search("--text", "a cat", "--json"))[0] == "chelsea.jpg"
    image = str(indexed / "photographs" / "coffee.jpg")
    assert files(search("--image", image, "-k", "3", "--json"))[0] == "coffee.jpg"
    wide = json.loads(search("--text", "a cat", "--where", "width > 600", "--json"))
    assert wide
    assert all(hit["metadata"]["width"] > 600 for hit in wide)
    printed = search("--image", image, "--captions", "-k", "1")
    # No terminal: nothing is cut.
    assert CAPTIONS["coffee"] in printed
    for words in (["--text", "a cat", "-k", "0"], ["--text", ""], [], ["--image", image[:-5]]):
        assert "Traceback" not in search(*words, code=2 if "--image" not in words else 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--text", "x", "--collapse", "0"], "collapse=0.0 should be"),
        (["--text", "x", "--collapse", "1.5"], "collapse=1.5 should be"),
        (["--text", "x", "--text-weight", "-1"], "text_weight=-1.0 should be"),
        (["--text", "x", "-k", "0"], "k=0 should be"),
        ([], "a query needs a text"),
    ],
)
def test_unusable_queries_are_refused_before_anything_is_opened(run, tmp_path, words, said):
    assert said in run("search", tmp_path / "nowhere", *words, code=2, cluster=False)


def test_an_index_is_added_to_or_built_again(indexed, run):
    first = json.loads(run("index", indexed / "meta", "--json"))
    assert first["image_embedding"]["vectors"] == len(CAPTIONS)
    assert first["image_embedding"]["kind"] == "flat"
    assert first["caption"]["captions"] == len(CAPTIONS)
    again = run("index", indexed / "meta", "--kind", "ivf", "--rebuild")
    assert "kind       ivf" in again
    assert "INFO: index of image_embedding is ivf" in run.stderr
    assert "MB in memory" in run.stderr
    run("index", indexed / "meta", "--kind", "flat")


def key_labels(ds: ImageTextPairDataset) -> list[tuple[str, str]]:
    return list(zip(column(ds, "key"), column(ds, "label"), strict=True))


def test_labels_and_clip_scores(indexed, run, tmp_path):
    words = ["--labels", "cat, cup of coffee=coffee|cup,flower", "--templates", "one"]
    run("zero-shot", indexed / "meta", *words, "--output", tmp_path / "labelled")
    run("score", tmp_path / "labelled", "--clip")
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "labelled")
    labels = dict(zip(column(ds, "file"), column(ds, "label"), strict=True))
    by_name = {name.rpartition("/")[2]: label for name, label in labels.items()}
    assert by_name["chelsea.jpg"] == "cat"
    assert by_name["coffee.jpg"] == "cup of coffee"
    assert by_name["flower.jpg"] == "flower"
    assert all(-1 <= score <= 1 for score in column(ds, "clip_score"))
    several = ["--labels", "cat,flower", "--multi-label", "--templates", "a picture of a {}"]
    shown = [f"{key},{'cat' if label == 'cat' else ''}" for key, label in key_labels(ds)]
    (tmp_path / "shown.csv").write_text("\n".join(["key,label", *shown]))
    more = ["--threshold", "flower=-1", "--examples", tmp_path / "shown.csv"]
    told = run("zero-shot", tmp_path / "labelled", *several, *more)
    assert f"{len(CAPTIONS)} examples; 0 not in the dataset" in told
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "labelled")
    assert {"label_cat", "label_flower"} <= set(ds.metadata.columns)
    assert column(ds, "label_is_cat") == [label == "cat" for _, label in key_labels(ds)]
    assert all(column(ds, "label_is_flower"))
    assert "is there twice" in run("zero-shot", indexed / "meta", "--labels", "a,b,a", code=2)


def test_a_dataset_without_an_index_or_embeddings(indexed, run, tmp_path):
    no_texts = TimmImageEmbedder("test_vit.r160_in1k")(
        ImageTextPairDataset.from_webdataset(indexed / "shards", backend="cpu")
    ).save_metadata(tmp_path / "no-texts")
    told = run("search", no_texts.metadata_path, "--text", "x", code=2, cluster=False)
    # An index, which is not there either, would be of no use.
    assert "embeds no texts" in told
    assert "--model offline-conse" in told
    told = run("search", indexed / "shards", "--text", "x", code=2, cluster=False)
    assert "no column 'image_embedding'" in told
    assert "no column 'image_embedding'" in run("index", indexed / "shards", code=2)


def test_embeddings_of_unknown_origin_are_searched_by_stored_images(run, tmp_path):
    vectors = planted(20)
    build_index(write_embeddings(tmp_path / "data", vectors))
    told = run("search", tmp_path / "data", "--like", "000007", "-k", "1", "--json", cluster=False)
    nearest = np.argsort(-(vectors @ vectors[7]))[1]
    assert [hit["key"] for hit in json.loads(told)] == [f"{nearest:06d}"]
    told = run("search", tmp_path / "data", "--text", "x", code=2, cluster=False)
    assert "of unknown origin" in told


def test_a_store_that_was_loaded_answers_as_the_index_does(indexed, run):
    place = ("--store", indexed / "live.db")
    told = json.loads(run("index", indexed / "meta", *place, "--json"))
    loaded = told["image_embedding"]
    assert loaded["added"] == loaded["rows"] - loaded.get("it has no embedding", 0) > 0
    query = ("search", indexed / "meta", "--text", "a cat", "--where", "width > 300", "--json")
    from_index, from_store = (
        json.loads(run(*query, *options, cluster=False)) for options in ((), place)
    )
    assert [hit["key"] for hit in from_store] == [hit["key"] for hit in from_index]


def test_the_service_answers_as_the_command_and_python_do_until_it_is_stopped(indexed, run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(COMMAND, "serve", indexed / "meta", "--port", str(port)),
            *("--store", indexed / "live", "--allowed-host", "gallery.example"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEMO_IMAGE_CURATE_BACKEND": "cpu"},
    )
    try:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        for host, status in {"gallery.example": 200, "evil.example": 421}.items():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("GET", "/docs", headers={"Host": host})
            assert connection.getresponse().status == status
            connection.close()
        query = urllib.request.Request(
            f"http://127.0.0.1:{port}/search/text-to-image",
            json.dumps({"text": "a cat", "k": 5, "where": "width > 300"}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(query, timeout=120) as answer:
            hits = json.load(answer)["hits"]
        words = ["--text", "a cat", "-k", "5", "--where", "width > 300", "--json"]
        printed = json.loads(run("search", indexed / "meta", *words, cluster=False))
        searcher = Searcher.open(ImageTextPairDataset.from_webdataset(indexed / "meta"))
        found = searcher.search("a cat", k=5, where="width > 300")
        # By the number of threads some processors round otherwise.
        same = [{**hit, "score": pytest.approx(hit["score"], abs=1e-6)} for hit in printed]
        assert [hit.to_dict() for hit in found] == same
        assert [{name: hit[name] for name in printed[0]} for hit in hits] == same
        assert hits[0]["metadata"]["file"].endswith("chelsea.jpg")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
