"""The job that `test_kill` kills: embed, save, deduplicate, export; it notes what it embeds.

python -m tests.kill_job ROOT OUTPUT LOG RUN WORKERS
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext

from nemo_image_curate import ImageEmbedder, ImageTextPairDataset, SemanticDedup, get_client
from nemo_image_curate.decode import Preprocessing


class NotedEmbedder(ImageEmbedder):
    """Averages pixels, slowly, and appends a line for each batch to a log file."""

    def __init__(self, log: str, run: str):
        super().__init__("average")
        # Private attributes are no part of what is computed.
        self._log = log
        self._run = run

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(32, "squash", 1.0, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def load_embedding_model(self, device):
        def average(pixels):
            time.sleep(0.03)
            means = pixels.mean(dim=(2, 3))
            # The first image's mean tells which shard this batch is of.
            line = f"{self._run} {means[0].tolist()}\n"
            with open(self._log, "a") as file:
                file.write(line)
            return means

        return average


def job(root: str, output: str, log: str, run: str) -> None:
    dataset = ImageTextPairDataset.from_webdataset(root, backend="cpu")
    saved = NotedEmbedder(log, run)(dataset).save_metadata(f"{output}/metadata", progress=False)
    dedup = SemanticDedup(0.001, n_clusters=4, keep="first", work_dir=f"{output}-work")
    marked = dedup(saved).save_metadata(f"{output}/deduplicated", progress=False)
    kept = marked.filter("score > 2 and not is_duplicate")
    kept.to_webdataset(f"{output}/curated", samples_per_shard=7, progress=False)


def run() -> None:
    root, output, log, number, workers = sys.argv[1:]
    client = get_client("cpu", n_workers=int(workers)) if workers != "0" else nullcontext()
    with client:
        print("began", flush=True)
        began = time.monotonic()
        job(root, output, log, number)
        print("finished", time.monotonic() - began, flush=True)


if __name__ == "__main__":
    # Under its own name, so that workers can import what they are sent.
    from tests import kill_job

    kill_job.run()
