"""`LinearProbe`: a classifier of one's own, learned from the labels of a few samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate.classifiers.base import ImageClassifier
from nemo_image_curate.classifiers.label_tables import Labels
from nemo_image_curate.classifiers.probe_file import ProbeFile, read_probe
from nemo_image_curate.classifiers.probe_report import ProbeReport
from nemo_image_curate.classifiers.probe_training import train
from nemo_image_curate.classifiers.prompts import label_columns
from nemo_image_curate.stages.base import no_effect

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(eq=False)
class LinearProbe(ImageClassifier):
    """Adds the classes that a linear classifier learned from the labels of a few samples.

    `LinearProbe.fit` trains one and writes the file. Linear probes of frozen embeddings are what
    CLIP's evaluation trained (Radford et al., 2021, section 3.2); with a good encoder some tens of
    labels for each class do.

    Parameters
    ----------
    model_path : str or path
        What `fit` wrote, where all workers see it.
    pred_column : str, optional
        Names the columns, see below. Default: as it was trained.
    embedding_column : str, default "image_embedding"
        Used when called with a dataset; in an embedder's pass its own column is scored.
    each_class : bool, default False
        Add the probability of each class, too.
    check_encoder : bool, default True
        Refuse embeddings that are not recorded to be of the encoder that it was trained on.

    Columns
    -------
    label : string, or bool where labels are True and False
        The most likely class.
    label_score : float32
        Its probability; of bools the probability of True.
    label_CLASS : float32
        With `each_class`, the probability of each; what is no letter or digit in its name becomes
        an underscore.

    All are null where there is no embedding. Probabilities are those of samples drawn like the
    labelled ones: where a class was labelled more often than it occurs, they are too high for it.

    Attributes
    ----------
    report : ProbeReport
        How well it did in cross-validation.

    Raises
    ------
    WeightsError
        When used: when the file is none of this kind, or not there.
    EncoderMismatchError
        When used: when the embeddings are of another encoder.

    Examples
    --------
    >>> labels = {"000000000": "cat", "000000001": "dog", "000000002": "cat"}
    >>> probe = LinearProbe.fit(ds, labels, "animals.safetensors", pred_column="animal")
    >>> probe.report.accuracy  # doctest: +SKIP
    >>> ds = probe(ds).filter("animal == 'cat' and animal_score > 0.8")
    """

    # The file counts by its hash, wherever it lies.
    model_path: str | os.PathLike[str] = no_effect("")
    each_class: bool = False

    # Not the order of the fields: the file is what a probe needs.
    def __init__(
        self,
        model_path: str | os.PathLike[str],
        pred_column: str | None = None,
        embedding_column: str = "image_embedding",
        each_class: bool = False,
        check_encoder: bool = True,
    ):
        super().__init__(pred_column or "", embedding_column, check_encoder)
        self.model_path = model_path
        self.each_class = each_class

    @classmethod
    def fit(
        cls,
        dataset: ImageTextPairDataset,
        labels: Labels,
        path: str | os.PathLike[str],
        *,
        pred_column: str = "label",
        embedding_column: str = "image_embedding",
        C: float | str = "auto",
        seed: int = 0,
        progress: bool | None = None,
    ) -> LinearProbe:
        """Train a classifier on the embeddings of samples that have a label, and write it.

        Multinomial logistic regression by scikit-learn (the extra ``probe``) on unit vectors.
        Memory and time grow with the labels; the dataset's keys are read, and the embeddings of
        those partitions that have a label. Embeddings that are not saved yet are computed for it.

        Parameters
        ----------
        dataset : ImageTextPairDataset
            With embeddings.
        labels : mapping, pandas.DataFrame, path or str
            Labels by key, or by (shard, key); a table with the columns ``key``, ``label`` and,
            where keys are not unique, ``shard``; a CSV, TSV or Parquet file of such a table; or a
            column of the dataset, null where there is no label. True and False make a probe of
            yes and no; anything else is a name.
        path : str or path
            The file to write, ``.safetensors``; it holds no code. On a cluster workers read it.
        pred_column : str, default "label"
            Names the columns that it will add.
        embedding_column : str, default "image_embedding"
        C : float or "auto"
            The inverse strength of the penalty, on vectors that are centred and scaled to a mean
            square of 1. Default: of 0.1 to 100,000 the one with the highest likelihood in
            stratified cross-validation; 100 where no class has two labels.
        seed : int, default 0
            Of the folds.
        progress : bool, optional
            Show progress bars. Default: on a terminal.

        Returns
        -------
        LinearProbe
            Its `report` says how good it is.

        Raises
        ------
        ConfigError
            For unusable labels or C, and when scikit-learn is not installed.
        ColumnNotFoundError
        DatasetError
            When a sample has several labels, a key that is given without shard is in several, or
            fewer than two classes have a sample with an embedding.
        EncoderMismatchError
            When the embeddings are of several encoders.
        """
        location = train(*(dataset, labels, path, pred_column, embedding_column, C, seed, progress))
        return cls(location, embedding_column=embedding_column)

    @property
    def file(self) -> ProbeFile:
        """What was learned."""
        return read_probe(self.model_path)

    @property
    def report(self) -> ProbeReport:
        """How well it did in cross-validation."""
        return ProbeReport(**self.file.recipe["report"])

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their probabilities."""
        classes: list[str] = self.file.recipe["classes"]
        return classes

    def encoder(self) -> str | None:
        """The encoder that it was trained on; None when that was not recorded."""
        encoder: str | None = self.file.recipe["encoder"]
        return encoder

    def embedding_dim(self) -> int:
        """The width of that encoder's embeddings."""
        width: int = self.file.weight.shape[1]
        return width

    def weights_sha256(self) -> str:
        """Hash of the file."""
        return self.file.sha256

    def config(self) -> dict[str, Any]:
        """Everything that decides the values; recorded, and part of fingerprints."""
        return {**super().config(), "classes": self.classes, "each_class": self.each_class}

    def record(self, **more: Any) -> dict[str, Any]:
        """What is recorded of a column; with where the file was, for `recipe_of`."""
        return super().record(model_path=os.fspath(self.model_path), **more)

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        name = self._name()
        kind = pa.bool_() if self.file.recipe["is_bool"] else pa.string()
        columns = {name: kind, f"{name}_score": pa.float32()}
        return columns | dict.fromkeys(self._class_columns(), pa.float32())

    def _name(self) -> str:
        return self.pred_column or str(self.file.recipe["pred_column"])

    def _class_columns(self) -> dict[str, str]:
        """The class of each column, with `each_class`."""
        if not self.each_class:
            return {}
        return label_columns(self._name(), self.classes, taken=(f"{self._name()}_score",))

    def load_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The classifier: unit embeddings (B, d) to probabilities (B, K)."""
        import torch

        weight = torch.from_numpy(self.file.weight).to(device)
        bias = torch.from_numpy(self.file.bias).to(device)
        return lambda embeddings: torch.softmax(embeddings @ weight.T + bias, dim=1)

    def values(self, scores: torch.Tensor) -> dict[str, Any]:
        """The columns' values, from probabilities (B, K)."""
        best, numbers = scores.max(dim=1)
        is_bool = self.file.recipe["is_bool"]
        labels = [False, True] if is_bool else self.classes
        # An embedding without a direction is of no class.
        numbers[best.isnan()] = len(labels)
        named = np.array([*labels, None], dtype=object)[numbers.cpu().numpy()]
        columns = {self._name(): named, f"{self._name()}_score": scores[:, 1] if is_bool else best}
        return columns | dict(zip(self._class_columns(), scores.unbind(1), strict=False))
