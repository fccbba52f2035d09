"""`ImageDigest`: SHA-256 of each image's encoded bytes, or of its pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from dask.base import normalize_token

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS, check_pixels, read_header
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.decode.reasons import MISSING, reason_of
from nemo_image_curate.errors import ConfigError, ImageError
from nemo_image_curate.shards.lookup import Tars
from nemo_image_curate.stages.base import Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

DIGEST_COLUMN = "image_sha256"


@dataclass(eq=False)
class ImageDigest(Stage):
    """Adds a digest of each image, which identical images share.

    Parameters
    ----------
    of : {"bytes", "pixels"}
        The encoded file, which is not decoded; or width, height and RGB pixels as Pillow decodes
        them at full size, which are the same for a PNG and a lossless WebP of one picture.
    max_pixels : int
        Larger images are not decoded; they get ``too large`` in ``image_error``.

    Columns
    -------
    image_sha256 : string
        64 hexadecimal digits; null where there is no image, its file is empty, or (pixels) it
        cannot be decoded.
    image_error : string
        Only with ``of="pixels"``: why there is none.
    """

    of: str = "bytes"
    max_pixels: int = DEFAULT_MAX_PIXELS

    def check(self) -> None:
        """Refuse unusable parameters with `ConfigError`."""
        if self.of not in ("bytes", "pixels"):
            raise ConfigError(f"of={self.of!r} should be 'bytes' or 'pixels'.")
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels={self.max_pixels} should be a positive integer.")

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        names = [DIGEST_COLUMN] if self.of == "bytes" else [ERROR_COLUMN, DIGEST_COLUMN]
        return dict.fromkeys(names, pa.string())

    def config(self) -> dict[str, Any]:
        """What the digest is of."""
        return {"of": self.of}

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
    reads_images = True

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
            check_pixels(read_header(content), self.stage.max_pixels)
            pixels = decode_rgb(content, self.stage.max_pixels)
        except ImageError as error:
            return None, reason_of(error)
        digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}\n".encode())
        digest.update(pixels.data)
        return digest.hexdigest(), None
