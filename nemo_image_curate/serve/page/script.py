"""The page: search by text or by image, and add images. A client of the service over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import streamlit as st

from nemo_image_curate.serve.page.client import Client, ServiceError
from nemo_image_curate.serve.settings import LOOPBACK, SERVICE_VARIABLE
from nemo_image_curate.shards.index import IMAGE_EXTENSIONS

_COLUMNS = 4
_KEY = 24


def main() -> None:
    """Draw the page; Streamlit calls it again after each action."""
    st.set_page_config(page_title="Image search", page_icon="🔎", layout="wide")
    st.title("Image search")
    client, options = _sidebar()
    by_text, by_image, adding = st.tabs(["Text → image", "Image → image", "Add images"])
    with by_text:
        _search_by_text(client, options)
    with by_image:
        _search_by_image(client, options)
    with adding:
        _add(client)
    # At last, so that it counts what has just been added.
    with st.sidebar:
        try:
            stats = client.stats()
            st.text(f"{stats['images']} images, {stats['texts']} texts\n{stats['encoder']}")
        except ServiceError as error:
            _show_error(error)


def _sidebar() -> tuple[Client, dict[str, Any]]:
    with st.sidebar:
        token = st.text_input("Token", type="password", help="If the service wants one.")
        k = st.number_input("Images to show (k)", 1, 200, 12)
        where = st.text_input(
            "Only where", placeholder="width >= 256", help="An expression over the columns."
        )
        collapse = st.checkbox("Hide near-duplicates")
        # Not to be typed in: the page's machine may reach what its visitors may not.
        client = Client(os.environ.get(SERVICE_VARIABLE, "http://127.0.0.1:8000"), token)
    options: dict[str, Any] = {"k": int(k)}
    if where.strip():
        options["where"] = where
    if collapse:
        options["collapse"] = 0.95
    return client, options


def _search_by_text(client: Client, options: dict[str, Any]) -> None:
    with st.form("text"):
        text = st.text_input("What should the images show?", placeholder="a dog on the beach")
        negative = st.text_input("And what not?", placeholder="people")
        fused = st.checkbox("Search the captions' words, too")
        submitted = st.form_submit_button("Search", type="primary")
    if submitted and not text.strip():
        st.warning("Write what to search for.")
        return
    options = {**options, "fuse_captions": fused}
    if negative.strip():
        options["negative_text"] = negative
    _results("text", client, submitted, lambda: client.search_text(text, options))


def _search_by_image(client: Client, options: dict[str, Any]) -> None:
    with st.form("image"):
        file = st.file_uploader("An image to find others like it", sorted(IMAGE_EXTENSIONS))
        submitted = st.form_submit_button("Search", type="primary")
    if submitted and file is None:
        st.warning("Choose an image first.")
        return
    if file is not None:
        with st.expander("Your image"):
            _show_image(file.getvalue())
    _results(
        "image",
        client,
        submitted,
        lambda: client.search_image(file.getvalue() if file else b"", options),
    )


def _add(client: Client) -> None:
    with st.form("add", clear_on_submit=True):
        files = st.file_uploader(
            "Images to add", sorted(IMAGE_EXTENSIONS), accept_multiple_files=True
        )
        caption = st.text_input("Caption for all of them (may be empty)")
        submitted = st.form_submit_button("Add", type="primary")
    if not submitted:
        return
    if not files:
        st.warning("Choose images first.")
        return
    images = [(file.name, file.getvalue()) for file in files]
    try:
        with st.spinner("Adding ..."):
            items = client.add_images(images, [caption] * len(images))
    except ServiceError as error:
        _show_error(error)
        return
    errors = [(file.name, item["error"]) for file, item in zip(files, items, strict=True)]
    failed = [f"{name}: {error}" for name, error in errors if error is not None]
    if len(failed) < len(files):
        st.success(f"{len(files) - len(failed)} added; searches find them from now on.")
    if failed:
        st.error(f"{len(failed)} not added:")
        st.text("\n".join(failed))


def _results(
    name: str, client: Client, submitted: bool, search: Callable[[], list[dict[str, Any]]]
) -> None:
    """What the last search found; kept while other parts of the page are used."""
    # The form's own key is its name.
    name = f"{name} results"
    if submitted:
        st.session_state.pop(name, None)
        try:
            with st.spinner("Searching ..."):
                hits = search()
                st.session_state[name] = (hits, _originals(client, hits))
        except ServiceError as error:
            _show_error(error)
    if name not in st.session_state:
        return
    hits, pictures = st.session_state[name]
    if not hits:
        st.info("Nothing found.")
    for start in range(0, len(hits), _COLUMNS):
        columns = st.columns(_COLUMNS)
        for number, column in zip(range(start, len(hits)), columns, strict=False):
            with column:
                _show_hit(client, hits[number], pictures[number])


def _originals(client: Client, hits: Sequence[dict[str, Any]]) -> list[bytes | ServiceError]:
    def fetch(hit: dict[str, Any]) -> bytes | ServiceError:
        try:
            return client.image(hit["url"])
        except ServiceError as error:
            return error

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(fetch, hits))


def _show_hit(client: Client, hit: dict[str, Any], picture: bytes | ServiceError) -> None:
    if isinstance(picture, bytes):
        _show_image(picture)
    else:
        _show_error(picture)
    # As text, here and below: Markdown in a caption could load images and make links.
    st.text(hit["caption"] or "(no caption)")
    also = f"  (+{hit['similar']} alike)" if hit["similar"] else ""
    key = hit["key"] if len(hit["key"]) <= _KEY else hit["key"][: _KEY - 1] + "…"
    st.text(f"{hit['score']:.3f}{also}  {key}")
    st.link_button("Original", _public(client.url) + hit["url"])


def _show_image(data: bytes) -> None:
    try:
        st.image(data, width="stretch")
    # Pillow raises whatever broken bytes lead it to.
    except Exception:
        st.text("(cannot be shown here)")


def _show_error(error: ServiceError) -> None:
    if error.status == 401:
        st.error("The service wants a token, or another one. Enter it in the side bar.")
        return
    # Its text may repeat what was typed or stored: not as Markdown.
    st.error("This did not work:")
    st.text(str(error))


def _public(url: str) -> str:
    """The service's URL for the browser: this machine's own name means another machine there."""
    parts = urlsplit(url)
    page_host = urlsplit(st.context.url or "").hostname
    if parts.hostname not in LOOPBACK or page_host is None or page_host in LOOPBACK:
        return url
    host = f"[{page_host}]" if ":" in page_host else page_host
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))


if __name__ == "__main__":
    main()
