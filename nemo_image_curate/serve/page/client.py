"""`Client`: the service as the page sees it, over HTTP and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx


class ServiceError(Exception):
    """The service cannot be reached, or refuses; the message is for people.

    Attributes
    ----------
    status : int or None
        The response's, when there was one.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


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

    def search_text(self, text: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Images that fit a text."""
        body = {"text": text, **options}
        return self._hits("/search/text-to-image", body)

    def search_image(self, image: bytes, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Images like an image."""
        body = {"image": {"data": base64.b64encode(image).decode()}, **options}
        return self._hits("/search/similar-images", body)

    def _hits(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self._ask("POST", path, json=body).json()["hits"]
        return hits

    def add_images(
        self, images: Sequence[tuple[str, bytes]], captions: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Add images, given with their file names; what became of each."""
        files = [("files", image) for image in images]
        data = {"captions": list(captions)}
        answer = self._ask("POST", "/index/images", files=files, data=data).json()
        items: list[dict[str, Any]] = answer["items"]
        return items

    def image(self, path: str) -> bytes:
        """The original image of a hit, by its ``url``."""
        return self._ask("GET", path).content

    def _ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            answer = httpx.request(
                method, self.url + path, headers=self.headers, timeout=self.timeout, **body
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError(f"The service at {self.url} cannot be reached: {error}.") from error
        if answer.is_success:
            return answer
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = f"{self.url} is not a service of this kind, or something is in between."
        raise ServiceError(
            f"{answer.status_code} {answer.reason_phrase}: {detail}", answer.status_code
        )
