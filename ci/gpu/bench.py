"""GPU benchmarks; each step writes its figures into RESULTS.json beside this file as it ends.

    python ci/gpu/bench.py [matmul fidelity forward decode embed frames texts dedup index]
    python ci/gpu/bench.py --tests JUNIT.xml        record the outcome of a test run

A figure has a value, a unit, and its ratio to the limit measured in the same run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.json"
MODEL = "vit_large_patch14_clip_quickgelu_224.openai"
# Multiply-adds of ViT-L/14 at 224 x 224 (Radford et al. 2021 give 80.7 GMACs; fvcore 77.8), twice.
FLOP_PER_IMAGE = 2 * 77.8e9
PACKAGES = (
    "torch",
    "timm",
    "dask",
    "cudf-cu12",
    "cudf-cu13",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "cupy-cuda12x",
    "cupy-cuda13x",
)

sys.path.insert(0, str(HERE.parent / "bench"))


def record(name: str, value: float, unit: str, ratio: float | None = None, limit: str = "") -> None:
    """Add one figure to the results at once."""
    import torch

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": {}}
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    results |= {
        "date": datetime.date.today().isoformat(),
        "commit": _output(git),
        "device": torch.cuda.get_device_name(),
        "driver": _output(driver),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }
    figure = {"value": round(value, 4), "unit": unit}
    if ratio is not None:
        figure |= {"ratio": round(ratio, 4), "limit": limit}
    results["figures"][name] = figure
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(name, figure, flush=True)


def known(name: str) -> float | None:
    """A figure that an earlier step of this file's results gave."""
    figures = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else {}
    return figures.get(name, {}).get("value")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _rate(work, count: int, least_seconds: float = 3.0) -> float:
    """Items per second of `work`, which does `count` of them, after a warm-up."""
    import torch

    work()
    torch.cuda.synchronize()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < least_seconds:
        work()
        torch.cuda.synchronize()
        done += count
    return done / (time.perf_counter() - began)


def matmul() -> None:
    """The limit behind every forward pass."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = _rate(lambda: [a @ b for _ in range(10)], 10)
    record("bf16 matmul 8192^3", rate * 2 * 8192**3 / 1e12, "TFLOP/s")


def forward() -> None:
    """The model alone, on tensors that are decoded already."""
    import torch

    from nemo_image_curate import TimmImageEmbedder

    run = TimmImageEmbedder(MODEL).load_embedding_model("cuda")
    pixels = torch.randn(256, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        rate = _rate(lambda: run(pixels), 256)
    peak = known("bf16 matmul 8192^3")
    ratio = rate * FLOP_PER_IMAGE / 1e12 / peak if peak else None
    record("ViT-L/14 bare forward", rate, "images/s", ratio, "bf16 matmul peak")


def decode() -> None:
    """DALI alone: encoded bytes to normalised tensors on the device."""
    from data import photographs

    from nemo_image_curate import TimmImageEmbedder
    from nemo_image_curate.decode import image_decoder
    from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS

    spec = TimmImageEmbedder(MODEL).preprocessing()
    decoder = image_decoder(
        spec,
        "cuda",
        num_threads=8,
        batch_size=256,
        max_pixels=DEFAULT_MAX_PIXELS,
        thumbnail_sizes=(),
    )
    images = photographs(256, 512)
    record("DALI decode, 512 px JPEG", _rate(lambda: decoder.decode(images), 256), "images/s")


def fidelity() -> None:
    """Embeddings against Pillow and timm's transform in float32."""
    import io

    import numpy as np
    import torch
    from data import photographs
    from PIL import Image

    from nemo_image_curate import TimmImageEmbedder
    from nemo_image_curate.decode import image_decoder
    from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS
    from nemo_image_curate.models.torchvision_compat import import_timm

    timm = import_timm()
    embedder = TimmImageEmbedder("offline")
    model = embedder.build_model().eval().cuda()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = photographs(128, 512)
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
    decoder = image_decoder(
        embedder.preprocessing(),
        "cuda",
        num_threads=8,
        batch_size=128,
        max_pixels=DEFAULT_MAX_PIXELS,
        thumbnail_sizes=(),
    )
    run = embedder.load_embedding_model("cuda")
    with torch.inference_mode():
        expected = model(torch.stack([transform(picture) for picture in pictures]).cuda())
        found = run(decoder.decode(images).pixels)
    cosine = torch.nn.functional.cosine_similarity(expected.float(), found).cpu().numpy()
    record("fidelity, mean cosine", float(np.mean(cosine)), "cosine", None)
    record("fidelity, min cosine", float(np.min(cosine)), "cosine", None)


