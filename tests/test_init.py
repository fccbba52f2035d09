"""The public names, and that importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nemo_image_curate
from nemo_image_curate.cli import main

HEAVY = (
    "torch dask distributed pandas timm numpy pyarrow PIL fsspec torchvision sklearn scipy faiss "
    "chromadb dask.dataframe pymilvus"
)


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that some code imports in a fresh process."""
    tell = f"import sys; print(*(name for name in {HEAVY.split()!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"], check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import nemo_image_curate; nemo_image_curate.__version__; dir(nemo_image_curate)",
        "import nemo_image_curate.cli",
        "import nemo_image_curate.errors",
        "from nemo_image_curate.cli import main; main(['--help'], standalone_mode=False)",
    ],
)
def test_importing_loads_nothing_heavy(code):
    assert loaded_by(code) == set()


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_of_a_command_loads_nothing_heavy(command):
    code = (
        "from nemo_image_curate.cli import main\n"
        f"main([{command!r}, '--help'], standalone_mode=False)"
    )
    assert loaded_by(code) == set()


def test_stages_are_declared_without_loading_a_model_library():
    code = (
        "from nemo_image_curate import *\n"
        "TimmImageEmbedder('offline', classifiers=[AestheticClassifier(), NsfwClassifier()], "
        "image_stages=[ImageStatistics()])"
    )
    # Every worker imports what a script does.
    light = {"dask", "pandas", "numpy", "pyarrow", "PIL", "fsspec"}
    assert loaded_by(code) <= light


def test_all_public_names_are_there():
    assert sorted(nemo_image_curate.__all__) == nemo_image_curate.__all__
    for name in nemo_image_curate.__all__:
        assert getattr(nemo_image_curate, name) is not None
    assert dir(nemo_image_curate) == nemo_image_curate.__all__
    with pytest.raises(AttributeError, match="Nonsense"):
        nemo_image_curate.Nonsense  # noqa: B018
