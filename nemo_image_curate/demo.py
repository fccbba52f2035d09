"""The whole job on real photographs, offline: pack, embed, measure, filter, deduplicate, export.

The photographs are those that scikit-image and scikit-learn carry. Beside each stand variants
whose truth is known, so that the result can be checked by eye: what should be rejected, and why.
"""

from __future__ import annotations

import io
import shlex
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter, ImageOps

from nemo_image_curate import frames
from nemo_image_curate.compute import progress
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dedup.exact import ExactDedup
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.dedup.semantic import SemanticDedup
from nemo_image_curate.embedders.timm import TimmImageEmbedder
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.expressions.evaluate import matching_rows
from nemo_image_curate.quality.perceptual_hash import PerceptualHash
from nemo_image_curate.quality.statistics import ImageStatistics
from nemo_image_curate.shards.pack import find_images, pack

# Says that a folder's content is a demo's, and may be replaced by the next.
_MARK = ".nemo-image-curate-demo"

# What the demo rejects, in this order; a row counts for the first rule that it breaks.
RULES = {
    "cannot be decoded": "image_error.notna()",
    "too small": "width < 64 or height < 64",
    "too dark": "brightness < 30",
    "blurred": "sharpness < 20",
}

# What is looked for among the rest, in this order: the same file, the same picture (also mirrored),
# a picture of the same. The largest stays.
DUPLICATES: dict[str, ExactDedup | PerceptualDedup | SemanticDedup] = {
    "exact copy": ExactDedup(keep="best", by="width", prefix="exact_"),
    "same picture": PerceptualDedup(flips=True, keep="best", by="width", prefix="perceptual_"),
    "near-duplicate": SemanticDedup(eps=0.1, keep="best", by="width", prefix="semantic_"),
}

