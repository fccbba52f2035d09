"""nvImageCodec, on which DALI's decoder is built, too."""

from __future__ import annotations

import os
from typing import Any

from nemo_image_curate.decode.header import ImageHeader


def load() -> Any:
    """The module, which is there where DALI is.

    Raises
    ------
    ImportError
    """
    # Else it prints a line for every image that it cannot read.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    from nvidia import nvimgcodec

    return nvimgcodec


def can_parse(encoded: bytes | memoryview, header: ImageHeader) -> bool:
    """Whether its parser sees in a file what Pillow does.

    It refuses, as libjpeg does not, stray bytes between the markers of a JPEG, and one without a
    scan. DALI 2.4 is not prepared for that: with 32 images and more it reads headers in several
    threads, leaves them at the first that is refused, and the process dies of a segmentation fault
    (``setup_task`` in its ``image_decoder.h``).
    """
    try:
        stream = load().CodeStream(bytes(encoded))
        return (stream.width, stream.height) == (header.width, header.height)
    except (ImportError, MemoryError):
        raise
    # It says with exceptions of several kinds that it cannot read a file.
    except Exception:
        return False
