"""What the page draws itself: results, hints and problems, by `cards`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import streamlit as st

from nemo_image_curate.serve.page import cards
from nemo_image_curate.serve.page.client import Client, SearchAnswer, ServiceError
from nemo_image_curate.serve.settings import LOOPBACK

# Pictures that are shown before the others have come: a first screen of them.
_FIRST = 12


class Results:
    """What a search found, with the pictures that have come so far.

    Parameters
    ----------
    answer : SearchAnswer
    where : str or None
        The expression of the search.
    """

    def __init__(self, answer: SearchAnswer, where: str | None):
        self.answer = answer
        self.where = where
        self.pictures: list[cards.Picture] = [None] * len(answer.hits)

    def draw(self, client: Client) -> None:
        """Draw the hits, those of the first screen with their pictures first."""
        hits = self.answer.hits
        if not hits:
            self._draw_none()
            return
        st.html(cards.count_line(len(hits), self.answer.seconds))
        place, service = st.empty(), _public(client.url)
        with ThreadPoolExecutor(8) as threads:
            for start, end in ((0, _FIRST), (_FIRST, len(hits))):
                missing = [n for n in range(len(hits))[start:end] if self.pictures[n] is None]
                asked = [(client, hits[n]) for n in missing]
                for number, picture in zip(missing, threads.map(_picture, asked), strict=True):
                    self.pictures[number] = picture
                if missing or start == 0:
                    place.html(cards.grid(hits, self.pictures, service))

    def _draw_none(self) -> None:
        if self.where:
            hint(
                f"Nothing found: there is no image for which this is true: {self.where}",
                "Change the expression at the side, or empty it to search all images.",
            )
        else:
            hint("Nothing found.", "There is no image to search; add some on the last tab.")


def _picture(asked: tuple[Client, dict[str, Any]]) -> bytes | str:
    """The picture of a hit, or the reason why there is none."""
    client, hit = asked
    try:
        return client.thumbnail(hit["url"])
    except ServiceError as error:
        return str(error)


def image(data: bytes) -> None:
    """An image that the visitor has chosen."""
    try:
        st.image(data, width="content")
    # Pillow raises whatever broken bytes lead it to.
    except Exception:
        st.text("(cannot be shown here)")


def hint(*lines: str) -> None:
    """What to do next, in sentences."""
    st.html(cards.hint(*lines))


def problem(error: ServiceError, *lines: str) -> None:
    """What went wrong, what to do about it, and more lines."""
    st.html(cards.problem(str(error), error.remedy, *lines))


def _public(url: str) -> str:
    """The service's URL for the browser: this machine's own name means another machine there."""
    parts = urlsplit(url)
    page_host = urlsplit(st.context.url or "").hostname
    if parts.hostname not in LOOPBACK or page_host is None or page_host in LOOPBACK:
        return url
    host = f"[{page_host}]" if ":" in page_host else page_host
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))
