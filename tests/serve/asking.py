"""Requests that clients do not send: to an application without a server, and byte by byte."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
from fastapi import FastAPI

from tests.serve.conftest import Served


def ask_app(
    app: FastAPI, method: str, path: str, host: str | None = "localhost", **request: Any
) -> httpx.Response:
    """What an application answers; no server runs."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            built = client.build_request(method, path, **request)
            built.headers.pop("Host")
            if host is not None:
                built.headers = httpx.Headers(
                    [*built.headers.raw, (b"Host", host.encode("latin-1"))]
                )
            return await client.send(built)

    return asyncio.run(ask())


def raw(served: Served, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request has been sent as it is."""
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), 30)
    connection.sendall(f"{head}\r\nHost: {host}:{port}\r\n\r\n".encode() + body)
    return connection


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes."""
    with connection:
        answer = connection.recv(4096)
        return int(answer.split()[1])
