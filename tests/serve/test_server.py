import base64
import json
import signal
import socket
import time
from typing import Any

import httpx
import pytest

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import run_service
from tests.serve.conftest import Served, ready
from tests.serve.pictures import SLOW, ColourEmbedder, picture

TEXT_TO_IMAGE = "/search/text-to-image"
FRIEND = "https://friend.example"


def asking(served: Served, path: str, body: dict[str, Any], count: int) -> list[socket.socket]:
    """Clients that have sent a query and wait."""
    host, port = served.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    clients = [socket.create_connection((host, int(port)), 30) for _ in range(count)]
    for client in clients:
        client.sendall(head.encode() + content)
    return clients


def answer(client: socket.socket) -> tuple[int, str]:
    with client, client.makefile("rb") as file:
        whole = file.read().decode()
    return int(whole.split()[1]), whole


def test_a_signal_lets_requests_finish(serve):
    served = serve(wait=False, ui=True, ui_port=0)
    first = served.http.get("/health")
    # The model may be loaded quickly; what may not be is any other answer.
    if first.status_code != 200:
        assert (first.status_code, first.headers["retry-after"]) == (503, "1")
        assert first.json()["detail"] == "the model is being loaded."
    ready(served)
    assert served.http.get("/health").json() == {"status": "ready"}
    clients = asking(served, TEXT_TO_IMAGE, {"text": "slow red"}, 8)
    time.sleep(SLOW / 2)
    served.process.send_signal(signal.SIGTERM)
    assert [answer(client)[0] for client in clients] == [200] * 8
    assert served.process.wait(20) == 0
    assert "Traceback" not in served.log.read_text()
    # The page has ended with it.
    for url in (served.url, served.page):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.fixture(scope="module")
def tight(serve):
    """A service for others, with small limits."""
    settings = {"max_waiting": 2, "stop_after": 1, "cors_origins": [FRIEND]}
    return serve(host="0.0.0.0", settings=settings)


def test_open_to_others_without_a_token(tight, bare):
    warned = [line for line in tight.lines() if line["level"] == "warning"]
    assert "without a token" in warned[0]["message"]
    assert not [line for line in bare.lines() if line["level"] == "warning"]


def test_allowed_origins(tight):
    asked = {"Origin": FRIEND, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    answer = httpx.options(tight.url + "/search/text-to-image", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    for origin, status in ((FRIEND, 200), ("https://evil.example", 403)):
        headers = {"Origin": origin}
        answer = tight.http.post("/search/text-to-image", json={"text": "red"}, headers=headers)
        assert answer.status_code == status
        assert answer.headers.get("access-control-allow-origin") == (
            FRIEND if origin == FRIEND else None
        )


def test_more_than_may_wait(tight):
    first = asking(tight, TEXT_TO_IMAGE, {"text": "slow red"}, 1)
    time.sleep(SLOW / 3)
    others = asking(tight, TEXT_TO_IMAGE, {"text": "blue"}, 5)
    answers = [answer(client) for client in first + others]
    assert sorted(status for status, _ in answers) == [200] * 3 + [503] * 3
    refused = next(text for status, text in answers if status == 503)
    assert "retry-after: 1" in refused
    assert "too many queries" in refused


def test_more_pictures_than_may_wait(tight):
    images = [{"data": base64.b64encode(picture("red")).decode()}]
    clients = asking(tight, "/similarity", {"texts": ["slow red"], "images": images}, 5)
    assert sorted(answer(client)[0] for client in clients) == [200] * 2 + [503] * 3


def test_no_endless_end(tight):
    """A request that does not end does not keep a stopped service alive."""
    host, port = tight.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        head = f"POST /similarity HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n"
        half.sendall(f"{head}{{".encode())
        time.sleep(0.2)
        began = time.monotonic()
        tight.process.send_signal(signal.SIGINT)
        assert tight.process.wait(30) == 0
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("port", ["taken", 70000])
def test_ports_that_cannot_be_used(port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1] if port == "taken" else port
        # Told before anything is loaded: there is no searcher here.
        with pytest.raises(ConfigError, match=f"port {number} of 127.0.0.1.* with --port"):
            run_service(None, port=number)
        with pytest.raises(ConfigError, match=r"cannot listen .* --ui-port"):
            run_service(Searcher(ColourEmbedder(), []), port=0, ui=True, ui_port=number)


def test_addresses_that_are_not_here():
    with pytest.raises(ConfigError, match=r"cannot listen .* of 203\.0\.113\.7"):
        run_service(None, host="203.0.113.7")
