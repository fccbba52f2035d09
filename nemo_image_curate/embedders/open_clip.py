"""`OpenCLIPEmbedder`: CLIP, OpenCLIP and SigLIP, images and texts."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from nemo_image_curate.compute.devices import has_bfloat16
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.embedders.precision import optimise
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower
from nemo_image_curate.models import encoder_identity, weights
from nemo_image_curate.models.open_clip import OpenCLIPSource
from nemo_image_curate.stages.base import no_effect

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class OpenCLIPEmbedder(TextImageEmbedder):
    """Embeds images and captions with a model of OpenCLIP.

    Pixels, tokens, scale and bias are as the model's own configuration says: SigLIP squashes
    pictures to a square and pads texts to 64 tokens, CLIP crops and takes 77.

    Parameters
    ----------
    model_name : str
        An architecture, such as ``ViT-L-14``; or ``hf-hub:ORGANISATION/NAME`` or
        ``local-dir:FOLDER``, which bring configuration, weights and tokenizer.
    pretrained : str, optional
        A tag of published weights, such as ``openai``, from the Hugging Face hub or its cache.
    checkpoint_path : str, optional
        Take the weights from this ``.safetensors`` or ``.pt`` file. Without weights they are
        random (the same each time): good for trying things out only.
    checkpoint_encoder : str, optional
        What the checkpoint is, when it is a copy of OpenAI's published weights, such as
        ``openai/clip-vit-large-patch14``; classifiers trained on that encoder then take its
        embeddings.
    **options
        As for `TextImageEmbedder` and `ImageEmbedder`.

    Raises
    ------
    ConfigError
        When called: for a name or tag that OpenCLIP does not know.
    WeightsError
        When called: when the weights cannot be had, or do not fit the model.

    Examples
    --------
    >>> embedder = OpenCLIPEmbedder("ViT-B-32", "laion2b_s34b_b79k")
    >>> vectors = embedder.embed_text(["a dog on a beach"])  # doctest: +SKIP
    """

    pretrained: str | None = None
    _: KW_ONLY
    # The file counts by its hash, wherever it lies.
    checkpoint_path: str | None = no_effect(None)
    checkpoint_encoder: str | None = None

    requires = (("open_clip", "clip"),)

    def preprocessing(self) -> Preprocessing:
        """As the model's configuration says."""
        return self._source().preprocessing()

    def encoder(self) -> str:
        """The canonical name of the encoder, or one that tells its weights apart from others."""
        source = self._source()
        source.check()
        return encoder_identity.open_clip_id(
            source.architecture(),
            self.pretrained,
            None if self.pretrained else source.identity(),
            self.checkpoint_encoder,
        )

    def weights_sha256(self) -> str | None:
        """Hash of the weights file; None for random weights."""
        path = self._source().weights_path()
        return None if path is None else weights.sha256_of(path)

    def config(self) -> dict[str, Any]:
        """Everything that decides the embeddings' values; recorded, and part of fingerprints."""
        return {**super().config(), "pretrained": self.pretrained}

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The image tower, in the precision that suits the device."""
        tower = _image_tower(self._source().build().visual)
        return optimise(tower, device, self.autocast, self.preprocessing().size)

    def load_text_model(self, device: str) -> TextTower:
        """The text tower, in the precision that suits the device."""
        import torch

        source = self._source()
        model, tokenize = source.build(), source.tokenizer()
        scale = float(model.logit_scale.exp())
        bias = None if model.logit_bias is None else float(model.logit_bias)
        model.visual = None  # its memory is not needed
        exact = not (self.autocast and has_bfloat16(device))
        model = model.to(device=device, dtype=torch.float32 if exact else torch.bfloat16)

        forward = _text_forward(model)

        def encode(texts: list[str]) -> torch.Tensor:
            return forward(tokenize(texts).to(device))

        def problem(text: str) -> str | None:
            limit = tokenize.context_length
            # A token of ASCII has a character at least; at most four stand for no character. So
            # most captions are tokenized once, by `encode`.
            cleaned = tokenize.clean_fn(text)
            if cleaned.isascii() and len(cleaned) + 4 <= limit:
                return None
            # With room for one token more, that place is padding unless a token was cut off.
            longer, empty = tokenize([text, ""], context_length=limit + 1)
            if longer[limit] == empty[limit]:
                return None
            return f"is longer than the {limit} tokens that {self.model_name} takes; shorten it"

        def known(text: str) -> bool:
            # The vocabularies have a token for every byte, but some models drop punctuation.
            return bool(tokenize.clean_fn(text).strip())

        return TextTower(encode, problem, known, scale, bias)

    def _source(self) -> OpenCLIPSource:
        return OpenCLIPSource(self.model_name, self.pretrained, self.checkpoint_path)


def _text_forward(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Tokens to embeddings.

    CLIP reads a text's meaning at its last token, which sees none of the padding behind it. So
    as many places as the longest text of a batch needs give the same as all 77: five times as
    fast for captions of 18 tokens (ViT-B-32 on a CPU, measured).
    """
    import torch

    if type(model).__name__ != "CLIP" or model.text_pool_type != "argmax":
        encode: Callable[[torch.Tensor], torch.Tensor] = model.encode_text
        return encode

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            embeddings: torch.Tensor = model.encode_text(tokens)
            return embeddings

    tower, places, mask = Tower(), model.positional_embedding, model.attn_mask
    # functional_call puts its tensors into the model while it runs.
    alone = threading.Lock()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        # The end of a text is the token of the highest number.
        n = int(tokens.argmax(dim=1).max()) + 1
        # Rows 77 values apart, as those of the whole mask are, begin at addresses that attention
        # kernels of a GPU may refuse: multiples of 16 bytes suit them.
        rows = mask.new_zeros(n, math.ceil(n / 8) * 8)
        rows[:, :n] = mask[:n, :n]
        fewer = {"model.positional_embedding": places[:n], "model.attn_mask": rows[:, :n]}
        with alone:
            embeddings: torch.Tensor = torch.func.functional_call(tower, fewer, (tokens[:, :n],))
            return embeddings

    return forward


def _image_tower(visual: torch.nn.Module) -> torch.nn.Module:
    """The tower; that of CoCa gives tokens, too, of which nothing is wanted."""
    import torch

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = visual

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            embeddings: torch.Tensor = self.visual(pixels)[0]
            return embeddings

    return First() if getattr(visual, "output_tokens", False) else visual
