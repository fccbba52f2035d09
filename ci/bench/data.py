"""Benchmark inputs: photographs that packages carry, cut up the same way each time, in shards."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate.demo import photographs as package_photographs


def photographs(n: int, side: int, quality: int = 90) -> list[bytes]:
    """`n` different JPEGs of real content: random crops, about `side` pixels wide."""
    chance = random.Random(0)
    sources = [image for _, image in package_photographs()]
    jpegs = []
    for number in range(n):
        image = sources[number % len(sources)]
        scale = chance.uniform(0.5, 0.95)
        width, height = int(image.width * scale), int(image.height * scale)
        left = chance.randrange(image.width - width + 1)
        top = chance.randrange(image.height - height + 1)
        crop = image.crop((left, top, left + width, top + height))
        wide = int(side * chance.uniform(0.8, 1.25))
        crop = crop.resize((wide, max(1, wide * height // width)))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=quality)
        jpegs.append(buffer.getvalue())
    return jpegs


def write_shards(folder: Path, images: list[bytes], per_shard: int, repeat: int = 1) -> None:
    """img2dataset's layout: image, caption and JSON for each sample, and a sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    total = len(images) * repeat
    for start in range(0, total, per_shard):
        stem = folder / f"{start // per_shard:05d}"
        rows = []
        with tarfile.open(f"{stem}.tar", "w") as tar:
            for number in range(start, min(start + per_shard, total)):
                key, caption = f"{number:09d}", f"a photograph with the number {number}"
                row = {"key": key, "caption": caption, "url": f"https://example.org/{number}.jpg"}
                rows.append(row)
                parts = {
                    "jpg": images[number % len(images)],
                    "txt": caption.encode(),
                    "json": json.dumps(row).encode(),
                }
                for extension, content in parts.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        pq.write_table(pa.Table.from_pylist(rows), f"{stem}.parquet")
