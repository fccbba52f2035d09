from dataclasses import dataclass
from typing import Any
@dataclass
class DecodedBatch:
    pixels: Any
    kept: list
    errors: list
    widths: list
    heights: list
    formats: list
    thumbnails: Any
