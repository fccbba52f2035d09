"""The script that people write today: webdataset, Pillow, timm's transform, float32, DataLoader.

    python plain_script.py MODEL SHARDS OUTPUT.npy

Prints images and seconds, from the first batch asked for to the file written.
"""

from __future__ import annotations

import glob
import os
import sys
import time

import numpy as np
import torch
import webdataset

from nemo_image_curate.embedders.timm import TimmImageEmbedder
from nemo_image_curate.models.torchvision_compat import import_timm


def main(name: str, shards: str, output: str) -> None:
    timm = import_timm()
    model = TimmImageEmbedder(name).build_model().eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    urls = sorted(glob.glob(f"{shards}/*.tar"))
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(lambda image: transform(image.convert("RGB")))
    )
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=64, num_workers=len(os.sched_getaffinity(0))
    )
    began, batches = time.perf_counter(), []
    with torch.inference_mode():
        for (pixels,) in loader:
            batches.append(torch.nn.functional.normalize(model(pixels), dim=1).numpy())
    embeddings = np.concatenate(batches)
    np.save(output, embeddings)
    print(len(embeddings), time.perf_counter() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
