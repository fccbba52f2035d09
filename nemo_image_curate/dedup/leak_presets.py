"""Thresholds that were published for encoders made to find copies.

Embeddings of CLIP are too coarse for copies. The encoders' weights are no part of this package;
an `ImageEmbedder` of your own, called as the preset says, brings them::

    class Sscd(ImageEmbedder):
        def preprocessing(self):
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            return Preprocessing(320, "squash", 1.0, "bilinear", mean, std)

        def load_embedding_model(self, device):
            return torch.jit.load("sscd_disc_mixup.torchscript.pt", map_location=device).eval()

    ds = Sscd("sscd_disc_mixup", flip=True)(ds)

A TorchScript file is a program: load only one whose author you trust.
"""

from __future__ import annotations

from typing import NamedTuple

from nemo_image_curate.errors import ConfigError


class Preset(NamedTuple):
    """From which cosine on two images are copies.

    Attributes
    ----------
    encoder : str
        What the embeddings' provenance should say: the name of your `ImageEmbedder`.
    threshold : float
        The least cosine.
    source : str
        Who published it, and what for.
    """

    encoder: str
    threshold: float
    source: str

    @property
    def eps(self) -> float:
        """The threshold as a distance."""
        return 1 - self.threshold


_ISC = "isc_ft_v107"
_SSCD = "sscd_disc_mixup"

PRESETS = {
    "datacomp-isc": Preset(
        _ISC,
        0.604169,
        "DataComp (Gadre et al., 2023): images as near to one of its evaluation sets were removed "
        "from CommonPool; encoder of Yokoo, winner of the Image Similarity Challenge 2021, 256 "
        "values (mlfoundations/dataset2metadata, models.py)",
    ),
    "sscd-0.75": Preset(
        _SSCD,
        0.75,
        "SSCD (Pizzi et al., 2022): 90 % precision on DISC2021, 512 values "
        "(facebookresearch/sscd-copy-detection, README)",
    ),
    "sscd-0.90": Preset(
        _SSCD, 0.90, "Hugging Face, large-scale-image-deduplication: default of its script"
    ),
    "sscd-0.95": Preset(
        _SSCD,
        0.95,
        "Hugging Face FineVision (2025): images as near to one of 66 test sets count as "
        "contaminated",
    ),
}


def preset_named(name: str) -> Preset:
    """A preset by its name.

    Raises
    ------
    ConfigError
        Naming those that there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
