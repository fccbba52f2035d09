"""The job of `test_job`: it embeds and exports; its workers note which node embeds what.

python tests/compute/slurm/noted_job.py ROOT OUTPUT NOTES FREE

Each worker process embeds FREE batches and then holds until the file NOTES.go is there, or Slurm
has started the job again.
"""

from __future__ import annotations

import os
import sys
import time

from nemo_image_curate import ImageEmbedder, ImageTextPairDataset, get_client
from nemo_image_curate.decode import Preprocessing


class NotedEmbedder(ImageEmbedder):
    """Averages pixels; appends to a file the restart, the node and what it averages."""

    def __init__(self, notes: str, free: int):
        super().__init__("average")
        # Private attributes are no part of what is computed.
        self._notes = notes
        self._free = free

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(32, "squash", 1.0, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def load_embedding_model(self, device):
        restart = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        node = os.environ.get("SLURMD_NODENAME", "none")
        batches = 0

        def average(pixels):
            nonlocal batches
            batches += 1
            means = pixels.mean(dim=(2, 3))
            with open(self._notes, "a") as file:
                file.write(f"{restart} {node} {means[0].tolist()}\n")
            is_held = restart == 0 and batches > self._free
            while is_held and not os.path.exists(f"{self._notes}.go"):
                time.sleep(0.02)
            return means

        return average


def main(root: str, output: str, notes: str, free: str) -> None:
    n_workers = None if "DASK_SCHEDULER_ADDRESS" in os.environ else 1
    with get_client("cpu", n_workers=n_workers):
        dataset = ImageTextPairDataset.from_webdataset(root)
        saved = NotedEmbedder(notes, int(free))(dataset).save_metadata(f"{output}/metadata")
        kept = saved.filter("score > 2")
        print(kept.to_webdataset(f"{output}/curated", samples_per_shard=4))


if __name__ == "__main__":
    main(*sys.argv[1:])
