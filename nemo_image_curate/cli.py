"""The command ``nemo-image-curate``: parses, calls the library, prints.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.errors import BackendError, ColumnNotFoundError, ConfigError, CurateError
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset import ImageTextPairDataset


class _Group(click.Group):
    """Turns our errors into one line and an exit code: 1 failed, 2 wrong usage."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigError, ColumnNotFoundError) as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except CurateError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped; run the same command again to go on.", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nemo-image-curate")
def main() -> None:
    """Curate image(-text) datasets in WebDataset shards.

    DATASET is a folder of .tar shards, a glob, a URL, or a folder written with --output.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("nemo_image_curate").addHandler(handler)


def _cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--backend", type=click.Choice(["auto", "cpu", "gpu"]), default="auto"),
        click.option("--workers", type=click.IntRange(min=1), help="Worker processes to start."),
        click.option("--scheduler", metavar="ADDRESS", help="Use this running Dask scheduler."),
        click.option("--scheduler-file", metavar="FILE", help="The same, by its scheduler file."),
    ):
        command = option(command)
    return command


_output = click.option(
    "--output", metavar="DIR", help="Write metadata here. Default: beside the shards."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@contextlib.contextmanager
def _client(backend: str, workers: int | None, scheduler: str | None, file: str | None) -> Iterator:
    from nemo_image_curate.cluster import get_client

    # What goes wrong on a worker is told once, by us.
    quiet = {} if scheduler or file else {"silence_logs": logging.CRITICAL}
    # Ctrl-C reaches the whole group of processes. Workers inherit the block, so that only this
    # process stops, in an orderly way, and not while the workers are half started.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        client = get_client(backend, scheduler, file, workers, **quiet)
    except OSError as error:
        where = scheduler or file or "this machine"
        raise BackendError(f"no Dask scheduler answers at {where}: {error}") from error
    with client:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield client


def _open(
    dataset: str, backend: str = "auto", skip_unreadable: bool = False
) -> ImageTextPairDataset:
    from nemo_image_curate.dataset import ImageTextPairDataset

    return ImageTextPairDataset.from_webdataset(
        dataset, backend=backend, skip_unreadable=skip_unreadable
    )


def _report(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    width = max(map(len, record))
    for name, value in record.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count:,} {kind}" for kind, count in value.items()) or "none"
        shown = f"{value:,}" if isinstance(value, int) else value
        click.echo(f"{name:<{width}}  {shown}")


def _save(
    dataset: ImageTextPairDataset,
    output: str | None,
    as_json: bool,
    extra: dict[str, Any] | None = None,
    started: float | None = None,
) -> None:
    """Compute and save a dataset's frame, then say what came of it."""
    started = time.perf_counter() if started is None else started
    saved = dataset.save_metadata(output)
    seconds = time.perf_counter() - started
    record: dict[str, Any] = saved.summary() | (extra or {})
    record |= {"seconds": round(seconds, 1), "output": output or saved.metadata_path}
    _report(record, as_json)


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--output", required=True, metavar="DIR", help="An empty or new folder.")
@click.option(
    "--captions",
    metavar="CSV",
    type=click.Path(exists=True, dir_okay=False),
    help="File names and captions, with a header such as image,caption.",
)
@click.option("--samples-per-shard", type=click.IntRange(min=1), default=10000, show_default=True)
@_json
def pack(
    images: tuple[str, ...],
    output: str,
    captions: str | None,
    samples_per_shard: int,
    as_json: bool,
) -> None:
    """Pack image files, or folders of them, into shards."""
    from nemo_image_curate.shards import pack as packing

    found = packing.find_images(images)
    texts = packing.read_captions(captions) if captions else None
    tars = packing.pack(found, output, texts, samples_per_shard)
    captioned = sum(name in texts or path.name in texts for path, name in found) if texts else 0
    _report(
        {"samples": len(found), "captioned": captioned, "shards": len(tars), "output": output},
        as_json,
    )


