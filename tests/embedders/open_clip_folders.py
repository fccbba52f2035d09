"""Small OpenCLIP models with random weights, saved to disk as their publishers do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_image_curate.models.open_clip import import_open_clip

WORDS = ("a photo of the red blue green dog cat runs on grass beach and ball with man woman "
         "child street car two three small big water snow").split()  # fmt: skip

CLIP = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP: dict[str, Any] = {
    "embed_dim": 96,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit3",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 0,  # that of the tokenizer
        "hf_tokenizer_name": "own",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 96,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
SIGLIP_PIXELS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def save(folder: Path, config: dict[str, Any], pixels: dict[str, Any] | None = None) -> str:
    """Write a model of random weights into a folder; its name as OpenCLIP takes it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    if "hf_tokenizer_name" in config["text_cfg"]:
        config["text_cfg"]["vocab_size"] = _save_tokenizer(folder)
    whole = {"model_cfg": config, "preprocess_cfg": pixels or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    name = f"local-dir:{folder}"
    torch.manual_seed(7)
    model = import_open_clip().create_model(name, load_weights=False)
    with torch.no_grad():
        # Fresh models have much the same embedding for everything; these should differ.
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return name


def _save_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("models") / "tiny-clip", CLIP)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = json.loads(json.dumps(SIGLIP))
    return save(tmp_path_factory.mktemp("models") / "tiny-siglip", config, SIGLIP_PIXELS)
