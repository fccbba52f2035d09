"""Peak memory of embed and export at 1x and 8x the data, driver and workers together.

python memory.py embed|export SHARDS OUTPUT      one measurement, in a process of its own
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from data import photographs, write_shards
from distributed import Client

from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder, get_client


def peak_of_this() -> float:
    """Peak resident memory in MB of this process.

    Not getrusage's, which a process inherits from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peak_of_all(client: Client) -> float:
    """Peak resident memory in MB of this process and its workers, added up."""
    return peak_of_this() + float(sum(client.run(peak_of_this).values()))


def measure(task: str, shards: str, output: str) -> float:
    """Peak resident memory in MB of this process and its workers."""
    with get_client("cpu") as client:
        dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
        if task == "embed":
            TimmImageEmbedder("offline")(dataset).save_metadata(output, progress=False)
        else:
            dataset.to_webdataset(output, samples_per_shard=64, progress=False)
        return peak_of_all(client)


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    pool = photographs(128, 640)
    results = []
    for task in ("embed", "export"):
        peaks = []
        for times in (1, 8):
            shards = scratch / f"memory-{times}"
            write_shards(shards, pool, 64, repeat=times * 2)
            command = [sys.executable, __file__, task, shards, scratch / f"memory-{task}-{times}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.append(float(done.stdout.split()[-1]))
        results.append(
            {
                "what": f"peak memory of {task}, 8x / 1x the data",
                "ours": f"{peaks[1]:.0f} MB",
                "peer": f"{peaks[0]:.0f} MB",
                "ratio": peaks[1] / peaks[0],
                "bar": "<= 1.1",
                "met": peaks[1] / peaks[0] <= 1.1,
            }
        )
    return results


if __name__ == "__main__":
    print(measure(*sys.argv[1:]))
