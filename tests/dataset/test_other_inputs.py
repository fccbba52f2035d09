"""What is given for a dataset and is none is told what it is, with what to do."""

from __future__ import annotations

import functools
import http.server
import shlex
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from nemo_image_curate import ImageTextPairDataset, storage
from nemo_image_curate.cli import main
from nemo_image_curate.errors import CurateError, DatasetError
from tests.make_data import jpeg, make_dataset, write_sidecar
from tests.make_embedders import rows


def told(path) -> str:
    """The message, which is one line."""
    with pytest.raises(CurateError) as raised:
        ImageTextPairDataset.from_webdataset(path)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("url", "text"), [("URL", "TEXT"), ("url", "caption"), ("image_url", "alt")]
)
@pytest.mark.parametrize("is_file", [False, True])
def test_tables_of_urls(tmp_path, url, text, is_file):
    place = tmp_path / "laion 1"
    write_sidecar(
        place / "part-00000.parquet", {url: ["http://a/b.jpg"], text: ["x"], "WIDTH": [3]}
    )
    place = place / "part-00000.parquet" if is_file else place
    message = told(place)
    assert "holds image URLs, not images" in message
    assert f"img2dataset --url_list {shlex.quote(str(place))} --input_format parquet" in message
    assert f"--url_col {url} --caption_col {text} --output_format webdataset" in message


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("list.csv", "url,caption\nhttps://a/b.jpg,x\n", "csv"),
        ("list.tsv", "caption\turl\nx\thttps://a/b.jpg\n", "tsv"),
        ("list.jsonl", '{"url": "https://a/b.jpg", "caption": "x"}\n', "jsonl"),
        ("list.txt", "https://a/b.jpg\n", "txt"),
    ],
)
def test_texts_of_urls(tmp_path, name, content, form):
    (tmp_path / name).write_text(content)
    for place in (tmp_path, tmp_path / name):
        message = told(place)
        assert f"--input_format {form}" in message
        assert ("--url_col url --caption_col caption" in message) == (form != "txt")


@pytest.mark.parametrize("is_struct", [True, False])
@pytest.mark.parametrize("is_file", [True, False])
def test_images_in_parquet_and_the_way_out(tmp_path, monkeypatch, is_struct, is_file):
    images = [jpeg(number) for number in range(3)]
    values = [{"bytes": image, "path": "x"} for image in images] if is_struct else images
    write_sidecar(tmp_path / "hf" / "train.parquet", {"image": values, "caption": ["a", "b", "c"]})
    place = tmp_path / "hf" / "train.parquet" if is_file else tmp_path / "hf"
    message = told(place)
    assert "in the Parquet column 'image'" in message
    # The command of the message does what it says.
    command = shlex.split(message.partition("Make shards of them: nemo-image-curate ")[2])
    monkeypatch.chdir(tmp_path)
    main(command, standalone_mode=False)
    found = ImageTextPairDataset.from_webdataset(command[-1])
    assert [row["caption"] for row in rows(found)] == ["a", "b", "c"]


def test_other_parquet(tmp_path):
    write_sidecar(tmp_path / "a.parquet", {"key": ["x"], "n": [1]})
    assert "Parquet files, and no .tar shards that they describe" in told(tmp_path)
    assert "is one Parquet file" in told(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"half")
    assert "a.parquet is no readable Parquet file" in told(tmp_path)


def test_sidecars_without_their_tars(tmp_path):
    make_dataset(tmp_path / "tars", sizes=[2])
    file = tmp_path / "tars" / "00000.parquet"
    assert "Give the folder of the .tar shards" in told(file)
    (tmp_path / "tars" / "00000.tar").unlink()
    assert "give the folder of the tars, and this one as metadata=" in told(tmp_path / "tars")


def test_an_unfinished_folder_is_still_told(tmp_path):
    make_dataset(tmp_path / "tars")
    ImageTextPairDataset.from_webdataset(tmp_path / "tars").save_metadata(tmp_path / "meta")
    (tmp_path / "meta" / "_dataset.json").unlink()
    assert "did not finish" in told(tmp_path / "meta")


def test_loose_images(tmp_path):
    place = tmp_path / "my photos"
    for number in range(3):
        for ending, content in (("jpg", jpeg(number)), ("txt", b"x"), ("json", b"{}")):
            (place / "00000").mkdir(parents=True, exist_ok=True)
            (place / "00000" / f"{number:09d}.{ending}").write_bytes(content)
    message = told(place)
    assert "3 of 9" in message
    assert f"nemo-image-curate pack '{place}' --output '{place}-shards'" in message
    command = shlex.split(message.partition("them: ")[2])
    main(command[1:], standalone_mode=False)
    assert len(ImageTextPairDataset.from_webdataset(command[-1])) == 3
    file = place / "00000" / "000000000.jpg"
    assert "is an image, neither a folder nor a .tar file. Make shards of them: " in told(file)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "no ending").write_bytes(jpeg(1))
    assert "nemo-image-curate pack" in told(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("train.tfrecord-00000-of-00010", "TFRecords"),
        ("train.tfrecords", "TFRecords"),
        ("x.lance/data/0.lance", "a Lance dataset"),
        ("data-00000-of-00001.arrow", "Hugging Face datasets"),
        ("images.zip", "ZIP archives"),
        ("shard.beton", "an FFCV file"),
    ],
)
def test_other_containers(tmp_path, name, what):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\3\4 or so")
    assert what in told(tmp_path / "in")
    assert what in told(path)
    assert "nemo-image-curate pack" in told(path)


