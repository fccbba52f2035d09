import json
import socket
import time

from tests.serve.asking import raw, status_of
from tests.serve.conftest import wait_for_line


def test_a_client_that_hangs_up(service):
    """While its query waits, and in the middle of its body: nothing is done for it."""

    def asked() -> int:
        sizes = service.http.get("/stats").json()["batch_sizes"]
        return sum(int(size) * count for size, count in sizes.items())

    def ask(text: str, length: int | None = None) -> socket.socket:
        body = json.dumps({"text": text}).encode()
        length = len(body) if length is None else length
        head = f"POST /search/text-to-image HTTP/1.1\r\nContent-Length: {length}"
        return raw(service, head + "\r\nContent-Type: application/json", body)

    before = asked()
    first = ask("slow red")
    time.sleep(0.2)
    gone = [ask("slow blue") for _ in range(5)]
    half = ask("green", 1000)
    time.sleep(0.2)
    for connection in (*gone, half):
        connection.close()
    assert status_of(first) == 200
    assert service.http.post("/search/text-to-image", json={"text": "red"}).status_code == 200
    assert asked() - before == 2
    wait_for_line(service, lambda line: line.get("status") == 499)
