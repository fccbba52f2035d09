"""`HangUp`: nothing is done for a client that has gone."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HangUp:
    """ASGI middleware: work for a client that has gone is given up."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        whole, answering = asyncio.Event(), False

        async def receiving() -> Message:
            message = await receive()
            if not message.get("more_body"):
                whole.set()
            return message

        async def sending(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        async def gone() -> None:
            # Before the body has come the application reads, and sees it for itself.
            await whole.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        asking = asyncio.ensure_future(self.app(scope, receiving, sending))
        watching = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({asking, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and not answering:
                asking.cancel()
                await asyncio.wait({asking})
            if not asking.cancelled():
                await asking
        finally:
            asking.cancel()
            watching.cancel()
