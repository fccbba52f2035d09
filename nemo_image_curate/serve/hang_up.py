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
        body_read, answering = asyncio.Event(), False

        async def receiving() -> Message:
            message = await receive()
            if not message.get("more_body"):
                body_read.set()
            return message

        async def sending(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        async def wait_until_gone() -> None:
            # Before the body has come the application reads, and sees it for itself.
            await body_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        answer = asyncio.ensure_future(self.app(scope, receiving, sending))
        disconnect = asyncio.ensure_future(wait_until_gone())
        try:
            await asyncio.wait({answer, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not answering:
                answer.cancel()
                await asyncio.wait({answer})
            if not answer.cancelled():
                await answer
        finally:
            answer.cancel()
            disconnect.cancel()
