"""The slider of eps and the lasso of the map, in a real browser."""

from __future__ import annotations

import json
import shutil

import pytest

from nemo_image_curate.report import eps, map, page
from nemo_image_curate.report.settings import Settings
from tests.report.sets import rows, write

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


def test_a_reader_moves_eps_and_draws_around_points(tmp_path, monkeypatch):
    dataset = write(tmp_path / "photos", rows(), 2)
    monkeypatch.setattr(page, "SECTIONS", (eps, map))
    file = tmp_path / "report.html"
    file.write_text(page.report_page(dataset, Settings(progress=False)))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 1000})
        shown.set_default_timeout(10_000)
        problems: list[str] = []
        shown.on("console", lambda message: problems.append(message.text))
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.goto(file.as_uri())
        moved = move_eps(shown)
        drawn = draw_lasso(shown)
        chosen = choose_class(shown)
        browser.close()
    assert problems == []
    told = {one.eps: one for one in eps.gather(dataset, Settings(progress=False)).removals}
    assert moved["code"] == f"SemanticDedup(eps={moved['eps']})(ds)"
    assert f"about {told[moved['eps']].count} rows go" in moved["text"]
    assert moved["groups"] == 1
    # Around everything: all rows that have an embedding.
    assert len(dataset.filter(drawn["condition"])) == 59
    assert drawn["pictures"] == 59
    assert chosen["condition"] == "cluster == 1"
    assert chosen["pictures"] == sum(row["cluster"] == 1 for row in rows())


def move_eps(page) -> dict:
    slider = page.get_by_role("slider", name="eps")
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    box = page.locator(".eps")
    text = box.locator("output").inner_text()
    return {
        "text": text,
        "eps": float(text.split()[1].removesuffix(":")),
        "code": box.locator("code").inner_text(),
        "groups": page.locator(".at-eps:visible").count(),
    }


def chosen_of(page) -> dict:
    call = page.locator(".map code").inner_text()
    return {
        "condition": json.loads(call.removeprefix("ds.filter(").removesuffix(")")),
        "pictures": page.locator(".pictured > figure:visible").count(),
    }


def draw_lasso(page) -> dict:
    plot = page.locator(".map > svg")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    left, top = box["x"] + 2, box["y"] + 2
    right, bottom = left + box["width"] - 4, top + box["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y)
    page.mouse.up()
    return chosen_of(page)


def choose_class(page) -> dict:
    page.locator(".legend button", has_text="1").first.focus()
    page.keyboard.press("Enter")
    return chosen_of(page)
