"""Pictures whose answers are easy to say: plain colours, found by their names."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nemo_image_curate.errors import ConfigError
from tests.make_data import write_sidecar, write_tar
from tests.make_embedders import ThumbEmbedder, pillow_thumb

COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 230),
    "yellow": (230, 230, 20),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
PER_COLOUR = 5
# A caption that must not be taken for HTML or Markdown.
NASTY = "<img src=x onerror=alert(1)><b>fat</b> ![x](http://127.0.0.1:1/x.png) **stars**"
# Seconds that texts with the word "slow" take.
SLOW = 1.0


def picture(colour: str, number: int = 0, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture of one colour with a stripe that makes it unlike the others of its colour."""
    image = Image.new("RGB", (64 + number, 48), COLOURS[colour])
    stripe = (8 * number, 0, 8 * number + 4, 47)
    ImageDraw.Draw(image).rectangle(stripe, fill=(128, 128, 128))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def pictures() -> list[dict[str, Any]]:
    """All pictures of the dataset with their rows, in the order of its shards."""
    made = []
    for position, colour in enumerate(COLOURS):
        for number in range(PER_COLOUR):
            caption = NASTY if (colour, number) == ("black", 0) else f"a {colour} picture"
            made.append(
                {
                    "key": f"{colour} {number} ü",
                    "shard": f"{position % 3:05d}.tar",
                    "caption": caption,
                    "width": 64 + number,
                    "data": picture(colour, number),
                }
            )
    return made


def write_pictures(folder: Path) -> Path:
    """The dataset: three shards with sidecars."""
    made = pictures()
    for shard in sorted({one["shard"] for one in made}):
        part = [one for one in made if one["shard"] == shard]
        write_tar(folder / shard, [(f"{one['key']}.jpg", one["data"]) for one in part])
        columns = {name: [one[name] for one in part] for name in ("key", "caption", "width")}
        write_sidecar((folder / shard).with_suffix(".parquet"), columns)
    return folder


class ColourEmbedder(ThumbEmbedder):
    """Embeds a text as the mean of pictures of the colours it names."""

    def embed_text(
        self, texts: Sequence[str], device: str = "cpu", truncate: bool = False
    ) -> np.ndarray:
        if any("slow" in text for text in texts):
            time.sleep(SLOW)
        if any("bug" in text for text in texts):
            raise RuntimeError("a fault with the secret 0x5eca7")
        rows = []
        for text in texts:
            named = [colour for colour in COLOURS if colour in text]
            if not named:
                raise ConfigError(f"the text {text!r} names no colour. Use {', '.join(COLOURS)}.")
            row = np.mean([pillow_thumb(picture(colour)) for colour in named], axis=0)
            rows.append(row / np.linalg.norm(row))
        return np.asarray(rows, dtype=np.float32)