def test_a_real_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.jpg", jpeg(0))
    assert "unzip them, then: nemo-image-curate pack" in told(tmp_path)


def test_a_misspelt_path(tmp_path):
    make_dataset(tmp_path / "flickr8k" / "shards", sizes=[1])
    assert f"Did you mean {tmp_path}/flickr8k?" in told(tmp_path / "flikr8k")
    assert f"Did you mean {tmp_path}/flickr8k?" in told(tmp_path / "flikr8k" / "shards")
    assert f"Did you mean {tmp_path}/flickr8k/shards?" in told(tmp_path / "flickr8k" / "shard")
    assert "Did you mean" not in told(tmp_path / "unlike anything")
    assert "A brace pattern is like" in told(f"{tmp_path}/{{00000..00099.tar")


def test_commands_and_unknown_urls(tmp_path):
    message = told("pipe:curl -s -L https://a.org/{000..010}.tar || true")
    assert "commands are not run. Give the URL itself: https://a.org/{000..010}.tar" in message
    assert "commands are not run" in told(["pipe:cat x.tar"])
    message = told("ftpp://a/b")
    assert message.startswith("cannot use ftpp://a/b: ")
    assert "Known are local paths and s3, gs" in message


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("gs://a/b", "gcsfs", "gcsfs"),
        ("az://a/b", "adlfs", "adlfs"),
        ("hf://a/b", "huggingface_hub", "huggingface_hub"),
        ("s3://a/b", "s3fs", "nemo_image_curate[s3]"),
        ("https://a/b", "aiohttp", "aiohttp"),
    ],
)
def test_what_a_url_needs_is_named(url, module, package):
    code = f"""
import sys
sys.modules[{module!r}] = None
from nemo_image_curate import storage
try:
    storage.filesystem({url!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("DatasetError cannot use"), done
    assert "pip install" in done.stdout
    assert package in done.stdout


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_an_s3_endpoint_that_does_not_answer(bucket, closed_port, monkeypatch):
    root = bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    started = time.monotonic()
    # Filesystems are kept by their arguments, not by the environment.
    storage.filesystem(root)[0].clear_instance_cache()
    message = told(f"{root}/data")
    assert time.monotonic() - started < 60
    assert f"cannot reach {root}/data" in message
    assert "Could not connect" in message
    assert f"Check the endpoint (AWS_ENDPOINT_URL=http://127.0.0.1:{closed_port})" in message
    with pytest.raises(DatasetError, match=f"cannot reach {root}/out: Could not connect"):
        storage.make_dirs(f"{root}/out")
    storage.filesystem(root)[0].clear_instance_cache()


def test_a_bucket_that_is_not_there(bucket):
    bucket()
    message = told("s3://there-is-none-of-this-name/data")
    assert "does not exist" in message
    assert "Check the bucket, the path, and the endpoint (AWS_ENDPOINT_URL=" in message


def test_errors_of_credentials_are_one_line():
    message = r"s3://a/b: Forbidden\. Check .*AWS_ACCESS_KEY_ID"
    with pytest.raises(DatasetError, match=message), storage.reaching("s3://a/b"):
        raise PermissionError("Forbidden\n")
    with pytest.raises(ZeroDivisionError), storage.reaching("s3://a/b"):
        raise ZeroDivisionError
    with pytest.raises(IsADirectoryError), storage.reaching("/a/b"):
        raise IsADirectoryError


@pytest.fixture
def web(tmp_path):
    """A web server of a folder with a dataset, which has no listings below /dataset."""
    make_dataset(tmp_path / "served", sizes=[2, 2], sidecars=[True, False])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def list_directory(self, path):
            self.send_error(403)

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_tars_of_web_servers(web, tmp_path, closed_port):
    dataset = ImageTextPairDataset.from_webdataset(f"{web}/{{00000..00001}}.tar")
    assert [row["key"] for row in rows(dataset)][:2] == ["000000000", "000000001"]
    assert len(dataset) == 4
    assert dataset.image("000010001").size == (32, 24)
    with pytest.raises(CurateError, match=r"cannot write to http.*--output DIR"):
        dataset.save_metadata()
    assert len(dataset.save_metadata(tmp_path / "meta")) == 4
    assert "does not exist or cannot be reached" in told(f"http://127.0.0.1:{closed_port}/a.tar")
    assert f"http://127.0.0.1:{closed_port}/a" in told(f"http://127.0.0.1:{closed_port}/a")
