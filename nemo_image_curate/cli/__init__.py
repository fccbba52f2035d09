"""The command ``nemo-image-curate``: parses, calls the library, prints.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from nemo_image_curate.cli import columns, duplicates, samples, searching, trying
from nemo_image_curate.cli.base import main

__all__ = ["columns", "duplicates", "main", "samples", "searching", "trying"]
