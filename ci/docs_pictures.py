#!/usr/bin/env python3
"""Make docs/images/report.png: the report of the demo's photographs, as a browser shows it.

    .venv/bin/python ci/docs_pictures.py [REPORT.html]    (needs chromium)

With a name the report is kept there.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from nemo_image_curate import (
    ImageStatistics,
    ImageTextPairDataset,
    SemanticDedup,
    TimmImageEmbedder,
    write_report,
)
from nemo_image_curate.demo import pack_photographs

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "report.png"
WIDTH = 1280
# Parts of the page, and their heights where not all of them is shown.
SHOWN = (("header h1", 50), ("#funnel", 0), ("#column-brightness", 678))
EDGE = 16
# Pictures of a strip.
IN_ROW = 12
# A picture of few colours is small.
COLOURS = 200


def report(folder: Path) -> Path:
    """A report of the photographs with duplicates and two conditions."""
    pack_photographs(folder / "photographs")
    dataset = ImageTextPairDataset.from_webdataset(folder / "photographs")
    embedder = TimmImageEmbedder("offline", image_stages=[ImageStatistics()])
    dataset = embedder(dataset).save_metadata(folder / "scored")
    dataset = SemanticDedup(eps=0.1, keep="best", by="width")(dataset)
    dataset = dataset.save_metadata(folder / "deduplicated")
    path = folder / "report.html"
    conditions = ["width >= 64", "brightness >= 30", "sharpness >= 20", "not is_duplicate"]
    columns = ["brightness", "sharpness", "width"]
    write_report(dataset, path, where=conditions, columns=columns, pictures=IN_ROW)
    return path


def picture(page: Path, output: Path) -> None:
    """What a page shows of its funnel and of one column, in a light window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        window = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        window.goto(page.as_uri())
        parts = []
        for selector, height in SHOWN:
            box = window.locator(selector).bounding_box()
            assert box, f"the report has no {selector}"
            clip = {
                "x": box["x"] - EDGE,
                "y": box["y"] - EDGE,
                "width": box["width"] + 2 * EDGE,
                "height": height or box["height"] + EDGE,
            }
            content = window.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
            parts.append(Image.open(io.BytesIO(content)).convert("RGB"))
        browser.close()
    image = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        image.paste(part, (0, top))
        top += part.height
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(output, optimize=True)


def main(*arguments: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = report(Path(folder))
        picture(page, OUTPUT)
        if arguments:
            shutil.copy(page, arguments[0])
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
