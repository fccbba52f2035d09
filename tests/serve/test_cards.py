"""The HTML of results: whole, and nothing of it is a hit's own."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.serve.page import cards, theme

HIT = {
    "key": "k",
    "shard": "00000.tar",
    "score": 0.5,
    "caption": "a red picture",
    "metadata": {"width": 1234567, "score_b": None},
    "similar": 0,
    "url": "/images/k?shard=00000.tar&signature=x",
}


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def of(*hits, pictures):
    return Tags(cards.grid(hits, pictures, "http://127.0.0.1:8000"))


def test_a_picture_with_its_facts():
    page = of({**HIT, "similar": 3}, pictures=[b"jpeg"])
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert (image["src"], image["alt"]) == ("data:image/jpeg;base64,anBlZw==", "a red picture")
    (link,) = [attributes for tag, attributes in page.tags if tag == "a"]
    assert link["href"] == "http://127.0.0.1:8000/images/k?shard=00000.tar&signature=x"
    assert {"0.500", ", 3 more alike · k", "1,234,567", "null", "00000.tar"} <= set(page.texts)


def test_one_that_is_on_its_way_and_one_that_cannot_be_shown():
    page = of(HIT, {**HIT, "caption": None}, pictures=[None, "Decode: cut off."])
    assert "img" not in {tag for tag, _ in page.tags}
    assert {"cannot be shown: Decode: cut off.", "no caption"} <= set(page.texts)


@given(st.text(), st.text(min_size=1), st.text())
def test_texts_are_only_texts(caption, key, reason):
    plain = of(HIT, pictures=["x"])
    hit = {**HIT, "caption": f"a{caption}", "key": key, "metadata": {caption: reason, "b": None}}
    page = of(hit, pictures=[reason])
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    told = Tags(cards.problem(f"a{caption}", f"b{reason}") + cards.hint(f"c{key}"))
    assert [tag for tag, _ in told.tags] == ["div", "p", "p", "div", "p"]


def test_colours_are_those_of_the_report():
    options = theme.options()
    assert options["theme.light.primaryColor"] == "#0f766e"
    assert options["theme.dark.backgroundColor"] == "#0f1417"
    assert "prefers-color-scheme: dark" in theme.style()
