"""The page in a real browser: what its scripts do, and that nothing else happens."""

from __future__ import annotations

import shutil

import pytest

from nemo_image_curate import ImageTextPairDataset, write_report

expect = pytest.importorskip("playwright.sync_api").expect
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tars, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    dataset = ImageTextPairDataset.from_webdataset(tars, backend="cpu")
    write_report(dataset, path, where="score > 4", pictures=4, progress=False)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def drag(page, box, start: float, end: float) -> None:
    y = box["y"] + box["height"] / 2
    page.mouse.move(start, y)
    page.mouse.down()
    page.mouse.move((start + end) / 2, y)
    page.mouse.move(end, y)
    page.mouse.up()


def test_a_reader_moves_a_threshold_looks_and_copies(browser, report, rows):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(10_000)
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report)
    column = page.locator("#column-score")
    cut, near = column.locator(".cut"), column.locator(".brushed")
    expect(cut).to_contain_text('ds.filter("score > 4")')

    plot = column.locator(".hist svg").first
    plot.scroll_into_view_if_needed()
    box, mark = plot.bounding_box(), column.locator(".mark").first.bounding_box()
    drag(page, box, mark["x"] + 1, box["x"] + box["width"] * 0.75)
    expression = cut.locator("code").inner_text()
    value = float(expression.removesuffix('")').rpartition(">= ")[2])
    assert 6 < value < 8
    kept = sum(row["score"] is not None and row["score"] >= value for row in rows)
    expect(cut).to_contain_text(f"{kept} of {len(rows)} rows stay")
    expect(near).to_contain_text("Nearest to")
    column.get_by_role("button", name="Copy expression").click()
    assert page.evaluate("navigator.clipboard.readText()") == expression

    slider = column.get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    expect(cut).to_contain_text(f" of {len(rows)} rows stay")
    assert cut.locator("code").inner_text() != expression

    drag(page, box, box["x"] + 2, box["x"] + box["width"] * 0.25)
    expect(near).to_contain_text("on this page")
    values = [float(one) for one in near.locator("figcaption").all_inner_texts()]
    assert values == sorted(values)
    assert 1 <= values[0] <= values[-1] <= 3.1

    near.locator("a.open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("00000.tar")
    assert "#row-" in page.url
    shown = dialog.inner_text()
    page.keyboard.press("ArrowRight")
    expect(dialog).not_to_have_text(shown)
    linked = page.url
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.locator("#column-label").get_by_role("button", name="dog").click()
    expect(page.locator("#column-label .brushed code")).to_have_text(
        """ds.filter("label == 'dog'")"""
    )
    page.goto("about:blank")
    page.goto(linked)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.title() == "photos: report"
    context.close()
    assert problems == []
    assert {url for url in requests if not url.startswith("data:")} == {report}


def test_a_page_fits_a_phone_and_reads_without_a_script(browser, report):
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, java_script_enabled=False, color_scheme="dark"
    )
    page = context.new_page()
    page.goto(report)
    widest = page.locator("html").evaluate("element => element.scrollWidth")
    assert widest <= 390
    expect(page.locator("body")).to_have_css("color", "rgb(230, 237, 243)")
    picture = page.locator("#column-score a.open").first
    picture.click()
    anchor = page.url.partition("#")[2]
    expect(page.locator(f"#{anchor}")).to_be_in_viewport()
    context.close()
