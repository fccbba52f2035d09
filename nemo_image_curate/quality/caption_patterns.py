"""Captions that tell nothing of an image: names of files and boilerplate, as patterns with sources.

They are regular expressions of RE2, which takes time in proportion to a text whatever it holds,
and look at captions as `normalised` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.errors import ConfigError

# Zl, Zp and Zs of Unicode, and what ASCII has besides; RE2's own \s is ASCII's.
WHITE_SPACE = r"[\s\x0b\x{85}\p{Z}]+"
# What may stand around a word of boilerplate.
_AROUND = r"[^\p{L}\p{N}]*"
_PICTURE = "(image|photo|picture|photograph|pic|thumbnail)"
_ENDINGS = (
    "jpe?g|jpe|jfif|png|gif|webp|bmp|tiff?|avif|hei[cf]|jp2|jxl|svg|psd|cr2|nef|arw|dng|raw|ppm"
)
_NUMBERED = (
    "_?dsc[fnp]?|_?img|_mg|imag|pict|pxl|gopr|dji|mvi|sam|cimg|hpim|wp|fb_img|whatsapp image|scan|"
    "screen ?shot|image|photo|picture|foto|bild|untitled"
)


@dataclass(frozen=True)
class Pattern:
    """A regular expression, and where such captions were met."""

    regex: str
    source: str


_CLIP = "Radford et al., Learning Transferable Visual Models From Natural Language, 2021, 2.1"
_ALIGN = "Jia et al., Scaling Up Visual and Vision-Language Representation Learning, 2021, 3"
_CONCEPTUAL = "Sharma et al., Conceptual Captions, 2018, 3"
_FACEBOOK = "Facebook's automatic texts"
_CAMERA = "what cameras write into EXIF's ImageDescription"
_PLACEHOLDER = "what publishing systems write where there is no text"
_RIGHTS = "notices of rights and credits"
_ENLARGE = f"as in {_CONCEPTUAL}, in other languages"

FILE_NAMES = (
    Pattern(rf"\S\.({_ENDINGS})$", "the ending of an image at the end"),
    Pattern(rf"^({_NUMBERED})[ _-]*\(?\d[\d _.:-]*( ?\(\d+\)| at [\d.:]+)?\)?$", _CLIP),
    Pattern(r"^\d{6,}([ _-]\d+)*$", f"{_CLIP}: 20160716_113957"),
    Pattern(r"^\d{4}[-_.]\d\d[-_.]\d\d([ _-]\d\d[.:_-]\d\d([.:_-]\d\d)?)?$", "times as names"),
    Pattern(r"^[a-z0-9]+(_[a-z0-9]+)+$", f"{_ALIGN}: alt_img"),
    Pattern(r"^\d{6,}_[0-9a-f]{10}(_[a-z])?$", "Flickr's names of files"),
    Pattern(r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$", "RFC 9562: UUIDs"),
    Pattern(r"^[0-9a-f]{32,}$", "hashes, from MD5 on"),
    Pattern(r"^(https?://|www\.)\S+$", "addresses"),
)
BOILERPLATE = (
    Pattern(
        rf"\b(click|tap|hover)( here| on( the)?)?( {_PICTURE})? (to|for)( the| an?)? "
        r"(enlarge|zoom|view|see|expand|open|larger|full|more|magnify)",
        _CONCEPTUAL,
    ),
    Pattern(
        rf"^(view|see|open|enlarge)( the| a)?( larger| full( |-)?size| full| bigger)? "
        rf"({_PICTURE}|map|size|version)$",
        _CONCEPTUAL,
    ),
    Pattern(r"\bembedded image permalink\b", _CONCEPTUAL),
    Pattern(rf"^(\S+ ){{0,3}}(profile|avatar) {_PICTURE}$|^(user )?avatar$", _CONCEPTUAL),
    Pattern(
        rf"^(royalty[- ]free )?(stock|file|featured|cover|header|product) "
        rf"({_PICTURE}|vector|illustration|footage)s?$",
        _CONCEPTUAL,
    ),
    Pattern(r"^(proudly )?powered by\b", _CONCEPTUAL),
    Pattern(r"^image may contain\b|^no (photo |image )?description available\b", _FACEBOOK),
    Pattern(
        rf"^(no|missing|default|placeholder) {_PICTURE}( available| found| yet)?$", _PLACEHOLDER
    ),
    Pattern(
        rf"^{_PICTURE}s? (is |are )?(not available|unavailable|not found|coming soon|missing)\b",
        _PLACEHOLDER,
    ),
    Pattern(
        rf"^{_AROUND}({_PICTURE}s?|img|logo|icon|thumb|banner|alt|alt text|untitled|unnamed|null|"
        r"none|nan|n/a|undefined|unknown|loading|slide|gallery|fig|figure|caption|title|"
        r"description|foto|fotos|bild|imagen|imagem|immagine|изображение|фото|图片|圖片|画像|이미지)"
        rf"[ #]*\d*{_AROUND}$",
        _PLACEHOLDER,
    ),
    Pattern(rf"^{_AROUND}\d{{2,5}} ?[x×] ?\d{{2,5}}( ?px)?{_AROUND}$", f"{_ALIGN}: 1920x1080"),
    Pattern(
        r"^(olympus|konica minolta|minolta|samsung|kodak)[ _]digital[ _](still[ _])?camera$",
        _CAMERA,
    ),
    Pattern(r"^(exif[ _]jpeg([ _]picture)?|sony dsc|jpeg image)$", _CAMERA),
    Pattern(r"\bf ?/ ?\d{1,2}(\.\d)?\b.{0,40}\b1/\d{1,4} ?s", f"{_CLIP}: exposures"),
    Pattern(r"^(©|\(c\)|copyright\b)|\ball rights reserved\b", _RIGHTS),
    Pattern(rf"^{_PICTURE}s? ?(credits?|courtesy|source|by)( by| of)?:", _RIGHTS),
    Pattern(r"^(share|follow us|like us|tweet|pin it)( this)?( on \S+)?$", "buttons"),
    Pattern(r"vergrößern( klicken)?$|^klicken (sie )?(hier )?(zum|für)\b", _ENLARGE),
    Pattern(r"^cliquez (ici )?pour |^agrandir l.image|^(haga |haz )?clic (aquí )?para ", _ENLARGE),
    Pattern(r"^clique (aqui )?para |^clicca (qui )?per |点击(查看|放大)|點擊(查看|放大)", _ENLARGE),
    Pattern(r"クリックして拡大|クリックで拡大|нажмите,? чтобы", _ENLARGE),
)


def normalised(captions: pa.Array) -> pa.Array:
    """Texts in lower case, in Unicode's form NFKC, one space for white space, none at the ends.

    Parameters
    ----------
    captions : pyarrow.Array of string, length n

    Returns
    -------
    pyarrow.Array of string, length n
    """
    lower = pc.utf8_lower(pc.utf8_normalize(captions, form="NFKC"))
    return pc.utf8_trim(pc.replace_substring_regex(lower, WHITE_SPACE, " "), " ")


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse what is no regular expression of RE2.

    Raises
    ------
    ConfigError
    """
    if isinstance(patterns, str):
        raise ConfigError(f"boilerplate={patterns!r} should be a list of patterns.")
    for pattern in patterns:
        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except (pa.ArrowInvalid, TypeError) as error:
            raise ConfigError(f"boilerplate: {pattern!r} is no pattern of RE2: {error}") from error


def matches(captions: pa.Array, patterns: Sequence[str]) -> pa.Array:
    """Whether any pattern is found in each caption; null for null."""
    return pc.match_substring_regex(captions, "|".join(f"(?:{pattern})" for pattern in patterns))
