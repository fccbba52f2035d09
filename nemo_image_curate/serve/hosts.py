"""`TrustedHosts`: requests must call the service by a name of its own."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemo_image_curate.serve.problems import problem
from nemo_image_curate.serve.settings import EVERYWHERE, LOOPBACK, host_pattern

# An address with or without a port: what is all digits no browser takes for a name.
_ADDRESS = re.compile(r"(\[[\da-f:.]+\]|[\d.]+)(:\d+)?", re.IGNORECASE)


class TrustedHosts:
    """ASGI middleware: refuses requests for hosts that are not this service.

    Any site can have its name resolved to this machine's address ("DNS rebinding"). A browser then
    takes the service for a part of that site, whose pages may read and send whatever they like:
    `Origin` and `Host` are the same. Only the name gives it away.

    Parameters
    ----------
    app : ASGI application
    host : str
        What is listened on. On all interfaces requests may come for any address: that of a router
        or of a container's machine is not known here, and it is names that can be rebound.
    allowed : sequence of str
        Further ones; see `Settings`.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str]):
        self.app = app
        self.any_address = host in EVERYWHERE
        names = [*LOOPBACK, socket.gethostname() if self.any_address else host]
        self.check = TrustedHostMiddleware(
            _silent, [*map(host_pattern, names), *allowed], www_redirect=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        refusal: list[Message] = []

        async def keep(message: Message) -> None:
            refusal.append(message)

        await self.check(scope, receive, keep)
        host = Headers(scope=scope).get("host", "") if refusal else ""
        if not refusal or (self.any_address and _ADDRESS.fullmatch(host)):
            await self.app(scope, receive, send)
            return
        detail = (
            f"this service is not known as {host[:100]!r}. Call it by its address, or start it "
            "with that name: --allowed-host NAME, or Settings(allowed_hosts=[NAME])."
        )
        await problem(421, detail)(scope, receive, send)


async def _silent(scope: Scope, receive: Receive, send: Send) -> None:
    """In the application's place: what is sent after all is Starlette's refusal, in plain text."""
