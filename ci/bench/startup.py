"""Seconds of ``import nemo_image_curate`` and of ``nemo-image-curate --help``, in new processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    commands = {
        "import nemo_image_curate": (["-c", "import nemo_image_curate"], 0.3),
        "nemo-image-curate --help": (["-m", "nemo_image_curate.cli", "--help"], 0.5),
    }
    results = []
    for name, (arguments, bar) in commands.items():
        times, empty = [], []
        for _ in range(5):
            times.append(_seconds(arguments))
            empty.append(_seconds(["-c", ""]))
        seconds = statistics.median(times)
        results.append(
            {
                "what": f"{name} / python alone",
                "ours": f"{seconds:.2f} s",
                "peer": f"{statistics.median(empty):.2f} s",
                "ratio": seconds / statistics.median(empty),
                "bar": f"< {bar} s",
                "met": seconds < bar,
            }
        )
    return results


def _seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began