CAPTIONS = {
    "astronaut": "portrait of an astronaut in an orange suit before a flag and a shuttle model",
    "chelsea": "close portrait of a tabby cat looking to the side",
    "china": "a colourful Chinese temple roof with trees behind it",
    "coffee": "a cup of coffee with a spoon on a wooden table, seen from above",
    "flower": "a pink flower with many petals in full bloom",
    "hubble_deep_field": "many distant galaxies on the black of deep space",
    "ihc": "stained tissue under a microscope in brown and blue",
    "motorcycle_left": "a motorcycle parked in a garage, seen from the left",
    "motorcycle_right": "a motorcycle parked in a garage, seen from the right",
    "retina": "the retina of a human eye with its blood vessels",
    "rocket": "a rocket on its launch pad at night between four masts",
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo did, as numbers and as a table for people."""

    record: dict[str, Any]
    table: str


def run_demo(folder: str | None, output: str) -> DemoResult:
    """Run the whole job below `output`.

    Parameters
    ----------
    folder : str or None
        Take the pictures in this folder instead of the packages' photographs.
    output : str
        A folder; made when it does not exist. ``shards/`` holds the input, ``metadata/`` all
        rows with all columns, ``curated/`` the result.

    Raises
    ------
    ConfigError
        When the photographs' packages are not installed, or `output` holds other things under
        these names.
    DatasetError
        When `folder` has no images, or `output` cannot be written to.
    """
    base = Path(output).absolute()
    shards, metadata, curated = _clean(base)
    started = time.perf_counter()
    planted = _pack_folder(folder, shards) if folder else pack_photographs(shards)
    dataset = ImageTextPairDataset.from_webdataset(str(shards))
    embedder = TimmImageEmbedder(
        "offline", image_stages=[ImageStatistics(), PerceptualHash(flips=True)]
    )
    embedding_started = time.perf_counter()
    with progress.stage("embed", 1, 3):
        scored = embedder(dataset).save_metadata(str(metadata))
    seconds = time.perf_counter() - embedding_started
    table = frames.to_arrow(scored.metadata.drop(columns="image_embedding").compute())
    rows = table.to_pandas()
    rows["rejected"] = None
    for reason, rule in RULES.items():
        rows.loc[rows.rejected.isna() & matching_rows(table, rule), "rejected"] = reason
    marked = scored.filter(" and ".join(f"not ({rule})" for rule in RULES.values()))
    with progress.stage("dedup", 2, 3):
        for stage in DUPLICATES.values():
            marked = stage(marked)
    flags = {name: f"{stage.prefix}is_duplicate" for name, stage in DUPLICATES.items()}
    decisions = frames.to_arrow(marked.metadata[["key", *flags.values()]].compute()).to_pandas()
    unique = marked.metadata
    for reason, flag in flags.items():
        keys = decisions.loc[decisions[flag].fillna(False).astype(bool), "key"]
        rows.loc[rows.rejected.isna() & rows.key.isin(keys), "rejected"] = reason
        unique = unique[~unique[flag].fillna(False)]
    with progress.stage("export", 3, 3):
        done = marked.replace(unique).to_webdataset(str(curated), old_id_col="old_key")
    record = {
        "samples": len(rows),
        "rejected": {
            reason: int((rows.rejected == reason).sum())
            for reason in (*RULES, *DUPLICATES)
            if (rows.rejected == reason).any()
        },
        "kept": done.samples,
        "images_per_second": round(len(rows) / seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "output": str(curated),
        "metadata": str(metadata),
    }
    if planted:
        record["variants"] = {
            name: dict(sorted(Counter(group.rejected.fillna("kept")).items()))
            for name, group in rows.groupby("variant", sort=False)
        }
    return DemoResult(record, _table(record))


def _clean(base: Path) -> list[Path]:
    """The three folders below `base`, without what an earlier demo left there."""
    folders = [base / name for name in ("shards", "metadata", "curated")]
    mark = base / _MARK
    if not mark.exists() and (taken := [folder for folder in folders if folder.exists()]):
        raise ConfigError(f"{taken[0]} is not of an earlier demo; choose another --output.")
    try:
        base.mkdir(parents=True, exist_ok=True)
        mark.touch()
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        raise DatasetError(f"cannot write to {base}: {error.strerror or error}") from error
    return folders


def _table(record: dict[str, Any]) -> str:
    lines = [f"{'samples in':<28}{record['samples']:>6}"]
    for reason, count in record["rejected"].items():
        lines.append(f"{'  rejected: ' + reason:<28}{count:>6}")
    lines.append(f"{'kept':<28}{record['kept']:>6}")
    rate = record["images_per_second"]
    lines.append(f"{'images per second':<28}{rate:>6}  (with the start of the workers)")
    if variants := record.get("variants"):
        lines += ["", "variant made for the demo   what became of it"]
        for name, outcome in variants.items():
            counts = ", ".join(f"{count} {label}" for label, count in outcome.items())
            lines.append(f"  {name:<26}{counts}")
    lines += ["", f"clean shards   {record['output']}", f"all rows       {record['metadata']}"]
    look = ["nemo-image-curate", "report", record["metadata"], "--output", "report.html"]
    lines += ["", f"look at them   {shlex.join(look)}"]
    return "\n".join(lines)


def _pack_folder(folder: str, shards: Path) -> bool:
    pack(find_images([folder]), shards, samples_per_shard=1000)
    return False


def pack_photographs(shards: Path) -> bool:
    """Pack the packages' photographs in all variants; says that what should be rejected is known.

    Parameters
    ----------
    shards : Path
        An empty or new folder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images, fields, captions = [], {}, {}
        for name, variant, data in _variants():
            path = Path(scratch) / f"{name}-{variant}.jpg"
            path.write_bytes(data)
            images.append((path, path.name))
            fields[path.name] = {"variant": variant}
            captions[path.name] = [CAPTIONS[name]]
        pack(images, shards, captions, samples_per_shard=40, fields=fields)
    return True


def photographs() -> Iterator[tuple[str, Image.Image]]:
    """The names and pictures of the photographs that scikit-image and scikit-learn carry."""
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise ConfigError(
            f"the demo's photographs are not installed ({error}). Install the demo extra: pip "
            "install 'nemo_image_curate[demo]', or give a folder of your own: demo DIR"
        ) from error
    folders = [
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    ]
    for name in sorted(CAPTIONS):
        files = [file for folder in folders for file in folder.glob(f"{name}.*")]
        if files:
            yield name, Image.open(files[0]).convert("RGB")


def _variants() -> Iterator[tuple[str, str, bytes]]:
    for name, photograph in photographs():
        for variant, change in _CHANGES.items():
            yield name, variant, change(photograph)


def _jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _cropped(image: Image.Image) -> bytes:
    width, height = image.size
    return _jpeg(image.crop((width // 10, height // 10, width * 9 // 10, height * 9 // 10)))


def _flipped(image: Image.Image) -> bytes:
    return _jpeg(ImageOps.mirror(image))


def _blurred(image: Image.Image) -> bytes:
    return _jpeg(image.filter(ImageFilter.GaussianBlur(max(image.size) / 40)))


_CHANGES: dict[str, Callable[[Any], bytes]] = {
    "original": _jpeg,
    "copied": _jpeg,
    "resized": lambda image: _jpeg(image.resize((image.width // 2, image.height // 2))),
    "recompressed": lambda image: _jpeg(image, quality=40),
    "cropped": _cropped,
    "flipped": _flipped,
    "blurred": _blurred,
    "dark": lambda image: _jpeg(image.point(lambda value: value * 0.1)),
    "tiny": lambda image: _jpeg(image.resize((40, 30))),
    "truncated": lambda image: _jpeg(image)[:2000],
    "not an image": lambda image: b"<html><body>404 Not Found</body></html>",
}
