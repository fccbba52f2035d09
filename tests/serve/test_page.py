import base64
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serve.asking import status_of
from tests.serve.conftest import await_port
from tests.serve.pictures import NASTY, picture
from tests.serve.test_indexing import bomb, stripes

expect = pytest.importorskip("playwright.sync_api").expect
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
# Where to keep pictures of what the tests saw.
SCREENS = os.environ.get("NEMO_IMAGE_CURATE_SCREENS")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, service):
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    alerts: list[str] = []
    elsewhere: list[str] = []
    opened.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: elsewhere.append(request.url))
    opened.goto(service.page)
    opened.get_by_role("heading", name="Image search").wait_for()
    yield opened
    context.close()
    assert alerts == []
    # Nothing from anywhere but the page's own server: no statistics, no images of captions.
    assert [url for url in elsewhere if not own(url, service)] == []


def own(url: str, served) -> bool:
    return url.startswith((served.page, served.page.replace("http", "ws"), "data:", "blob:"))


def keep(page, name: str) -> None:
    if SCREENS:
        page.wait_for_timeout(500)
        page.screenshot(path=str(Path(SCREENS) / f"{name}.png"))


def panel(page, name: str):
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def upload(panel, *files: tuple[str, bytes]) -> None:
    payload = [{"name": n, "mimeType": "image/jpeg", "buffer": data} for n, data in files]
    panel.locator("input[type=file]").set_input_files(payload)
    panel.get_by_text(files[0][0]).first.wait_for()


def scores(panel) -> list[float]:
    return [float(text) for text in panel.locator(".facts b").all_inner_texts()]


def test_text_to_image(page, service):
    tab = panel(page, "By text")
    tab.get_by_label("What should the images show?").fill("something red")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("a red picture").first.wait_for()
    keep(page, "text-to-image")
    expect(tab.get_by_text("a red picture")).to_have_count(5)
    expect(tab.locator("img")).to_have_count(12)
    found = scores(tab)
    assert len(found) == 12
    assert found == sorted(found, reverse=True)
    images = tab.locator("img").all()
    loaded = "one => one.decode().then(() => one.naturalWidth)"
    assert all(image.evaluate(loaded) for image in images)
    # Each is a link to its original, which Tab reaches, and has its caption for a name.
    links = [link.get_attribute("href") for link in tab.get_by_role("link").all()]
    assert len(links) == 12
    assert {image.get_attribute("alt") for image in images} >= {"a red picture"}
    link = next(link for link in links if link.startswith(f"{service.url}/images/red%20"))
    assert httpx.get(link).content == picture("red", int(link.split("%20")[1]))


def test_keyboard_alone(page):
    query = page.get_by_label("What should the images show?")
    expect(query).to_be_focused()
    page.keyboard.type("something blue")
    page.keyboard.press("Enter")
    page.get_by_text("a blue picture").first.wait_for()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.hits')"):
            break
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".hits details").first.get_by_text("00002.tar")).to_be_visible()


def test_no_image_fits_an_expression(page):
    page.get_by_label("Only where", exact=True).fill("width > 5000")
    page.keyboard.press("Enter")
    page.get_by_label("What should the images show?").fill("red")
    page.keyboard.press("Enter")
    page.get_by_text("there is no image for which this is true: width > 5000").wait_for()
    page.get_by_text("empty it to search all images").wait_for()
    keep(page, "nothing-found")


def test_options(page):
    page.get_by_label("Images to show (k)").fill("2")
    page.get_by_label("Only where", exact=True).fill("width == 66")
    page.keyboard.press("Enter")
    tab = panel(page, "By text")
    tab.get_by_label("What should the images show?").fill("blue")
    tab.get_by_role("button", name="Search").click()
    tab.locator(".facts", has_text="blue 2 ü").wait_for()
    assert len(scores(tab)) == 2


def test_captions_are_only_text(page):
    tab = panel(page, "By text")
    tab.get_by_label("What should the images show?").fill("black")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text(NASTY, exact=True).wait_for()
    keep(page, "nasty-caption")
    assert tab.locator("img[src=x]").count() == 0
    assert tab.locator("b, strong").filter(has_text=re.compile("fat|stars")).count() == 0


