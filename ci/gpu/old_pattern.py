"""How images are embedded on GPUs today: the peer that `embed` is compared with.

    python old_pattern.py MODEL SHARDS OUTPUT

After the description of NVIDIA NeMo Curator 0.x: for each tar a DALI pipeline is built anew, with
DALI's WebDataset reader; it is run synchronously, one batch after the other; the model runs eagerly
in float32 under autocast; each tar's embeddings become a cuDF column of one Parquet file. Prints
images and seconds, less those of the first tar, in which libraries are loaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setting import BACKEND, DEVICE, wait

from nemo_image_curate import Preprocessing


def main(name: str, shards: str, output: str) -> None:
    import pyarrow.parquet as pq
    import torch

    from nemo_image_curate import TimmImageEmbedder, frames

    embedder = TimmImageEmbedder(name)
    spec = embedder.preprocessing()
    model = embedder.build_model().eval().to(DEVICE)
    out = Path(output)
    out.mkdir(parents=True)
    for number, tar in enumerate(sorted(Path(shards).glob("*.tar"))):
        if number < 2:
            began, count = time.perf_counter(), 0
        table = pq.read_table(tar.with_suffix(".parquet"))
        batches = []
        for pixels in _batches(str(tar), len(table), spec):
            with torch.inference_mode(), torch.autocast(DEVICE):
                batches.append(torch.nn.functional.normalize(model(pixels).float(), dim=1))
            wait()
        values = torch.cat(batches)[: len(table)]
        column = frames.embedding_column(
            values if BACKEND == "gpu" else values.numpy(), range(len(table)), len(table)
        )
        frame = frames.with_columns(frames.from_arrow(table, BACKEND), {"image_embedding": column})
        frame.to_parquet(out / f"{tar.stem}.parquet")
        count += len(table)
    print(count, time.perf_counter() - began)


def _batches(tar: str, rows: int, spec: Preprocessing, batch: int = 256) -> Iterator[Any]:
    import torch
    from nvidia.dali import fn, pipeline_def, types

    on_gpu = DEVICE != "cpu"

    def graph() -> Any:
        encoded = fn.readers.webdataset(paths=tar, ext=["jpg"], missing_component_behavior="error")
        images = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu")
        images = fn.resize(images, resize_shorter=spec.size, interp_type=types.INTERP_CUBIC)
        return fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            crop=(spec.size, spec.size),
            mean=[255 * value for value in spec.mean],
            std=[255 * value for value in spec.std],
        )

    built = pipeline_def(graph)(batch_size=batch, num_threads=4, device_id=0 if on_gpu else None)
    built.build()
    for _ in range(-(-rows // batch)):
        (output,) = built.run()
        dense = output.as_tensor()
        yield torch.utils.dlpack.from_dlpack(dense).clone().to(DEVICE)


if __name__ == "__main__":
    main(*sys.argv[1:])
