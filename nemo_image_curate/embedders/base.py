"""`ImageEmbedder`: the base of all stages that turn images into an embedding column."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from dask.base import tokenize

from nemo_image_curate import frames
from nemo_image_curate.compute import devices, worker_cache
from nemo_image_curate.dataset.fingerprints import describe
from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.decoder import Decoder, image_decoder
from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS
from nemo_image_curate.decode.inputs import ImageInput, image_contents
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.decode.reasons import NO_DIRECTION
from nemo_image_curate.errors import ConfigError, ImageError
from nemo_image_curate.stages.base import PixelStage, no_effect
from nemo_image_curate.stages.image_pass import ImagePass, check_columns
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.classifiers.base import ImageClassifier

logger = logging.getLogger(__name__)

# A decoder is not for several threads at once, and one at a time keeps all cores busy.
_EMBEDDING = threading.Lock()
# Images that `embed_images` decodes and embeds at once.
_IMAGES = 32


@dataclass(eq=False)
class ImageEmbedder(PixelStage):
    """Adds a column of image embeddings, and those of classifiers, in one pass over the images.

    Subclass it for a model of your own: give `load_embedding_model`, and where the defaults do
    not fit, `preprocessing`, or `load_dataset_shard` to read shards yourself.

    Parameters
    ----------
    model_name : str
    batch_size : int, default 256
        Images per forward pass. On a GPU it is halved when memory runs out; on a CPU at most 32
        are taken at once. Memory: about 0.6 MB per image at 224 x 224, and the activations.
    num_threads_per_worker : int, default 4
        Threads that decode images in each worker.
    image_embedding_column : str, default "image_embedding"
        ``list<float32>``; null where an image failed, with the reason in ``image_error``, which
        is ``embed: ...`` where the model gave zeros only, NaN or infinity.
    normalize_embeddings : bool, default True
        Scale each embedding to length 1.
    classifiers : sequence of ImageClassifier
        Run on the embeddings in the same pass.
    image_stages : sequence of PixelStage
        Other stages that share the pass's decoded images, such as `ImageStatistics`.
    autocast : bool, default True
        Allow bfloat16 where the device has it and embeddings keep their meaning, and TF32 for
        convolutions; False: float32. A model of your own runs as it is.
    use_index_files : bool, default False
        Find images with the ``STEM.idx`` files of DALI's ``wds2idx``.
    orientation : {"stored", "exif"}
        Whether pictures stay as they are stored, which is what timm and open_clip do, or are
        turned as EXIF says before anything else. TIFF and HEIC are upright in any case. The
        `image_stages` have the same.
    flip : bool, default False
        Also embed each picture mirrored, in a second forward pass over the same pixels, into a
        column named as that of the embeddings with ``_flipped`` after it. Letters cannot be read
        in a mirror, while things stay what they are: see `ClipScore`.
    max_pixels : int
        Larger images are not decoded; they get ``too large`` in ``image_error``.
    on_error : {"null", "raise"}
        What an image that cannot be decoded does: a row of nulls, or the end of the job.

    Examples
    --------
    >>> class Mean(ImageEmbedder):
    ...     def load_embedding_model(self, device):
    ...         return lambda pixels: pixels.mean(dim=(2, 3))
    """

    model_name: str
    _: KW_ONLY
    batch_size: int = no_effect(256)
    image_embedding_column: str = "image_embedding"
    normalize_embeddings: bool = True
    # Each is a stage of its own, which tells its own values apart.
    classifiers: Sequence[ImageClassifier] = no_effect(())
    image_stages: Sequence[PixelStage] = no_effect(())
    autocast: bool = True
    # It adds a column, and changes no other.
    flip: bool = no_effect(False)
    max_pixels: int = no_effect(DEFAULT_MAX_PIXELS)
    on_error: str = no_effect("null")

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Load the model; called once per process.

        Parameters
        ----------
        device : {"cpu", "cuda"}

        Returns
        -------
        callable
            float32 pixels (B, 3, H, W) on `device` to embeddings (B, d).
        """
        raise ConfigError(f"{type(self).__name__} does not define load_embedding_model(device).")

    def preprocessing(self) -> Preprocessing:
        """What the model's pixels are: by default 224 x 224 with ImageNet's mean and deviation."""
        return Preprocessing(
            size=224,
            resize_mode="shortest",
            crop_pct=0.875,
            interpolation="bicubic",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )

    def load_dataset_shard(self, tar_path: str) -> Iterable[tuple[torch.Tensor, Sequence[str]]]:
        """Read a shard in a way of your own.

        Parameters
        ----------
        tar_path : str

        Yields
        ------
        pixels : torch.Tensor, shape (B, 3, H, W)
        keys : sequence of str, length B
            Samples may come in any order; those that do not come are ``missing``.
        """
        raise ConfigError(f"{type(self).__name__} does not define load_dataset_shard(tar_path).")

    def encoder(self) -> str:
        """Which encoder the embeddings are of; classifiers compare it with their own."""
        return self.model_name

    def weights_sha256(self) -> str | None:
        """Hash of the model's weights, or None when they do not come from a file."""
        return None

    def config(self) -> dict[str, Any]:
        """Everything that decides the embeddings' values; recorded, and part of fingerprints."""
        return {
            "stage": type(self).__qualname__,
            "model": self.model_name,
            "encoder": self.encoder(),
            "weights_sha256": self.weights_sha256(),
            "preprocessing": self.preprocessing().to_dict(),
            "normalized": self.normalize_embeddings,
            "autocast": self.autocast,
        }

    def encoder_token(self) -> list[Any]:
        """What tells the embeddings from those of any other embedder."""
        return super().content_token()

    def content_token(self) -> list[Any]:
        """`encoder_token`, and what else is made in the same pass."""
        # Nothing without: values that were saved before there was a choice are still right.
        flip = ["flip"] if self.flip else []
        return [*self.encoder_token(), *map(describe, self.classifiers), *flip]

    def check(self) -> None:
        """Refuse unusable settings, and classifiers that were trained on another encoder.

        Raises
        ------
        ConfigError
        EncoderMismatchError
        """
        self.image_pass().check()
        for classifier in self.classifiers:
            classifier.check()
            classifier.require_encoder(self.config())

    def image_pass(self) -> ImagePass:
        """The pass over the images, shared with `image_stages`."""
        own_reading = type(self).load_dataset_shard is not ImageEmbedder.load_dataset_shard
        return ImagePass(
            stages=(self, *self.image_stages),
            preprocessing=self.preprocessing(),
            batch_size=self.batch_size,
            num_threads=self.num_threads_per_worker,
            max_pixels=self.max_pixels,
            use_index_files=self.use_index_files,
            orientation=self.orientation,
            on_error=self.on_error,
            load_shard=self.load_dataset_shard if own_reading else None,
        )

    def embed_images(
        self, images: Sequence[ImageInput | None], device: str = "cpu"
    ) -> tuple[np.ndarray, list[str | None]]:
        """Embed a few pictures, such as those of queries.

        Parameters
        ----------
        images : sequence of path, bytes, data URL or PIL.Image.Image
            Bytes are encoded files: JPEG, PNG... Strings that begin with ``data:`` are data URLs,
            others paths or fsspec URLs. All may be mixed. Memory: that of 32 of them.
        device : {"cpu", "cuda"}

        Returns
        -------
        embeddings : numpy.ndarray of float32, shape (n, d)
            Of unit length; NaN where a picture cannot be read or decoded, or the model gives no
            direction. (n, 0) when none can be decoded.
        errors : list of str or None, length n
            The reasons.

        Raises
        ------
        ConfigError
            For unusable settings, and for types that are no image.
        """
        import torch

        if isinstance(images, (str, bytes, os.PathLike)):
            raise ConfigError("embed_images takes a list of images, not one image.")
        self.image_pass().check()
        row_numbers: list[int] = []
        errors: list[str | None] = []
        parts: list[torch.Tensor] = []
        for start in range(0, len(images), _IMAGES):
            # Not yet with the lock: files may be far away.
            contents, reasons = image_contents(images[start : start + _IMAGES])
            with _EMBEDDING:
                model, decoder = self._for_images(device)
                batch = decoder.decode(contents)
                errors += [why or error for why, error in zip(reasons, batch.errors, strict=True)]
                row_numbers += [start + row for row in batch.decoded]
                if batch.decoded:
                    parts.append(torch.as_tensor(model(batch)[model.column]))
        vectors = directions(torch.cat(parts)) if parts else torch.empty(0, 0)
        embeddings = np.full((len(images), vectors.shape[1]), np.nan, np.float32)
        embeddings[row_numbers] = vectors.cpu().numpy()
        for row in row_numbers:
            if np.isnan(embeddings[row]).any():
                errors[row] = NO_DIRECTION
        return embeddings, errors

    def _for_images(self, device: str) -> tuple[_Forward, Decoder]:
        """Model and decoder of `embed_images`, made once per process."""
        # Not `load`: classifiers have no say here.
        model = worker_cache.get_or_build(
            tokenize(device, "embed_images", self.encoder_token()),
            lambda: _Forward(self, self.load_embedding_model(device), [], device),
        )
        decoder = worker_cache.get_or_build(
            tokenize(
                device, "embed_images", self.preprocessing(), self.max_pixels, self.orientation
            ),
            lambda: image_decoder(
                self.preprocessing(),
                device,
                num_threads=self.num_threads_per_worker,
                batch_size=_IMAGES,
                max_pixels=self.max_pixels,
                orientation=self.orientation,
            ),
        )
        return model, decoder

    def columns(self) -> dict[str, pa.DataType]:
        """The embedding columns and those of the classifiers, with their types."""
        check_columns(self.classifiers)
        columns = dict.fromkeys(self._embedding_columns(), frames.embedding_type())
        for classifier in self.classifiers:
            for name in self._embedding_columns():
                if name in classifier.columns():
                    raise ConfigError(f"two stages of one pass write the column {name!r}.")
            columns |= classifier.columns()
        return columns

    def _embedding_columns(self) -> list[str]:
        """Of the pictures as they are, and mirrored where that is asked for."""
        name = self.image_embedding_column
        return [name, flipped_column(name)] if self.flip else [name]

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How each column is made."""
        record = self.record()
        provenance = {self.image_embedding_column: record}
        if self.flip:
            provenance[flipped_column(self.image_embedding_column)] = self.record(flip=True)
        for classifier in self.classifiers:
            provenance |= classifier.provenance_of(self.image_embedding_column, record)
        return provenance

    def load(self, device: str) -> _Forward:
        """Model and classifiers on a device, ready for batches."""
        heads = [classifier.load(device) for classifier in self.classifiers]
        return _Forward(self, self.load_embedding_model(device), heads, device, self.flip)


def embed_all_images(
    embedder: ImageEmbedder, images: Sequence[ImageInput], device: str
) -> np.ndarray:
    """The embeddings of pictures that all are needed, float32 of unit length, shape (n, d).

    Raises
    ------
    ImageError
        For pictures that cannot be used, naming the first.
    """
    vectors, errors = embedder.embed_images(images, device=device)
    for number, error in enumerate(errors):
        if error is not None:
            name = f"image {number} of {len(images)}" if len(images) > 1 else "the image"
            raise ImageError(f"{name} cannot be used: {error}")
    return vectors


def flipped_column(embedding_column: str) -> str:
    """The column of the embeddings of the same pictures, mirrored."""
    return f"{embedding_column}_flipped"


class _Forward:
    """Turns a decoded batch into column values."""

    def __init__(
        self,
        embedder: ImageEmbedder,
        model: Any,
        heads: list[Any],
        device: str,
        flip: bool = False,
    ):
        self.column = embedder.image_embedding_column
        self.flip = flip
        self.normalize = embedder.normalize_embeddings
        self.model = model
        self.heads = heads
        self.device = device
        # Dask runs partitions in threads, and models may change something of theirs in each call.
        self._lock = threading.Lock()
        # Images that the device's memory was found to hold at once.
        self._most = embedder.batch_size

    def __call__(self, batch: DecodedBatch) -> Mapping[str, Any]:
        import torch

        with self._lock, torch.inference_mode():
            assert batch.pixels is not None, "the pass of an embedder has a preprocessing"
            pixels = batch.pixels.to(self.device)
            vectors = {self.column: self._forward(pixels)}
            if self.flip:
                vectors[flipped_column(self.column)] = self._forward(pixels.flip(3))
            values: dict[str, Any] = dict(vectors)
            for head in self.heads:
                values |= head(vectors[self.column])
            if self.device == "cpu":
                values |= {name: tensor.numpy() for name, tensor in vectors.items()}
        return values

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        parts: list[torch.Tensor] = []
        start = 0
        while start < len(pixels):
            chunk = pixels[start : start + self._most]
            try:
                embeddings = self.model(chunk)
            except (RuntimeError, MemoryError) as error:
                if len(chunk) == 1 or not devices.is_out_of_memory(error):
                    raise
                embeddings = None
            # Not in the handler: the error would keep the memory of the attempt.
            if embeddings is None:
                half = len(chunk) // 2
                logger.warning("no memory for %d images at once; trying %d", len(chunk), half)
                # Another thread may have found less.
                self._most = min(self._most, half)
                devices.release_memory()
                continue
            if embeddings.ndim != 2 or len(embeddings) != len(chunk):
                raise ConfigError(
                    f"the embedding model gave shape {tuple(embeddings.shape)} for {len(chunk)} "
                    "images; it should be (images, dimensions)."
                )
            parts.append(embeddings.float())
            start += len(chunk)
        vectors = torch.cat(parts) if len(parts) > 1 else parts[0]
        unit = directions(vectors)
        return unit if self.normalize else torch.where(unit.isnan(), unit, vectors)
