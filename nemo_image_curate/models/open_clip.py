"""OpenCLIP's models: what their pixels are, where their weights come from, and the model built."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.errors import ConfigError, WeightsError, require
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.models.weights import sha256_of

logger = logging.getLogger(__name__)

_LOCAL, _HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class OpenCLIPSource:
    """Which OpenCLIP model, and which weights.

    Parameters
    ----------
    model_name : str
        An architecture that OpenCLIP knows (``ViT-B-32``), ``local-dir:FOLDER`` or
        ``hf-hub:ORGANISATION/NAME``; the last two have their ``open_clip_config.json``.
    pretrained : str, optional
        The tag of published weights of an architecture, such as ``laion2b_s34b_b79k``.
    checkpoint_path : str, optional
        The weights of an architecture as a file.
    """

    model_name: str
    pretrained: str | None = None
    checkpoint_path: str | None = None

    def check(self) -> None:
        """Refuse what contradicts itself or does not exist, before anything is loaded.

        Raises
        ------
        ConfigError
            For unknown names and contradictions.
        WeightsError
            When a file or folder is not there.
        """
        if self.checkpoint_path and not Path(self.checkpoint_path).is_file():
            raise WeightsError(f"checkpoint_path={self.checkpoint_path!r} is not a file.")
        if self.pretrained and self.checkpoint_path:
            raise ConfigError("give pretrained (a tag) or checkpoint_path, not both.")
        if self._has_own_config():
            if self.pretrained or self.checkpoint_path:
                raise ConfigError(f"{self.model_name} brings its weights; give no others.")
            return
        open_clip = import_open_clip()
        architectures = open_clip.list_models()
        if self.architecture() not in architectures:
            close = difflib.get_close_matches(self.architecture(), architectures, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"OpenCLIP has no model {self.model_name!r}.{hint}")
        if self.pretrained and not self.tag_config():
            tags = open_clip.list_pretrained_tags_by_model(self.architecture())
            raise ConfigError(
                f"OpenCLIP has no weights {self.pretrained!r} for {self.model_name}; it has: "
                f"{', '.join(tags) or 'none'}. Weights of your own: checkpoint_path=."
            )

    def architecture(self) -> str:
        """The model's name as OpenCLIP spells it; without the place of a local folder."""
        name = self.model_name.replace("/", "-") if not self._has_own_config() else self.model_name
        return name if not name.startswith(_LOCAL) else Path(name).name

    def preprocessing(self) -> Preprocessing:
        """What the model's pixels are: OpenCLIP's defaults, then the model's or the tag's own."""
        open_clip = import_open_clip()
        if self._has_own_config():
            config = self._own_config().get("preprocess_cfg", {})
        else:
            config = self.tag_config()
        merged = open_clip.transform.merge_preprocess_dict(
            open_clip.transform.PreprocessCfg(), config
        )
        size = self._model_config()["vision_cfg"].get("image_size", merged["size"])
        return Preprocessing.from_open_clip(merged | {"size": size})

    def tag_config(self) -> dict[str, Any]:
        """What OpenCLIP knows of the tag `pretrained`; empty without one, or for an unknown one."""
        if not self.pretrained:
            return {}
        config: dict[str, Any] = import_open_clip().get_pretrained_cfg(
            self.architecture(), self.pretrained
        )
        return config

    def weights_path(self) -> str | None:
        """The local file of the weights, fetched when they are published; None: random weights.

        Raises
        ------
        WeightsError
            When they cannot be had.
        """
        if self.checkpoint_path:
            return self.checkpoint_path
        if self.model_name.startswith(_LOCAL):
            folder = Path(self.model_name.removeprefix(_LOCAL))
            files = list(folder.glob("*.safetensors"))
            if len(files) != 1:
                raise WeightsError(
                    f"{folder} holds {len(files)} .safetensors files; it should be one, with the "
                    "weights, beside open_clip_config.json."
                )
            return str(files[0])
        if self.model_name.startswith(_HUB) or self.pretrained:
            return _fetched(self)
        return None

    def identity(self) -> str | None:
        """Hash of the weights file and, where the model brings its own, its configuration."""
        path = self.weights_path()
        if path is None or not self._has_own_config():
            return path and sha256_of(path)
        config = json.dumps(self._own_config(), sort_keys=True)
        return hashlib.sha256(f"{sha256_of(path)} {config}".encode()).hexdigest()

    def build(self) -> Any:
        """The model with its weights, in float32 on the CPU.

        Raises
        ------
        WeightsError
            When the weights cannot be had or do not fit the model.
        """
        import torch

        self.check()
        open_clip = import_open_clip()
        path = self.weights_path()
        if path is None:
            logger.warning("%s has random weights: give pretrained= or checkpoint_path=", self)
        try:
            # The same random weights on every worker and in every run.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = open_clip.create_model(
                    self.model_name,
                    pretrained=None if self._has_own_config() else path,
                    pretrained_text=False,
                    # Weights trained with QuickGELU mean that, whichever name is given.
                    force_quick_gelu=bool(self.tag_config().get("quick_gelu")),
                )
        except (RuntimeError, KeyError, ValueError) as error:
            raise WeightsError(
                f"{path} does not fit {self.model_name}: {str(error)[:300]}"
            ) from error
        return model.eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        """The model's tokenizer: called with texts and `context_length`, it gives token ids.

        Raises
        ------
        WeightsError
            When its files cannot be had.
        """
        try:
            return import_open_clip().get_tokenizer(self.model_name)
        except (OSError, ImportError, ValueError) as error:
            raise WeightsError(
                f"cannot load the tokenizer of {self.model_name}: {error}. A folder with the "
                f"model and its tokenizer's files can be given as model_name='{_LOCAL}FOLDER'."
            ) from error

    def _has_own_config(self) -> bool:
        return self.model_name.startswith((_LOCAL, _HUB))

    def _model_config(self) -> dict[str, Any]:
        if self._has_own_config():
            config = self._own_config()["model_cfg"]
        else:
            config = import_open_clip().get_model_config(self.architecture())
        return dict(config)

    def _own_config(self) -> dict[str, Any]:
        return _own_config(self.model_name)


