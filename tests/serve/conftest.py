"""Real services in processes of their own, on real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nemo_image_curate.serve.settings import TOKEN_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    page: str | None
    http: httpx.Client

    def stop(self) -> int:
        """End it as Docker and systemd do; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset of the pictures and its indexes."""
    from tests.serve.pictures import ColourEmbedder, write_pictures
    from tests.serve.served import prepare

    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "tars")
    prepare(folder, ColourEmbedder())
    return folder


@pytest.fixture(scope="session")
def serve(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts services over the pictures; all are stopped at the end."""
    started: list[Served] = []

    def start(wait: bool = True, folder: Path = data, **options: Any) -> Served:
        log = tmp_path_factory.mktemp("log") / "log"
        environment = {key: text for key, text in os.environ.items() if key != TOKEN_VARIABLE}
        command = [sys.executable, "-m", "tests.serve.served", str(folder)]
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*command, json.dumps({"port": 0, **options})],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert process.stdout is not None
        urls = []
        for _ in range(2 if options.get("ui") else 1):
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, log.read_text()
            urls.append(found[0])
        token = options.get("settings", {}).get("token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        http = httpx.Client(base_url=urls[0], headers=headers, timeout=30)
        served = Served(process, urls[0], log, urls[1] if len(urls) > 1 else None, http)
        started.append(served)
        if wait:
            ready(served)
        return served

    yield start
    for served in started:
        served.http.close()
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


def ready(served: Served) -> None:
    """Wait until a service has loaded its model, and its page answers."""
    for _ in range(300):
        if served.http.get("/health").status_code == 200:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(served.log.read_text())
    if served.page:
        await_port(int(served.page.rpartition(":")[2]))


def await_port(port: int) -> None:
    """Wait until something listens."""
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


def wait_for_line(served: Served, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The line of a service's log that is meant."""
    for _ in range(100):
        for line in served.lines():
            if wanted(line):
                return line
        time.sleep(0.05)
    raise AssertionError("no such line")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below which `service` may read files."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="session")
def service(serve: Serve, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A service with a store, a root and a page, without a token."""
    store = str(tmp_path_factory.mktemp("store"))
    settings = {"roots": [str(root)], "max_body": 2_000_000}
    return serve(ui=True, ui_port=0, store=store, settings=settings)


@pytest.fixture(scope="session")
def bare(serve: Serve) -> Served:
    """A service with a token and a page, without a store and roots."""
    return serve(ui=True, ui_port=0, settings={"token": "s3cret"})
