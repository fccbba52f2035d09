#!/usr/bin/env python3
"""RESULTS.json: what was measured on a GPU; and README's table, which is made from it.

    python ci/gpu/results.py            write the table into README.md
    python ci/gpu/results.py --check    fail when README.md has another one

A figure has a value, a unit, and where there is one its ratio to a limit or a peer that was
measured in the same run. RESULTS names another file; COMMIT the commit where there is no git.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent.parent / "README.md"
BEGIN, END = "<!-- from ci/gpu/RESULTS.json -->\n", "<!-- end -->\n"
PACKAGES = (
    *("torch", "triton", "timm", "dask", "dask-cuda", "cudf-cu12", "cudf-cu13"),
    *("cuvs-cu12", "cuvs-cu13", "nvidia-dali-cuda120", "nvidia-dali-cuda130"),
)
NOT_YET = """\
**Verified on a GPU: not yet.** The GPU code paths (cuDF frames, DALI `mixed` decoding, compiled
blocks, LocalCUDACluster, cuVS) have never run; the DALI graph itself runs in CI in its CPU form.
`bash ci/gpu/run.sh` tests and measures them all on a machine with a GPU: see
[ci/gpu](ci/gpu/README.md).
"""


def path() -> Path:
    """Where the results are."""
    return Path(os.environ.get("RESULTS") or HERE / "RESULTS.json")


def load() -> dict[str, Any]:
    """All that was recorded."""
    empty: dict[str, Any] = {"figures": {}, "tests": {}, "steps": {}}
    return json.loads(path().read_text()) if path().exists() else empty


def store(part: str, name: str, entry: dict[str, Any]) -> None:
    """Add or replace one entry, at once: a run that is cut off has told what it knew."""
    results = load() | machine()
    results[part][name] = entry
    draft = path().with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path())


def record(
    name: str, value: float, unit: str, against: float | None = None, peer: str = ""
) -> None:
    """Add a figure.

    Parameters
    ----------
    name, unit : str
    value : float
    against : float, optional
        A limit or a peer, in the same unit.
    peer : str
        What `against` is.
    """
    figure: dict[str, Any] = {"value": float(f"{value:.4g}"), "unit": unit}
    if against:
        figure |= {"ratio": float(f"{value / against:.3g}"), "to": peer}
    store("figures", name, figure | {"commit": commit()})
    print(f"{name}: {figure}", flush=True)


def known(name: str) -> float | None:
    """The value of a figure that is recorded already."""
    value: float | None = load()["figures"].get(name, {}).get("value")
    return value


def commit() -> str:
    """The short name of the commit that runs."""
    return os.environ.get("COMMIT") or _output(
        "git", "-C", str(HERE), "rev-parse", "--short", "HEAD"
    )


def machine() -> dict[str, Any]:
    """Date, device, driver and versions."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else "no GPU (rehearsal)",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def table() -> str:
    """What README says of the GPU."""
    if not path().exists():
        return NOT_YET
    results = load()
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"**Verified on** {results['device']}, driver {results['driver']}, CUDA {results['cuda']}, "
        f"on {results['date']}: {versions}.\n",
        "| | | ratio | commit |",
        "|---|---|---|---|",
    ]
    for name, entry in results["figures"].items():
        ratio = f"{entry['ratio']:g} of {entry['to']}" if "ratio" in entry else ""
        lines.append(
            f"| {name} | {entry['value']:g} {entry['unit']} | {ratio} | {entry['commit']} |"
        )
    lines += ["", "| tests | passed | failed | skipped | commit |", "|---|---|---|---|---|"]
    for name, entry in results["tests"].items():
        counts = f"{entry['passed']} | {len(entry['failed'])} | {entry['skipped']}"
        lines.append(f"| {name} | {counts} | {entry['commit']} |")
    bad = {name: entry for name, entry in results["steps"].items() if entry["outcome"] != "ok"}
    if bad:
        lines += ["", "| not well | | commit |", "|---|---|---|"]
    for name, entry in bad.items():
        what = "; ".join([entry["outcome"], *results["tests"].get(name, {}).get("failed", ())])
        lines.append(f"| {name} | {what.replace('|', '/')} | {entry['commit']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = README.read_text()
    start = text.index(BEGIN) + len(BEGIN)
    written = text[:start] + table() + text[text.index(END, start) :]
    if "--check" in sys.argv and written != text:
        sys.exit("README.md's table is not that of ci/gpu/RESULTS.json: run ci/gpu/results.py")
    README.write_text(written)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