def import_open_clip() -> Any:
    """The ``open_clip`` module, imported even where torchvision's own operators cannot load.

    Raises
    ------
    ConfigError
        When it is not installed.
    """
    require("open_clip", "clip", "an OpenCLIP model")
    import_timm()
    import open_clip

    return open_clip


@cache
def _own_config(model_name: str) -> dict[str, Any]:
    if model_name.startswith(_LOCAL):
        path = Path(model_name.removeprefix(_LOCAL)) / "open_clip_config.json"
        if not path.is_file():
            raise WeightsError(f"{path} is not a file; {_LOCAL} takes a folder with that file.")
    else:
        path = Path(_hub_file(model_name.removeprefix(_HUB), "open_clip_config.json"))
    try:
        config = storage.parse_json(path.read_text())
        config["model_cfg"]["vision_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no configuration of an OpenCLIP model: {error}") from error
    return dict(config)


def _hub_file(repository: str, name: str | None) -> str:
    open_clip = import_open_clip()
    options = {} if name is None else {"filename": name}
    try:
        return str(open_clip.download_pretrained_from_hf(repository, **options))
    except Exception as error:
        raise _unavailable(f"{name or 'the weights'} of {repository}", error) from error


# Each call asks the hub for the newest version; one per process will do.
@cache
def _fetched(source: OpenCLIPSource) -> str:
    if source.model_name.startswith(_HUB):
        return _hub_file(source.model_name.removeprefix(_HUB), None)
    try:
        return str(import_open_clip().download_pretrained(source.tag_config()))
    except Exception as error:
        name = f"the weights {source.pretrained!r} of {source.model_name}"
        raise _unavailable(name, error) from error


def _unavailable(files: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"cannot fetch {files}: {error}. Fetch them elsewhere and give the file as "
        "checkpoint_path=, or fill the Hugging Face hub's cache (HF_HOME)."
    )
