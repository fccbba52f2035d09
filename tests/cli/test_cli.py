"""The command as people run it: in a process of its own, from pictures to clean shards."""

from __future__ import annotations

import glob
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from nemo_image_curate import ImageTextPairDataset, __version__
from nemo_image_curate.cli import main
from nemo_image_curate.models.torchvision_compat import import_timm
from tests.classifiers.test_base import with_vectors
from tests.classifiers.test_clip_score import with_pairs
from tests.cli.conftest import COMMAND
from tests.decode.pictures import large_icon, saved
from tests.make_data import digests, jpeg, make_dataset, write_sidecar, write_tar
from tests.make_embedders import column, rows
from tests.shared import SHARED, needs_shared

COMMANDS = """
balance decontaminate dedup demo doctor embed filter index inspect join pack probe score search
serve stats zero-shot
""".split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset with two shards, of which one picture is broken."""
    folder = tmp_path_factory.mktemp("made")
    make_dataset(folder, sizes=[3, 2], sidecars=False)
    write_tar(folder / "00002.tar", [("x.jpg", b"no picture"), ("y.jpg", jpeg(50, 64, 64))])
    return folder


def test_help_of_every_command():
    told = CliRunner().invoke(main, ["--help"])
    assert told.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in told.output
        own = CliRunner().invoke(main, [name, "--help"])
        assert own.exit_code == 0
        assert own.output.startswith("Usage: ")
        assert name == "serve" or "--json" in own.output
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_a_full_disk_is_one_line(tmp_path):
    make_dataset(tmp_path, sizes=[1])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, "inspect", tmp_path, "--workers", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "error: [Errno 28] No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_scheduler_before_its_file():
    told = CliRunner().invoke(main, ["report", "--help"]).output
    assert 0 < told.index("--scheduler ADDRESS") < told.index("--scheduler-file FILE")


@pytest.mark.parametrize(
    "words",
    [
        ["embeds", "x"],
        ["embed"],
        ["embed", "x", "--batch-size", "0"],
        ["embed", "x", "--batch-size", "many"],
        ["embed", "x", "--backend", "tpu"],
        ["filter", "x", "--output", "y"],
        ["filter", "x", "--where", "a > 1"],
        ["score", "x"],
        ["score", "x", "--aesthetic", "--flip"],
        ["pack", "--output", "x"],
        ["pack", "/nowhere/at/all", "--output", "x"],
        ["pack", "/dev/null", "--output", "x", "--image-column", "image"],
        ["demo", "/nowhere/at/all"],
        ["inspect", "x", "--what"],
    ],
)
def test_wrong_usage_is_exit_code_2(words):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert done.output.startswith("Usage: ")


@pytest.mark.parametrize("name", ["export", "reshard", "convert"])
def test_what_commands_are_called_elsewhere_names_ours(name):
    done = CliRunner().invoke(main, [name, "x"])
    assert done.exit_code == 2
    assert f"No such command '{name}'" in done.output
    assert "filter DATASET --where EXPR --output DIR" in done.output


def test_from_pictures_to_clean_shards(run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(5):
        (photos / f"{number}.jpg").write_bytes(jpeg(number, 40 + 20 * number, 60))
    (photos / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "c.csv").write_text("image,caption\n0.jpg,erstes – größer\n3.jpg,fourth\n")
    shards, scored, curated = (tmp_path / name for name in ("shards", "scored", "curated"))

    words = ["pack", photos, "--output", shards, "--captions", tmp_path / "c.csv"]
    told = json.loads(run(*words, "--samples-per-shard", 4, "--json", cluster=False))
    assert told == {
        "samples": 6,
        "captioned": 2,
        "texts": 0,
        "rows": 2,
        "rows_without_image": 0,
        "images_without_row": 4,
        "columns_left_out": [],
        "left_out": {},
        "unreadable": 0,
        "shards": 2,
        "output": str(shards),
    }

    told = json.loads(run("inspect", shards, "--json"))
    assert (told["samples"], told["shards"], told["faults"]) == (6, 2, [])

    words = ["embed", shards, "--model", "offline", "--stats", "--flip", "--output", scored]
    told = json.loads(run(*words, "--json"))
    assert told["samples"] == 6
    assert told["errors"] == {"decode": 1}
    found = rows(ImageTextPairDataset.from_webdataset(scored))
    for name in ("image_embedding", "image_embedding_flipped"):
        assert [len(row[name] or ()) for row in found] == [1280] * 5 + [0]
    assert [row["width"] for row in found] == [40, 60, 80, 100, 120, None]

    # The same again computes nothing; a lost file is computed, and it alone.
    files = {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}
    (scored / "00001.parquet").unlink()
    run(*words)
    after = {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}
    assert {name for name in after if after[name] == files[name]} == {"00000.parquet"}

    # What failed is looked at again when that is asked for.
    # It has the seconds of each stage.
    (scored / "_run.json").unlink()
    contents = digests(scored)
    run(*words, "--retry")
    again = {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}
    assert {name for name in again if again[name] == after[name]} == {"00000.parquet"}
    (scored / "_run.json").unlink()
    assert digests(scored) == contents

    words = ["filter", scored, "--where", "width >= 80 and brightness > 0", "--output", curated]
    told = json.loads(run(*words, "--old-id-column", "was", "--samples-per-shard", 2, "--json"))
    account = told.pop("account")
    assert told == {
        "samples": 6,
        "kept": 3,
        "rejected": 3,
        "missing": 0,
        "shards": 2,
        "output": str(curated),
    }
    assert account["null_columns"] == {"width": 1, "brightness": 1}
    assert (account["dropped_by_condition"], account["dropped_by_null"]) == (2, 1)
    run_file = json.loads((curated / "_run.json").read_text())
    assert run_file["account"] == account
    assert run_file["command"] == "filter"
    kept = rows(ImageTextPairDataset.from_webdataset(curated))
    assert [row["file"] for row in kept] == ["2.jpg", "3.jpg", "4.jpg"]
    assert [row["was"] for row in kept] == [row["key"] for row in found[2:5]]
    told = run("inspect", curated)
    assert re.search("^samples +3$", told, re.MULTILINE)
    assert re.search("^faults +none$", told, re.MULTILINE)


def test_the_same_embed_after_dedup_in_place_computes_nothing(run, tmp_path):
    shards, scored = tmp_path / "shards", tmp_path / "scored"
    make_dataset(shards, sizes=[3, 2])
    embed = ["embed", shards, "--stats", "--output", scored]
    run(*embed, "--json")
    assert "width: the dataset's own columns are replaced by ImageStatistics" in run.stderr
    run("dedup", scored, "--work-dir", tmp_path / "work", "--json")
    dataset = ImageTextPairDataset.from_webdataset(scored, backend="cpu")
    dataset.metadata["own"] = dataset.metadata["width"] * 2
    dataset.save_metadata()
    before = {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}
    told = json.loads(run(*embed, "--json"))
    assert (told["samples"], told["account"]["read"]) == (5, 5)
    assert before == {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}

    # A new shard alone is looked at; of other work nothing may be lost.
    larger = make_dataset(tmp_path / "larger", sizes=[3, 2, 4])
    for path in larger.root.glob("00002.*"):
        path.rename(shards / path.name)
    run(*embed, "--json")
    after = {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}
    assert {name for name in after if after[name] != before.get(name)} == {"00002.parquet"}
    told = run("stats", shards, "--output", scored, code=2)
    assert re.search(r"error: \S+scored: 2 files .* be lost: image_embedding, ", told)
    assert "--overwrite" in told
    assert after == {path.name: path.stat().st_mtime_ns for path in scored.glob("*.parquet")}
    run("stats", shards, "--output", scored, "--overwrite", "--json")
    names = pq.read_schema(scored / "00000.parquet").names
    assert "sharpness" in names
    assert not {"own", "is_duplicate", "image_embedding"} & set(names)


def test_statistics_beside_the_shards(run, tmp_path):
    make_dataset(tmp_path, sizes=[2, 2], sidecars=False)
    told = run("stats", tmp_path, "--threads", 1)
    assert re.search("^samples +4\nerrors +none$", told, re.MULTILINE)
    assert re.search("^images +4 read, 0 unreadable$", told, re.MULTILINE)
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path))
    assert {row["image_format"] for row in found} == {"jpeg"}


def test_orientation_is_an_option(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 6, 3), np.uint8))
    upright = upright.resize((60, 90), Image.Resampling.BICUBIC)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    members = {"a": saved(upright, "PNG"), "b": saved(lying, "PNG", exif=exif)}
    write_tar(tmp_path / "in" / "0.tar", [(f"{key}.png", data) for key, data in members.items()])

    def sizes(*words) -> list[tuple[int, int]]:
        out = tmp_path / "-".join(words)
        run(words[0], tmp_path / "in", *words[1:], "--output", out)
        found = rows(ImageTextPairDataset.from_webdataset(out))
        return [(row["width"], row["height"]) for row in found]

    turn = ["--orientation", "exif"]
    assert sizes("stats") == [(60, 90), (90, 60)]
    assert sizes("stats", *turn) == [(60, 90)] * 2
    assert sizes("embed", "--stats", "--hashes", *turn) == [(60, 90)] * 2

    def duplicates(*words) -> int:
        told = run("dedup", tmp_path / "in", *words, "--output", tmp_path / "d", "--json")
        return json.loads(told)["duplicates"]

    exact = ["--method", "exact", "--of", "pixels"]
    assert [duplicates(*exact), duplicates(*exact, *turn)] == [0, 1]
    perceptual = ["--method", "perceptual"]
    assert [duplicates(*perceptual), duplicates(*perceptual, *turn)] == [0, 1]
    assert "give it to embed" in run("dedup", tmp_path / "in", *turn, code=2)
    words = ["dedup", tmp_path / "in", "--method", "exact", *turn]
    assert "orientation='exif' is for of='pixels'" in run(*words, code=2)


def test_faults_are_listed(run, tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("a.jpg", jpeg(3))])
    told = run("inspect", tmp_path)
    assert "0.tar: " in told
    assert "duplicate: a" in told


@needs_shared
def test_score_with_the_published_files(run, tmp_path):
    folder = SHARED / "data" / "laion_ratings" / "vit_l_14_embeddings"
    vectors = [np.load(folder / f"rating{n}.npy")[0] for n in range(10)]
    with_vectors(tmp_path / "in", [*vectors, None], encoder="openai/clip-vit-large-patch14")
    weights = SHARED / "weights"
    run(
        *("score", tmp_path / "in", "--aesthetic", "--nsfw", "--output", tmp_path / "out"),
        *("--aesthetic-weights", weights / "sac+logos+ava1-l14-linearMSE.pth"),
        *("--nsfw-weights", weights / "clip_autokeras_binary_nsfw.zip"),
    )
    saved = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    scores = column(saved, "aesthetic_score")
    assert np.corrcoef(scores[:10], range(10))[0, 1] > 0.9
    assert scores[10] is column(saved, "nsfw_score")[10] is None

    with_vectors(tmp_path / "other", vectors, encoder="someone/else")
    words = ["score", tmp_path / "other", "--nsfw", "--output", tmp_path / "out2"]
    words += ["--nsfw-weights", weights / "clip_autokeras_binary_nsfw.zip"]
    told = run(*words, code=1)
    assert "someone/else" in told
    run(*words, "--no-check-encoder")
    assert len(column(ImageTextPairDataset.from_webdataset(tmp_path / "out2"), "nsfw_score")) == 10


def test_scores_of_pairs(run, tmp_path):
    chance = np.random.default_rng(0)
    pairs = list(zip(*chance.normal(size=(2, 6, 4)), strict=True))
    with_pairs(tmp_path / "in", pairs[:4], [*pairs[4:], (None, pairs[0][1])], backend="cpu")
    words = ["score", tmp_path / "in", "--clip", "--neg-clip-loss"]
    run(*words, "--output", tmp_path / "out")
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    for row in found:
        assert (row["neg_clip_loss"] is None) == (row["clip_score"] is None)
        assert row["neg_clip_loss_error"] is None
    assert [row["key"] for row in found if row["clip_score"] is None] == ["10002"]
    told = run(*words, "--flip", "--output", tmp_path / "flipped", code=2)
    assert "no column 'image_embedding_flipped'. Embed the images with flip=True" in told


def test_a_wrong_column_is_named_with_the_closest(run, made, tmp_path):
    told = run("filter", made, "--where", "scor > 5", "--output", tmp_path / "out", code=2)
    assert "no column 'scor'" in told
    assert "Did you mean 'score'?" in told
    assert "caption" in told
    assert not list((tmp_path).rglob("*.tar"))


def test_a_bad_expression(run, made, tmp_path):
    told = run("filter", made, "--where", "score >", "--output", tmp_path / "out", code=2)
    assert "cannot use the expression 'score >'" in told
    assert "width >= 256" in told


def test_pack_tells_what_it_left_out(run, tmp_path):
    for name, content in (("0.jpg", jpeg(0)), ("1.jpg", jpeg(1)), ("notes.pdf", b"%PDF-1.7")):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "c.csv").write_text("image,caption\n0.jpg,größe\nx.jpg,lost\n", "latin-1")
    words = ["pack", tmp_path / "in", "--captions", tmp_path / "c.csv", "--output"]
    told = run(*words, tmp_path / "out", code=1, cluster=False)
    assert "line 2 holds the byte 0xf6" in told
    told = run(*words, tmp_path / "out", "--encoding", "latin-1", cluster=False)
    assert re.search(r"left_out +1 pdf\n", told)
    assert "1 of 2 rows go to no image: no image goes by 'x.jpg'" in run.stderr
    told = run(*words, tmp_path / "out", "--encoding", "latin-1", "--json", cluster=False)
    assert (json.loads(told)["captioned"], json.loads(told)["rows_without_image"]) == (1, 1)


def test_pack_takes_parquet_files(run, tmp_path):
    values = [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in range(3)]
    write_sidecar(
        tmp_path / "hf/data/train.parquet", {"image": [*values, None], "text": list("abcd")}
    )
    told = run("pack", tmp_path / "hf", "--output", tmp_path / "out", "--json", cluster=False)
    record = json.loads(told)
    assert (record["samples"], record["rows"], record["unreadable"]) == (3, 4, 1)
    assert "train.parquet row 3 (no bytes of an image)" in run.stderr
    words = ["pack", tmp_path / "hf", "--output", tmp_path / "other"]
    assert "not for Parquet" in run(*words, "--encoding", "latin-1", code=2, cluster=False)


def test_a_dataset_that_is_not_there(run, tmp_path):
    told = run("inspect", tmp_path / "nowhere", code=1)
    assert (
        told == f"error: {tmp_path / 'nowhere'} does not exist (or is neither a folder nor a "
        ".tar file).\n"
    )
    told = run("stats", tmp_path, code=1)
    assert "no .tar shards" in told
    assert "nemo-image-curate pack" in told


def test_nothing_to_score(run, made):
    told = run("score", made, code=2)
    assert "--aesthetic, --clip, --probe, --neg-clip-loss, --nsfw" in told
    told = run("score", made, "--nsfw", "--nsfw-weights", "x", code=2)
    assert "no column 'image_embedding'" in told


def test_an_unknown_model(run, made):
    told = run("embed", made, "--model", "vit_tiny_patch_224", code=2)
    assert "Did you mean 'vit_tiny_patch16_224'?" in told


def test_an_output_that_cannot_be_written(run, made, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    # Even root cannot make a folder below a file, or in /proc.
    told = run("stats", made, "--output", tmp_path / "file" / "out", code=1)
    assert "cannot create" in told
    told = run("filter", made, "--where", "score > 0", "--output", "/proc/out", code=1)
    assert "/proc/out" in told
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    told = run("pack", tmp_path / "a.jpg", "--output", "/proc/out", code=1, cluster=False)
    assert "cannot create /proc/out" in told
    told = run("demo", made, "--output", "/proc/out", code=1)
    assert "/proc/out" in told


def test_a_broken_sidecar(run, tmp_path):
    make_dataset(tmp_path, sizes=[2])
    (tmp_path / "00000.parquet").write_bytes(b"no parquet")
    told = run("embed", tmp_path, code=1)
    assert f"sidecar {tmp_path}/00000.parquet is not a readable Parquet file" in told


def test_a_tar_that_cannot_be_read(run, tmp_path):
    make_dataset(tmp_path, sizes=[2, 2])
    unreadable = sorted(glob.glob("/sys/bus/*/uevent"))
    if not unreadable:
        pytest.skip("this system has no file whose reading fails")
    (tmp_path / "00002.tar").symlink_to(unreadable[0])
    told = run("stats", tmp_path, "--output", tmp_path / "out", code=1)
    assert "WARNING: 1 of 3 shards cannot be read and are left out, such as " in told
    assert "error: 1 shards or sidecars could not be read, and are left out" in told
    record = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert (record["samples"], record["account"]["faults"]) == (4, {"unreadable": 1})
    told = run("inspect", tmp_path)
    assert re.search("^faults +1 unreadable$", told, re.MULTILINE)


def test_a_checkpoint_of_another_model(run, made, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(import_timm().create_model("test_resnet").state_dict(), path)
    words = ["embed", made, "--model", "test_vit", "--output", tmp_path / "out"]
    told = run(*words, "--checkpoint", path, code=1)
    assert "w.safetensors does not fit test_vit" in told


def test_a_checkpoint_that_fits_on_a_cluster_of_its_own(run, made, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(import_timm().create_model("test_vit").state_dict(), path)
    words = ["embed", made, "--model", "test_vit", "--checkpoint", path, "--workers", 1]
    told = run(*words, "--output", tmp_path / "out", "--json", cluster=False)
    assert json.loads(told)["errors"] == {"decode": 1}
    schema = pq.read_schema(tmp_path / "out" / "00000.parquet")
    assert schema.field("image_embedding").type.value_type == pa.float32()


def test_a_scheduler_that_does_not_answer(run, made):
    words = ["inspect", made, "--scheduler", "tcp://127.0.0.1:9", "--wait", 1]
    told = run(*words, code=1, cluster=False)
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in told


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Path:
    """Two shards of 6; the second holds the first's pictures again, and a broken one."""
    folder = tmp_path_factory.mktemp("copies")
    for shard in range(2):
        members = [(f"{shard}{number}.jpg", jpeg(number, 300, 200)) for number in range(5)]
        write_tar(folder / f"{shard}.tar", [*members, (f"{shard}5.jpg", b"broken %d" % shard)])
    return folder


