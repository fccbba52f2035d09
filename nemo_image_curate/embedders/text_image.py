"""`TextImageEmbedder`: the base of embedders whose texts and images share one space."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from dask.base import normalize_token, tokenize

from nemo_image_curate import frames
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.decode.inputs import ImageInput
from nemo_image_curate.embedders.base import ImageEmbedder, embed_all_images
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.stages.base import no_effect
from nemo_image_curate.stages.saved_rows import saved_rows
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Texts per forward pass.
_TEXTS = 256


@dataclass(frozen=True)
class TextTower:
    """The text side of a model, loaded.

    Attributes
    ----------
    encode : callable
        A list of n texts to their embeddings, shape (n, d), of any floating type, length and
        device; what a model cannot take of a long text is cut off.
    problem : callable
        What of a text the model would not see, as the end of a sentence that begins with the
        text; None when it sees all of it.
    known : callable
        Whether the model knows anything of a text: one without a token of its vocabulary has no
        meaning to it.
    logit_scale : float
        What cosines are multiplied by before softmax or sigmoid (the exponential is taken).
    logit_bias : float or None
        What SigLIP adds to that.
    """

    encode: Callable[[list[str]], torch.Tensor]
    problem: Callable[[str], str | None]
    known: Callable[[str], bool]
    logit_scale: float
    logit_bias: float | None = None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of texts, scaled to length 1, (n, d) in float32; (0, 0) of none."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS):
                vectors = self.encode(list(texts[start : start + _TEXTS])).float()
                parts.append(directions(vectors).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


@dataclass(eq=False)
class TextImageEmbedder(ImageEmbedder):
    """Adds a column of image embeddings and, from captions, one of text embeddings.

    Subclass it for a model of your own: give `load_text_model` beside `load_embedding_model`.

    Parameters
    ----------
    model_name : str
    caption_column : str or None, default "caption"
        The texts to embed, when the dataset has this column; None: only images.
    text_embedding_column : str, default "text_embedding"
        ``list<float32>`` of unit length; null where there is no caption, or none that the model
        knows a token of. Captions that are too long for the model are cut off.
    **options
        As for `ImageEmbedder`.
    """

    _: KW_ONLY
    # What is made of captions has a token of its own.
    caption_column: str | None = no_effect("caption")
    text_embedding_column: str = no_effect("text_embedding")

    def load_text_model(self, device: str) -> TextTower:
        """Load the text side; called once per process.

        Parameters
        ----------
        device : {"cpu", "cuda"}
        """
        raise ConfigError(f"{type(self).__name__} does not define load_text_model(device).")

    def embed_text(
        self, texts: Sequence[str], device: str = "cpu", truncate: bool = False
    ) -> np.ndarray:
        """Embed texts into the space of the images.

        Parameters
        ----------
        texts : sequence of str
        device : {"cpu", "cuda"}
        truncate : bool, default False
            Cut off what the model cannot take of a long text, instead of refusing it.

        Returns
        -------
        numpy.ndarray of float32, shape (n, d)
            Of unit length.

        Raises
        ------
        ConfigError
            For a text that is empty, that the model knows no token of, or that is too long.
        """
        if isinstance(texts, str):
            raise ConfigError("embed_text takes a list of texts, not one text.")
        tower = self.text_tower(device)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ConfigError(f"text {text!r} is empty: there is nothing to embed.")
            if not tower.known(text):
                raise ConfigError(
                    f"text {_short(text)!r}: {self.model_name} knows none of its characters. Use "
                    "a language that the model was trained on."
                )
            problem = None if truncate else tower.problem(text)
            if problem:
                raise ConfigError(f"text {_short(text)!r} {problem}.")
        return tower.embed(texts)

    def logit_scale(self, device: str = "cpu") -> float:
        """What cosines are multiplied by before softmax or sigmoid; 100 for OpenAI's CLIP."""
        return self.text_tower(device).logit_scale

    def logit_bias(self, device: str = "cpu") -> float | None:
        """What SigLIP adds to the scaled cosine before the sigmoid; None for other models."""
        return self.text_tower(device).logit_bias

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with both columns, and all that is made in the pass over the images."""
        embedded = super().__call__(dataset)
        has_captions = self.caption_column in dataset.metadata.columns
        return self.embed_captions(embedded) if has_captions else embedded

    def embed_captions(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the column of text embeddings alone.

        Raises
        ------
        ColumnNotFoundError
            When there is no caption column.
        ConfigError
            When it holds no texts.
        """
        if self.caption_column is None:
            raise ConfigError("caption_column=None: there is no column of texts to embed.")
        frame = dataset.metadata
        frames.require_columns(frame, self.caption_column)
        kind = frames.schema(frame).field(self.caption_column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_type(kind) for is_type in (pa.types.is_string, pa.types.is_large_string)):
            raise ConfigError(
                f"column {self.caption_column!r} holds {kind}, no texts. Name the column with the "
                "captions as caption_column=, or give caption_column=None."
            )
        record = self.record(caption_column=self.caption_column)
        name = self.text_embedding_column
        return dataset.with_columns(
            _EmbedCaptions(self, dataset.id_col), {name: frames.embedding_type()}, {name: record}
        )

    def text_tower(self, device: str) -> TextTower:
        """The text side, loaded once per process; threads may share it."""
        return worker_cache.get_or_build(
            tokenize(device, "text", self.encoder_token()),
            lambda: _one_at_a_time(self.load_text_model(device)),
        )


