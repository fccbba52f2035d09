#!/usr/bin/env python3
"""What is made from the one list of public names, `nemo_image_curate/catalog.py`.

    .venv/bin/python ci/public_names.py            write the files
    .venv/bin/python ci/public_names.py --check    fail when one is not what the list says

nemo_image_curate/__init__.pyi tells type checkers and editors what the package imports only when
it is asked for; docs/api.md is the reference: each name with the first sentence of its docstring
and, for stages, what they add.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import catalog
from nemo_image_curate.classifiers.probe_file import ProbeFile
from nemo_image_curate.embedders.text_image import TextImageEmbedder
from nemo_image_curate.stages.base import Stage

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nemo_image_curate"
STUB = ROOT / PACKAGE / "__init__.pyi"
REFERENCE = ROOT / "docs" / "api.md"


def selection_file() -> str:
    """A file with all that a selection can have."""
    columns = {name: pa.array([], pa.string()) for name in ("key", "shard")}
    columns |= {"multiplicity": pa.array([], pa.int64()), "weight": pa.array([], pa.float64())}
    path = Path(tempfile.mkdtemp()) / "selection.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def probe_file() -> str:
    """The file of a probe."""
    path = Path(tempfile.mkdtemp()) / "probe.safetensors"
    recipe = {"classes": ["a", "b"], "is_bool": False, "pred_column": "label", "encoder": None}
    ProbeFile(np.zeros((2, 2), np.float32), np.zeros(2, np.float32), recipe).write(str(path))
    return str(path)


# To ask a stage for its columns one must be made: the arguments of those that need some.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "AlignedEmbedder": ("model/",),
    "BalancedSample": (1000,),
    "ClusterBudget": (0.3,),
    "ClusterTarget": ("target/",),
    "ConceptBalance": (["dog"],),
    "DataCompFilter": ("datacomp-basic",),
    "Decontaminate": ("reference",),
    "ImageClassifier": ("score",),
    "ImageEmbedder": ("of your own",),
    "Join": (pa.table({"uid": pa.array([], pa.string()), "my_score": pa.array([], pa.float64())}),),
    "LinearProbe": (probe_file(),),
    "OpenCLIPEmbedder": ("ViT-B-32",),
    "Retrieve": ("seeds",),
    "SelectionFile": (selection_file(),),
    "SoftCapSample": ("clip_score", 1000),
    "TargetSimilarity": ("target/",),
    "TextImageEmbedder": ("of your own",),
    "TimmImageEmbedder": ("offline",),
    "TopFraction": ("clip_score", 0.3),
    "ZeroShotClassifier": (catalog.load("ConseEmbedder")(), ["dog", "cat"]),
}
MADE = "ci/public_names.py makes this file from nemo_image_curate/catalog.py."


def modules() -> dict[str, list[str]]:
    """The public names of each module, in order."""
    names = defaultdict(list)
    for name, entry in catalog.PUBLIC.items():
        names[entry.module].append(name)
    return dict(sorted(names.items()))


def stub() -> str:
    """The text of ``__init__.pyi``."""
    lines = [f"# {MADE}"]
    for module, names in modules().items():
        lines.append(f"from {PACKAGE}.{module} import {', '.join(sorted(names))}")
    lines += [f"from {PACKAGE}.version import __version__", ""]
    exported = "".join(f'    "{name}",\n' for name in sorted([*catalog.PUBLIC, "__version__"]))
    text = "\n".join(lines) + f"\n__all__ = [\n{exported}]\n"
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--quiet",
        "--stdin-filename",
        str(STUB),
        "-",
    ]
    done = subprocess.run(command, input=text, check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout


def summary(obj: Any) -> str:
    """The first paragraph of a docstring, as it can stand in a table."""
    paragraph = (inspect.getdoc(obj) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|").replace("``", "`")


def kind(data_type: pa.DataType) -> str:
    """A type's name, the width of its numbers included."""
    if pa.types.is_list(data_type):
        return f"list<{kind(data_type.value_type)}>"
    return {"float": "float32", "double": "float64"}.get(str(data_type), str(data_type))


def added(name: str) -> str:
    """The columns that a stage adds by default."""
    obj = catalog.load(name)
    if not (inspect.isclass(obj) and issubclass(obj, Stage)) or inspect.isabstract(obj):
        return ""
    try:
        stage = obj(*ARGUMENTS.get(name, ()))
    except TypeError as error:
        sys.exit(f"public_names: {error}. Give arguments in ARGUMENTS of {Path(__file__).name}.")
    columns = stage.columns()
    if isinstance(stage, TextImageEmbedder):
        # Of captions, where there are some; not of the pass over the images.
        columns |= {stage.text_embedding_column: columns[stage.image_embedding_column]}
    return ", ".join(f"`{column}` {kind(type_)}" for column, type_ in columns.items())


def reference() -> str:
    """The text of ``docs/api.md``."""
    parts = [
        "# Public names",
        f"<!-- {MADE} -->",
        "`from nemo_image_curate import NAME`; `help(NAME)` says the rest. Columns are those of\n"
        "default settings; each pass over the images adds `image_error`, too. Options belong to\n"
        "`nemo-image-curate embed` and `score`. Errors are in `nemo_image_curate.errors`,\n"
        "the service in `nemo_image_curate.serve` (`create_app`, `run_service`, `Settings`),\n"
        "`no_effect` in `nemo_image_curate.stages`. For stages of your own there are `to_arrow`,\n"
        "`embedding_array`, `embedding_column`, `embedding_type` and `scatter` in\n"
        "`nemo_image_curate.frames`; a `PixelStage` is given a `DecodedBatch` with `ImageHeader`s.",
    ]
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for module, names in modules().items():
        folders[module.partition(".")[0]] += names
    for folder, names in folders.items():
        heading = summary(importlib.import_module(f"{PACKAGE}.{folder}"))
        rows = [f"## {folder}", "", heading, ""] if heading else [f"## {folder}", ""]
        columns = {name: added(name) for name in names}
        stages = any(columns.values())
        rows += ["| | | adds | option |", "|---|---|---|---|"] if stages else ["| | |", "|---|---|"]
        for name in sorted(names):
            option = catalog.PUBLIC[name].option
            cells = [f"`{name}`", summary(catalog.load(name))]
            cells += [columns[name], f"`--{option}`" if option else ""] if stages else []
            rows.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    for path, text in ((STUB, stub()), (REFERENCE, reference())):
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path.relative_to(ROOT)} is not what the catalog says: run {sys.argv[0]}")


if __name__ == "__main__":
    main()
