"""Data URLs, as clients of all kinds write them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nemo_image_curate.decode.data_url import data_url_content
from nemo_image_curate.errors import ConfigError

LIMIT = 64 * 2**20


def data_url(content: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@given(st.binary(max_size=200), st.sampled_from(["image/png", "", "application/octet-stream"]))
def test_a_data_url_gives_back_what_went_in(content, kind):
    assert data_url_content(data_url(content, kind), LIMIT) == content


def test_data_urls_as_browsers_and_mails_write_them():
    text = base64.b64encode(bytes(range(251, 256)) * 20).decode()
    content = base64.b64decode(text)
    assert "+" in text or "/" in text
    assert data_url_content(f"DATA:image/png;charset=utf-8;BASE64,{text}", LIMIT) == content
    escaped = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    assert data_url_content(f"data:;base64,{escaped}", LIMIT) == content
    lines = "\r\n".join(text[at : at + 60] for at in range(0, len(text), 60))
    assert data_url_content(f"data:;base64,{lines}", LIMIT) == content


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("data:image/png;base64", "no data URL"),
        ("image/png;base64,AAAA", "no data URL"),
        ("data:text/plain,hello", "not in base64"),
        ("data:;base64,AAA", "broken"),
        ("data:;base64,AAA!", "broken"),
        ("data:;base64,ÄÄÄÄ", "broken"),
        ("data:;base64,-_-_", "broken"),
    ],
)
def test_broken_data_urls_say_why(url, problem):
    with pytest.raises(ConfigError, match=problem):
        data_url_content(url, LIMIT)


@given(st.text(max_size=50))
@example("data:;base64,%")
@example("data:;base64,\ud800")
def test_any_text_is_a_data_url_or_a_clear_error(text):
    try:
        assert isinstance(data_url_content(text, LIMIT), bytes)
    except ConfigError:
        pass