@pytest.fixture(scope="module")
def scored_copies(copies, shell, tmp_path_factory) -> Path:
    """Their metadata, embedded and measured by the command."""
    folder = tmp_path_factory.mktemp("scored")
    shell("embed", copies, "--stats", "--output", folder)
    return folder


@pytest.fixture
def scored(scored_copies, tmp_path) -> Path:
    """The same, for one test to change."""
    return shutil.copytree(scored_copies, tmp_path / "scored")


@pytest.mark.parametrize("method", ["exact", "perceptual", "semantic"])
def test_dedup_then_filter(run, scored, tmp_path, method):
    curated = tmp_path / "curated"
    before = scored / "0.parquet"
    told = json.loads(
        run("dedup", scored, "--method", method, "--work-dir", tmp_path / "work", "--json")
    )
    assert told["samples"] == 12
    assert told["duplicates"] == 5
    assert told["not_compared"] == (0 if method == "exact" else 2)
    if method == "semantic":
        assert told["recall"]["recall"] == told["recall"]["precision"] == 1
        assert told["recall"]["sample"] == 10
    assert "is_duplicate" in pq.read_schema(before).names
    done = json.loads(
        run("filter", scored, "--where", "not is_duplicate", "--output", curated, "--json")
    )
    # What could not be compared is nobody's duplicate.
    assert done["kept"] == 12 - 5


