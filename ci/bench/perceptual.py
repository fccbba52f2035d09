"""Perceptual duplicates among 10,000 photographs, from tar to decisions: against imagededup.

imagededup (idealo, Apache-2.0) is no dependency of ours, and pip would bring a second torch with
it. So install it by itself, and name the folder:

    pip install --no-deps --target FOLDER imagededup PyWavelets matplotlib contourpy cycler \
        fonttools kiwisolver pyparsing
    IMAGEDEDUP=FOLDER .venv/bin/python ci/bench/run.py perceptual
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from data import photographs, write_shards

from nemo_image_curate import ImageTextPairDataset, get_client
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.models.torchvision_compat import import_timm

IMAGES = 10_000
SIDE = 320
RADIUS = 6


def _imagededup() -> Any:
    """Its PHash, or None when it is not installed."""
    if folder := os.environ.get("IMAGEDEDUP"):
        # At the end: what our own environment has goes first.
        sys.path.append(folder)
    import_timm()  # makes torchvision importable beside a CPU torch
    try:
        from imagededup.methods import PHash
    except ImportError as error:
        print(f"skipped: imagededup cannot be imported ({error}); see ci/bench/perceptual.py")
        return None
    return PHash


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    peer_class = _imagededup()
    if peer_class is None:
        return []
    files, shards = scratch / "files", scratch / "shards"
    files.mkdir()
    images = photographs(IMAGES, SIDE)
    for number, image in enumerate(images):
        (files / f"{number:09d}.jpg").write_bytes(image)
    write_shards(shards, images, 500)
    ours, peer, duplicates = [], [], {}
    with get_client("cpu"):
        for number in range(max(3, rounds)):
            work = scratch / f"work-{number}"
            began = time.perf_counter()
            dataset = ImageTextPairDataset.from_webdataset(shards)
            result = PerceptualDedup(radius=RADIUS, work_dir=work)(dataset)
            ours.append(time.perf_counter() - began)
            duplicates["ours"] = int(result.metadata.is_duplicate.sum().compute())
            shutil.rmtree(work)
            began = time.perf_counter()
            hasher = peer_class(verbose=False)
            encodings = hasher.encode_images(image_dir=str(files))
            groups = hasher.find_duplicates(encoding_map=encodings, max_distance_threshold=RADIUS)
            peer.append(time.perf_counter() - began)
            assert len(encodings) == IMAGES
            duplicates["peer"] = sum(map(bool, groups.values()))
    ratio = statistics.median(peer_s / our_s for our_s, peer_s in zip(ours, peer, strict=True))
    return [
        {
            "what": f"perceptual duplicates among {IMAGES} JPEGs about {SIDE} px wide, tar to "
            f"decisions ({duplicates['ours']} removed) / imagededup PHash on the files "
            f"({duplicates['peer']} in pairs), radius {RADIUS}",
            "ours": f"{statistics.median(ours):.1f} s",
            "peer": f"{statistics.median(peer):.1f} s",
            "ratio": ratio,
            "bar": ">= 5.0",
            "met": ratio >= 5,
        }
    ]


if __name__ == "__main__":
    # imagededup's worker processes are forked from this one, Dask's are spawned and import it.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(run(Path(folder), 1))
