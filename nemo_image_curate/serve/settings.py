"""`Settings`: what a service allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from nemo_image_curate.errors import ConfigError

TOKEN_VARIABLE = "NEMO_IMAGE_CURATE_TOKEN"
# Where the page finds its service, and the names that it may be called by, too.
SERVICE_VARIABLE = "NEMO_IMAGE_CURATE_SERVICE"
HOSTS_VARIABLE = "NEMO_IMAGE_CURATE_HOSTS"
# Hosts that only this machine's own programs reach.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# To listen on: all interfaces of this machine.
EVERYWHERE = frozenset({"0.0.0.0", "::", ""})
# What no name of a host has, in a request's header Host: `*` and what would make it a URL.
_NOT_IN_HOSTS = frozenset("*/:@[] ")


def _token() -> str | None:
    return os.environ.get(TOKEN_VARIABLE) or None


@dataclass(frozen=True)
class Settings:
    """What a service allows, and how much.

    Parameters
    ----------
    roots : sequence of str or path, default ()
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
    cors_origins : sequence of str, default ()
        Web sites, such as ``https://example.org``, whose pages may use the service; ``*`` for all.
    stop_after : int, default 30
        Seconds that requests in flight get to finish when the service is stopped.
    allowed_hosts : sequence of str, default ()
        Names, beside those of `create_app`, that requests may call the service by, such as
        ``images.example.org``, ``*.example.org`` for all below, or ``*`` for any.

    Raises
    ------
    ConfigError
        For what cannot be meant, such as one text where several belong.
    """

    roots: Sequence[str | os.PathLike[str]] = ()
    # Not shown: settings end up in logs and tracebacks.
    token: str | None = field(default_factory=_token, repr=False)
    max_body: int = 32 * 2**20
    max_batch: int = 64
    max_waiting: int = 1000
    cors_origins: Sequence[str] = ()
    stop_after: int = 30
    allowed_hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        checks: dict[str, Callable[[str], str]] = {
            "roots": _root,
            "allowed_hosts": host_pattern,
            "cors_origins": _origin,
        }
        for name, check in checks.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), check))
        limits = {"max_body": 1, "max_batch": 1, "max_waiting": 1, "stop_after": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name}={value!r} should be a whole number, at least {least}.")
        if self.token is not None and not _is_token(self.token):
            # Without showing it.
            raise ConfigError(
                "token should be of visible ASCII characters, which is all that a header can hold, "
                "and not empty: None lets everybody in."
            )


def host_pattern(host: str) -> str:
    """A host as requests' headers have it, without its port: IPv6 addresses are in brackets.

    Raises
    ------
    ConfigError
        When no request could have it.
    """
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        name = host if host == "*" else host.removeprefix("*.")
        if name != "*" and (not name or _NOT_IN_HOSTS & set(name)):
            raise ConfigError(
                f"{host!r} should be a host without scheme and port, such as images.example.org, "
                "or *.example.org for all below it, or * for any."
            ) from None
        return host.lower()


def _is_token(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return value.isascii() and value.isprintable() and value.strip() == value != ""


def _origin(site: str) -> str:
    parts = urlsplit(site)
    if site != "*" and (not parts.netloc or site != f"{parts.scheme}://{parts.netloc}"):
        raise ConfigError(
            f"{site!r} should be a site as browsers name it, without a path: https://example.org, "
            "http://localhost:3000; or * for all."
        )
    return site


def _root(folder: str) -> str:
    if not folder:
        raise ConfigError("an empty root would be the current folder. Say '.' if that is meant.")
    return folder


def _checked(name: str, values: Any, check: Callable[[str], str]) -> tuple[str, ...]:
    """Several texts; one alone would be taken for its letters, and "/" for one of them."""
    if isinstance(values, (str, bytes, os.PathLike)):
        raise ConfigError(f"{name}={values!r} should be a sequence: {name}=({values!r},).")
    try:
        texts = [os.fspath(value) for value in values]
        return tuple(check(text) for text in texts)
    except TypeError as error:
        raise ConfigError(f"{name}={values!r} should be a sequence of texts: {error}.") from error
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
