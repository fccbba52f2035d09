"""The command ``nemo-image-curate``: parses, calls the library, prints.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from nemo_image_curate.cli import (
    balance,
    compare,
    decontaminate,
    dedup,
    demo,
    doctor,
    embed,
    filter,
    index,
    inspect,
    join,
    learn,
    pack,
    probe,
    report,
    run,
    score,
    search,
    select,
    serve,
    slurm,
    stats,
    zero_shot,
)
from nemo_image_curate.cli.base import main

__all__ = [
    "balance",
    "compare",
    "decontaminate",
    "dedup",
    "demo",
    "doctor",
    "embed",
    "filter",
    "index",
    "inspect",
    "join",
    "learn",
    "main",
    "pack",
    "probe",
    "report",
    "run",
    "score",
    "search",
    "select",
    "serve",
    "slurm",
    "stats",
    "zero_shot",
]
