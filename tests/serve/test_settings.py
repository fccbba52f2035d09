from pathlib import Path

import pytest

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.serve import Settings


@pytest.mark.parametrize("name", ["roots", "allowed_hosts", "cors_origins"])
def test_one_text_is_no_list(name):
    """Its letters would be: the first of a path is the root of the machine."""
    value = "https://example.org" if name == "cors_origins" else "/data"
    with pytest.raises(ConfigError, match=rf"{name}='{value}' .* {name}=\('{value}',\)"):
        Settings(**{name: value})
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: b"/data"})
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: 7})
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: [7]})


def test_one_path_is_no_list():
    with pytest.raises(ConfigError, match="roots"):
        Settings(roots=Path("/data"))


def test_any_sequence_is_kept_as_a_tuple():
    settings = Settings(
        roots=["/data", Path("/more")],
        allowed_hosts=iter(["Images.example.org", "*.example.org", "::1", "[2001:DB8::0]"]),
        cors_origins=("https://example.org", "http://localhost:3000"),
    )
    assert settings.roots == ("/data", "/more")
    assert settings.allowed_hosts == (
        *("images.example.org", "*.example.org", "[::1]", "[2001:db8::]"),
    )
    assert settings.cors_origins == ("https://example.org", "http://localhost:3000")
    assert hash(settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        # Of the current folder, with all that is in it.
        ({"roots": [""]}, "roots"),
        # None of these could ever be in a request.
        ({"cors_origins": ["example.org"]}, "https://example.org"),
        ({"cors_origins": ["https://example.org/"]}, "https://example.org"),
        ({"cors_origins": ["https://example.org/page"]}, "https://example.org"),
        ({"cors_origins": ["null"]}, "https://example.org"),
        ({"allowed_hosts": ["http://example.org"]}, "without"),
        ({"allowed_hosts": ["example.org:8000"]}, "without"),
        ({"allowed_hosts": ["[::1]:8000"]}, "without"),
        ({"allowed_hosts": ["example.*"]}, "without"),
        ({"allowed_hosts": ["*example.org"]}, "without"),
        ({"allowed_hosts": [""]}, "without"),
        # Not a secret: it would let in everybody, without the warning.
        ({"token": ""}, "token"),
        ({"token": "größe"}, "token"),
        ({"token": b"s3cret"}, "token"),
        ({"token": " s3cret"}, "token"),
        ({"token": "s3cret\n"}, "token"),
        # Batches of none would go on for ever.
        ({"max_batch": 0}, "max_batch=0"),
        ({"max_waiting": 0}, "max_waiting=0"),
        ({"max_body": -1}, "max_body=-1"),
        ({"max_body": "32"}, "max_body='32'"),
        ({"max_body": True}, "max_body=True"),
        ({"stop_after": -1}, "stop_after=-1"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Settings(**options)
    assert "s3cret" not in str(caught.value)


def test_settings_do_not_show_the_token(monkeypatch):
    monkeypatch.setenv("NEMO_IMAGE_CURATE_TOKEN", "s3cret")
    assert Settings().token == "s3cret"
    assert "s3cret" not in repr(Settings())
    monkeypatch.setenv("NEMO_IMAGE_CURATE_TOKEN", "")
    assert Settings().token is None
