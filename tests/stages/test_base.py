"""The contract that every stage keeps: what it adds, what decides its values, what is recorded."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
import json
import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.base import tokenize

from nemo_image_curate import (
    AestheticClassifier,
    AlignedEmbedder,
    BalancedSample,
    CaptionQuality,
    CaptionStatistics,
    ClipScore,
    ClusterBudget,
    ClusterTarget,
    ConceptBalance,
    ConseEmbedder,
    DataCompFilter,
    Decontaminate,
    ExactDedup,
    HierarchicalClusters,
    ImageDigest,
    ImageNetWords,
    ImageQuality,
    ImageStatistics,
    ImageTextPairDataset,
    Join,
    LinearProbe,
    NegClipLoss,
    NsfwClassifier,
    OddSize,
    OpenCLIPEmbedder,
    PerceptualDedup,
    PerceptualHash,
    RepeatedCaptions,
    Retrieve,
    SelectionFile,
    SemanticDedup,
    SoftCapSample,
    Stage,
    TargetSimilarity,
    TimmImageEmbedder,
    TopFraction,
    Typicality,
    Uniqueness,
    ZeroShotClassifier,
    catalog,
    frames,
)
from nemo_image_curate.classifiers.probe_file import ProbeFile
from nemo_image_curate.embedders.aligned_file import AlignedModel, write_model
from nemo_image_curate.errors import ConfigError, WeightsError
from nemo_image_curate.learning.heads import Head
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.learning.towers import Towers
from nemo_image_curate.stages.base import ColumnStage, no_effect
from tests.embedders.open_clip_folders import CLIP, save
from tests.make_data import make_dataset
from tests.shared import SHARED, needs_shared

HEADS = [
    str(SHARED / "weights" / name)
    for name in ("sac+logos+ava1-l14-linearMSE.pth", "clip_autokeras_binary_nsfw.zip")
]


@functools.cache
def aligned_model(clip_folder: str) -> str:
    """A model on a CLIP of random weights."""
    encoder, folder = OpenCLIPEmbedder(clip_folder), tempfile.mkdtemp()
    one = np.ones((1, 32), np.float32)
    pair = Pairs(one[None], one, np.zeros(1, np.int64))
    head = Head.given(32, 32, slice(None), slice(None))
    towers = Towers.of([head], [1.0], pair, 20.0, math.inf)
    model = AlignedModel(towers, encoder.record(), encoder.record())
    write_model(model, folder, {})
    return folder


@functools.cache
def selection_file() -> str:
    """A file of chosen rows."""
    path = Path(tempfile.mkdtemp()) / "chosen.parquet"
    pq.write_table(pa.table({"key": ["a"], "shard": ["0.tar"]}), path)
    return str(path)


@functools.cache
def probe_file() -> str:
    """The file of a linear probe of two classes."""
    path = Path(tempfile.mkdtemp()) / "probe.safetensors"
    recipe = {"classes": ["a", "b"], "is_bool": False, "pred_column": "label", "encoder": None}
    ProbeFile(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), recipe).write(str(path))
    return str(path)


MAKE: dict[str, Callable[[Any], Stage]] = {
    "AlignedEmbedder": lambda folder: AlignedEmbedder(aligned_model(folder)),
    "AestheticClassifier": lambda folder: AestheticClassifier(model_path=HEADS[0]),
    "BalancedSample": lambda folder: BalancedSample(5),
    "CaptionQuality": lambda folder: CaptionQuality(),
    "CaptionStatistics": lambda folder: CaptionStatistics(detect_language=False),
    "ClipScore": lambda folder: ClipScore(),
    "ClusterBudget": lambda folder: ClusterBudget(0.5),
    "ClusterTarget": lambda folder: ClusterTarget(np.eye(3, dtype=np.float32)),
    "ConceptBalance": lambda folder: ConceptBalance(["dog"]),
    "ConseEmbedder": lambda folder: ConseEmbedder(),
    "DataCompFilter": lambda folder: DataCompFilter("datacomp-basic"),
    "Decontaminate": lambda folder: Decontaminate("reference"),
    "ExactDedup": lambda folder: ExactDedup(),
    "HierarchicalClusters": lambda folder: HierarchicalClusters((5, 2)),
    "ImageDigest": lambda folder: ImageDigest(),
    "ImageNetWords": lambda folder: ImageNetWords(),
    "ImageQuality": lambda folder: ImageQuality(),
    "ImageStatistics": lambda folder: ImageStatistics(),
    "Join": lambda folder: Join(pa.table({"uid": ["a"], "own": [1.0]})),
    "LinearProbe": lambda folder: LinearProbe(probe_file()),
    "NegClipLoss": lambda folder: NegClipLoss(),
    "NsfwClassifier": lambda folder: NsfwClassifier(model_path=HEADS[1]),
    "OddSize": lambda folder: OddSize(),
    "OpenCLIPEmbedder": lambda folder: OpenCLIPEmbedder(folder),
    "PerceptualDedup": lambda folder: PerceptualDedup(),
    "PerceptualHash": lambda folder: PerceptualHash(),
    "RepeatedCaptions": lambda folder: RepeatedCaptions(),
    "Retrieve": lambda folder: Retrieve(np.eye(3, dtype=np.float32)),
    "SelectionFile": lambda folder: SelectionFile(selection_file()),
    "SemanticDedup": lambda folder: SemanticDedup(n_clusters=2),
    "SoftCapSample": lambda folder: SoftCapSample("score", 5),
    "TargetSimilarity": lambda folder: TargetSimilarity(np.eye(3, dtype=np.float32), 2),
    "TimmImageEmbedder": lambda folder: TimmImageEmbedder("offline"),
    "TopFraction": lambda folder: TopFraction("score", 0.5),
    "Typicality": lambda folder: Typicality(),
    "Uniqueness": lambda folder: Uniqueness(),
    "ZeroShotClassifier": lambda folder: ZeroShotClassifier(ConseEmbedder(), ["a dog", "a cat"]),
}
# Bases of users' own, which are not complete without what these define.
BASES = {"ImageClassifier", "ImageEmbedder", "TextImageEmbedder"}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("stages") / "clip", CLIP)


@pytest.fixture(
    params=[
        pytest.param(
            name, marks=[needs_shared] if name in ("AestheticClassifier", "NsfwClassifier") else []
        )
        for name in MAKE
    ]
)
def make(request, clip_folder) -> Callable[[], Stage]:
    return lambda: MAKE[request.param](clip_folder)


def test_every_stage_of_the_catalog_is_tested_here():
    public = {name: catalog.load(name) for name in catalog.PUBLIC}
    stages = {
        name
        for name, defined in public.items()
        if isinstance(defined, type) and issubclass(defined, Stage)
        if not inspect.isabstract(defined)
    }
    assert stages - BASES == set(MAKE)


def test_columns_and_provenance(make):
    stage = make()
    columns = stage.columns()
    assert columns
    assert all(isinstance(kind, pa.DataType) for kind in columns.values())
    provenance = stage.provenance()
    assert provenance
    assert set(provenance) <= set(columns)
    assert type(stage).__qualname__ in [record["stage"] for record in provenance.values()]
    assert all(record["version"] for record in provenance.values())
    json.dumps(provenance)
    stage.check()


def test_the_token_is_that_of_the_values(make):
    stage = make()
    assert make().content_token() == stage.content_token()
    assert pickle.loads(pickle.dumps(stage)).content_token() == stage.content_token()
    json.dumps(stage.content_token())


def other(value: Any) -> Any:
    """Some value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return (value, "x")


