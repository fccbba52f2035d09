"""`Towers`: what brings pictures and texts into one space, to be saved and to be applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.learning.heads import Head
from nemo_image_curate.learning.hubs import Hubs
from nemo_image_curate.learning.pairs import Pairs

if TYPE_CHECKING:
    import torch

# Pictures whose captions make the crowd: of 1,200, 1,000 and 500 the R@10 falls by 0.005 and 0.01.
_CROWD = 2048


@dataclass(frozen=True)
class Towers:
    """Heads whose vectors lie side by side, and what brings hubs down.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
        ``heads.{n}.{field}`` of each `Head`; ``shares`` (heads,), which part of the whole cosine
        each head has; ``base_share``, a scalar; ``hubs.crowd`` and ``hubs.level`` of `Hubs`;
        ``log_scale``, a scalar, the logarithm of what cosines are multiplied by before a softmax.
    """

    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(
        cls,
        heads: Sequence[Head],
        shares: Sequence[float],
        pairs: Pairs,
        scale: float,
        base_share: float = 0.0,
    ) -> Towers:
        """Put heads side by side, and find the hubs of their space.

        Parameters
        ----------
        heads : sequence of Head
        shares : sequence of float
            Of any sum.
        pairs : Pairs
            What was learned from.
        scale, base_share : float
            As the properties.
        """
        import torch

        tensors = {
            f"heads.{number}.{field.name}": getattr(head, field.name)
            for number, head in enumerate(heads)
            for field in fields(head)
        }
        tensors["shares"] = torch.tensor(shares) / sum(shares)
        tensors["base_share"] = torch.tensor(base_share)
        tensors["log_scale"] = torch.tensor(scale).log()
        if math.isinf(base_share):  # what is given stays as it is
            return cls(tensors)
        chosen = np.unique(np.linspace(0, len(pairs.images) - 1, _CROWD).astype(np.int64))
        crowd = pairs.of(chosen)
        images, texts = cls(tensors).embed(crowd)
        hubs = Hubs.of(images, torch.from_numpy(crowd.mean_per_image(texts.numpy())))
        return cls({**tensors, "hubs.crowd": hubs.crowd, "hubs.level": hubs.level})

    @property
    def base_share(self) -> float:
        """How much the cosine in a given space counts beside the learned one; infinite: alone."""
        return float(self.tensors["base_share"])

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax."""
        return float(self.tensors["log_scale"].exp())

    def embed(self, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of pictures, in their first view, and of texts."""
        import torch

        images = torch.from_numpy(np.ascontiguousarray(pairs.images[:, 0]))
        return self.images(images), self.texts(torch.from_numpy(pairs.texts))

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, d) of features (n, d_image)."""
        return self._embed("images", features)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, d) of features (n, d_text)."""
        return self._embed("texts", features)

    def _embed(self, side: str, features: torch.Tensor) -> torch.Tensor:
        import torch

        vectors = [
            getattr(self._head(number), side)(features) * share.sqrt()
            for number, share in enumerate(self.tensors["shares"])
        ]
        together = torch.cat(vectors, 1)
        if "hubs.crowd" not in self.tensors:
            return together
        hubs = Hubs(self.tensors["hubs.crowd"], self.tensors["hubs.level"])
        brought_down: torch.Tensor = getattr(hubs, side)(together)
        return brought_down

    def _head(self, number: int) -> Head:
        return Head(*(self.tensors[f"heads.{number}.{field.name}"] for field in fields(Head)))
