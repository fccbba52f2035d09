"""Steps with images: decoding, and the whole pass from tar to Parquet."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from compute import BARE, BARE_SMALL
from results import known, record
from setting import (
    BACKEND,
    DEVICE,
    LARGE,
    REHEARSAL,
    SMALL,
    client,
    device_memory,
    full,
    rate,
    scratch,
)

from nemo_image_curate.compute import worker_cache

DECODE = "decode, 500 px JPEG"
RAW = "DALI alone, 500 px JPEG"
WHOLE = "ViT-L/14, tar to Parquet"
BATCH = full(256, 8)


def decoder(spec: Any, threads: int = 8) -> Any:
    """The product's decoder; in a rehearsal the same graph on a CPU."""
    from nemo_image_curate.decode.dali import DaliDecoder

    return DaliDecoder(spec, device=BACKEND, batch_size=BATCH, num_threads=threads)


def fidelity() -> None:
    """Embeddings against Pillow and timm's transform in float32."""
    import torch
    from data import photographs
    from PIL import Image

    from nemo_image_curate import TimmImageEmbedder
    from nemo_image_curate.models.torchvision_compat import import_timm

    timm = import_timm()
    embedder = TimmImageEmbedder("offline")
    model = embedder.build_model().eval().to(DEVICE)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = photographs(full(256, 8), 512)
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
    run = embedder.load_embedding_model(DEVICE)
    with torch.inference_mode():
        expected = model(torch.stack([transform(picture) for picture in pictures]).to(DEVICE))
        embeddings = run(decoder(embedder.preprocessing()).decode(images).pixels)
    cosine = torch.nn.functional.cosine_similarity(expected.float(), embeddings)
    record("fidelity against Pillow, mean", float(cosine.mean()), "cosine", 0.9995, "the gate")
    record("fidelity against Pillow, least", float(cosine.min()), "cosine", 0.998, "the gate")


def decode() -> None:
    """Encoded bytes to pixels on the device; DALI's own rate by its share for the JPEG engine."""
    from data import photographs

    from nemo_image_curate import TimmImageEmbedder

    # So that RESULTS.log tells whether there is a JPEG engine.
    os.environ["DALI_NVIMGCODEC_LOG_LEVEL"] = "3"
    spec = TimmImageEmbedder(LARGE).preprocessing()
    images = photographs(BATCH, 500)
    best = 0.0
    for share in full((0.65, 0.9, 1.0, 0.0), (0.0,)):
        speed = rate(_raw(images, spec.size, share), BATCH)
        record(f"{RAW}, {share:.0%} by its engine", speed, "images/s")
        best = max(best, speed)
    record(RAW, best, "images/s")
    plain = rate(_raw(images, spec.size, full(1.0, 0.0), fancy=False), BATCH)
    record(f"{RAW}, colour planes enlarged plainly", plain, "images/s", best, RAW)
    ours = decoder(spec)
    record(DECODE, rate(lambda: ours.decode(images), BATCH), "images/s", best, RAW)


def _raw(images: list[bytes], side: int, share: float, fancy: bool = True) -> Any:
    """DALI's decoder and resize with nothing around them."""
    import numpy as np
    from nvidia.dali import fn, pipeline_def, types

    arrays = [np.frombuffer(data, np.uint8) for data in images]

    def graph() -> Any:
        encoded = fn.external_source(lambda: arrays, dtype=types.UINT8, ndim=1)
        place = {"device": "cpu"} if REHEARSAL else {"device": "mixed", "hw_decoder_load": share}
        pixels = fn.decoders.image(encoded, **place, jpeg_fancy_upsampling=fancy)
        return fn.resize(pixels, size=(side, side), interp_type=types.INTERP_CUBIC)

    built = pipeline_def(graph)(
        batch_size=len(images), num_threads=8, device_id=None if REHEARSAL else 0
    )
    built.build()
    return built.run


