"""The classifier heads that LAION published: their files and the encoders they were trained on."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_image_curate.models.known_encoders import CLIP_VIT_B_16, CLIP_VIT_B_32, CLIP_VIT_L_14
from nemo_image_curate.models.weights import WeightsFile

_AESTHETIC_V1 = "https://github.com/LAION-AI/aesthetic-predictor/raw/main/"
_AESTHETIC_V2 = "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
_NSFW = "https://raw.githubusercontent.com/LAION-AI/CLIP-based-NSFW-Detector/main/"


@dataclass(frozen=True)
class Head:
    """A published head.

    Attributes
    ----------
    kind
        ``"aesthetic"`` or ``"nsfw"``.
    version
        ``"v1"`` or ``"v2"``.
    encoder
        Identity of the encoder it was trained on, a key of `models.known_encoders.ENCODERS`.
    embedding_dim
        Width of that encoder's embeddings.
    weights
        The file.
    """

    kind: str
    version: str
    encoder: str
    embedding_dim: int
    weights: WeightsFile


def _v1(encoder: str, dim: int, name: str, sha256: str, size: int) -> Head:
    return Head(
        "aesthetic", "v1", encoder, dim, WeightsFile(name, _AESTHETIC_V1 + name, sha256, size)
    )


def _nsfw(encoder: str, dim: int, name: str, sha256: str, size: int) -> Head:
    return Head("nsfw", "v1", encoder, dim, WeightsFile(name, _NSFW + name, sha256, size))


_TABLE = (
    Head(
        "aesthetic",
        "v2",
        CLIP_VIT_L_14,
        768,
        WeightsFile(
            "sac+logos+ava1-l14-linearMSE.pth",
            _AESTHETIC_V2 + "sac%2Blogos%2Bava1-l14-linearMSE.pth",
            "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            3_714_759,
        ),
    ),
    _v1(
        CLIP_VIT_L_14,
        768,
        "sa_0_4_vit_l_14_linear.pth",
        "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
        4_071,
    ),
    _v1(
        CLIP_VIT_B_16,
        512,
        "sa_0_4_vit_b_16_linear.pth",
        "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0",
        3_047,
    ),
    _v1(
        CLIP_VIT_B_32,
        512,
        "sa_0_4_vit_b_32_linear.pth",
        "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f",
        3_047,
    ),
    _nsfw(
        CLIP_VIT_L_14,
        768,
        "clip_autokeras_binary_nsfw.zip",
        "905520bb0336accc73ee282c605d926aef90cf14248889d44b9cee50eef71f8a",
        1_094_585,
    ),
    _nsfw(
        CLIP_VIT_B_32,
        512,
        "clip_autokeras_nsfw_b32.zip",
        "78715ab9d64485167e8c9ade3b8e6761a17a16c24d114bd47431ac1dab46462b",
        231_831,
    ),
)

HEADS: dict[tuple[str, str, str], Head] = {
    (head.kind, head.version, head.encoder): head for head in _TABLE
}
