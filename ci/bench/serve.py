"""Text queries over HTTP on this machine: one client against the encoder alone, and 64 at once."""

from __future__ import annotations

import csv
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

FLICKR = Path(__file__).resolve().parents[3] / "shared" / "data" / "flickr8k"
CLIENTS, QUERIES = 64, 32


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    texts = prepare(scratch)
    command = [sys.executable, __file__, str(scratch / "data")]
    with (scratch / "log").open("w") as log:
        service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert service.stdout is not None
        port = int(service.stdout.readline().split("http://")[1].split()[0].rpartition(":")[2])
        client = Client(port)
        while client.status("/health") != 200:
            time.sleep(0.1)
        before = _processor_seconds(service.pid)
        whole = [client.seconds(text) for text in texts[: 100 * rounds]]
        used = _processor_seconds(service.pid) - before
        busy, seconds = _load(port, texts)
        stats = Client(port).get("/stats")
    finally:
        service.terminate()
        status = service.wait(30)
    assert status == 0, (scratch / "log").read_text()
    # The encoder's share of the very same queries; its first call was the service's warm-up.
    took, encoder_used = zip(*json.loads(service.stdout.read())[1 : len(whole) + 1], strict=True)
    bare = list(took)
    # A virtual machine whose host has other work stands still meanwhile; this does not count it.
    used_beside = (used - sum(encoder_used)) / len(whole)
    overhead = statistics.median(all_s - bare_s for all_s, bare_s in zip(whole, bare, strict=True))
    busy.sort()
    failed = CLIENTS * QUERIES - len(busy)
    p50, p99 = (busy[int(len(busy) * part)] for part in (0.5, 0.99))
    sizes = {int(size): count for size, count in stats["batch_sizes"].items()}
    batch = sum(size * count for size, count in sizes.items() if size > 1) / max(
        1, sum(count for size, count in sizes.items() if size > 1)
    )
    alone = 1 / statistics.median(whole)
    return [
        {
            "what": f"text query over HTTP, {stats['images']} images, p50 / its embed_text alone",
            "ours": f"{statistics.median(whole) * 1e3:.1f} ms",
            "peer": f"{statistics.median(bare) * 1e3:.1f} ms",
            "ratio": statistics.median(whole) / statistics.median(bare),
            "bar": f"overhead <= 5 ms: {overhead * 1e3:.1f} ms ({used_beside * 1e3:.1f} ms of "
            "processor time)",
            "met": overhead <= 0.005,
        },
        {
            "what": f"{CLIENTS} clients at once (p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, "
            f"{batch:.0f} queries a batch) / one client",
            "ours": f"{len(busy) / seconds:.0f} queries/s",
            "peer": f"{alone:.0f} queries/s",
            "ratio": len(busy) / seconds / alone,
            "bar": f"no error: {failed}",
            "met": failed == 0,
        },
    ]


def prepare(scratch: Path) -> list[str]:
    """Shards of the photographs, embedded and indexed; the captions."""
    from nemo_image_curate import ConseEmbedder, ImageTextPairDataset, get_client
    from nemo_image_curate.index.vector_index import build_index
    from nemo_image_curate.shards.pack import find_images, pack

    with (FLICKR / "captions.csv").open(newline="") as file:
        captions = [row[1] for row in list(csv.reader(file))[1:]]
    pack(find_images([str(FLICKR)]), str(scratch / "tars"), None, 500)
    with get_client("cpu"):
        dataset = ImageTextPairDataset.from_webdataset(scratch / "tars", backend="cpu")
        embedded = ConseEmbedder()(dataset).save_metadata(scratch / "data", progress=False)
        build_index(embedded, progress=False)
    return captions[::7]


class Client:
    """One connection that stays open, as a program's would."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def status(self, path: str) -> int:
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def get(self, path: str) -> dict[str, Any]:
        self.connection.request("GET", path)
        answer: dict[str, Any] = json.loads(self.connection.getresponse().read())
        return answer

    def seconds(self, text: str) -> float:
        body = json.dumps({"text": text}).encode()
        began = time.perf_counter()
        self.connection.request(
            "POST", "/search/text-to-image", body, {"Content-Type": "application/json"}
        )
        answer = self.connection.getresponse()
        content = answer.read()
        seconds = time.perf_counter() - began
        assert answer.status == 200, content
        assert len(json.loads(content)["hits"]) == 10
        return seconds


def _load(port: int, texts: list[str]) -> tuple[list[float], float]:
    """The seconds of each query that was answered, and those of all together."""
    took: list[float] = []
    ready = threading.Barrier(CLIENTS + 1)

    def work(number: int) -> None:
        client = Client(port)
        client.status("/health")
        ready.wait()
        for query in range(QUERIES):
            took.append(client.seconds(texts[(number * QUERIES + query) % len(texts)]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return took, time.perf_counter() - began


def _processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _serve(folder: str) -> None:
    """Serve, and print at the end how long each call of the text encoder took."""
    from nemo_image_curate import ConseEmbedder, ImageTextPairDataset
    from nemo_image_curate.search.searcher import Searcher
    from nemo_image_curate.serve import run_service

    took: list[tuple[float, float]] = []
    embed_text = ConseEmbedder.embed_text

    def timed(*arguments: Any, **options: Any) -> Any:
        began, used = time.perf_counter(), time.process_time()
        vectors = embed_text(*arguments, **options)
        took.append((time.perf_counter() - began, time.process_time() - used))
        return vectors

    ConseEmbedder.embed_text = timed  # type: ignore[method-assign]
    dataset = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    run_service(Searcher.open(dataset), dataset, port=0)
    print(json.dumps(took))


if __name__ == "__main__":
    _serve(sys.argv[1])
