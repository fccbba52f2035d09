"""`Settings`: what a service allows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

TOKEN_VARIABLE = "NEMO_IMAGE_CURATE_TOKEN"
# Where the page finds its service.
SERVICE_VARIABLE = "NEMO_IMAGE_CURATE_SERVICE"
# Hosts that only this machine's own programs reach.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _token() -> str | None:
    return os.environ.get(TOKEN_VARIABLE) or None


@dataclass(frozen=True)
class Settings:
    """What a service allows, and how much.

    Parameters
    ----------
    roots : tuple of str, default ()
        Folders below which requests may name files of this machine. None by default.
    token : str, optional
        What clients must send as ``Authorization: Bearer TOKEN``. Default: the environment
        variable ``NEMO_IMAGE_CURATE_TOKEN``; without one everybody who reaches the port may ask.
    max_body : int, default 32 MiB
        Bytes of a request, and of a file that a request names.
    max_batch : int, default 64
        Text queries that the encoder takes at once. Memory: that of its activations.
    max_waiting : int, default 1000
        Queries that may wait for the encoder; further ones are told to come back later (503).
    cors_origins : tuple of str, default ()
        Web sites, such as ``https://example.org``, whose pages may use the service.
    stop_after : int, default 30
        Seconds that requests in flight get to finish when the service is stopped.
    """

    roots: tuple[str, ...] = ()
    # Not shown: settings end up in logs and tracebacks.
    token: str | None = field(default_factory=_token, repr=False)
    max_body: int = 32 * 2**20
    max_batch: int = 64
    max_waiting: int = 1000
    cors_origins: tuple[str, ...] = ()
    stop_after: int = 30
