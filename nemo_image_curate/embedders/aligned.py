"""`AlignedEmbedder`: frozen encoders of pictures and texts, aligned by a dataset's own captions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.embedders import aligned_file
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.recorded import recorded_encoder
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower, require_text_side
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.learning.towers import Towers
from nemo_image_curate.models import weights
from nemo_image_curate.stages.base import NO_EFFECT, no_effect
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Pictures that are learned from at most, unless more are asked for.
MAX_PICTURES = 10_000
SAMPLES_SEEN = 72_000


@dataclass(eq=False)
class AlignedEmbedder(TextImageEmbedder):
    """Embeds pictures and texts into one space that was learned from a dataset's own captions.

    Two encoders stay as they are; `fit` learns a small projection for each of them, in closed form
    or with a contrastive loss, in minutes on a CPU. The space knows what those captions tell of:
    pictures of another kind, or texts in other words, it may find worse than the encoders alone.
    Measure it on pictures of yours that it has not seen.

    Parameters
    ----------
    model_name : str
        The folder that `fit` wrote, or the file ``aligned.safetensors`` of it, on a file system
        that all workers see; or ``sha256:`` and its hash, when it is kept in the weights' home.
    image_encoder : ImageEmbedder, optional
        The encoder of pictures, where a record does not tell all of it: one of your own, or one
        with weights from a file.
    text_encoder : TextImageEmbedder, optional
        The same for texts.
    **options
        As for `TextImageEmbedder` and `ImageEmbedder`.

    Raises
    ------
    ConfigError
        When called: when encoders are not those that the model was learned with.
    WeightsError
        When called: when there is no such model.

    Examples
    --------
    >>> embedder = AlignedEmbedder.fit(ds, "model/")  # doctest: +SKIP
    >>> ds = AlignedEmbedder("model/")(ds)  # doctest: +SKIP
    """

    # The file counts by its hash, wherever it lies.
    model_name: str = field(metadata=NO_EFFECT)
    _: KW_ONLY
    image_encoder: ImageEmbedder | None = no_effect(None)
    text_encoder: TextImageEmbedder | None = no_effect(None)

    @classmethod
    def fit(
        cls,
        dataset: ImageTextPairDataset,
        path: str | os.PathLike[str],
        image_encoder: ImageEmbedder | None = None,
        text_encoder: TextImageEmbedder | None = None,
        caption_column: str = "caption",
        loss: str = "correlation",
        seed: int = 0,
        max_pictures: int = MAX_PICTURES,
        samples_seen: int = SAMPLES_SEEN,
        progress: bool | None = None,
    ) -> AlignedEmbedder:
        """Learn from the captions of a dataset, and save what was learned.

        What is learned of nine tenths of the pictures is measured on the rest; then it is learned
        of all. Where both encoders share a space already, it stands beside the learned one, for
        as much as finds most among pictures held out. Where that is all, with few pictures or
        captions that tell nothing, ``summary()["kind"]`` is ``base``, and a warning says so.

        Parameters
        ----------
        dataset : ImageTextPairDataset
            Pictures are decoded now, once, unless it has columns that the image encoder made.
        path : str or path
            A folder for ``aligned.safetensors`` and ``recipe.json``; a model there is replaced.
        image_encoder : ImageEmbedder, optional
            Default: the models that PyPI packages carry.
        text_encoder : TextImageEmbedder, optional
            Default: the text side of the image encoder; where it has none, MiniLM, as
            `ConseEmbedder` has it.
        caption_column : str, default "caption"
            Of texts, or lists of them. Where there are lists in a column of this name with an
            ``s``, as ``pack`` writes them for pictures with several captions, all are used.
        loss : {"correlation", "infonce", "siglip"}
            What is learned by: correlations, in closed form, or a contrastive loss. Of some
            thousand pictures the closed form learns more, in less time.
        seed : int
            Of the choice of pictures, and of the training.
        max_pictures : int
            About so many are chosen by a hash of their keys where more have captions. Memory with
            the default encoders: 13 kB for each, twice that for a while, and 10 kB for each of its
            captions.
        samples_seen : int
            Pictures that a contrastive training is shown, each many times.
        progress : bool, optional
            Show a progress bar. Default: on a terminal.

        Returns
        -------
        AlignedEmbedder
            Also kept in the weights' home, where it is found by what datasets record of it.

        Raises
        ------
        ColumnNotFoundError
            When there is no column of captions.
        ConfigError
            For unusable settings, or when there is something else at `path`.
        DatasetError
            When there are too few pairs to learn from.
        """
        from nemo_image_curate.embedders.align import align

        file = align(
            *(dataset, os.fspath(path), image_encoder, text_encoder, caption_column),
            *(loss, seed, max_pictures, samples_seen, progress),
        )
        aligned_file.remember(file)
        return cls(os.fspath(path), image_encoder=image_encoder, text_encoder=text_encoder)

    def summary(self) -> dict[str, Any]:
        """What came of the training: ``recipe.json`` beside the model; empty without it."""
        return aligned_file.read_facts(self.model_name)

    def check(self) -> None:
        """Refuse unusable settings, and encoders that the model was not learned with."""
        self._image_encoder().check()
        self._text_encoder().check()
        super().check()

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with both columns; the model is kept where it is found by their records."""
        self.check()
        aligned_file.remember(self.model_name)
        return super().__call__(dataset)

    def preprocessing(self) -> Preprocessing:
        """As the image encoder's."""
        return self._image_encoder().preprocessing()

    def encoder(self) -> str:
        """A name made of the model's hash."""
        return f"aligned:sha256:{self.weights_sha256()[:16]}"

    def weights_sha256(self) -> str:
        """Hash of the model's file, which names both encoders with their own hashes."""
        aligned_file.read_model(self.model_name)
        return weights.sha256_of(aligned_file.model_file(self.model_name))

    def config(self) -> dict[str, Any]:
        """Everything that decides the embeddings' values; recorded, and part of fingerprints."""
        model = aligned_file.read_model(self.model_name)
        return {
            **super().config(),
            "model": aligned_file.name_by_hash(self.model_name),
            "encoders": {"image": model.image_encoder, "text": model.text_encoder},
        }

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The image encoder, and the projection of its vectors."""
        encoder, towers = self._image_encoder(), self._towers(device)
        forward = encoder.load_embedding_model(device)
        normalized = aligned_file.read_model(self.model_name).image_encoder["normalized"]

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            features = forward(pixels).float()
            return towers.images(directions(features) if normalized else features)

        return embed

    def load_text_model(self, device: str) -> TextTower:
        """The text encoder, and the projection of its vectors."""
        tower, towers = self._text_encoder().text_tower(device), self._towers(device)
        words = aligned_file.read_model(self.model_name).words

        def encode(texts: list[str]) -> torch.Tensor:
            vectors = directions(tower.encode(texts).float())
            return towers.texts(aligned_file.text_features(vectors, texts, words))

        bias = towers.tensors.get("logit_bias")
        return TextTower(
            encode,
            tower.problem,
            tower.known,
            float(towers.tensors["log_scale"].exp()),
            None if bias is None else float(bias),
        )

    def _towers(self, device: str) -> Towers:
        tensors = aligned_file.read_model(self.model_name).towers.tensors
        return Towers({name: tensor.to(device) for name, tensor in tensors.items()})

    def _image_encoder(self) -> ImageEmbedder:
        record = aligned_file.read_model(self.model_name).image_encoder
        return _encoder("image_encoder", self.image_encoder, record)

    def _text_encoder(self) -> TextImageEmbedder:
        model = aligned_file.read_model(self.model_name)
        if self.text_encoder is None and model.text_encoder == model.image_encoder:
            return require_text_side(self._image_encoder())
        return require_text_side(_encoder("text_encoder", self.text_encoder, model.text_encoder))


def _encoder(argument: str, embedder: ImageEmbedder | None, record: Any) -> ImageEmbedder:
    """The encoder that a model was learned with: the one given, or the one recorded."""
    if embedder is None:
        try:
            return recorded_encoder(record)
        except ConfigError as error:
            raise ConfigError(
                f"the model was learned on {record.get('encoder')!r}, which cannot be made by its "
                f"record alone: give it as {argument}= (--checkpoint FILE for its weights). {error}"
            ) from error
    if (embedder.encoder(), embedder.weights_sha256()) != (
        record["encoder"],
        record["weights_sha256"],
    ):
        raise ConfigError(
            f"{argument}= is {embedder.encoder()!r}, but the model was learned on "
            f"{record['encoder']!r}, or on other weights."
        )
    return embedder
