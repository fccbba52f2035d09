"""`page_process`: the page in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nemo_image_curate.errors import CurateError
from nemo_image_curate.serve.settings import (
    HOSTS_VARIABLE,
    SERVICE_VARIABLE,
    TOKEN_VARIABLE,
    Settings,
)


@contextmanager
def page_process(
    host: str, port: int, service: str, settings: Settings, when_ended: Callable[[], None]
) -> Iterator[None]:
    """Run the page meanwhile.

    Parameters
    ----------
    host, port
        Where it listens.
    service : str
        The URL of the service that it is a client of.
    settings : Settings
        Of the service.
    when_ended : callable
        Called in a thread when the page has ended, whether by itself or not.

    Raises
    ------
    CurateError
        At the end, when the page has ended by itself.
    """
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": max(1, settings.max_body // 2**20),
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    command = [sys.executable, "-m", "nemo_image_curate.serve.page"]
    command += [f"--{name}={value}" for name, value in options.items()]
    # Not the token: who opens the page has to know it.
    environment = {name: text for name, text in os.environ.items() if name != TOKEN_VARIABLE}
    environment[SERVICE_VARIABLE] = service
    environment[HOSTS_VARIABLE] = " ".join(settings.allowed_hosts)
    # In a session of its own, so that Ctrl-C reaches it only through us.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=2, start_new_session=True
    )

    def watch() -> None:
        process.wait()
        when_ended()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        status = process.poll()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    if status is not None:
        raise CurateError(f"the page ended by itself with status {status}; its output says why.")