def require_text_side(embedder: Any) -> TextImageEmbedder:
    """An embedder, as one that embeds texts.

    Raises
    ------
    ConfigError
        When it embeds images only.
    """
    if not hasattr(embedder, "embed_text"):
        raise ConfigError(
            f"{type(embedder).__name__} embeds no texts: search by image, or take an embedder with "
            "a text side, such as OpenCLIPEmbedder or ConseEmbedder (nemo-image-curate embed "
            "DATASET --model offline-conse), which makes the embeddings anew."
        )
    with_text_side: TextImageEmbedder = embedder
    return with_text_side


def similarity(
    embedder: Any, texts: Sequence[str], images: Sequence[ImageInput], device: str = "cpu"
) -> np.ndarray:
    """Cosine similarities of texts with images.

    Parameters
    ----------
    embedder : TextImageEmbedder
    texts : sequence of str
    images : sequence of path, bytes, data URL or PIL.Image.Image
    device : {"cpu", "cuda"}

    Returns
    -------
    numpy.ndarray of float32, shape (len(texts), len(images))
        Empty when either is.

    Raises
    ------
    ConfigError
        For an embedder without a text side, and for texts that it cannot embed.
    ImageError
        For images that cannot be used, naming the first.

    Examples
    --------
    >>> similarity(ConseEmbedder(), ["a dog", "a boat"], ["dog.jpg"])  # doctest: +SKIP
    """
    with_text_side = require_text_side(embedder)
    if not len(texts) or not len(images):
        return np.empty((len(texts), len(images)), dtype=np.float32)
    vectors = with_text_side.embed_text(list(texts), device=device)
    products: np.ndarray = vectors @ embed_all_images(embedder, images, device).T
    return products


def _one_at_a_time(tower: TextTower) -> TextTower:
    """The tower, used by one thread at a time: tokenizers change their settings in each call."""
    lock = threading.RLock()

    def locked(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(argument: Any) -> Any:
            with lock:
                return function(argument)

        return call

    return replace(
        tower,
        encode=locked(tower.encode),
        problem=locked(tower.problem),
        known=locked(tower.known),
    )


class _EmbedCaptions:
    """Embeds the captions of one computed partition; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "embed-captions"

    def __init__(self, embedder: TextImageEmbedder, id_col: str, folder: str | None = None):
        self.embedder = embedder
        self.id_col = id_col
        # Where the vectors were saved before, if they are taken over.
        self.folder = folder

    def taking_over(self, folder: str) -> _EmbedCaptions:
        """The same with vectors that are in a folder already, where all rows of a shard are."""
        return _EmbedCaptions(self.embedder, self.id_col, folder)

    def content_token(self) -> list[Any]:
        return ["EmbedCaptions", self.embedder.caption_column, *self.embedder.encoder_token()]

    def __dask_tokenize__(self) -> Any:
        return normalize_token([*self.content_token(), self.folder])

    def __call__(self, frame: Any) -> dict[str, Any]:
        embedder, device = self.embedder, frames.device_of(frame)
        name = embedder.text_embedding_column
        if self.folder and (saved := saved_rows(self.folder, frame, self.id_col, [name])):
            vectors = saved.column(name, frames.embedding_type())
            if saved.is_there.all():
                return {name: vectors}
        texts = frames.column_to_arrow(frame[embedder.caption_column]).to_pylist()
        tower = embedder.text_tower(device)
        row_numbers = [
            row for row, text in enumerate(texts) if text and text.strip() and tower.known(text)
        ]
        column: Any = pa.nulls(len(texts), frames.embedding_type())
        if row_numbers:
            chosen = [texts[row] for row in row_numbers]
            column = frames.embedding_column(tower.embed(chosen), row_numbers, len(texts))
        return {name: column}


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
