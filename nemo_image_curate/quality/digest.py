"""`ImageDigest`: SHA-256 of each image's encoded bytes, or of its pixels."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.decode.batch import MISSING
from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS, check_pixels, read_header
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ConfigError, ImageError
from nemo_image_curate.shards.lookup import image_bytes
from nemo_image_curate.stages.image_pass import ERROR_COLUMN
from nemo_image_curate.version import __version__

DIGEST_COLUMN = "image_sha256"


class ImageDigest:
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

    def __init__(self, of: str = "bytes", max_pixels: int = DEFAULT_MAX_PIXELS):
        self.of = of
        self.max_pixels = max_pixels

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

    def provenance(self) -> dict[str, Any]:
        """How the column is made."""
        return {DIGEST_COLUMN: {"stage": "ImageDigest", "of": self.of, "version": __version__}}

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, computed when they are needed."""
        self.check()
        frame = dataset.metadata
        frames.require_columns(frame, dataset.id_col, SHARD_COLUMN)
        made = {name: frames.empty_column(frame, kind) for name, kind in self.columns().items()}
        run = _Partition(self, dataset.path, dataset.id_col)
        meta = frames.with_columns(frame._meta, made)
        return dataset.replace(frame.map_partitions(run, meta=meta), self.provenance())


class _Partition:
    """Digests of one computed partition; the function that Dask maps."""

    __name__ = "image-digest"

    def __init__(self, stage: ImageDigest, root: str, id_col: str):
        self.stage = stage
        self.root = root
        self.id_col = id_col

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # The root is a place, not a content: a dataset that was moved gives the same result.
        return ("ImageDigest", self.id_col, self.stage.of, self.stage.max_pixels)

    def __call__(self, frame: Any) -> Any:
        keys = frames.column_to_arrow(frame[self.id_col]).to_pylist()
        shards = frames.column_to_arrow(frame[SHARD_COLUMN]).to_pylist()
        found: dict[str, list[str | None]] = {
            DIGEST_COLUMN: [None] * len(keys),
            ERROR_COLUMN: [MISSING] * len(keys),
        }
        for row, content in image_bytes(self.root, keys, shards):
            if content is not None:
                digest, error = self._digest(content)
                found[DIGEST_COLUMN][row], found[ERROR_COLUMN][row] = digest, error
        columns = {name: pa.array(found[name], kind) for name, kind in self.stage.columns().items()}
        return frames.with_columns(frame, columns)

    def _digest(self, content: bytes) -> tuple[str | None, str | None]:
        if self.stage.of == "bytes":
            # Empty files have nothing in common but that a download failed.
            return hashlib.sha256(content).hexdigest() if content else None, None
        try:
            header = read_header(content)
        except ImageError as error:
            return None, f"decode: {error}"
        try:
            check_pixels(header, self.stage.max_pixels)
        except ImageError as error:
            return None, str(error)
        try:
            pixels = decode_rgb(content, self.stage.max_pixels)
        except ImageError as error:
            return None, f"decode: {error}"
        digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}\n".encode())
        digest.update(pixels.data)
        return digest.hexdigest(), None
