"""`run_service`: the service, and the page if wanted, until they are stopped."""

from __future__ import annotations

import dataclasses
import logging
import logging.config
import signal
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.serve.logs import logging_config
from nemo_image_curate.serve.page.process import page_process
from nemo_image_curate.serve.settings import (
    EVERYWHERE,
    LOOPBACK,
    TOKEN_VARIABLE,
    Settings,
    host_pattern,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.search.live.base import LiveStore
    from nemo_image_curate.search.searcher import Searcher

logger = logging.getLogger(__name__)


def run_service(
    searcher: Searcher,
    dataset: ImageTextPairDataset | None = None,
    store: LiveStore | None = None,
    settings: Settings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ui: bool = False,
    ui_port: int = 8501,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM; then finish the requests in flight and return.

    Parameters
    ----------
    searcher, dataset, store, settings
        Of `create_app`.
    host : str, default "127.0.0.1"
        The address to listen on: by default only this machine's own programs can connect.
        Requests must be for it, or for a name that `create_app` or `settings` allows.
    port : int, default 8000
        0 for any free one.
    ui : bool, default False
        Start the page, too: Streamlit in a process of its own, on the same host.
    ui_port : int, default 8501
    tell : callable, optional
        Given each line with a URL. Default: printed to standard output.

    Raises
    ------
    ConfigError
        When a port cannot be used, or the packages of the ``serve`` extra are missing.
    CurateError
        When the page ends by itself.
    """
    try:
        import uvicorn

        from nemo_image_curate.serve.app import create_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the service needs {error.name}: pip install 'nemo_image_curate[serve]'"
        ) from error
    settings = Settings() if settings is None else settings
    tell = tell or _print
    logging.config.dictConfig(logging_config())
    with _listening(host, port, "--port") as service_socket:
        address, port = service_socket.getsockname()[:2]
        if settings.token is None and address not in LOOPBACK:
            logger.warning(
                "listening on %s without a token: whoever reaches port %d may search and add. "
                "Set %s to a secret to keep others out.",
                *(host, port, TOKEN_VARIABLE),
            )
        # The address that a name stands for is a name of the service, too.
        names = (*settings.allowed_hosts, *filter(None, [host]))
        settings = dataclasses.replace(settings, allowed_hosts=names)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(searcher, dataset, store, settings, address),
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                # Longer than clients keep idle connections (httpx: 5 seconds), so that none is
                # closed at the moment that it is used again.
                timeout_keep_alive=30,
                timeout_graceful_shutdown=settings.stop_after,
            )
        )
        url_host = "127.0.0.1" if address in EVERYWHERE else host
        url = f"http://{host_pattern(url_host)}:{port}"
        tell(f"service: {url}  (documentation: {url}/docs)")

        def stop(*_: Any) -> None:
            server.should_exit = True

        with _stopped_by_signals(stop), ExitStack() as stack:
            if ui:
                with _listening(host, ui_port, "--ui-port") as page_socket:
                    ui_port = page_socket.getsockname()[1]
                stack.enter_context(page_process(address, ui_port, url, settings, stop))
                tell(f"page:    {url.rpartition(':')[0]}:{ui_port}")
            server.run(sockets=[service_socket])


@contextmanager
def _listening(host: str, port: int, option: str) -> Iterator[socket.socket]:
    """A bound socket; bound before anything is loaded, so that a used port is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            # Two sockets may be bound to one port, but only one can listen.
            bound.listen(2048)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot listen on port {port} of {host}: {reason}. Choose another with {option}."
            ) from error
        yield bound


@contextmanager
def _stopped_by_signals(stop: Callable[..., None]) -> Iterator[None]:
    """Have signals stop the server before and after uvicorn's own handlers are there.

    After its graceful shutdown uvicorn raises the signal again, for the handlers there were
    before; the default ones would make an orderly end look like a crash.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
