"""Tar to embedding column in Parquet: against the bare forward pass and the plain script."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bare_forward
from data import photographs, write_shards

from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder, get_client

HERE = Path(__file__).parent
# Images per round: about a quarter of a minute each on two cores.
SIZES = {"offline": 1024, "vit_base_patch32_clip_quickgelu_224.openai": 512}
PLAIN_IMAGES = 256


def ours(client: Any, model: str, shards: Path, output: Path, images: int) -> float:
    shutil.rmtree(output, ignore_errors=True)
    dataset = ImageTextPairDataset.from_webdataset(str(shards), backend="cpu")
    began = time.perf_counter()
    TimmImageEmbedder(model)(dataset).save_metadata(str(output), progress=False)
    return images / (time.perf_counter() - began)


def plain(model: str, shards: Path, scratch: Path) -> float:
    script = str(HERE / "plain_script.py")
    command = [sys.executable, script, model, str(shards), str(scratch / "plain.npy")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    images, seconds = done.stdout.split()[-2:]
    return int(images) / float(seconds)


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    """Rounds of the three, one after another, so that a slow spell of the machine meets all."""
    results = []
    pool = photographs(256, 320)
    for model, images in SIZES.items():
        shards, few = scratch / f"embed-{images}", scratch / "embed-few"
        write_shards(shards, pool, images // 4, repeat=images // len(pool))
        write_shards(few, pool, PLAIN_IMAGES // 4)
        figures: dict[str, list[float]] = {"bare": [], "ours": [], "plain": []}
        for _ in range(rounds):
            figures["bare"].append(bare_forward.best(model, images))
            with get_client("cpu") as client:
                # The first shards start the workers and load the model, as in any long job.
                ours(client, model, few, scratch / "warm", PLAIN_IMAGES)
                figures["ours"].append(ours(client, model, shards, scratch / "out", images))
            figures["plain"].append(plain(model, few, scratch))
        middle = {name: statistics.median(values) for name, values in figures.items()}
        ratios = [
            (
                "bare forward",
                0.85,
                statistics.median(map(_ratio, figures["ours"], figures["bare"])),
            ),
            (
                "plain script",
                2.0 if model == "offline" else 3.0,
                statistics.median(map(_ratio, figures["ours"], figures["plain"])),
            ),
        ]
        for peer, bar, ratio in ratios:
            name = "bare" if peer.startswith("bare") else "plain"
            results.append(
                {
                    "what": f"embed {model}: tar to Parquet / {peer}",
                    "ours": f"{middle['ours']:.1f} img/s",
                    "peer": f"{middle[name]:.1f} img/s",
                    "ratio": ratio,
                    "bar": f">= {bar}",
                    "met": ratio >= bar,
                }
            )
    return results


def _ratio(ours: float, peer: float) -> float:
    return ours / peer
