"""Runs the page in this process, until standard input ends: that is, as long as its starter.

So nothing is left of it even when the service is killed.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def main() -> None:
    """``python -m nemo_image_curate.serve.page``, with streamlit's options."""
    from streamlit.web import cli

    from nemo_image_curate.serve.page import theme

    threading.Thread(target=_end_with_input, daemon=True).start()
    looks = [f"--{name}={value}" for name, value in theme.options().items()]
    script = str(Path(__file__).with_name("app.py"))
    sys.argv = ["streamlit", "run", script, *looks, *sys.argv[1:]]
    cli.main()


def _end_with_input() -> None:
    # Not sys.stdin: Python could not close it while this thread reads.
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
