"""What bytes are that no decoder here takes: said by how they begin."""

from __future__ import annotations

import io

from nemo_image_curate.shards.signatures import (
    BEGIN_BYTES,
    SIGNATURE_BYTES,
    image_ending,
    looks_like,
)

_DEVELOP = "camera raw ({}) is not supported: what a decoder finds is its preview; develop it first"
# TIFF's tags: NewSubfileType, PhotometricInterpretation, Make, SubIFDs, DNGVersion.
_SUBFILE, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _DNG = 254, 262, 271, 330, 50706
# What a sensor saw: a colour filter array, or LinearRaw.
_SENSOR = (32803, 34892)
_MAKERS = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "CANON": "CR2", "SAMSUNG": "SRW"}


def is_heic(data: bytes | memoryview) -> bool:
    """Whether bytes are a HEIF container that Pillow's AVIF decoder is not for."""
    return image_ending(bytes(data[:BEGIN_BYTES])) == "heic"


def is_jpeg_xl(data: bytes | memoryview) -> bool:
    """Whether bytes are JPEG XL, bare or in its container."""
    return image_ending(bytes(data[:SIGNATURE_BYTES])) == "jxl"


def camera_raw(data: bytes | memoryview) -> str | None:
    """Why a TIFF is not to be decoded: it is a camera's raw file, and its first picture a preview.

    Parameters
    ----------
    data : bytes or memoryview
        What begins as a TIFF does.

    Returns
    -------
    str or None
        None for an ordinary TIFF, and for one whose directory cannot be read.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        directory = ImageFileDirectory_v2(bytes(data[:8]))
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        make = str(directory.get(_MAKE, "")).upper()
        name = next((kind for maker, kind in _MAKERS.items() if maker in make), make or "TIFF")
        if _DNG in directory:
            name = "DNG"
        elif bytes(data[8:10]) == b"CR":
            name = "CR2"
        elif directory.get(_PHOTOMETRIC) not in _SENSOR and not (
            # A small picture first and the large ones below it: NEF, ARW.
            int(directory.get(_SUBFILE, 0)) & 1 and _SUB_IFDS in directory
        ):
            return None
    except MemoryError:
        raise
    # Parsers of untrusted bytes raise whatever they stumble over.
    except Exception:
        return None
    return _DEVELOP.format(name)


def not_an_image(data: bytes | memoryview) -> str:
    """A reason that says what bytes look like that are no image."""
    kind = looks_like(bytes(data[:BEGIN_BYTES]))
    return f"not an image ({f'looks like {kind}' if kind else f'first bytes {data[:8].hex()}'})"
