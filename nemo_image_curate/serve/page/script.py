"""The page: search by text or by image, and add images. A client of the service over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from nemo_image_curate.serve.page import cards, drawing, theme
from nemo_image_curate.serve.page.client import Client, SearchAnswer, ServiceError
from nemo_image_curate.serve.settings import SERVICE_VARIABLE
from nemo_image_curate.shards.index import IMAGE_EXTENSIONS

_TOKEN = "token"
_EXTENSIONS = sorted(IMAGE_EXTENSIONS)
_SCRIPT = Path(__file__).with_name("page.js").read_text("utf-8")
_NO_CAPTIONS = (
    "The captions of this dataset are not indexed. Where it has a column of them, "
    "`nemo-image-curate index DATASET` indexes them, too."
)


def main() -> None:
    """Draw the page; Streamlit calls it again after each action."""
    st.set_page_config(page_title="Image search", page_icon="🔎", layout="wide")
    st.html(theme.style())
    st.title("Image search", anchor=False)
    # Not to be typed in: the page's machine may reach what its visitors may not.
    url = os.environ.get(SERVICE_VARIABLE, "http://127.0.0.1:8000")
    client = Client(url, st.session_state.get(_TOKEN))
    try:
        stats = client.stats()
    except ServiceError as error:
        # There is nothing else to show.
        _no_service(error)
        return
    options = _sidebar(stats["columns"])
    by_text, by_image, adding = st.tabs(["By text", "By image", "Add images"])
    with by_text:
        _search_by_text(client, stats, options)
    with by_image:
        _search_by_image(client, stats, options)
    with adding:
        _add(client, stats)
    # At last, so that it counts what has just been added.
    with st.sidebar:
        try:
            st.html(cards.served(client.stats()))
        except ServiceError as error:
            drawing.problem(error)
    st.html(f"<script>{_SCRIPT}</script>", unsafe_allow_javascript=True)


def _no_service(error: ServiceError) -> None:
    if error.status != 401:
        drawing.problem(error)
        st.button("Try again", type="primary")
        return
    remedy = "Who started it knows it: the value of NEMO_IMAGE_CURATE_TOKEN there."
    if st.session_state.get(_TOKEN):
        drawing.problem(ServiceError("The service wants a token, and this was not it.", remedy))
    else:
        drawing.hint("The service wants a token.", remedy)
    with st.form("token form", width=480):
        token = st.text_input("Token", type="password")
        if st.form_submit_button("Enter", type="primary"):
            # Not the field's own value, which would go with the field.
            st.session_state[_TOKEN] = token
            st.rerun()


def _sidebar(columns: Sequence[str]) -> dict[str, Any]:
    with st.sidebar:
        k = st.number_input("Images to show (k)", 1, 200, 12)
        where = st.text_input(
            "Only where",
            placeholder="width >= 256",
            # As code: names are no Markdown.
            help="\n".join(["An expression over the columns:", "```text", *columns, "```"]),
        )
        collapse = st.checkbox("Hide near-duplicates")
    options: dict[str, Any] = {"k": int(k)}
    if where.strip():
        options["where"] = where
    if collapse:
        options["collapse"] = 0.95
    return options


def _search_by_text(client: Client, stats: dict[str, Any], options: dict[str, Any]) -> None:
    with st.form("text"):
        asked, button = st.columns([6, 1], vertical_alignment="bottom")
        text = asked.text_input("What should the images show?", placeholder="a dog on the beach")
        submitted = button.form_submit_button("Search", type="primary", width="stretch")
        left, right = st.columns(2, vertical_alignment="bottom")
        negative = left.text_input("And what not?", placeholder="people")
        without = stats["captions"] is None
        fused = right.checkbox(
            "Search the captions' words, too",
            disabled=without,
            help=_NO_CAPTIONS if without else None,
        )
    if submitted and not text.strip():
        drawing.hint("Write what to search for.")
        return
    options = {**options, "fuse_captions": fused}
    if negative.strip():
        options["negative_text"] = negative
    _results("text", client, stats, submitted, lambda: client.search_text(text, options), options)


def _search_by_image(client: Client, stats: dict[str, Any], options: dict[str, Any]) -> None:
    with st.form("image"):
        file = st.file_uploader("An image to find others like it", _EXTENSIONS)
        submitted = st.form_submit_button("Search", type="primary")
    if submitted and file is None:
        drawing.hint("Choose an image first.")
        return
    image = file.getvalue() if file else b""
    if image:
        with st.expander("Your image"):
            drawing.image(image)
    search = lambda: client.search_image(image, options)  # noqa: E731
    _results("image", client, stats, submitted, search, options)


def _add(client: Client, stats: dict[str, Any]) -> None:
    if stats["store_images"] is None:
        drawing.hint(
            "This service has no store to add to.",
            "Start it with one: nemo-image-curate serve DATASET --store PLACE --ui",
        )
        return
    with st.form("add", clear_on_submit=True):
        files = st.file_uploader("Images to add", _EXTENSIONS, accept_multiple_files=True)
        caption = st.text_input("Caption for all of them (may be empty)")
        submitted = st.form_submit_button("Add", type="primary")
    if not submitted:
        return
    if not files:
        drawing.hint("Choose images first.")
        return
    images = [(file.name, file.getvalue()) for file in files]
    try:
        with st.spinner("Adding ..."):
            items = client.add_images(images, [caption] * len(images))
    except ServiceError as error:
        drawing.problem(error)
        return
    errors = [(file.name, item["error"]) for file, item in zip(files, items, strict=True)]
    failed = [f"{name}: {error}" for name, error in errors if error is not None]
    if len(failed) < len(files):
        drawing.hint(f"{len(files) - len(failed)} added; searches find them from now on.")
    if failed:
        drawing.problem(ServiceError(f"{len(failed)} not added:"), *failed)


def _results(
    name: str,
    client: Client,
    stats: dict[str, Any],
    submitted: bool,
    search: Callable[[], SearchAnswer],
    options: dict[str, Any],
) -> None:
    """What the last search found; kept while other parts of the page are used."""
    # The form's own key is its name.
    name = f"{name} results"
    if submitted:
        st.session_state.pop(name, None)
        try:
            with st.spinner("Searching ..."):
                st.session_state[name] = drawing.Results(search(), options.get("where"))
        except ServiceError as error:
            drawing.problem(error)
            return
    if name in st.session_state:
        st.session_state[name].draw(client)
    elif not stats["images"]:
        drawing.hint(
            "There is nothing to search yet.",
            "Add images on the last tab, or index a dataset: nemo-image-curate index DATASET",
        )


if __name__ == "__main__":
    main()
