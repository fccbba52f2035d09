"""The base of classifiers whose heads are published for several encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from nemo_image_curate.classifiers.base import ImageClassifier
from nemo_image_curate.classifiers.heads import HEADS, Head
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models import weights

if TYPE_CHECKING:
    import torch


class PublishedHead(ImageClassifier):
    """A classifier that runs one of the heads in `HEADS`.

    Parameters
    ----------
    embedding_column : str, default "image_embedding"
    pred_column : str
    model_path : str, optional
        The published file as it is; default: the weights cache, or a download.
    check_encoder : bool, default True
    trained_on : str
        The encoder that the head was trained on; embeddings of others are refused.
    version : str
    """

    kind: ClassVar[str]
    # The file counts by its hash, wherever it lies.
    _known = ImageClassifier._known | {"model_path", "trained_on", "version"}

    def __init__(
        self,
        embedding_column: str,
        pred_column: str,
        model_path: str | None,
        check_encoder: bool,
        trained_on: str,
        version: str,
    ):
        super().__init__(pred_column, embedding_column, check_encoder)
        self.model_path = model_path
        self.trained_on = trained_on
        self.version = version

    def head(self) -> Head:
        """The published head that the parameters name."""
        found = HEADS.get((self.kind, self.version, self.trained_on))
        if found is None:
            known = [
                f"{version} for {encoder}" for kind, version, encoder in HEADS if kind == self.kind
            ]
            raise ConfigError(
                f"there is no {self.kind} head {self.version!r} for {self.trained_on!r}. "
                f"Published: {'; '.join(known)}."
            )
        return found

    def encoder(self) -> str:
        """The encoder that the head was trained on."""
        return self.head().encoder

    def embedding_dim(self) -> int:
        """The width of that encoder's embeddings."""
        return self.head().embedding_dim

    def weights_sha256(self) -> str:
        """Hash of the weights file."""
        return weights.sha256_of(weights.fetch(self.head().weights, self.model_path))

    def build(self, state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The network with its weights."""
        raise ConfigError(f"{type(self).__name__} does not define build(state_dict).")

    def load_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head on a device."""
        path = weights.fetch(self.head().weights, self.model_path)
        return self.build(weights.load_state_dict(path)).to(device)