def embed() -> None:
    """Tar on a local disk to embedding column in Parquet."""
    from data import photographs, write_shards

    from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder, get_client

    with tempfile.TemporaryDirectory() as scratch, get_client("gpu"):
        few, many = Path(scratch) / "few", Path(scratch) / "many"
        pool = photographs(512, 320)
        write_shards(few, pool, 512)
        write_shards(many, pool, 4096, repeat=64)
        for shards, images in ((few, 512), (many, 512 * 64)):
            output = Path(scratch) / "out"
            shutil.rmtree(output, ignore_errors=True)
            dataset = ImageTextPairDataset.from_webdataset(str(shards), backend="gpu")
            began = time.perf_counter()
            TimmImageEmbedder(MODEL, num_threads_per_worker=8)(dataset).save_metadata(str(output))
            rate = images / (time.perf_counter() - began)
    bare = known("ViT-L/14 bare forward")
    record(
        "ViT-L/14 tar to Parquet", rate, "images/s", rate / bare if bare else None, "bare forward"
    )


def frames() -> None:
    """An embedding column to Arrow and back, on the device."""
    import torch

    from nemo_image_curate import frames as backends

    values = torch.randn(200_000, 768, device="cuda")
    column = backends.embedding_column(values, range(len(values)), len(values))
    array, _ = backends.embedding_array(column)
    same = float((torch.as_tensor(array, device="cuda") == values).all())
    record("cuDF embedding column round trip is exact", same, "1 = yes")
    rate = _rate(lambda: backends.embedding_array(column), len(values))
    record("cuDF column to array, 768 wide", rate, "rows/s")


def dedup() -> None:
    """Semantic deduplication, from embeddings in Parquet to decisions, at two sizes."""
    import dedup as peers

    from nemo_image_curate import ImageTextPairDataset, SemanticDedup, get_client

    for n in (1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory() as scratch, get_client("gpu"):
            shards = Path(scratch) / "shards"
            peers.write(shards, peers.vectors(n, 768))
            dataset = ImageTextPairDataset.from_webdataset(shards, backend="gpu")
            stage = SemanticDedup(work_dir=Path(scratch) / "work")
            cost = stage.estimate_cost(dataset)
            began = time.perf_counter()
            clusters = stage.cluster(dataset)
            clusters.extract()
            seconds = time.perf_counter() - began
            recall = clusters.estimate_recall().recall
        peak, done = known("bf16 matmul 8192^3"), 2 * cost.multiply_adds / seconds / 1e12
        share = done / peak if peak else None
        record(f"dedup of {n} x 768", seconds, "s", share, "bf16 matmul")
        record(f"dedup of {n} x 768, recall", recall or 0.0, "share of true pairs")


def texts() -> None:
    """Captions through the text tower of CLIP ViT-L/14 (random weights; the same work)."""
    from nemo_image_curate import OpenCLIPEmbedder

    embedder = OpenCLIPEmbedder("ViT-L-14")
    captions = [
        f"a dog runs on the beach with red ball number {n} in its mouth" for n in range(4096)
    ]
    rate = _rate(lambda: embedder.embed_text(captions, "cuda"), len(captions))
    record("ViT-L/14 captions, text to embedding", rate, "captions/s")


def index() -> None:
    """Indexes of 10 million vectors: build, one query at a time, recall."""
    import dedup as peers

    from nemo_image_curate import ImageTextPairDataset, build_index, get_client

    n, dim = 10_000_000, 512
    with tempfile.TemporaryDirectory() as scratch, get_client("gpu"):
        shards = Path(scratch) / "shards"
        peers.write(shards, peers.vectors(n, dim))
        dataset = ImageTextPairDataset.from_webdataset(shards, backend="gpu")
        for kind in ("cuvs", "ivf"):
            began = time.perf_counter()
            built = build_index(dataset, kind=kind, path=Path(scratch) / kind)
            record(f"{kind} index of {n} x {dim}, build", time.perf_counter() - began, "s")
            record(f"{kind} index, recall@10", built.recipe["recall"], "share of true neighbours")
            _query(kind, built, built.vectors(list(range(0, n, n // 1000))))


def _query(kind: str, built, queries) -> None:
    rate = _rate(lambda: [built.search(one[None], 10) for one in queries], len(queries))
    record(f"{kind} index, queries one at a time", rate, "queries/s")
    rate = _rate(lambda: built.search(queries, 10), len(queries))
    record(f"{kind} index, queries of 1,000", rate, "queries/s")


STEPS = {
    step.__name__: step
    for step in (matmul, fidelity, forward, decode, embed, frames, texts, dedup, index)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []])
    parser.add_argument("--tests", metavar="JUNIT.xml")
    options = parser.parse_args()
    if options.tests:
        suite = xml.etree.ElementTree.parse(options.tests).getroot().find("testsuite")
        assert suite is not None
        for outcome in ("tests", "failures", "errors", "skipped"):
            record(f"GPU tests: {outcome}", float(suite.get(outcome, 0)), "count")
        return
    failed = []
    for name in options.steps or STEPS:
        try:
            STEPS[name]()
        except Exception as error:
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
