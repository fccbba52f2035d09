"""What goes to an S3 server for shards without sidecars: bytes of a pass, requests of an export."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import fsspec
from data import photographs, write_shards
from moto.server import ThreadedMotoServer

from nemo_image_curate import ImageStatistics, ImageTextPairDataset, get_client, storage

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.s3_proxy import Traffic, proxied

SHARDS, PER_SHARD = 4, 200
# The bar of an export: so many bytes for each request.
PER_REQUEST = 8e6


def _upload(scratch: Path) -> int:
    """Shards of photographs in a bucket; their bytes."""
    folder = scratch / "traffic"
    write_shards(folder, photographs(200, 500), PER_SHARD, repeat=SHARDS * PER_SHARD // 200)
    tars = sorted(folder.glob("*.tar"))
    fsspec.filesystem("s3").makedir("s3://shards")
    for tar in tars:
        storage.write_bytes(f"s3://shards/{tar.name}", tar.read_bytes())
    return sum(tar.stat().st_size for tar in tars)


def _passed(traffic: Traffic) -> tuple[int, int]:
    gets = traffic.gets(".tar")
    traffic.requests.clear()
    return sum(gets), len(gets)


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with proxied(f"http://{host}:{port}") as traffic:
        os.environ["AWS_ENDPOINT_URL"] = traffic.url
        size = _upload(scratch)
        _passed(traffic)
        with get_client("cpu", n_workers=2):
            dataset = ImageTextPairDataset.from_webdataset("s3://shards")
            ImageStatistics()(dataset).save_metadata(scratch / "statistics")
            fetched, requests = _passed(traffic)
        with get_client("cpu", n_workers=2):
            dataset = ImageTextPairDataset.from_webdataset("s3://shards")
            dataset.filter("key < '000000400'").to_webdataset(scratch / "new")
            copied, asked = _passed(traffic)
    server.stop()
    allowed = copied / PER_REQUEST + SHARDS
    return [
        {
            "what": f"open {SHARDS} shards in a bucket and look at their images / their bytes",
            "ours": f"{fetched / 1e6:.1f} MB in {requests} requests",
            "peer": f"{size / 1e6:.1f} MB",
            "ratio": fetched / size,
            "bar": "<= 1.1",
            "met": fetched <= 1.1 * size,
        },
        {
            "what": "requests of an export of them / one for 8 MB and one for each shard",
            "ours": f"{copied / 1e6:.1f} MB in {asked} requests",
            "peer": f"{allowed:.0f}",
            "ratio": asked / allowed,
            "bar": "<= 1",
            "met": asked <= allowed,
        },
    ]
