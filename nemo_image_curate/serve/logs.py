"""One JSON line for each request, and the figures that ``/stats`` shows."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter, deque
from typing import Any

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemo_image_curate.compute.logs import JsonFormatter
from nemo_image_curate.serve.problems import problem

logger = logging.getLogger("nemo_image_curate.serve")
_REQUEST_ID = re.compile(r"[\w.-]{1,64}")
# As nginx logs a client that went away before its answer.
CLIENT_GONE = 499


def logging_config() -> dict[str, Any]:
    """For ``logging.config.dictConfig``: our lines and uvicorn's as JSON on standard error."""
    handler = {"class": "logging.StreamHandler", "formatter": "json"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"json": handler},
        "loggers": {
            name: {"handlers": ["json"], "level": "INFO", "propagate": False}
            for name in ("uvicorn", "nemo_image_curate.serve")
        },
    }


class Metrics:
    """Counts of requests, and how long the last 1000 of each kind took; for one thread."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.statuses: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, deque[float]] = {}

    def record(self, kind: str, status: int, seconds: float) -> None:
        """Add one request."""
        self.statuses[str(status)] += 1
        self._counts[kind] += 1
        self._seconds.setdefault(kind, deque(maxlen=1000)).append(seconds)

    def latency(self) -> dict[str, dict[str, float]]:
        """Percentiles by kind of request."""
        latency = {}
        for kind, seconds in self._seconds.items():
            p50, p90, p99 = (1e3 * np.percentile(list(seconds), [50, 90, 99])).round(2).tolist()
            latency[kind] = {
                "requests": self._counts[kind],
                "p50_ms": p50,
                "p90_ms": p90,
                "p99_ms": p99,
            }
        return latency


class RequestLog:
    """ASGI middleware: logs and counts each request; an unforeseen error becomes a plain 500.

    The line has no query string and no body: nothing of what was asked.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode("ascii")),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            logger.exception("unforeseen error", extra={"fields": {"request_id": request_id}})
            if not status:
                detail = f"an unforeseen error; the service's log has it under {request_id}."
                await problem(500, detail)(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path_format", None)
            # What no route answers is one kind, or clients could make us keep any number.
            known = route is not None and status != 405
            kind = f"{scope['method']} {route}" if known else "other"
            self.metrics.record(kind, status or CLIENT_GONE, seconds)
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status or CLIENT_GONE,
                "ms": round(seconds * 1e3, 2),
                "request_id": request_id,
            }
            logger.info("request", extra={"fields": fields})
