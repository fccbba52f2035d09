"""`Client`: the service as the page sees it, over HTTP and nothing else."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx

# Pixels of a thumbnail: its room on the page, twice as sharp.
SIDE = 384


class ServiceError(Exception):
    """The service cannot be reached, or refuses; the message is for people.

    Attributes
    ----------
    remedy : str
        What to do about it, where that is not in the message.
    status : int or None
        The response's, when there was one.
    """

    def __init__(self, message: str, remedy: str = "", status: int | None = None):
        super().__init__(message)
        self.remedy = remedy
        self.status = status


class SearchAnswer(NamedTuple):
    """Hits, and how long the service took, in seconds."""

    hits: list[dict[str, Any]]
    seconds: float


class Client:
    """Asks a service.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8000``.
    token : str, optional
    timeout : float, default 60
        Seconds.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60):
        self.url = url.rstrip("/")
        # ASCII is all that a header can hold; any other token is wrong anyway.
        ascii_token = (token or "").encode("ascii", "replace").decode().strip()
        self.headers = {"Authorization": f"Bearer {ascii_token}"} if ascii_token else {}
        self.timeout = timeout

    def stats(self) -> dict[str, Any]:
        """What the service serves."""
        stats: dict[str, Any] = self._ask("GET", "/stats").json()
        return stats

    def search_text(self, text: str, options: dict[str, Any]) -> SearchAnswer:
        """Images that fit a text."""
        body = {"text": text, **options}
        return self._search("/search/text-to-image", body)

    def search_image(self, image: bytes, options: dict[str, Any]) -> SearchAnswer:
        """Images like an image."""
        body = {"image": {"data": base64.b64encode(image).decode()}, **options}
        return self._search("/search/similar-images", body)

    def _search(self, path: str, body: dict[str, Any]) -> SearchAnswer:
        answer = self._ask("POST", path, json=body)
        return SearchAnswer(answer.json()["hits"], answer.elapsed.total_seconds())

    def add_images(
        self, images: Sequence[tuple[str, bytes]], captions: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Add images, given with their file names; what became of each."""
        files = [("files", image) for image in images]
        data = {"captions": list(captions)}
        answer = self._ask("POST", "/index/images", files=files, data=data).json()
        items: list[dict[str, Any]] = answer["items"]
        return items

    def thumbnail(self, path: str) -> bytes:
        """The image of a hit as a small JPEG, by its ``url``."""
        return self._ask("GET", str(httpx.URL(path).copy_add_param("size", SIDE))).content

    def _ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            answer = _connections().request(
                method, self.url + path, headers=self.headers, timeout=self.timeout, **body
            )
        except httpx.TimeoutException as error:
            raise ServiceError(
                f"The service at {self.url} has not answered within {self.timeout:g} seconds.",
                "It may be busy. Try again in a moment.",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError(
                f"The service at {self.url} cannot be reached: {error}.",
                "It starts together with this page: nemo-image-curate serve DATASET --ui",
            ) from error
        if answer.is_success:
            return answer
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = (
                f"{self.url} answers with {answer.status_code} {answer.reason_phrase}: it is not "
                "a service of this kind, or something is in between."
            )
        raise ServiceError(_sentence(detail), status=answer.status_code)


@functools.cache
def _connections() -> httpx.Client:
    # For all sessions and threads: a client of its own for each request takes 20 ms to make.
    return httpx.Client()


def _sentence(text: str) -> str:
    """A detail of a problem document as people write a sentence."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