def test_image_to_image(page):
    tab = panel(page, "By image")
    upload(tab, ("mine.jpg", picture("green", 3)))
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("a green picture").first.wait_for()
    tab.locator(".facts", has_text="green 3 ü").wait_for()
    keep(page, "image-to-image")
    assert scores(tab)[0] > 0.99


def test_add_images(page):
    tab = panel(page, "Add images")
    upload(tab, ("one.png", stripes(21)), ("two.png", stripes(22)), ("bomb.png", bomb()))
    tab.get_by_label("Caption for all of them").fill("brand new <i>stripes</i>")
    tab.get_by_role("button", name="Add", exact=True).click()
    tab.get_by_text("2 added").wait_for()
    tab.get_by_text("bomb.png: too large: 60000x60000").wait_for()
    # Those of other tests may be there, too.
    page.get_by_text(re.compile(r"^(3[2-9]|[4-9]\d) images")).wait_for()
    keep(page, "add-images")
    search = panel(page, "By image")
    upload(search, ("again.png", stripes(22)))
    search.get_by_role("button", name="Search").click()
    search.get_by_text("brand new <i>stripes</i>", exact=True).first.wait_for()
    keep(page, "found-what-was-added")
    assert scores(search)[0] > 0.99


def test_bad_queries(page):
    tab = panel(page, "By text")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("Write what to search for.").wait_for()
    tab.get_by_label("What should the images show?").fill("purple **x**")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("the text 'purple **x**' names no colour").wait_for()
    keep(page, "bad-query")
    page.get_by_label("Only where", exact=True).fill("widht > 3")
    page.keyboard.press("Enter")
    tab.get_by_label("What should the images show?").fill("red")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("Did you mean 'width'?").wait_for()
    tab = panel(page, "By image")
    upload(tab, ("page.jpg", b"<html>"))
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("not an image").wait_for()


def test_with_a_token(browser, bare):
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.goto(bare.page)
    page.get_by_text("The service wants a token").wait_for()
    keep(page, "token-missing")
    page.get_by_label("Token", exact=True).fill("secret")
    page.keyboard.press("Enter")
    page.get_by_text("this was not it").wait_for()
    page.get_by_label("Token", exact=True).fill("s3cret")
    page.keyboard.press("Enter")
    page.get_by_text("30 images, 0 texts").wait_for()
    page.get_by_label("What should the images show?").fill("red")
    page.get_by_role("button", name="Search").first.click()
    page.get_by_text("a red picture").first.wait_for()
    # The link works in a browser, which sends no token.
    link = page.locator(".hits a").first.get_attribute("href")
    assert httpx.get(link).status_code == 200
    tab = panel(page, "Add images")
    tab.get_by_text("no store to add to").wait_for()
    keep(page, "no-store")
    page.close()


@pytest.mark.parametrize("path", ["/", "/_stcore/host-config", "/_stcore/stream"])
def test_a_name_that_was_bound_to_this_machine(service, path):
    """DNS rebinding: a page of another site would ask the service through this one."""
    port = service.page.rpartition(":")[2]
    upgrade = {
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode(),
    }
    expected = {"localhost": 101 if "stream" in path else 200, "evil.example": 421}
    for host, status in expected.items():
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", f"Origin: http://{host}:{port}"]
        if "stream" in path:
            lines += ["Connection: Upgrade", *map(": ".join, upgrade.items())]
        connection = socket.create_connection(("127.0.0.1", int(port)), 30)
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        assert status_of(connection) == status, host


def test_no_service(browser):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nowhere = "http://127.0.0.1:9"
    command = [sys.executable, "-m", "nemo_image_curate.serve.page", "--server.headless=true"]
    alone = subprocess.Popen(
        [*command, f"--server.port={port}", "--browser.gatherUsageStats=false"],
        env={**os.environ, "NEMO_IMAGE_CURATE_SERVICE": nowhere},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(port)
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_text(f"The service at {nowhere} cannot be reached").first.wait_for()
        keep(page, "no-service")
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("nemo-image-curate serve DATASET --ui").wait_for()
        page.close()
        # The page lives no longer than who started it.
        alone.stdin.close()
        assert alone.wait(10) == 0
    finally:
        alone.kill()