def formats() -> None:
    """Rates of what the JPEG engine does not take, and of a batch with one damaged image."""
    from data import photographs
    from PIL import Image

    from nemo_image_curate import TimmImageEmbedder

    spec = TimmImageEmbedder(LARGE).preprocessing()
    images = photographs(BATCH, 500)
    pictures = [Image.open(io.BytesIO(data)) for data in images]

    def saved(kind: str, mode: str = "RGB", **options: Any) -> list[bytes]:
        encoded = []
        for picture in pictures:
            buffer = io.BytesIO()
            picture.convert(mode).save(buffer, kind, **options)
            encoded.append(buffer.getvalue())
        return encoded

    usual = known(DECODE)
    bad_names = ("one of a batch damaged", "one JPEG of a batch cut off")
    for name, data in (
        ("progressive JPEG", saved("JPEG", progressive=True)),
        ("CMYK JPEG", saved("JPEG", "CMYK")),
        ("gray JPEG", saved("JPEG", "L")),
        ("PNG", saved("PNG")),
        ("WebP", saved("WEBP")),
        (bad_names[0], _damaged(images)),
        (bad_names[1], [images[0][: len(images[0]) // 2], *images[1:]]),
    ):
        ours = decoder(spec)
        bad = sum(error is not None for error in ours.decode(data).errors)
        assert bad == (name in bad_names), f"{name}: {bad} images failed"
        speed = rate(partial(ours.decode, data), BATCH, 1.0)
        record(f"decode, {name}", speed, "images/s", usual, DECODE)


def _damaged(images: list[bytes]) -> list[bytes]:
    """The same with one on which DALI fails, and with it the whole run."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(images[0])).save(buffer, "PNG")
    # Not cut off: that is seen before DALI is given it.
    damaged, middle = bytearray(buffer.getvalue()), len(buffer.getvalue()) // 2
    damaged[middle : middle + 50] = bytes(50)
    return [bytes(damaged), *images[1:]]


def leak() -> None:
    """What 100 pipelines that failed and were built anew leave in the GPU's memory."""
    from data import photographs

    from nemo_image_curate import TimmImageEmbedder

    logging.disable(logging.WARNING)
    images = photographs(full(32, BATCH), 320)
    damaged = _damaged(images)
    ours = decoder(TimmImageEmbedder(LARGE).preprocessing())
    used = []
    for _ in range(full(101, 3)):
        ours.decode(damaged)
        assert ours._pipeline is None, "the pipeline failed"
        ours.decode(images)
        used.append(device_memory())
    grown = (used[-1] - used[len(used) // 10]) / 1e6
    record("memory after 100 failed pipelines, more than after 10", grown, "MB")


def embed() -> None:
    """Tar on a local disk to an embedding column in Parquet, with the client that users start."""
    with scratch() as folder:
        speed = _embedded(folder, LARGE, full(16, 2), full(4096, 16))
    record(WHOLE, speed, "images/s", known(BARE), BARE)


def embed_pandas() -> None:
    """The same in one process with frames of pandas, which need no cuDF."""
    import dask
    import torch

    from nemo_image_curate import frames

    frames.device_of = lambda frame: DEVICE  # type: ignore[assignment, return-value]
    column = frames.embedding_column
    # Of vectors on a GPU it makes a column of cuDF.
    frames.embedding_column = lambda values, *rows: column(
        torch.as_tensor(values, device="cpu").numpy(), *rows
    )
    with scratch() as folder, dask.config.set(scheduler="synchronous"):
        speed = _embedded(folder, LARGE, full(4, 2), full(4096, 16), on_pandas=True)
    record(f"{WHOLE}, frames of pandas", speed, "images/s", known(BARE), BARE)


def embed_small() -> None:
    """The same with ViT-B/32, which is bound by decoding or by Python, not by the GPU."""
    with scratch() as folder:
        speed = _embedded(folder, SMALL, full(16, 2), full(4096, 16))
    name = "ViT-B/32, tar to Parquet"
    record(name, speed, "images/s", known(BARE_SMALL), BARE_SMALL)
    record(f"{name} (against decoding)", speed, "images/s", known(DECODE), DECODE)


def write_photographs(folder: Path, shards: int, per_shard: int, side: int = 320) -> Path:
    """Shards of photographs."""
    from data import photographs, write_shards

    pool = photographs(full(512, 8), side)
    write_shards(folder, pool, per_shard, repeat=shards * per_shard // len(pool))
    return folder


def _embedded(
    folder: Path, model: str, shards: int, per_shard: int, on_pandas: bool = False
) -> float:
    """Images per second of a pass over shards, models loaded and code compiled before."""
    from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder

    data = write_photographs(folder / "data", shards, per_shard)
    embedder = TimmImageEmbedder(model, batch_size=BATCH, num_threads_per_worker=8)
    with nullcontext() if on_pandas else client():
        warm_up(embedder, folder / "warm", on_pandas)
        dataset = ImageTextPairDataset.from_webdataset(data, backend=_backend(on_pandas))
        began = time.perf_counter()
        saved = embedder(dataset).save_metadata(folder / "out")
        seconds = time.perf_counter() - began
        assert not saved.summary()["errors"], saved.summary()
    return shards * per_shard / seconds


def _backend(on_pandas: bool) -> Literal["cpu", "gpu"]:
    return "cpu" if on_pandas else BACKEND


def warm_up(embedder: Any, folder: Path, on_pandas: bool = False) -> None:
    """A small pass whose result is not saved: after a save, workers forget what they loaded."""
    import dask

    from nemo_image_curate import ImageTextPairDataset

    data = write_photographs(folder, 4, BATCH)
    dataset = ImageTextPairDataset.from_webdataset(data, backend=_backend(on_pandas))
    dataset = embedder(dataset)
    dask.compute(*map(dask.delayed(len), dataset.metadata.to_delayed()))


def old_pattern() -> None:
    """The pattern of today's scripts on the same shards; how often faster ours is."""
    with scratch() as folder:
        data = write_photographs(folder / "data", full(3, 3), full(4096, 16))
        script = str(Path(__file__).parent / "old_pattern.py")
        command = [sys.executable, script, LARGE, str(data), str(folder / "out")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, seconds = map(float, done.stdout.split()[-2:])
    name = "ViT-L/14, tar to Parquet, a pipeline per shard"
    record(name, count / seconds, "images/s")
    record(
        f"{WHOLE} (against the old pattern)", known(WHOLE) or 0, "images/s", count / seconds, name
    )


def memory() -> None:
    """Two encoders on one worker; what stays when they are done."""
    from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder

    before = device_memory()
    with scratch() as folder:
        data = write_photographs(folder / "data", 2, full(2048, 16))
        dataset = ImageTextPairDataset.from_webdataset(data, backend=BACKEND)
        for model, column in ((LARGE, "large"), (SMALL, "small")):
            stage = TimmImageEmbedder(model, image_embedding_column=column, batch_size=BATCH)
            dataset = stage(dataset)
        dataset.save_metadata(folder / "both")
        worker_cache.clear()
        left = (device_memory() - before) / 1e6
        record("memory held after two encoders in one save", left, "MB")
        for number in range(full(4, 1)):
            stage = TimmImageEmbedder(SMALL, image_embedding_column=f"c{number}", batch_size=BATCH)
            stage(dataset).save_metadata(folder / f"again{number}")
        growth = (device_memory() - before) / 1e6 - left
        record("memory held after four more saves, more than after the first", growth, "MB")
