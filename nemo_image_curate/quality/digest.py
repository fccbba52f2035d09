"""`ImageDigest`: SHA-256 of each image's encoded bytes, or of its pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from dask.base import normalize_token
from PIL import Image

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    check_orientation,
    check_pixels,
    header_of,
    open_image,
)
from nemo_image_curate.decode.pillow import loaded, rgb_pixels, rgba_pixels, turned
from nemo_image_curate.decode.reasons import MISSING, reason_of
from nemo_image_curate.errors import ConfigError, ImageError
from nemo_image_curate.shards.lookup import Tars
from nemo_image_curate.stages.base import Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

DIGEST_COLUMN = "image_sha256"
# What may show several pictures one after the other. Not MPO, whose others are previews, depths
# and second views, nor the layers of a PSD.
_ANIMATED = frozenset({"avif", "gif", "heif", "png", "tiff", "webp"})


@dataclass(eq=False)
class ImageDigest(Stage):
    """Adds a digest of each image, which identical images share.

    Parameters
    ----------
    of : {"bytes", "pixels"}
        The encoded file, which is not decoded; or width, height and pixels as Pillow decodes
        them at full size, which are the same for a PNG and a lossless WebP of one picture. Alpha
        counts where any pixel is not opaque, but not the colours below an alpha of 0, which
        nobody sees and encoders change. All frames of an animation and all pages of a TIFF
        count, and all bits of 16-bit gray; of 16-bit colours the high ones.
    max_pixels : int
        Larger images are not decoded; they get ``too large`` in ``image_error``. An animation
        with more pixels in all its frames, or a frame that cannot be decoded, is the same as
        another only if their files are.
    orientation : {"stored", "exif"}
        With ``of="pixels"``: whether pictures stay as they are stored, or are turned as EXIF says.

    Columns
    -------
    image_sha256 : string
        64 hexadecimal digits; null where there is no image, its file is empty, or (pixels) it
        cannot be decoded.
    image_error : string
        Only with ``of="pixels"``: why there is none.

    Examples
    --------
    >>> ds = ImageDigest()(ds)
    >>> len(ds.head()["image_sha256"][0])
    64
    """

    of: str = "bytes"
    max_pixels: int = DEFAULT_MAX_PIXELS
    orientation: str = "stored"

    def check(self) -> None:
        """Refuse unusable parameters with `ConfigError`."""
        if self.of not in ("bytes", "pixels"):
            raise ConfigError(f"of={self.of!r} should be 'bytes' or 'pixels'.")
        check_orientation(self.orientation)
        if self.of == "bytes" and self.orientation != "stored":
            raise ConfigError(
                "orientation='exif' is for of='pixels': files are compared as a whole."
            )
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels={self.max_pixels} should be a positive integer.")

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        names = [DIGEST_COLUMN] if self.of == "bytes" else [ERROR_COLUMN, DIGEST_COLUMN]
        return dict.fromkeys(names, pa.string())

    def config(self) -> dict[str, Any]:
        """What the digest is of."""
        if self.of == "bytes":
            return {"of": "bytes"}
        return {"of": "pixels", "orientation": self.orientation, "alpha": True, "frames": True}

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How the digest is made."""
        return {DIGEST_COLUMN: super().provenance()[DIGEST_COLUMN]}

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, computed when they are needed."""
        self.check()
        frames.require_columns(dataset.metadata, dataset.id_col, SHARD_COLUMN)
        run = _Partition(self, dataset.tars, dataset.id_col)
        return dataset.with_columns(run, self.columns(), self.provenance())


class _Partition:
    """Digests of one computed partition."""

    # What Dask's dashboard calls these tasks.
    __name__ = "image-digest"
    scans_tars = True
    reads_tars = True

    def __init__(self, stage: ImageDigest, tars: Tars, id_col: str):
        self.stage = stage
        self.tars = tars
        self.id_col = id_col

    def content_token(self) -> list[Any]:
        # The root is a place, not a content: a dataset that was moved gives the same result.
        return [*self.stage.content_token(), self.id_col, *self.tars.content_token()]

    def __dask_tokenize__(self) -> Any:
        return normalize_token(self.content_token())

    def __call__(self, frame: Any) -> dict[str, Any]:
        keys = frames.column_to_arrow(frame[self.id_col]).to_pylist()
        shards = frames.column_to_arrow(frame[SHARD_COLUMN]).to_pylist()
        digests: list[str | None] = [None] * len(keys)
        errors: list[str | None] = [MISSING] * len(keys)
        for row, content, reason in self.tars.image_bytes(keys, shards):
            errors[row] = reason
            if content is not None:
                digests[row], errors[row] = self._digest(content)
        values = {DIGEST_COLUMN: digests, ERROR_COLUMN: errors}
        kinds = self.stage.columns()
        return {name: pa.array(values[name], kind) for name, kind in kinds.items()}

    def _digest(self, content: bytes) -> tuple[str | None, str | None]:
        if self.stage.of == "bytes":
            # Empty files have nothing in common but that a download failed.
            return hashlib.sha256(content).hexdigest() if content else None, None
        try:
            return _pixel_digest(content, self.stage), None
        except ImageError as error:
            return None, reason_of(error)


def _pixel_digest(content: bytes, stage: ImageDigest) -> str:
    image = open_image(content)
    header = header_of(image, content, stage.orientation)
    check_pixels(header, stage.max_pixels)
    count = getattr(image, "n_frames", 1) if header.format in _ANIMATED else 1
    digest = hashlib.sha256(f"{count} frames\n".encode() if count > 1 else b"")
    image = loaded(image, content)
    _add_pixels(digest, image, header.turn)
    left = stage.max_pixels - count * header.width * header.height
    try:
        for frame in range(1, count):
            if left < 0:
                raise ImageError("too many pixels in all frames")
            image.seek(frame)
            left -= max(0, image.width * image.height - header.width * header.height)
            _add_pixels(digest, image, header.turn)
    except MemoryError:
        raise
    # Decoders of untrusted bytes raise whatever they stumble over.
    except Exception:
        return hashlib.sha256(b"file\n" + content).hexdigest()
    return digest.hexdigest()


def _add_pixels(digest: Any, image: Image.Image, turn: int) -> None:
    pixels, kind = (rgba_pixels if image.has_transparency_data else rgb_pixels)(image), ""
    if pixels.shape[2] == 4:
        if (pixels[:, :, 3] == 255).all():
            pixels = pixels[:, :, :3]
        else:
            kind = " alpha"
    elif image.mode.startswith("I;16"):
        values = np.asarray(image).astype("<u2")
        # Else the picture is one of 8 bits.
        if (values != (values >> 8) * 257).any():
            pixels, kind = values, " 16 bit"
    pixels = np.ascontiguousarray(turned(pixels, turn))
    digest.update(f"{pixels.shape[1]}x{pixels.shape[0]}{kind}\n".encode())
    digest.update(pixels.data)
