"""Flags of pictures: against CleanVision on the same JPEGs, whole and spoiled.

CleanVision (Cleanlab, Apache-2.0) is no dependency of ours, and pip would bring other versions of
pandas and NumPy with it. So install it by itself, and name the folder:

    pip install --target FOLDER cleanvision
    CLEANVISION=FOLDER .venv/bin/python ci/bench/run.py quality
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import photographs, write_shards
from PIL import Image, ImageFilter

from nemo_image_curate import ImageQuality, ImageTextPairDataset, OddSize, get_client

IMAGES = 600
# CleanVision computes with all pixels, so that its time goes with their number.
SIDES = (500, 1200)
FLAGS = ("dark", "light", "low_information", "blurry", "odd_aspect_ratio", "odd_size")
# Every fifth picture is spoiled, in one way after the other.
_EACH = 5


def _spoiled(image: Image.Image, number: int) -> Image.Image:
    degree = 1 + number // 4 % 10
    ways: tuple[Callable[[], Image.Image], ...] = (
        lambda: image.filter(ImageFilter.GaussianBlur(2 * degree)),
        lambda: image.point(lambda value: value * degree / 20),
        lambda: image.point(lambda value: 255 - (255 - value) * degree / 50),
        lambda: image.crop((0, 0, image.width, max(1, image.height * degree // 20))),
    )
    return ways[number % 4]()


def _pictures(side: int) -> list[bytes]:
    files = photographs(IMAGES, side)
    for place in range(0, IMAGES, _EACH):
        with Image.open(io.BytesIO(files[place])) as image:
            buffer = io.BytesIO()
            _spoiled(image.convert("RGB"), place // _EACH).save(buffer, "JPEG", quality=90)
            files[place] = buffer.getvalue()
    return files


def _cleanvision() -> Any:
    """Its Imagelab, or None when it is not installed."""
    if folder := os.environ.get("CLEANVISION"):
        # At the end: what our own environment has goes first.
        sys.path.append(folder)
    try:
        from cleanvision import Imagelab
    except ImportError as error:
        print(f"skipped: CleanVision cannot be imported ({error}); see ci/bench/quality.py")
        return None
    return Imagelab


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    imagelab = _cleanvision()
    if imagelab is None:
        return []
    workers = len(os.sched_getaffinity(0))
    with get_client("cpu", n_workers=workers):
        return [
            row
            for side in SIDES
            for row in _compared(imagelab, scratch / f"{side}", side, workers, max(3, rounds))
        ]


def _compared(
    imagelab: Any, scratch: Path, side: int, workers: int, rounds: int
) -> list[dict[str, Any]]:
    files, shards = scratch / "files", scratch / "shards"
    files.mkdir(parents=True)
    images = _pictures(side)
    for number, image in enumerate(images):
        (files / f"{number:09d}.jpg").write_bytes(image)
    write_shards(shards, images, IMAGES // (2 * workers))
    wanted: dict[str, dict[str, Any]] = {name: {} for name in FLAGS}
    ours, peer = [], []
    for number in range(rounds):
        began = time.perf_counter()
        dataset = ImageTextPairDataset.from_webdataset(shards)
        saved = ImageQuality()(dataset).save_metadata(scratch / f"saved-{number}")
        df = OddSize()(saved).metadata.compute().sort_values("key")
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        lab = imagelab(data_path=str(files))
        lab.find_issues(wanted, n_jobs=workers, verbose=False)
        peer.append(time.perf_counter() - began)
    theirs = lab.issues.sort_index()
    flagged = {name: int(theirs[f"is_{name}_issue"].sum()) for name in FLAGS}
    same = {
        name: int((df[f"is_{name}"].to_numpy(bool) == theirs[f"is_{name}_issue"].to_numpy()).sum())
        for name in FLAGS
    }
    print(f"flagged by CleanVision: {flagged}; the same: {same}")
    ratio = statistics.median(peer_s / our_s for our_s, peer_s in zip(ours, peer, strict=True))
    agreement = sum(same.values()) / (len(FLAGS) * IMAGES)
    pictures = f"{IMAGES} JPEGs about {side} px wide, a fifth of them spoiled"
    return [
        {
            "what": f"flags of {pictures}, tar to Parquet / CleanVision's on the files, "
            f"{workers} processes each",
            "ours": f"{statistics.median(ours):.1f} s",
            "peer": f"{statistics.median(peer):.1f} s",
            "ratio": ratio,
            "bar": ">= 5.0",
            "met": ratio >= 5,
        },
        {
            "what": f"the same six flags of {pictures}, as a part of all",
            "ours": f"{sum(same.values())} of {len(FLAGS) * IMAGES}",
            "peer": f"{sum(flagged.values())} are set",
            "ratio": agreement,
            "bar": ">= 0.99",
            "met": agreement >= 0.99,
        },
    ]


if __name__ == "__main__":
    # CleanVision's worker processes are forked from this one, Dask's are spawned and import it.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(run(Path(folder), 1))
