"""Maps of embeddings in a real browser."""

from __future__ import annotations

import ast
import shutil

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import sync_playwright

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.make_data import jpeg, write_sidecar, write_tar

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Left and right of the middle. Keys that are no names in HTML, JavaScript or Python.
LEFT = ["it's", 'say "hi"', "</script>", "a\\b"]
RIGHT = [f"r{number}" for number in range(1200)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("scatter")
    keys = LEFT + RIGHT
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.1, (len(keys), 4)).astype(np.float32)
    vectors[: len(LEFT), 0] -= 5
    write_tar(root / "0.tar", [("r0.jpg", jpeg(1))])
    write_sidecar(
        root / "0.parquet",
        {
            "key": keys,
            "image_embedding": pa.array(list(vectors), pa.list_(pa.float32())),
            "label": ["<left>"] * len(LEFT) + [None] + ["right"] * (len(RIGHT) - 1),
            "score": rng.random(len(keys)),
        },
    )
    return ImageTextPairDataset.from_webdataset(root)


def chosen(dataset, expression: str) -> set[str]:
    """The keys of the rows that pasted code chooses."""
    ast.parse(expression)
    return set(eval(expression, {"ds": dataset}).metadata["key"].compute())


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_loop_around_points_becomes_an_expression(dataset, tmp_path):
    shown = dataset.map(color="label")
    assert "1,204 of 1,204 rows (seed 0); image_embedding" in repr(shown)
    shown.save(str(tmp_path / "map.html"))
    left_first = shown.xy[shown.rows["key"].to_pylist().index(LEFT[0]), 0] < 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 800, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: errors.append(request.url) if "http" in request.url else None
        )
        page.goto(f"file://{tmp_path}/map.html")
        box = page.locator("canvas").bounding_box()

        def loop(low: float, high: float) -> str:
            corners = [(low, 0.01), (high, 0.01), (high, 0.99), (low, 0.99)]
            places = [
                (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners
            ]
            page.mouse.move(*places[0])
            page.mouse.down()
            for place in places[1:]:
                page.mouse.move(*place)
            page.mouse.up()
            return page.locator("textarea").input_value()

        halves = [loop(0.01, 0.5), loop(0.5, 0.99)]
        told = page.locator(".count").inner_text()
        legend = page.locator(".legend").inner_text()
        colours = [
            page.evaluate(
                """theme => {
                    document.body.dataset.jpThemeLight = theme;
                    const shown = document.querySelector(".map").parentNode;
                    return getComputedStyle(shown).backgroundColor;
                }""",
                theme,
            )
            for theme in ("true", "false")
        ]
        browser.close()
    few, many = halves if left_first else halves[::-1]
    assert errors == []
    assert chosen(dataset, few) == set(LEFT)
    assert few.startswith('ds.filter("key.isin(')
    assert chosen(dataset, many) == set(RIGHT)
    assert told.endswith(" of 1,204 points")
    assert "<left>" in legend
    assert "null" in legend
    assert colours == ["rgb(255, 255, 255)", "rgb(15, 20, 23)"], "as JupyterLab's theme says"


def test_maps_of_numbers_and_of_other_columns(dataset):
    shown = dataset.map("image_embedding", color="score", n=100)
    assert shown.xy.shape == (100, 2)
    assert shown.html == dataset.map(color="score", n=100).html
    with pytest.raises(ConfigError, match="pip install umap-learn"):
        dataset.map(method="umap")
    with pytest.raises(ConfigError, match="none of pca, umap"):
        dataset.map(method="tsne")
    with pytest.raises(ColumnNotFoundError):
        dataset.select(["score"]).map()
