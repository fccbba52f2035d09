"""Pieces of pages: what comes from a dataset is escaped, whatever it is, and numbers read well."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate import html

HOSTILE = "</script><script>alert(1)</script><!-- \"'><img src=x onerror=alert(1)>\u2028"


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(None, "null"), (1234567, "1,234,567"), (0, "0"), (0.0, "0"), (True, "True")],
        *[(0.123456, "0.1235"), (12345.678, "12,346"), (5.0, "5"), (1e-7, "1e-07")],
        *[(float("nan"), "nan"), (-3.14159, "-3.142"), (100.0, "100"), ("a", "a")],
    ],
)
def test_numbers_read_well(value, text):
    assert html.number(value) == text


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [(1, 3, "33.3 %"), (0, 0, "0 %"), (1, 10**6, "< 0.1 %"), (10**6 - 1, 10**6, "> 99.9 %")],
)
def test_a_share_is_never_said_to_be_nothing_or_all_when_it_is_not(count, total, text):
    assert html.share(count, total) == text


@given(st.text())
def test_texts_stay_texts_in_a_page(text):
    table = html.table(["a"], [[text + HOSTILE]], caption=text)
    shown = html.figure(html.picture(b"jpeg", HOSTILE), HOSTILE, text)
    seen = Tags(table + shown + html.reason(HOSTILE) + html.bars([(HOSTILE, 1)], 1, HOSTILE))
    expected = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "img"}
    expected |= {"figcaption", "b", "br", "em", "span", "svg", "rect"}
    assert {tag for tag, _ in seen.tags} <= expected
    assert ("img", {"src": "data:image/jpeg;base64,anBlZw==", "alt": HOSTILE}) in seen.tags


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_data_is_read_as_it_was(value):
    text = html.data("values", [value, HOSTILE])
    inner = text.removeprefix('<script type="application/json" id="values">')
    inner = inner.removesuffix("</script>")
    assert "<" not in inner
    assert json.loads(inner) == [value, HOSTILE]


def test_a_page_allows_its_own_style_and_script_alone():
    page = html.page("<title>", "<p>text", "let a = 1 < 2", "p{}")
    (policy,) = re.findall('Content-Security-Policy" content="([^"]+)"', page)
    (style,), (script,) = (
        re.findall(f"<{tag}>(.+?)</{tag}>", page, re.S) for tag in ("style", "script")
    )
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "&lt;title&gt;" in page


def test_a_histogram_has_a_bar_for_each_count_and_one_for_nulls():
    series = [html.Series("rows", [1, 0, 1000], nulls=5000)]
    shown = Tags(html.histogram([0.0, 1.0, 2.0, 3.0], series, {"threshold": 1.5}))
    bars = [attributes for tag, attributes in shown.tags if tag == "rect"]
    assert [bar["height"] for bar in bars] == ["1.00", "100.00", "100.00"]
    assert "2 to 3: 1,000 rows" in shown.texts
    assert "5,000 null" in shown.texts
    (mark,) = [attributes for tag, attributes in shown.tags if tag == "line"]
    assert mark["x1"] == "15.00"
    assert not [one for _, one in shown.tags if "style" in one]
