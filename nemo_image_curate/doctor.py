"""What works on this machine: found out by doing it, not by looking at what is installed."""

from __future__ import annotations

import importlib.metadata
import io
import platform
from collections.abc import Callable
from typing import Any, Literal

from PIL import Image

from nemo_image_curate import frames
from nemo_image_curate.compute.client import get_client
from nemo_image_curate.compute.devices import usable_cores
from nemo_image_curate.version import __version__

_PACKAGES = (
    "torch",
    "timm",
    "open_clip_torch",
    "faiss-cpu",
    "chromadb",
    "pymilvus",
    "milvus-lite",
    "daachorse",
    "fastapi",
    "streamlit",
    "dask",
    "distributed",
    "pandas",
    "pyarrow",
    "numpy",
    "pillow",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "dask-cudf-cu12",
    "dask-cudf-cu13",
    "cuml-cu12",
    "cuml-cu13",
    "s3fs",
)


def examine() -> dict[str, dict[str, Any]]:
    """Versions, devices, weights and working parts, by heading."""
    from nemo_image_curate.models import weights

    home = weights.home()
    cached = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return {
        "versions": {
            "nemo_image_curate": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "devices": {
            "cores": usable_cores(),
            "bfloat16 on CPU": _attempt(_bfloat16),
            "GPU backend": frames.gpu_problem() or "works",
            "backend in use": _attempt(frames.resolve_backend),
        },
        "weights": {"folder": str(home), "files": ", ".join(cached) or "none yet"},
        "what works": {
            "decode with nvImageCodec": _attempt(_nvimgcodec),
            "decode with DALI": _attempt(_dali),
            "timm": _attempt(_timm),
            "OpenCLIP": _attempt(_open_clip),
            "offline model": _attempt(_offline),
            "offline texts": _attempt(_offline_texts),
            "vector index": _attempt(_faiss),
            "local cluster": _attempt(_cluster),
        },
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _attempt(work: Callable[[], str]) -> str:
    try:
        return work()
    except Exception as error:
        return f"no: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(buffer, "JPEG")
    return buffer.getvalue()


def _decode(decoder: Any) -> str:
    errors = decoder.decode([_picture()]).errors
    return "works" if errors == [None] else f"no: {errors[0]}"


def _preprocessing() -> Any:
    from nemo_image_curate.decode import Preprocessing

    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Preprocessing(32, "shortest", 1.0, "bicubic", zeros, ones)


def _nvimgcodec() -> str:
    from nvidia import nvimgcodec

    from nemo_image_curate.decode.cpu import CpuDecoder

    return f"{_decode(CpuDecoder(_preprocessing()))} ({nvimgcodec.__version__})"


def _dali() -> str:
    from nemo_image_curate.decode.dali import DaliDecoder

    device: Literal["cpu", "gpu"] = "cpu" if frames.gpu_problem() else "gpu"
    return f"{_decode(DaliDecoder(_preprocessing(), device=device, batch_size=1))} on the {device}"


def _timm() -> str:
    from nemo_image_curate.models.torchvision_compat import import_timm

    return f"works, {len(import_timm().list_models())} models"


def _offline() -> str:
    from nemo_image_curate.models.offline import offline_state_dict

    return f"works, {len(offline_state_dict())} tensors"


def _open_clip() -> str:
    from nemo_image_curate.models.open_clip import import_open_clip

    return f"works, {len(import_open_clip().list_models())} models"


def _offline_texts() -> str:
    from nemo_image_curate.models.offline import offline_text_model

    return f"works, {offline_text_model('cpu').encode('a dog').shape[0]} values"


def _faiss() -> str:
    import faiss

    return f"works with {faiss.get_compile_options().strip()}"


def _bfloat16() -> str:
    from nemo_image_curate.compute.devices import has_bfloat16

    return "native" if has_bfloat16("cpu") else "emulated: float32 is used"


def _cluster() -> str:
    with get_client("cpu", n_workers=1, silence_logs=40) as client:
        return f"works: {client.submit(sum, [1, 2]).result() == 3}"