def test_parameters_that_decide_values_are_in_the_token_and_no_others(make):
    stage = make()
    fields = [field for field in dataclasses.fields(stage) if field.init]
    assert fields or type(stage) is ImageStatistics
    for field in fields:
        if field.name == "embedder":
            continue
        changed = copy.copy(stage)
        setattr(changed, field.name, other(getattr(stage, field.name)))
        decides = field.metadata.get("affects_values", True)
        assert (field.name in changed.parameters()) == decides
        if decides:
            try:
                token = changed.content_token()
            except (ConfigError, WeightsError):
                # No model has this name.
                continue
            assert token != stage.content_token(), field.name


def test_constructors_only_store_parameters(make):
    signature = inspect.signature(type(make()))
    stage = make()
    for name, parameter in signature.parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert hasattr(stage, name)
            if parameter.default not in (inspect.Parameter.empty, None):
                assert getattr(stage, name) in (parameter.default, getattr(make(), name))


def scope(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return names


OWN = """
import pyarrow as pa
from nemo_image_curate import {base}
class Own({base}):
    def load(self, device):
        given = super().load(device)
        def consume(batch):
            return {{name: [x for x in values][:{limit}] for name, values in given(batch).items()}}
        return consume
"""


@pytest.mark.parametrize("base", [ImageStatistics, PerceptualHash])
def test_what_a_subclass_computes_otherwise_tells_it_from_its_base(base):
    own, changed = (scope(OWN.format(base=base.__name__, limit=limit))["Own"]() for limit in (9, 8))
    tokens = [repr(stage.content_token()) for stage in (base(), own, changed)]
    assert len(set(tokens)) == 3
    assert [repr(stage.__dask_tokenize__()) for stage in (base(), own, changed)] == tokens


MODULE = """
from nemo_image_curate import ImageStatistics

class Dimmed(ImageStatistics):
    def load(self, device):
        measure = super().load(device)
        return lambda batch: {{**measure(batch), "brightness": [{value}] * len(batch.decoded)}}
"""
SAVE = """
import sys
sys.path.insert(0, sys.argv[1])
from nemo_image_curate import ImageStatistics, ImageTextPairDataset
ds = ImageTextPairDataset.from_webdataset(sys.argv[2], backend="cpu")
if sys.argv[4] == "own":
    import dimmed
    ds = dimmed.Dimmed()(ds)
else:
    ds = ImageStatistics()(ds)
ds.save_metadata(sys.argv[3], progress=False)
"""


def test_a_resumed_save_takes_nothing_over_from_another_class_or_from_other_code(tmp_path):
    """A file of the user's own, edited between two runs of the same script."""
    make_dataset(tmp_path / "data", sizes=[2], sidecars=False)

    def brightness(which: str) -> list[float]:
        given = [str(tmp_path), str(tmp_path / "data"), str(tmp_path / "out"), which]
        subprocess.run([sys.executable, "-c", SAVE, *given], check=True)
        saved = ImageTextPairDataset.from_webdataset(tmp_path / "out", backend="cpu")
        return frames.to_arrow(saved.metadata.compute())["brightness"].to_pylist()

    measured = brightness("ours")
    assert 1.0 not in measured
    for value in (1.0, 2.0):
        (tmp_path / "dimmed.py").write_text(MODULE.format(value=value))
        assert brightness("own") == [value] * 2
    assert brightness("ours") == measured


SCORER = """
from nemo_image_curate import ImageClassifier

FACTOR = {factor}
_LOADED = None

def head(embeddings):
    return helper(embeddings) * FACTOR

def helper(embeddings):
    return Network().sums(embeddings){more}

class Layer:
    def sums(self, embeddings):
        return embeddings.sum(dim=1) + {bias}

class Network(Layer):
    pass

class Scorer(ImageClassifier):
    def load_model(self, device):
        return head
"""


def test_what_a_stage_s_functions_use_of_its_package_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def token(module: str, factor: float = 1.0, more: str = "", bias: int = 0) -> str:
        source = SCORER.format(factor=factor, more=more, bias=bias)
        (tmp_path / f"{module}.py").write_text(source)
        sys.modules.pop(module, None)
        importlib.invalidate_caches()
        scorer = importlib.import_module(module)
        before = tokenize(scorer.Scorer("q"))
        scorer._LOADED = object()
        assert tokenize(scorer.Scorer("q")) == before, "what a program keeps while it runs"
        return before

    assert token("scorer") == token("scorer")
    different = [
        token("scorer"),
        token("other"),
        token("scorer", factor=100.0),
        token("scorer", more="+1"),
        token("scorer", bias=1),
    ]
    assert len(set(different)) == 5


def test_functions_that_use_each_other_are_described_once(tmp_path, monkeypatch):
    """Forty layers of two functions, each of which uses both below: 2 ** 40 paths."""
    monkeypatch.syspath_prepend(tmp_path)
    layers = [
        f"def {name}{layer}(x): return a{layer - 1}(x) + b{layer - 1}(x)"
        for layer in range(1, 40)
        for name in "ab"
    ]
    start = ["def a0(x): return x.sum(dim=1)", "def b0(x): return a39(x)"]
    scorer = ["class Scorer(ImageClassifier):", "    def load_model(self, device): return a39"]
    lines = ["from nemo_image_curate import ImageClassifier", *start, *layers, *scorer]
    (tmp_path / "entangled.py").write_text("\n".join(lines))
    importlib.invalidate_caches()
    stage = importlib.import_module("entangled").Scorer("q")
    assert tokenize(stage) == tokenize(stage)


@dataclasses.dataclass(eq=False)
class Doubled(ColumnStage):
    """As the reference shows it to users."""

    column: str
    name: str = "doubled"
    note: str = no_effect("")

    def columns(self) -> dict[str, pa.DataType]:
        return {self.name: pa.int64()}

    def inputs(self) -> list[str]:
        return [self.column]

    def run(self, frame: Any) -> dict[str, Any]:
        return {self.name: frame[self.column] * 2}


def test_a_stage_of_the_users_own(tmp_path, backend):
    make_dataset(tmp_path)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    saved = Doubled("width")(ds).save_metadata(tmp_path / "out", progress=False)
    table = frames.to_arrow(saved.metadata.compute())
    assert table["doubled"].to_pylist() == [
        width and 2 * width for width in table["width"].to_pylist()
    ]
    assert saved.provenance["doubled"]["stage"] == "Doubled"
    one, two = Doubled("width", note="a"), Doubled("width", note="b")
    assert one.content_token() == two.content_token() != Doubled("height").content_token()


@pytest.mark.parametrize("name", ["key", "shard", "image_error"])
def test_no_column_stage_may_overwrite_what_tells_rows_apart(tmp_path, name):
    make_dataset(tmp_path)
    with pytest.raises(ConfigError, match=f"column '{name}'"):
        Doubled("width", name)(ImageTextPairDataset.from_webdataset(tmp_path))


class Needy(Stage):
    requires = (("no_such_module", "nothing"),)

    def __init__(self) -> None:
        self.__post_init__()

    def columns(self) -> dict[str, pa.DataType]:
        return {}

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        return dataset


def test_what_is_not_installed_is_said_when_a_stage_is_made():
    with pytest.raises(ConfigError, match=r"Needy needs .*nemo_image_curate\[nothing\]"):
        Needy()
