"""All benchmarks, one command: ratios of the same run, kept in RESULTS.md part by part.

.venv/bin/python ci/bench/run.py [PART ...] [--rounds N]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PARTS = (
    *("startup", "index", "embed", "delta", "many", "export", "scaling", "traffic", "memory"),
    *("quality", "perceptual", "dedup", "decontaminate", "balance", "clip_loss", "choices"),
    *("concepts", "threshold", "growth", "search", "milvus", "serve", "page", "look", "report"),
)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    model = models[0] if models else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB"


def _matmul() -> str:
    """What the machine's matrix products give: the limit behind every forward pass."""
    import torch

    from nemo_image_curate.compute.devices import has_bfloat16

    rates = {}
    # Emulated, bfloat16 would take minutes.
    for kind in (torch.float32, torch.bfloat16)[: 2 if has_bfloat16("cpu") else 1]:
        a = torch.randn(2048, 2048).to(kind)
        a @ a
        began = time.perf_counter()
        for _ in range(8):
            a @ a
        rate = 8 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9
        rates[str(kind).removeprefix("torch.")] = f"{rate:.0f} GFLOP/s"
    return "matmul " + ", ".join(f"{rate} in {kind}" for kind, rate in rates.items())


def _write(part: str, lines: list[str]) -> None:
    """Put one part's section into RESULTS.md in place of its last one."""
    results = HERE / "RESULTS.md"
    sections = results.read_text().split("\n## ")[1:] if results.exists() else []
    section_of = {section.split("\n", 1)[0]: section for section in sections}
    section_of[part] = "\n".join([part, "", *lines, ""])
    heading = "# Benchmarks\n\nMade by `ci/bench/run.py`; each ratio is of the same run.\n"
    ordered = [section_of[name] for name in PARTS if name in section_of]
    results.write_text("\n## ".join([heading, *ordered]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    for part in options.parts or PARTS:
        lines = [
            f"{datetime.date.today()}, commit {commit}, {_machine()}; {_matmul()}.",
            "",
            "| what | ours | peer | ratio | bar | met |",
            "|---|---|---|---|---|---|",
        ]
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            for row in importlib.import_module(part).run(Path(scratch), options.rounds):
                met = "yes" if row["met"] else "**no**"
                lines.append(
                    f"| {row['what']} | {row['ours']} | {row['peer']} | {row['ratio']:.2f} "
                    f"| {row['bar']} | {met} |"
                )
                print(lines[-1], flush=True)
        _write(part, lines)


if __name__ == "__main__":
    main()
