"""`image_decoder`: the decoder that suits a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.cpu import CpuDecoder
from nemo_image_curate.decode.dali import DaliDecoder
from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Decoder(Protocol):
    """Something that decodes batches; for one calling thread at a time."""

    def decode(self, data: Sequence[bytes | memoryview | None]) -> DecodedBatch:
        """Decode a batch; an image that fails leaves a reason and no row.

        Parameters
        ----------
        data : sequence of bytes, memoryview or None
            Encoded images; None where there is none.
        """
        ...


def image_decoder(
    preprocessing: Preprocessing | None,
    device: torch.device | str,
    *,
    num_threads: int = 4,
    batch_size: int = 256,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    thumbnail_sizes: tuple[int, ...] = (),
    orientation: str = "stored",
) -> Decoder:
    """The decoder for a device: `DaliDecoder` on a GPU, `CpuDecoder` on a CPU.

    DALI is for the GPU. On one CPU thread and full-size photographs (the first 128 of
    EliSchwartz/imagenet-sample-images, to 224 x 224) `CpuDecoder` makes 587 images per CPU-second,
    DALI's CPU pipeline 279, Pillow with timm's transform 254: DALI resizes in float32, torch in
    uint8. And `CpuDecoder` stays within 2 levels of 255 of timm's pixels, DALI within 13.

    Parameters
    ----------
    preprocessing : Preprocessing or None
        What a model's pixels should look like; None when only thumbnails are wanted.
    device : torch.device or str
        ``cpu``, ``cuda`` or such as ``cuda:1``.
    num_threads : int
        Threads that decode on the CPU.
    batch_size : int
        Images per run of DALI's pipeline.
    max_pixels : int
        Larger images are not decoded; they get ``too large``.
    thumbnail_sizes : tuple of int, default ()
        Sides of the whole-image thumbnails that are wanted.
    orientation : {"stored", "exif"}
        Whether pictures stay as they are stored, or are turned as EXIF says.
    """
    kind, _, index = str(device).partition(":")
    if kind == "cpu":
        return CpuDecoder(preprocessing, num_threads, max_pixels, thumbnail_sizes, orientation)
    if kind == "cuda":
        return DaliDecoder(
            preprocessing,
            device="gpu",
            device_id=int(index) if index else None,
            batch_size=batch_size,
            num_threads=num_threads,
            max_pixels=max_pixels,
            thumbnail_sizes=thumbnail_sizes,
            orientation=orientation,
        )
    raise ConfigError(f"device={str(device)!r} should be 'cpu' or 'cuda'.")
