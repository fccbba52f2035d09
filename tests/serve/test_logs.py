import asyncio

import httpx

from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import Settings, create_app
from tests.serve.pictures import ColourEmbedder


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
