"""Looks for inputs that break a reader, guided by coverage, for as long as one likes.

.venv/bin/python ci/fuzz.py TARGET [--seconds N] [--corpus FOLDER]

TARGET is one of tests/hostile/targets.py; needs `pip install atheris`. Each round is a process of
its own, since native code may end it. What is found lies in FOLDER/crash-*; run one again with
`fuzz.py TARGET --again FILE`, and make a test of it beside the module that is at fault.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Of the pure Python that a target goes through; native libraries are not instrumented.
_INSTRUMENTED = [
    "nemo_image_curate.shards",
    "nemo_image_curate.decode",
    "nemo_image_curate.dataset",
]
_INSTRUMENTED += ["nemo_image_curate.expressions", "PIL"]
_MEGABYTES, _SECONDS_AN_INPUT = 4096, 20


def _write_seeds(target: str, corpus: Path) -> None:
    from tests.hostile import seeds

    corpus.mkdir(parents=True, exist_ok=True)
    for content in seeds.of(target):
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)


def _look(target: str, corpus: Path, seconds: int) -> None:
    """One round; does not return."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from tests.hostile import seeds
        from tests.hostile.targets import TARGETS
    # What is loaded when it is first needed counts for no input.
    TARGETS[target](seeds.of(target)[0])
    options = [f"-max_total_time={seconds}", f"-timeout={_SECONDS_AN_INPUT}", "-max_len=65536"]
    options += [f"-rss_limit_mb={_MEGABYTES}", f"-artifact_prefix={corpus.parent}/", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument(
        "--corpus", type=Path, default=Path(tempfile.gettempdir(), "nemo_image_curate-fuzz")
    )
    parser.add_argument("--again", type=Path, help="look at this file only")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if options.again:
        from tests.hostile.targets import TARGETS

        TARGETS[options.target](options.again.read_bytes())
        return
    folder = options.corpus / options.target
    if options.round:
        _look(options.target, folder / "corpus", options.seconds)
        return
    _write_seeds(options.target, folder / "corpus")
    end = time.monotonic() + options.seconds
    while (left := int(end - time.monotonic())) > 0:
        command = [sys.executable, __file__, options.target, "--round", "--seconds", str(left)]
        command += ["--corpus", str(options.corpus)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:], flush=True)
    inputs = list((folder / "corpus").iterdir())
    crashes = sorted(path.name for path in folder.iterdir() if path.is_file())
    print(f"{options.target}: {len(inputs)} inputs with ways of their own; found: {crashes}")


if __name__ == "__main__":
    main()
