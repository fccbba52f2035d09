"""One HTTP download that ends: in success, or in a reason, at the latest at a deadline."""

from __future__ import annotations

import contextlib
import threading
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

# A download may take this long per byte, and a grace of `timeout` on top. 32 KiB/s is a poor
# mobile line; a server below it is taken for one that trickles on purpose or is broken.
MIN_BYTES_PER_SECOND = 32 * 1024
_CHUNK = 1 << 16


class DownloadError(Exception):
    """Why a download did not give the bytes asked for."""


def download(url: str, handle: IO[bytes], size: int, timeout: float) -> None:
    """Write the `size` bytes behind a URL to an open file.

    Parameters
    ----------
    url
        ``http://`` or ``https://``; proxies are those of the environment.
    handle
        A file open for writing; may hold part of the answer after a failure.
    size
        How many bytes to expect, no more and no less.
    timeout
        Seconds without any progress, and the grace in the deadline
        ``timeout + size / MIN_BYTES_PER_SECOND`` for the whole.

    Raises
    ------
    DownloadError
        With the reason in words.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError("only http:// and https:// are downloaded")
    deadline = timeout + size / MIN_BYTES_PER_SECOND
    stop = threading.Event()
    failure: list[Exception] = []

    def transfer() -> None:
        try:
            _transfer(url, handle, size, timeout, stop)
        except Exception as error:
            failure.append(error)

    # A socket's timeout starts anew with each byte, and looking up a name has none. Only another
    # thread can wait for the whole of it; daemon, so that it cannot hold up the process either.
    thread = threading.Thread(target=transfer, name="download", daemon=True)
    thread.start()
    thread.join(deadline)
    stop.set()
    if thread.is_alive():
        raise DownloadError(f"the {size} bytes had not arrived after {deadline:.1f} s")
    if failure:
        raise _reason(failure[0], timeout) from failure[0]


def _transfer(
    url: str, handle: IO[bytes], size: int, timeout: float, stop: threading.Event
) -> None:
    request = Request(url, headers={"User-Agent": "nemo-image-curate"})
    with contextlib.closing(urlopen(request, timeout=timeout)) as response:
        received = 0
        # read1 returns with what one system call brings, so that `stop` is seen in between.
        while chunk := response.read1(_CHUNK):
            if stop.is_set():
                return
            received += len(chunk)
            if received > size:
                raise DownloadError(f"the server sent more than the {size} bytes of this file")
            handle.write(chunk)
    if received < size:
        raise DownloadError(f"the server sent {received} of the {size} bytes of this file")


def _reason(error: Exception, timeout: float) -> DownloadError:
    if isinstance(error, DownloadError):
        return error
    if isinstance(error, HTTPError):
        return DownloadError(f"HTTP {error.code} {error.reason}")
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return DownloadError(f"no byte came for {timeout:g} s")
    return DownloadError(f"{type(cause).__name__}: {cause}" if str(cause) else repr(cause))
