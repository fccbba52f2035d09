"""`ZeroShotClassifier`: labels of one's own choice, by how near their words are to an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.classifiers.base import ImageClassifier, wrong_width
from nemo_image_curate.classifiers.label_tables import Labels
from nemo_image_curate.classifiers.labelled import labelled_rows
from nemo_image_curate.classifiers.prompts import (
    label_columns,
    prompts,
    read_labels,
    read_templates,
)
from nemo_image_curate.classifiers.thresholds import ChosenThresholds, read_shown, thresholds_of
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.text_image import require_text_side
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.stages.base import NO_EFFECT, no_effect
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(eq=False)
class ZeroShotClassifier(ImageClassifier):
    """Labels images without training, by comparing them with prompts such as "a photo of a dog.".

    A label's vector is the mean of the unit embeddings of its prompts (every word of the label in
    every template), scaled to length 1; x below is the cosine between it and an image.

    Parameters
    ----------
    embedder : TextImageEmbedder
        The encoder of the embeddings, such as an `OpenCLIPEmbedder` or a `ConseEmbedder`; used
        for its text side.
    labels : sequence of str, or mapping of str to (sequence of) str
        Labels, or for each label the words that prompts name it by: ``{"dog": ["dog", "puppy"]}``.
    templates : str or sequence of str, default "openai-80"
        A set of prompt templates: ``one``, ``simple-7`` or ``openai-80``; or templates of your
        own, with ``{}`` in each where the label goes. Each process encodes all prompts once: for
        1,000 labels in 80 templates that is as long as for 80,000 captions.
    multi_label : bool, default False
        False: labels exclude each other, and the most likely one is taken. True: each label is
        scored by itself; an image may show several, or none.
    thresholds : mapping of str to float, optional
        With `multi_label`, from which score on an image shows a label; of any of the labels.
    pred_column : str, default "label"
        Names the columns, see below.
    embedding_column : str, default "image_embedding"
        Used when called with a dataset; in an embedder's pass its own column is scored.
    check_encoder : bool, default True
        Refuse embeddings that are not recorded to be of `embedder`.

    Columns
    -------
    label : string
        The most likely label; the first of equally likely ones. Without `multi_label`, as the
        next one.
    label_score : float32
        Its probability: softmax(s x) over all labels, where s is the model's scale of logits
        (Radford et al., 2021); for SigLIP models, which have a bias b and compare each pair by
        itself, sigmoid(s x + b) (Zhai et al., 2023).
    label_NAME : float32
        With `multi_label`, one for each label; what is no letter or digit in its name becomes an
        underscore. For SigLIP models the probability sigmoid(s x + b). Other models
        were trained to rank texts against each other and have no probability for one alone: the
        column holds the cosine x. It orders images by one label, but neither compares labels nor
        has a threshold that fits all: `choose_thresholds` finds one for each by a few labelled
        images, and ``ds.threshold(column, top=0.05)`` where it is known how many show it. For a
        probability whether images show one thing, leave `multi_label` and give an alternative to
        it: ``["dog", "something else"]``.
    label_is_NAME : bool
        For each label in `thresholds`, whether its score is no lower than that.

    All are null where there is no embedding.

    Raises
    ------
    ConfigError
        When used: for unusable labels, templates or embedder, and for texts that the embedder
        cannot take.
    EncoderMismatchError
        When used: when the embeddings are of another encoder.

    References
    ----------
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
    section 3.1; Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.

    Examples
    --------
    >>> embedder = ConseEmbedder()  # doctest: +SKIP
    >>> classify = ZeroShotClassifier(embedder, ["cat", "dog", "car"])  # doctest: +SKIP
    >>> ds = classify(embedder(ds)).filter("label == 'cat' and label_score > 0.9")  # doctest: +SKIP
    """

    # Named by keyword; labels come first.
    pred_column: str = field(default="label", kw_only=True)
    embedding_column: str = field(default="image_embedding", kw_only=True)
    check_encoder: bool = field(default=True, kw_only=True, metadata=NO_EFFECT)
    # `content_token` has what of it decides values.
    embedder: ImageEmbedder = field(metadata=NO_EFFECT)
    # `config` has both as they are read.
    labels: Sequence[str] | Mapping[str, str | Sequence[str]] = field(metadata=NO_EFFECT)
    templates: str | Sequence[str] = no_effect("openai-80")
    multi_label: bool = False
    thresholds: Mapping[str, float] | None = field(default=None, kw_only=True)

    def encoder(self) -> str:
        """The encoder that prompts are compared with: the embedder's."""
        return require_text_side(self.embedder).encoder()

    def weights_sha256(self) -> str | None:
        """Hash of the embedder's weights."""
        return self.embedder.weights_sha256()

    def config(self) -> dict[str, Any]:
        """Everything that decides the scores; recorded, and part of fingerprints."""
        return {
            **super().config(),
            "embedder": self.embedder.config(),
            "labels": read_labels(self.labels),
            "templates": read_templates(self.templates),
            "multi_label": self.multi_label,
        }

    def content_token(self) -> list[Any]:
        """What tells the labels from those of any other classifier."""
        # Not the embedder's own token, since its `classifiers` may hold this very object.
        return [*super().content_token(), self.embedder.encoder_token()]

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        labels = read_labels(self.labels)
        if self.multi_label:
            scores = dict.fromkeys(self._label_columns(labels), pa.float32())
            return scores | dict.fromkeys(self._flag_columns(labels), pa.bool_())
        if self.thresholds:
            raise ConfigError("thresholds are of labels by themselves: they need multi_label=True.")
        if len(labels) == 1:
            raise ConfigError(
                f"labels={list(labels)} leaves nothing to choose from: its probability is always "
                "1. Add what else images may show, such as 'something else', or use "
                "multi_label=True."
            )
        return {self.pred_column: pa.string(), f"{self.pred_column}_score": pa.float32()}

    def _label_columns(self, labels: Mapping[str, Any]) -> dict[str, str]:
        """The label of each column, with `multi_label`."""
        return label_columns(self.pred_column, labels)

    def _flag_columns(self, labels: Mapping[str, Any]) -> dict[str, str]:
        """The label of each column that says whether it is over its threshold."""
        thresholds = self.thresholds or {}
        for label in thresholds:
            if label not in labels:
                raise ConfigError(
                    f"thresholds: {label!r} is none of the labels {', '.join(labels)}."
                )
        return label_columns(f"{self.pred_column}_is", thresholds, self._label_columns(labels))

    def choose_thresholds(
        self,
        dataset: ImageTextPairDataset,
        labels: Labels,
        precision: float | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> ChosenThresholds:
        """Choose a threshold for each label by images of which it is known what they show.

        They should be drawn like those that it will be used for: of images that were looked for
        by a label too many show it, and a threshold chosen by them is too low. Memory and time
        grow with them; the dataset's keys are read, and embeddings where there is one of them.

        Parameters
        ----------
        dataset : ImageTextPairDataset
            With embeddings.
        labels : mapping, pandas.DataFrame, path or str
            As for `LinearProbe.fit`, but for each sample all the labels that it shows: a list, or
            a text with ``|`` between them, empty for none of them.
        precision : float, optional
            The lowest threshold over which at least this share of the examples show the label.
            Few examples promise too much: look at the precision in cross-validation. Default: the
            threshold with the highest F1.
        seed : int, default 0
            Of the folds.
        progress : bool, optional
            Show progress bars. Default: on a terminal.

        Returns
        -------
        ChosenThresholds
            Its `thresholds` are what this class takes; printed, it is a table.

        Raises
        ------
        ConfigError
            Unless `multi_label` is set, and for an unusable precision.
        ColumnNotFoundError, EncoderMismatchError
        DatasetError
            For labels that are none of this classifier's, and where no example has an embedding.

        Notes
        -----
        On 300 photographs of ImageNet and eleven labels such as "animal", "dog" and "food", with
        `ConseEmbedder`, thresholds chosen by one half give the other half a mean F1 of 0.70; the
        best single threshold 0.59, and 0.56 where each label's scores are standardised by their
        mean and deviation first. So there is nothing of that kind for those without examples.

        Examples
        --------
        >>> pets = ["dog", "cat"]
        >>> classify = ZeroShotClassifier(embedder, pets, multi_label=True)  # doctest: +SKIP
        >>> chosen = classify.choose_thresholds(ds, "examples.csv")  # doctest: +SKIP
        >>> classify.thresholds = chosen.thresholds  # doctest: +SKIP
        >>> ds = classify(ds).filter("label_is_dog and not label_is_cat")  # doctest: +SKIP
        """
        import torch

        if not self.multi_label:
            raise ConfigError("thresholds are of labels by themselves: they need multi_label=True.")
        if precision is not None and not 0 < precision <= 1:
            raise ConfigError(f"precision={precision!r} should be over 0 and at most 1.")
        frames.require_columns(dataset.metadata, self.embedding_column)
        self.require_encoder(dataset.provenance.get(self.embedding_column, {}))
        rows = labelled_rows(dataset, labels, [self.embedding_column], read_shown, progress)
        vectors, row_numbers = rows.unit_vectors(self.embedding_column)
        if not len(vectors):
            raise DatasetError(f"none of {rows.given:,} labelled samples has an embedding.")
        scores = self.load_model("cpu")(torch.from_numpy(vectors)).numpy()
        truth = [rows.labels[row] for row in row_numbers]
        return ChosenThresholds(
            thresholds_of(scores, list(read_labels(self.labels)), truth, precision, seed),
            examples=len(vectors),
            not_in_dataset=rows.not_in_dataset,
            without_embedding=len(rows.labels) - len(vectors),
        )

    def provenance_of(
        self, embedding_column: str, record: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """How the columns are made, from which embeddings; with `multi_label`, each by itself."""
        records = super().provenance_of(embedding_column, record)
        if isinstance(self.templates, str):
            for entry in records.values():
                entry["templates"] = self.templates
        if self.multi_label:
            for name, label in self._label_columns(read_labels(self.labels)).items():
                records[name]["labels"] = {label: records[name]["labels"][label]}
            for name, label in self._flag_columns(read_labels(self.labels)).items():
                records[name]["labels"] = {label: records[name]["labels"][label]}
                records[name]["threshold"] = (self.thresholds or {})[label]
        return records

    def class_vectors(self, device: str = "cpu") -> np.ndarray:
        """The vectors that images are compared with.

        Returns
        -------
        numpy.ndarray, shape (labels, d), float32
            Of length 1, in the order of the labels.
        """
        import torch

        templates = read_templates(self.templates)
        words = list(read_labels(self.labels).values())
        texts = [text for label_words in words for text in prompts(label_words, templates)]
        encoded = require_text_side(self.embedder).embed_text(texts, device)
        ends = np.cumsum([len(label_words) * len(templates) for label_words in words])[:-1]
        means = np.stack([vectors.mean(axis=0) for vectors in np.split(encoded, ends)])
        class_vectors: np.ndarray = directions(torch.from_numpy(means)).numpy()
        return class_vectors

    def load_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The comparison: unit embeddings (B, d) to scores (B, labels)."""
        import torch

        vectors = torch.from_numpy(self.class_vectors(device)).to(device)
        embedder = require_text_side(self.embedder)
        scale, bias = embedder.logit_scale(device), embedder.logit_bias(device)

        def scores(embeddings: torch.Tensor) -> torch.Tensor:
            if embeddings.shape[1] != vectors.shape[1]:
                raise wrong_width(self, vectors.shape[1], embeddings.shape[1])
            cosines = embeddings @ vectors.T
            if bias is not None:
                return torch.sigmoid(scale * cosines + bias)
            return cosines if self.multi_label else torch.softmax(scale * cosines, dim=1)

        return scores

    def values(self, scores: torch.Tensor) -> dict[str, Any]:
        """The columns' values, from scores (B, labels)."""
        labels = read_labels(self.labels)
        if self.multi_label:
            columns = dict(zip(self._label_columns(labels), scores.unbind(1), strict=True))
            return columns | self._flags(dict(zip(labels, scores.unbind(1), strict=True)))
        best, numbers = scores.max(dim=1)
        names = np.array([*labels, None], dtype=object)
        # An embedding that holds NaN is like no label.
        numbers[best.isnan()] = len(labels)
        return {self.pred_column: names[numbers.cpu().numpy()], f"{self.pred_column}_score": best}

    def _flags(self, score_of: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Whether labels are over their thresholds; None for a score of NaN."""
        flags: dict[str, np.ndarray] = {}
        for name, label in self._flag_columns(score_of).items():
            scores = score_of[label].cpu().numpy()
            flags[name] = (scores >= (self.thresholds or {})[label]).astype(object)
            flags[name][np.isnan(scores)] = None
        return flags
