"""All benchmarks, one command: prints ratios of the same run and keeps them in RESULTS.md.

.venv/bin/python ci/bench/run.py [embed export index memory startup] [--rounds N]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("embed", "export", "index", "memory", "startup")


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    model = models[0] if models else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB"


def _matmul() -> str:
    """What the machine's matrix products give: the limit behind every forward pass."""
    import time

    import torch

    found = []
    for kind in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, 2048).to(kind)
        a @ a
        began = time.perf_counter()
        for _ in range(8):
            a @ a
        found.append(8 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return f"matmul {found[0]:.0f} GFLOP/s in float32, {found[1]:.0f} in bfloat16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        f"{datetime.date.today()}, commit {commit}, {_machine()}; {_matmul()}.",
        "",
        "| what | ours | peer | ratio | bar | met |",
        "|---|---|---|---|---|---|",
    ]
    for part in options.parts:
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            for row in importlib.import_module(part).run(Path(scratch), options.rounds):
                met = "yes" if row["met"] else "**no**"
                lines.append(
                    f"| {row['what']} | {row['ours']} | {row['peer']} | {row['ratio']:.2f} "
                    f"| {row['bar']} | {met} |"
                )
                print(lines[-1], flush=True)
    heading = "# Benchmarks\n\nOne command, `ci/bench/run.py`; each ratio is of the same run.\n\n"
    (HERE / "RESULTS.md").write_text(heading + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