@main.command()
@click.argument("dataset")
@_json
@_cluster_options
def inspect(
    dataset: str,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Read all tar headers and sidecars; list samples, columns and every fault found."""
    from nemo_image_curate.dataset import inspect_dataset

    with _client("cpu", workers, scheduler, scheduler_file):
        found = inspect_dataset(_open(dataset, "cpu", skip_unreadable=True))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in found["columns"].items())
    faults = ", ".join(f"{count:,} {kind}" for kind, count in found["counts"].items()) or "none"
    _report(
        {
            "path": found["path"],
            "shards": found["shards"],
            "samples": found["samples"],
            "columns": columns,
            "faults": faults,
        },
        False,
    )
    for fault in found["faults"]:
        click.echo(f"  {fault['shard']}: {fault['kind']}: {fault['key']}: {fault['detail']}")


@main.command()
@click.argument("dataset")
@click.option(
    "--model",
    default="offline",
    show_default=True,
    metavar="NAME",
    help="A timm model name, or 'offline' (needs no download).",
)
@click.option("--pretrained", is_flag=True, help="Take the weights that timm names.")
@click.option("--checkpoint", metavar="FILE", help="Take the weights from this file.")
@click.option(
    "--checkpoint-encoder",
    metavar="NAME",
    help="What the checkpoint is a copy of, such as openai/clip-vit-large-patch14.",
)
@_output
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Decoding threads per worker.",
)
@click.option("--aesthetic", is_flag=True, help="Add aesthetic_score (needs CLIP ViT-L/14).")
@click.option("--nsfw", is_flag=True, help="Add nsfw_score (needs CLIP ViT-L/14).")
@click.option("--stats", is_flag=True, help="Add width, height, sharpness and the like.")
@click.option("--use-index-files", is_flag=True, help="Find images with the .idx files.")
@_json
@_cluster_options
def embed(
    dataset: str,
    model: str,
    pretrained: bool,
    checkpoint: str | None,
    checkpoint_encoder: str | None,
    output: str | None,
    batch_size: int,
    threads: int,
    aesthetic: bool,
    nsfw: bool,
    stats: bool,
    use_index_files: bool,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Decode and embed every image; add scores and statistics in the same pass."""
    from nemo_image_curate.classifiers import AestheticClassifier, NsfwClassifier
    from nemo_image_curate.embedders import TimmImageEmbedder
    from nemo_image_curate.quality import ImageStatistics

    wanted = [(aesthetic, AestheticClassifier), (nsfw, NsfwClassifier)]
    embedder = TimmImageEmbedder(
        model,
        pretrained=pretrained,
        checkpoint_path=checkpoint,
        checkpoint_encoder=checkpoint_encoder,
        batch_size=batch_size,
        num_threads_per_worker=threads,
        classifiers=[make() for asked, make in wanted if asked],
        image_stages=[ImageStatistics()] if stats else [],
        use_index_files=use_index_files,
    )
    with _client(backend, workers, scheduler, scheduler_file):
        _save(embedder(_open(dataset, backend)), output, as_json)


@main.command()
@click.argument("dataset")
@_output
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Decoding threads per worker.",
)
@_json
@_cluster_options
def stats(
    dataset: str,
    output: str | None,
    threads: int,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Add size, format, brightness, contrast, sharpness and colorfulness."""
    from nemo_image_curate.quality import ImageStatistics

    with _client(backend, workers, scheduler, scheduler_file):
        stage = ImageStatistics(num_threads_per_worker=threads)
        _save(stage(_open(dataset, backend)), output, as_json)


@main.command()
@click.argument("dataset")
@click.option("--aesthetic", is_flag=True, help="Add aesthetic_score.")
@click.option("--nsfw", is_flag=True, help="Add nsfw_score.")
@click.option("--embedding-column", default="image_embedding", show_default=True)
@click.option("--aesthetic-weights", metavar="FILE", help="The published file, if not downloaded.")
@click.option("--nsfw-weights", metavar="FILE", help="The published file, if not downloaded.")
@click.option(
    "--no-check-encoder",
    is_flag=True,
    help="Score embeddings that are not recorded to be of the right model.",
)
@_output
@_json
@_cluster_options
def score(
    dataset: str,
    aesthetic: bool,
    nsfw: bool,
    embedding_column: str,
    aesthetic_weights: str | None,
    nsfw_weights: str | None,
    no_check_encoder: bool,
    output: str | None,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Score embeddings that are there already."""
    from nemo_image_curate.classifiers import AestheticClassifier, NsfwClassifier

    asked = [
        (aesthetic, AestheticClassifier, aesthetic_weights),
        (nsfw, NsfwClassifier, nsfw_weights),
    ]
    stages = [
        make(embedding_column=embedding_column, model_path=path, check_encoder=not no_check_encoder)
        for wanted, make, path in asked
        if wanted
    ]
    if not stages:
        raise click.UsageError("say what to score: --aesthetic, --nsfw or both.")
    with _client(backend, workers, scheduler, scheduler_file):
        scored = _open(dataset, backend)
        for stage in stages:
            scored = stage(scored)
        _save(scored, output, as_json)


@main.command()
@click.argument("dataset")
@click.option(
    "--method",
    type=click.Choice(["exact", "perceptual", "semantic"]),
    default="semantic",
    show_default=True,
    help="By the bytes, by a hash of what is seen, or by the embeddings.",
)
@click.option(
    "--eps",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="semantic: duplicates have a cosine similarity of at least 1 - eps.",
)
@click.option(
    "--radius", type=click.IntRange(min=0), help="perceptual: bits of 64 that may differ."
)
@click.option("--flips", is_flag=True, help="perceptual: mirrored images are duplicates, too.")
@click.option(
    "--keep",
    type=click.Choice(["first", "random", "best", "hard", "easy"]),
    help="Which duplicate stays. Default: best with --by, else hard (semantic) or first.",
)
@click.option("--by", metavar="COLUMN", help="The duplicate with the highest value stays.")
@click.option(
    "--rule",
    type=click.Choice(["greedy", "reference", "components"]),
    default="greedy",
    show_default=True,
    help="What goes when A is like B and B like C, but A is not like C.",
)
@click.option("--n-clusters", type=click.IntRange(min=1), help="semantic: default 2 sqrt(n).")
@click.option(
    "--n-probe",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="semantic: clusters that an embedding near their borders is compared in.",
)
@click.option("--embedding-column", default="image_embedding", show_default=True)
@click.option(
    "--recall-sample",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="semantic: rows to measure the recall on by brute force; 0 for none.",
)
@click.option("--work-dir", metavar="DIR", help="Intermediate files; shared by all workers.")
@click.option(
    "--prefix",
    default="",
    metavar="TEXT",
    help="Put before the columns' names, to keep those of several runs apart.",
)
@_output
@_json
@_cluster_options
def dedup(
    dataset: str,
    method: str,
    eps: float,
    radius: int | None,
    flips: bool,
    keep: str | None,
    by: str | None,
    rule: str,
    n_clusters: int | None,
    n_probe: int,
    embedding_column: str,
    recall_sample: int,
    work_dir: str | None,
    prefix: str,
    output: str | None,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Mark duplicates: columns is_duplicate, duplicate_of and duplicate_similarity.

    Nothing is removed; do that with: filter DATASET --where "not is_duplicate" --output DIR
    """
    from nemo_image_curate.dedup import ExactDedup, PerceptualDedup, SemanticDedup

    started = time.perf_counter()
    keep = keep or ("best" if by else "hard" if method == "semantic" else "first")
    with _client(backend, workers, scheduler, scheduler_file):
        opened = _open(dataset, backend)
        if method == "semantic":
            stage = SemanticDedup(
                eps,
                n_clusters or "auto",
                keep,
                by,
                rule,
                n_probe,
                embedding_column,
                prefix=prefix,
                work_dir=work_dir,
            )
            click.echo(f"{stage.estimate_cost(opened)}", err=True)
            clusters = stage.cluster(opened)
            marked = clusters.extract()
            told: dict[str, Any] = {}
            if recall_sample:
                recall = clusters.estimate_recall(sample_size=recall_sample)
                told["recall"] = dataclasses.asdict(recall) if as_json else str(recall)
            if work_dir is None:
                clusters.remove_vectors()
        else:
            options: dict[str, Any] = {"keep": keep, "by": by, "prefix": prefix}
            options["work_dir"] = work_dir
            if method == "perceptual":
                options |= {"flips": flips, "rule": rule}
                options |= {} if radius is None else {"radius": radius}
            marked = (ExactDedup if method == "exact" else PerceptualDedup)(**options)(opened)
            told = {}
        found = marked.metadata[f"{prefix}is_duplicate"].compute()
        counts = {"duplicates": int(found.sum()), "not_compared": int(found.isna().sum())}
        _save(marked, output, as_json, {**counts, **told}, started)


@main.command(name="filter")
@click.argument("dataset")
@click.option(
    "--where",
    required=True,
    metavar="EXPR",
    help="Over the columns, such as: 'aesthetic_score > 5 and width >= 256'.",
)
@click.option("--output", required=True, metavar="DIR", help="An empty or new folder for shards.")
@click.option("--samples-per-shard", type=click.IntRange(min=1), default=10000, show_default=True)
@click.option("--old-id-column", metavar="NAME", help="Keep the old keys in this column.")
@_json
@_cluster_options
def filter_(
    dataset: str,
    where: str,
    output: str,
    samples_per_shard: int,
    old_id_column: str | None,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Write the samples for which an expression is true as new, clean shards."""
    with _client(backend, workers, scheduler, scheduler_file):
        opened = _open(dataset, backend)
        kept = opened.filter(where)
        done = kept.to_webdataset(
            output, samples_per_shard=samples_per_shard, old_id_col=old_id_column
        )
        total = len(opened)
    _report(
        {
            "samples": total,
            "kept": done.samples,
            "rejected": total - done.samples - done.missing,
            "missing": done.missing,
            "shards": done.shards,
            "output": done.path,
        },
        as_json,
    )


@main.command()
@click.argument(
    "folder", required=False, metavar="[DIR]", type=click.Path(exists=True, file_okay=False)
)
@click.option("--output", default="demo-output", show_default=True, metavar="DIR")
@_json
@_cluster_options
def demo(
    folder: str | None,
    output: str,
    as_json: bool,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
) -> None:
    """Run the whole job offline on photographs that packages carry, or on those in DIR."""
    from nemo_image_curate.demo import run_demo

    with _client(backend, workers, scheduler, scheduler_file):
        result = run_demo(folder, output)
    click.echo(json.dumps(result.record, ensure_ascii=False) if as_json else result.table)


@main.command()
@_json
def doctor(as_json: bool) -> None:
    """Show versions, devices and the weights cache, and what works on this machine."""
    from nemo_image_curate.doctor import examine

    found = examine()
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for part, lines in found.items():
        click.echo(part)
        for name, value in lines.items():
            click.echo(f"  {name:<24} {value}")


if __name__ == "__main__":
    sys.exit(main())
