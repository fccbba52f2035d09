from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models import download
from nemo_image_curate.models.weights import WeightsFile, fetch, home, sha256_of

BODY = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """The path says how to misbehave."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        getattr(self, self.path.strip("/").partition("/")[0])()

    def send(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def right(self) -> None:
        self.send(BODY)

    def slowly(self) -> None:
        time.sleep(1.0)
        self.send(BODY)

    def moved(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/right/elsewhere")
        self.end_headers()

    def wrong(self) -> None:
        self.send(BODY[::-1])

    def short(self) -> None:
        self.send(BODY[:100])

    def broken_off(self) -> None:
        self.send(BODY[:100], len(BODY))

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(BODY)

    def missing(self) -> None:
        self.send_error(404)

    def silent(self) -> None:
        self.server.finished.wait(20)

    def trickling(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.drip()

    def trickling_header(self) -> None:
        self.drip()

    def drip(self) -> None:
        while not self.server.finished.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.finished = threading.Event()

    def handle_error(self, *args: object) -> None:
        pass  # clients that hang up are the point of these tests

    def weights(self, behaviour: str) -> WeightsFile:
        url = f"http://127.0.0.1:{self.server_port}/{behaviour}/head.bin"
        return WeightsFile("head.bin", url, hashlib.sha256(BODY).hexdigest(), len(BODY))


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.finished.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEMO_IMAGE_CURATE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def contents(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize("behaviour", ["right", "moved"])
def test_a_file_is_downloaded_once(server, cache, behaviour):
    path = fetch(server.weights(behaviour))
    assert path == cache / "head.bin"
    assert path.read_bytes() == BODY
    asked = len(server.requests)
    assert fetch(server.weights(behaviour)) == path
    assert len(server.requests) == asked
    assert contents(cache) == ["head.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("wrong", "its sha256 is"),
        ("short", "sent 100 of the 10240 bytes"),
        ("broken_off", "sent 100 of the 10240 bytes"),
        ("endless", "more than the 10240 bytes"),
        ("missing", "HTTP 404"),
        ("silent", "no byte came for 0.5 s"),
        ("trickling", "had not arrived after"),
        ("trickling_header", "had not arrived after"),
    ],
)
def test_a_bad_server_gives_an_error_with_the_remedies(server, cache, behaviour, reason):
    weights = server.weights(behaviour)
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        fetch(weights, timeout=0.5)
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert reason in text
    for part in (weights.url, "model_path=", "NEMO_IMAGE_CURATE_HOME", str(cache / "head.bin")):
        assert part in text
    assert contents(cache) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/x", "ConnectionRefusedError"),
        ("http://weights.invalid/x", "gaierror"),
        ("file:///etc/passwd", "only http"),
        ("http://[broken/x", "ValueError"),
        ("", "only http"),
    ],
)
def test_nobody_there(server, url, reason):
    with pytest.raises(WeightsError, match=reason):
        fetch(replace(server.weights("right"), url=url), timeout=5)


def test_two_processes_download_once(server, cache):
    weights = server.weights("slowly")
    code = (
        "from nemo_image_curate.models.weights import WeightsFile, fetch\n"
        f"print(fetch({weights!r}))"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [job.communicate(timeout=60)[0].strip() for job in jobs] == [str(cache / "head.bin")] * 2
    assert len(server.requests) == 1


def test_a_wrong_file_in_the_cache_is_downloaded_again(server, cache):
    cache.mkdir()
    (cache / "head.bin").write_bytes(BODY[::-1])
    with pytest.raises(WeightsError, match="file there now has sha256"):
        fetch(server.weights("missing"))
    assert fetch(server.weights("right")).read_bytes() == BODY


def test_a_prefilled_cache_needs_neither_network_nor_writing(server, cache):
    cache.mkdir()
    (cache / "head.bin").write_bytes(BODY)
    cache.chmod(0o555)
    assert fetch(server.weights("missing")) == cache / "head.bin"
    assert server.requests == []
    assert sorted(os.listdir(cache)) == ["head.bin"]


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NEMO_IMAGE_CURATE_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="model_path="):
        fetch(server.weights("right"))


def test_another_process_that_holds_the_lock_forever(server, cache, monkeypatch):
    import filelock

    cache.mkdir()
    monkeypatch.setattr("nemo_image_curate.models.weights.MIN_BYTES_PER_SECOND", 1e9)
    with (
        filelock.FileLock(cache / ".head.bin.lock"),
        pytest.raises(WeightsError, match="another process held"),
    ):
        fetch(server.weights("right"), timeout=0.1)


def test_the_deadline_grows_with_the_size(server, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "MIN_BYTES_PER_SECOND", len(BODY))
    with (
        (tmp_path / "out").open("wb") as handle,
        pytest.raises(download.DownloadError, match=r"after 1\.2 s"),
    ):
        download.download(server.weights("trickling").url, handle, len(BODY), 0.2)


def test_model_path_is_taken_as_it_is(server, tmp_path):
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"trained here")
    assert fetch(server.weights("missing"), model_path=str(mine)) == mine
    with pytest.raises(WeightsError, match=r"none\.pth' does not exist.*model_path="):
        fetch(server.weights("missing"), model_path=str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match="is not a file"):
        fetch(server.weights("missing"), model_path=str(tmp_path))
    assert server.requests == []


def test_home_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("NEMO_IMAGE_CURATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "nemo_image_curate"


def test_a_changed_file_is_hashed_again(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    assert sha256_of(path) == sha256_of(str(path)) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert sha256_of(path) == hashlib.sha256(b"three").hexdigest()