def test_dedup_keeps_the_best(run, scored, tmp_path):
    for shard in range(2):
        table = pq.read_table(scored / f"{shard}.parquet")
        table = table.append_column("taste", pa.array([float(shard)] * 6))
        table = table.append_column("price", pa.array([1 - shard] * 6))
        table = table.append_column("same", pa.array([True] * 6))
        pq.write_table(table, scored / f"{shard}.parquet")
    shown = run("dedup", scored, "--by", "taste", "--output", tmp_path / "out")
    assert "recall 1.0000" in shown
    exact = ("dedup", tmp_path / "out", "--method", "exact", "--prefix")
    run(*exact, "exact_")
    run(*exact, "comma_", "--by", "same, -price")
    run(*exact, "dear_", "--by", "same", "--by", "price")
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert {row["shard"] for row in found if row["is_duplicate"]} == {"0.tar"}
    assert {row["shard"] for row in found if row["exact_is_duplicate"]} == {"1.tar"}
    assert {row["shard"] for row in found if row["comma_is_duplicate"]} == {"0.tar"}
    assert {row["shard"] for row in found if row["dear_is_duplicate"]} == {"1.tar"}


def test_dedup_says_what_is_wrong(run, copies, scored):
    assert "no column 'image_embedding'" in run("dedup", copies, code=2)
    assert "Did you mean 'sharpness'" in run("dedup", scored, "--by", "sharpnes", code=2)
    assert "should be a column of numbers" in run("dedup", scored, "--by", "image_format", code=2)
    assert "0<=x<=1" in run("dedup", scored, "--eps", "5", code=2)
    assert "'exact', 'perceptual', 'semantic'" in run("dedup", scored, "--method", "x", code=2)
    assert "not embeddings" in run("dedup", scored, "--embedding-column", "key", code=2)
    file = scored / "0.parquet"
    assert "cannot create" in run("dedup", scored, "--work-dir", file, code=1)
    problem = run("dedup", scored, "--method", "exact", "--keep", "hard", code=2)
    assert "keep='hard' should be one of 'first', 'random', 'best'" in problem


