"""Feeds damaged files to a target, in a process of its own that may crash.

``python -m tests.hostile.damage TARGET=COUNT ... [--seed N]`` prints a line of JSON for each
target. What was looked at last lies in ``--last``, so that what ended the process is known.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.hostile import seeds
from tests.hostile.mutations import mutated
from tests.hostile.targets import TARGETS

# Of files of a few kB, however they are damaged: a hundred times of what the worst takes.
_MOST_SECONDS, _MOST_MEGABYTES = 5.0, 200.0
# Beyond what the process has when it starts: without it a bomb would take the machine.
_ROOM = 4 * 2**30


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run(target: str, contents: Sequence[bytes], last: Path) -> dict[str, object]:
    """What came of the calls of a target: seconds of a processor, memory, the first failure."""
    look = TARGETS[target]
    slowest, most, began = 0.0, 0.0, time.process_time()
    for content in contents:
        last.write_bytes(content)
        before, peak = time.process_time(), _peak_megabytes()
        try:
            look(content)
        except Exception:
            return {"target": target, "failure": traceback.format_exc(), "last": str(last)}
        slowest = max(slowest, time.process_time() - before)
        most = max(most, _peak_megabytes() - peak)
        if slowest > _MOST_SECONDS or most > _MOST_MEGABYTES:
            failure = f"took {slowest:.1f} s and {most:.0f} MB"
            return {"target": target, "failure": failure, "last": str(last)}
    seconds = time.process_time() - began
    return {"target": target, "inputs": len(contents), "seconds": seconds, "failure": None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--last", type=Path, required=True)
    options = parser.parse_args()
    faulthandler.enable()
    for number, target in enumerate(options.targets):
        name, _, count = target.partition("=")
        files = seeds.of(name)
        # Whole files first: also what is loaded when it is first needed is there then.
        result = run(name, files, options.last)
        if not number:
            _limit_memory()
        if result["failure"] is None:
            draw = random.Random(f"{name} {options.seed}")
            damaged = (mutated(files, draw) for _ in range(int(count)))
            result = run(name, list(damaged), options.last)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
