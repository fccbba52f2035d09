"""`DaliDecoder`: a DALI pipeline, built once; the same graph on the GPU and on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nemo_image_curate.compute import devices
from nemo_image_curate.decode import nvimgcodec
from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.cpu import CpuDecoder
from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    ImageHeader,
    check_pixels,
    read_header,
    same_as_pillow,
)
from nemo_image_curate.decode.jpeg import ends, has_endless_scans, is_rgb
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.errors import BackendError, ConfigError, ImageError

if TYPE_CHECKING:
    import torch

# Decoded at once, whatever the batch size: 3 GB of RGB.
_MAX_CHUNK_PIXELS = 1 << 30

_log = logging.getLogger(__name__)


class DaliDecoder:
    """Decodes, resizes, crops and normalises with DALI.

    Parameters not named here are those of `CpuDecoder`.

    Parameters
    ----------
    device : {"gpu", "cpu"}
        Where the pixels are made and stay.
    device_id : int, optional
        Which GPU; by default torch's current one.
    batch_size : int
        Images per run of the pipeline; larger inputs are split.
    num_threads : int
        Threads for what is decoded on the CPU.

    Notes
    -----
    Headers are read first. What DALI cannot decode as Pillow does (GIF, AVIF, CMYK, 16 bits, JPEGs
    that hold RGB, what is transparent and others) goes through `CpuDecoder`, and so do pictures
    that EXIF turns, JPEGs that were cut off or have odd headers, and all images of a run in which
    one is damaged: DALI fails such a run as a whole and its pipeline is unusable after, so that it
    is built anew.

    Runs hold at most 2**30 decoded pixels, 3 GB; where memory does not suffice, fewer. On a GPU
    the pixels are ready when they are returned, for work on the default stream.
    """

    def __init__(
        self,
        preprocessing: Preprocessing | None,
        device: Literal["gpu", "cpu"] = "gpu",
        device_id: int | None = None,
        batch_size: int = 256,
        num_threads: int = 4,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        thumbnail_sizes: tuple[int, ...] = (),
        orientation: str = "stored",
    ):
        if device not in ("gpu", "cpu"):
            raise ConfigError(f"device={device!r} should be 'gpu' or 'cpu'.")
        self.preprocessing = preprocessing
        self.device = device
        self.device_id = device_id
        self.batch_size = batch_size
        self.num_threads = num_threads
        self.max_pixels = max_pixels
        self.thumbnail_sizes = thumbnail_sizes
        self._pipeline: Any = None
        self._stream: Any = None
        self.orientation = orientation
        self._one_by_one = CpuDecoder(
            preprocessing, num_threads, max_pixels, thumbnail_sizes, orientation
        )

    def decode(self, data: Sequence[bytes | memoryview | None]) -> DecodedBatch:
        """Decode a batch; an image that fails leaves a reason and no row."""
        if self.device == "cpu":
            return self._decoded(data)
        import torch

        device = self._torch_device()
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        # On a stream of its own: on the model's, each copy would wait for the batches before it.
        with torch.cuda.stream(self._stream):
            batch = self._decoded(data)
        self._stream.synchronize()
        for tensor in (batch.pixels, *batch.thumbnails.values()):
            if tensor is not None:
                # Its memory is free again only after the model has read it.
                tensor.record_stream(torch.cuda.default_stream(device))
        return batch

    def _decoded(self, data: Sequence[bytes | memoryview | None]) -> DecodedBatch:
        headers = [self._header(encoded) for encoded in data]
        parts = []
        waiting = self._chunks(headers)[::-1]
        while waiting:
            chunk = waiting.pop()
            if (decoded := self._run(data, headers, chunk)) is None:
                devices.release_memory()
                half = len(chunk) // 2
                waiting += [chunk[half:], chunk[:half]]
            else:
                parts.append((chunk, decoded))
        left_out = [number for number, header in enumerate(headers) if header is None]
        if left_out or not parts:
            decoded = self._one_by_one.decode([data[number] for number in left_out])
            parts.append((left_out, decoded.to(self._torch_device())))
        return DecodedBatch.merge(parts)

    def _header(self, encoded: bytes | memoryview | None) -> ImageHeader | None:
        """The header of an image for DALI; None for one that is left to `CpuDecoder`."""
        if encoded is None:
            return None
        try:
            header = read_header(encoded, self.orientation)
            preprocessing = self.preprocessing
            resized = preprocessing.resized(header.height, header.width) if preprocessing else None
            check_pixels(header, self.max_pixels, resized)
        except ImageError:
            return None
        # Where one was cut off Pillow says so; a GPU may show what there is of it, or fail the run.
        # nvJPEG takes any three components for YCbCr.
        if header.format == "jpeg" and (
            not ends(encoded) or has_endless_scans(encoded) or is_rgb(encoded)
        ):
            return None
        is_plain = header.turn == 1 and header.bit_depth <= 8
        is_same = is_plain and same_as_pillow(header, encoded)
        return header if is_same and nvimgcodec.can_parse(encoded, header) else None

    def _chunks(self, headers: Sequence[ImageHeader | None]) -> list[list[int]]:
        chunks: list[list[int]] = []
        room = 0
        for number, header in enumerate(headers):
            if header is None:
                continue
            pixels = header.width * header.height
            if self.preprocessing:
                # A thin strip grows.
                height, width = self.preprocessing.resized(header.height, header.width)
                pixels = max(pixels, height * width)
            if not chunks or len(chunks[-1]) == self.batch_size or pixels > room:
                chunks.append([])
                room = _MAX_CHUNK_PIXELS
            chunks[-1].append(number)
            room -= pixels
        return chunks

    def _run(
        self,
        data: Sequence[bytes | memoryview | None],
        headers: Sequence[ImageHeader | None],
        chunk: list[int],
    ) -> DecodedBatch | None:
        """A chunk decoded; None when memory does not suffice for all of it at once."""
        known = [header for number in chunk if (header := headers[number]) is not None]
        if self._pipeline is None:
            self._pipeline = self._built()
        pipeline = self._pipeline
        feeds = {"encoded": [np.frombuffer(data[number] or b"", np.uint8) for number in chunk]}
        if preprocessing := self.preprocessing:
            sizes = [preprocessing.resized(header.height, header.width) for header in known]
            starts = [preprocessing.crop_offset(*size) for size in sizes]
            feeds["size"] = [np.array(size, np.float32) for size in sizes]
            feeds["start"] = [np.array(start, np.int32) for start in starts]
        for name, values in feeds.items():
            pipeline.feed_input(name, values)
        try:
            tensors = [self._to_torch(output) for output in pipeline.run()]
        except Exception as error:
            self._pipeline = None
            if devices.is_out_of_memory(error) and len(chunk) > 1:
                _log.warning("not enough memory to decode %d images at once", len(chunk))
                return None
            decoded = self._one_by_one.decode([data[number] for number in chunk])
            if len(decoded.decoded) == len(chunk):
                _log.warning("DALI failed on %d images that can be decoded: %s", len(chunk), error)
            return decoded.to(self._torch_device())
        pixels = tensors.pop(0) if preprocessing else None
        thumbnails = {
            side: tensor.permute(0, 3, 1, 2).contiguous()
            for side, tensor in zip(self.thumbnail_sizes, tensors, strict=True)
        }
        return DecodedBatch.of(pixels, [None] * len(chunk), known, thumbnails)

    def _built(self) -> Any:
        try:
            from nvidia.dali import Pipeline, fn, types
        except ImportError as error:
            raise BackendError(
                f"DALI does not work here ({error}); install nemo_image_curate[cuda13], [cuda12] "
                "or, without a GPU, [cpu]."
            ) from error

        preprocessing, on_gpu = self.preprocessing, self.device == "gpu"
        device_id = self._torch_device().index if on_gpu else None
        # `decode` waits for its result: a second batch in the queue would only hold memory.
        pipeline = Pipeline(self.batch_size, self.num_threads, device_id, prefetch_queue_depth=1)
        # A region of interest that ends on whole pixels, as Pillow's does.
        exact: dict[str, Any] = {"antialias": True, "subpixel_scale": False}
        outputs = []
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            images = fn.decoders.image(
                encoded,
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,
                # Several pipelines of one machine would tie their threads to the same cores.
                affine=not on_gpu,
                # As libjpeg-turbo, hence Pillow, enlarges the colour planes.
                jpeg_fancy_upsampling=True,
                # All that a GPU's JPEG unit can do. Divided, as by default, a picture would come
                # out a little differently by its place in the batch; and the cores are the model's.
                hw_decoder_load=1.0,
            )
            if preprocessing:
                size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)
                start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
                cubic = preprocessing.interpolation == "bicubic"
                kind = types.INTERP_CUBIC if cubic else types.INTERP_LINEAR
                resized = fn.resize(images, size=size, interp_type=kind, **exact)
                square = (preprocessing.size, preprocessing.size)
                outputs.append(
                    fn.crop_mirror_normalize(
                        fn.slice(resized, start=start, shape=square, axes=(0, 1)),
                        dtype=types.FLOAT,
                        output_layout="CHW",
                        mean=[255 * value for value in preprocessing.mean],
                        std=[255 * value for value in preprocessing.std],
                    )
                )
            for side in self.thumbnail_sizes:
                whole = {"size": [side] * 2, "interp_type": types.INTERP_LINEAR}
                outputs.append(fn.resize(images, **whole, **exact))
            pipeline.set_outputs(*outputs)
        pipeline.build()
        return pipeline

    def _to_torch(self, output: Any) -> torch.Tensor:
        """A copy: DALI's buffer is written again in the next run."""
        import torch
        from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type

        dense, device = output.as_tensor(), self._torch_device()
        kind = to_torch_type[dense.dtype]
        copied = torch.empty(dense.shape(), dtype=kind, device=device)
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        feed_ndarray(dense, copied, cuda_stream=stream)
        return copied

    def _torch_device(self) -> torch.device:
        import torch

        if self.device == "cpu":
            return torch.device("cpu")
        return torch.device(
            "cuda", torch.cuda.current_device() if self.device_id is None else self.device_id
        )