def test_the_image_member_can_be_chosen(run, tmp_path):
    members = [("a.input.jpg", jpeg(1, 40, 30)), ("a.mask.png", jpeg(2, 20, 10, "PNG"))]
    write_tar(tmp_path / "in" / "0.tar", members)
    told = json.loads(run("inspect", tmp_path / "in", "--json"))
    assert told["counts"] == {"several images": 1}
    for pattern, width in (("mask.png", 20), ("INPUT.*", 40)):
        output = tmp_path / f"meta {width}"
        run("stats", tmp_path / "in", "--image-member", pattern, "--output", output)
        assert pq.read_table(output / "0.parquet")["width"].to_pylist() == [width]
        assert json.loads(run("inspect", output, "--json"))["counts"] == {}
    problem = run("stats", tmp_path / "in", "--image-member", "", code=2)
    assert "image_member=''" in problem


def test_commands_are_told_where_the_tars_are(run, tmp_path):
    make_dataset(tmp_path / "tars", sizes=[2])
    run("stats", tmp_path / "tars", "--output", tmp_path / "meta")
    (tmp_path / "tars").rename(tmp_path / "moved")
    problem = run("inspect", tmp_path / "meta", code=1)
    assert "--tars TAR_FOLDER" in problem
    told = json.loads(run("inspect", tmp_path / "meta", "--tars", tmp_path / "moved", "--json"))
    assert told["samples"] == 2
    arguments = ("--where", "width > 0", "--output", tmp_path / "new", "--json")
    told = json.loads(run("filter", tmp_path / "meta", "--tars", tmp_path / "moved", *arguments))
    assert told["kept"] == 2
    # The other dataset of a report is opened as it is named.
    page = tmp_path / "page.html"
    arguments = ("--against", tmp_path / "new", "-o", page)
    run("report", tmp_path / "meta", "--tars", tmp_path / "moved", *arguments)
    assert page.exists()


