import asyncio
import base64

import httpx

from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import Settings, create_app
from tests.serve.conftest import wait_for_line
from tests.serve.pictures import ColourEmbedder, picture


def test_figures_are_read_while_requests_add_to_them():
    """The first request of each kind makes the tables of figures grow."""
    app = create_app(Searcher(ColourEmbedder(), []), settings=Settings(token=None))
    service = app.state.service

    async def add(ended: asyncio.Event) -> None:
        number = 0
        while not ended.is_set():
            for _ in range(20):
                number = (number + 1) % 500
                service.metrics.record(f"GET /{number}", number, 0.001)
            await asyncio.sleep(0)

    async def hammer() -> None:
        ended = asyncio.Event()
        adding = asyncio.create_task(add(ended))
        transport = httpx.ASGITransport(app)
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                for _ in range(10):
                    answers = await asyncio.gather(*[client.get("/stats") for _ in range(4)])
                    assert [answer.status_code for answer in answers] == [200] * 4
        finally:
            ended.set()
            await adding

    asyncio.run(hammer())


def test_an_unforeseen_error_tells_nothing(service):
    answer = service.http.post(
        "/search/text-to-image", json={"text": "bug"}, headers={"X-Request-ID": "find-me"}
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "find-me")
    assert "find-me" in answer.json()["detail"]
    assert "5eca7" not in answer.text
    assert "Traceback" not in answer.text
    line = wait_for_line(service, lambda line: "traceback" in line)
    assert "5eca7" in line["traceback"]
    assert line["request_id"] == "find-me"
    assert service.http.post("/search/text-to-image", json={"text": "red"}).status_code == 200


def test_log_lines(bare):
    question = "red like a very private thing"
    answer = bare.http.post("/search/text-to-image", json={"text": question})
    bare.http.get(answer.json()["hits"][0]["url"])
    forged = bare.http.get("/x%0a%7b%22status%22:1%7d", headers={"X-Request-ID": "a b\tc"})
    request_id = answer.headers["x-request-id"]
    line = wait_for_line(bare, lambda line: line.get("request_id") == request_id)
    assert (line["method"], line["path"]) == ("POST", "/search/text-to-image")
    assert line["status"] == 200
    assert 0 < line["ms"] < 10_000
    assert forged.headers["x-request-id"].isalnum()
    line = wait_for_line(bare, lambda line: line.get("path", "").startswith("/x"))
    assert line["path"] == '/x\n{"status":1}'
    log = bare.log.read_text()
    image = base64.b64encode(picture("red")).decode()
    bare.http.post("/search/similar-images", json={"image": {"data": image}})
    for private in ("very private", "s3cret", "signature", image[:40]):
        assert private not in log
