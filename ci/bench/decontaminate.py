"""A million embeddings against ten thousand, by cosine: against the bare products.

Ours is the whole stage, from embeddings in Parquet to decisions on disk, references read too. The
limit is what torch takes for the same products, in memory, in bfloat16 where the CPU has it, with
a thread for each core, and nothing done with them.

python decontaminate.py ROWS      the same with fewer rows
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from dedup import DIM, vectors, write
from rows import row

from nemo_image_curate import Decontaminate, ImageTextPairDataset, get_client
from nemo_image_curate.compute.devices import usable_cores

ROWS, REFERENCES = 1_000_000, 10_000
BAR = 0.7


def ours(pool: Path, reference: Path, work: Path) -> float:
    """Seconds of the stage, with workers that have started."""
    shutil.rmtree(work, ignore_errors=True)
    dataset = ImageTextPairDataset.from_webdataset(pool, backend="cpu")
    stage = Decontaminate({"reference": reference}, "semantic", flips=False, work_dir=work)
    began = time.perf_counter()
    stage(dataset)
    return time.perf_counter() - began


def bare(rows: int) -> float:
    """Seconds of the products alone, measured on a tenth of them at most."""
    import torch

    from nemo_image_curate.vectors.nearest import coarse

    torch.set_num_threads(usable_cores())
    queries = coarse(torch.from_numpy(vectors(REFERENCES)))
    columns = coarse(torch.from_numpy(vectors(REFERENCES)[::-1].copy())).T
    queries @ columns
    times = []
    for _ in range(max(1, min(10, rows // REFERENCES // 10))):
        began = time.perf_counter()
        queries @ columns
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * rows / REFERENCES


def run(scratch: Path, rounds: int, rows: int = ROWS) -> list[dict[str, Any]]:
    pool, reference, work = (scratch / name for name in ("pool", "reference", "work"))
    x = vectors(rows + REFERENCES)
    write(reference, x[:REFERENCES])
    write(pool, x[REFERENCES:])
    del x
    times, limit = [], []
    with get_client("cpu"):
        # The first run starts the workers.
        ours(reference, reference, work)
        for _ in range(rounds):
            limit.append(bare(rows))
            times.append(ours(pool, reference, work))
    seconds, least = float(np.median(times)), float(np.median(limit))
    rate = 2 * rows * REFERENCES * DIM / seconds / 1e9
    label = f"bare products / decontaminate {rows:,} x {DIM} against {REFERENCES:,}"
    return [
        row(f"{label} ({rate:.0f} GFLOP/s)", least, seconds, f">= {BAR}", least / seconds >= BAR)
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(run(Path(folder), 1, int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
