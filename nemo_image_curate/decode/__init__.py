"""Encoded bytes become pixels, with a reason for each image that fails; knows no dataset."""

from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.cpu import CpuDecoder
from nemo_image_curate.decode.dali import DaliDecoder
from nemo_image_curate.decode.decoder import Decoder, image_decoder
from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    ImageHeader,
    check_pixels,
    read_header,
)
from nemo_image_curate.decode.pillow import decode_image, decode_rgb
from nemo_image_curate.decode.preprocessing import Preprocessing

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "CpuDecoder",
    "DaliDecoder",
    "DecodedBatch",
    "Decoder",
    "ImageHeader",
    "Preprocessing",
    "check_pixels",
    "decode_image",
    "decode_rgb",
    "image_decoder",
    "read_header",
]