def test_every_command_with_a_dataset_is_told_where_the_tars_are():
    runner = CliRunner()
    for name, command in main.commands.items():
        has_dataset = any(parameter.name == "dataset" for parameter in command.params)
        assert ("--tars" in runner.invoke(main, [name, "--help"]).output) == has_dataset, name


def test_every_command_that_opens_a_dataset_has_the_choice_of_the_image_member():
    runner = CliRunner()
    for name in ("embed", "stats", "score", "dedup", "filter", "inspect", "index", "search"):
        assert "--image-member" in runner.invoke(main, [name, "--help"]).output, name
    for name in ("serve", "zero-shot"):
        assert "--image-member" in runner.invoke(main, [name, "--help"]).output, name


def test_lines_of_json_are_not_mixed_with_warnings_of_decoders(run, tmp_path):
    """Of workers of its own, which print where the command does."""
    write_tar(tmp_path / "in/0.tar", [("a.jpg", large_icon()), ("b.jpg", jpeg(1, 64, 64))])
    words = ("stats", tmp_path / "in", "--output", tmp_path / "out", "--log-json", "--workers", 1)
    run(*words, cluster=False)
    records = [json.loads(line) for line in run.stderr.splitlines()]
    assert any(record.get("job") == "save" for record in records)
    errors = column(ImageTextPairDataset.from_webdataset(tmp_path / "out"), "image_error")
    assert [error and error[:10] for error in errors] == ["too large:", None]
