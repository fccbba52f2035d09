"""By what names a service may be called: a page of another site must not pass for its own."""

import socket
from urllib.parse import urlsplit

import pytest

from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import Settings, create_app
from tests.serve.asking import ask_app
from tests.serve.pictures import ColourEmbedder

ALL = [
    ("GET", "/health"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/stats"),
    ("GET", "/images/red%200%20%C3%BC"),
    ("GET", "/nowhere"),
    ("POST", "/search/text-to-image"),
    ("POST", "/index/images"),
    ("OPTIONS", "/search/text-to-image"),
]


@pytest.mark.parametrize(("method", "path"), ALL)
def test_a_name_that_was_bound_to_this_machine(service, method, path):
    """DNS rebinding: to the browser the page and the service are one site, of one name."""
    port = urlsplit(service.url).port
    host = f"evil.example:{port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    body = {"json": {"text": "red"}} if "search" in path and method == "POST" else {}
    answer = service.http.request(method, path, headers=headers, **body)
    assert answer.status_code == 421, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Misdirected Request"
    assert "--allowed-host" in answer.json()["detail"]
    assert "red" not in answer.text.replace("Misdirected", "")


def test_refusals_are_logged_and_counted(service):
    service.http.get("/health", headers={"Host": "evil.example"})
    assert service.http.get("/stats").json()["requests"]["421"] >= 1


def status(host: str | None, settings: Settings | None = None, listening: str = "127.0.0.1") -> int:
    """What a service that listens there answers to a request for a host."""
    searcher = Searcher(ColourEmbedder(), [])
    app = create_app(searcher, settings=settings or Settings(token=None), host=listening)
    return ask_app(app, "GET", "/openapi.json", host).status_code


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "localhost",
        "LocalHost:8000",
        "[::1]",
        "[::1]:8000",
    ],
)
@pytest.mark.parametrize("listening", ["127.0.0.1", "::1", "0.0.0.0", "192.0.2.7"])
def test_names_of_every_machine_for_itself(host, listening):
    assert status(host, listening=listening) == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "evil.example/127.0.0.1",
        "127.0.0.1:80:80",
        "127.0.0.1:x",
        "[::1",
        "[::1]evil.example",
        "::1",
        "localhost, evil.example",
        "http://localhost",
        "local\u00adhost",
    ],
)
@pytest.mark.parametrize("listening", ["127.0.0.1", "0.0.0.0", "::"])
def test_names_of_others(host, listening):
    assert status(host, listening=listening) == 421


@pytest.mark.parametrize("host", ["203.0.113.7:8000", "[2001:db8::7]:8000", socket.gethostname()])
def test_addresses_of_a_service_on_all_interfaces(host):
    """It may not know them: those of a router, or of the machine around a container.

    No page of another site has an address for a name, so it gains nothing.
    """
    for everywhere in ("0.0.0.0", "::", ""):
        assert status(host, listening=everywhere) == 200
    assert status(host, listening="127.0.0.1") == 421


@pytest.mark.parametrize(
    ("listening", "host"),
    [
        ("192.0.2.7", "192.0.2.7:8000"),
        ("2001:db8::7", "[2001:db8::7]:8000"),
        ("2001:DB8:0::7", "[2001:db8::7]"),
        ("gallery", "gallery:8000"),
    ],
)
def test_the_address_that_is_listened_on(listening, host):
    assert status(host, listening=listening) == 200
    assert status("192.0.2.8", listening=listening) == 421


@pytest.mark.parametrize(
    ("allowed", "host", "expected"),
    [
        ("images.example.org", "images.example.org", 200),
        ("images.example.org", "IMAGES.example.org:443", 200),
        ("images.example.org", "example.org", 421),
        ("www.example.org", "example.org", 421),
        ("*.example.org", "a.b.example.org:8000", 200),
        ("*.example.org", "evilexample.org", 421),
        ("2001:db8::1", "[2001:db8::1]:8000", 200),
        ("192.0.2.1", "192.0.2.1:8000", 200),
        ("*", "anything.example", 200),
    ],
)
def test_allowed_hosts(allowed, host, expected):
    settings = Settings(token=None, allowed_hosts=[allowed])
    assert status(host, settings) == expected
    assert status("localhost", settings) == 200


def test_the_name_that_is_listened_on_and_its_address(serve):
    served = serve(host="localhost")
    port = urlsplit(served.url).port
    for host, expected in (("localhost", 200), ("127.0.0.1", 200), ("192.0.2.7", 421)):
        answer = served.http.get("/health", headers={"Host": f"{host}:{port}"})
        assert answer.status_code == expected


def test_over_ipv6(serve):
    served = serve(host="::1", settings={"allowed_hosts": ["gallery"]})
    assert served.url.startswith("http://[::1]:")
    port = urlsplit(served.url).port
    assert served.http.post("/search/text-to-image", json={"text": "red"}).status_code == 200
    own = {"Origin": served.url}
    answer = served.http.post("/search/text-to-image", json={"text": "red"}, headers=own)
    assert answer.status_code == 200
    for host, expected in (
        (f"localhost:{port}", 200),
        (f"gallery:{port}", 200),
        (f"[::2]:{port}", 421),
        (f"evil.example:{port}", 421),
    ):
        assert served.http.get("/stats", headers={"Host": host}).status_code == expected
