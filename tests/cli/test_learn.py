"""The command learn: what it prints, and that its model is a model for the other commands."""

from __future__ import annotations

import json

from nemo_image_curate import ConseEmbedder, ImageTextPairDataset
from nemo_image_curate.cli import searching
from tests.embedders.open_clip_folders import clip_folder
from tests.embedders.test_aligned import home, texts, write
from tests.make_embedders import embeddings

__all__ = ["clip_folder", "home"]


def test_a_model_is_learned_and_named(tmp_path, clip_folder, run):
    write(tmp_path / "in", range(60), caption=lambda n: texts(n)[0])
    model, meta = tmp_path / "model", tmp_path / "meta"
    words = ["--model", f"open_clip:{clip_folder}", "--loss", "infonce", "--samples-seen", 2000]
    told = run("learn", tmp_path / "in", "--output", model, *words)
    assert "60 captions of 60 pictures" in told
    assert told.count("R@10") == 2
    assert f"embed {tmp_path / 'in'} --model aligned:{model}" in told
    assert json.loads((model / "recipe.json").read_text())["rows"] == {"used": 60}
    run("embed", tmp_path / "in", "--model", f"aligned:{model}", "--output", meta)
    assert embeddings(ImageTextPairDataset.from_webdataset(meta), "text_embedding").shape[0] == 60
    told = run("embed", meta, "--model", f"aligned:{meta}", code=1)
    assert "holds no aligned.safetensors" in told


def test_learning_is_proposed_where_there_are_captions(tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "_FEWEST_CAPTIONS", 5)
    ds = write(tmp_path / "in", range(9), caption=lambda n: texts(n)[0] if n < 6 else None)
    saved = ds.save_metadata(tmp_path / "meta")
    embedder = ConseEmbedder()
    assert "6 rows have captions: nemo-image-curate learn" in searching.learn_advice(
        saved, embedder
    )
    few = write(tmp_path / "few", range(9), caption=lambda n: texts(n)[0] if n < 3 else None)
    few = few.save_metadata(tmp_path / "few-meta")
    assert searching.learn_advice(few, embedder) is None
    none = ImageTextPairDataset.from_webdataset(tmp_path / "meta").select([])
    assert searching.learn_advice(none, embedder) is None
