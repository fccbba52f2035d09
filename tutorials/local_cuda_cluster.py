"""One script for a laptop, a machine with GPUs and a cluster: only the client changes.

    python tutorials/local_cuda_cluster.py cpu SHARDS OUTPUT      a process for each core
    python tutorials/local_cuda_cluster.py gpu SHARDS OUTPUT      a worker for each GPU
    sbatch tutorials/slurm/curate.sbatch python tutorials/local_cuda_cluster.py gpu SHARDS OUTPUT

It embeds all images, removes those that show much the same, and writes the rest as new shards.
"""

from __future__ import annotations

import sys

from nemo_image_curate import (
    ImageTextPairDataset,
    SemanticDedup,
    TimmImageEmbedder,
    get_client,
)


def main(kind: str, shards: str, output: str) -> None:
    # "gpu" starts a LocalCUDACluster, "cpu" a LocalCluster. In a job of Slurm neither is started:
    # get_client then connects to the workers on the job's nodes. To those of any other scheduler:
    # get_client(scheduler_address="tcp://...") or get_client(scheduler_file="scheduler.json").
    with get_client(kind):
        dataset = ImageTextPairDataset.from_webdataset(shards, backend=kind)
        # CLIP: TimmImageEmbedder("vit_large_patch14_clip_quickgelu_224.openai", pretrained=True).
        embedder = TimmImageEmbedder("offline")
        dataset = embedder(dataset).save_metadata(f"{output}/metadata")
        dataset = SemanticDedup(eps=0.1)(dataset).save_metadata(f"{output}/deduplicated")
        print(dataset.filter("not is_duplicate").to_webdataset(f"{output}/curated"))


if __name__ == "__main__":
    main(*sys.argv[1:])
