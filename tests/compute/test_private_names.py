"""The private names of libraries that we touch: these fail when one of them moves."""

from __future__ import annotations

import time

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster

from nemo_image_curate.compute import _dali, _dask, _torch


def frame(kind: str = "Int64") -> dd.DataFrame:
    numbers = pd.Series([3, None, 1, 2, 5, 4], dtype=kind)
    return dd.from_pandas(pd.DataFrame({"n": numbers}), npartitions=2)


def test_a_client_closes_the_cluster_that_it_owns():
    cluster = LocalCluster(n_workers=1, processes=False, dashboard_address=":0")
    client = Client(cluster, set_as_default=False)
    _dask.own_cluster(client)
    client.close()
    assert cluster.status.name == "closed"


def test_expressions_tell_what_they_are_made_of():
    doubled = (frame()["n"] * 2).expr
    assert _dask.is_expression(doubled)
    assert not _dask.is_expression("n")
    assert _dask.is_blockwise(doubled)
    assert not _dask.is_blockwise(frame().sort_values("n").expr)
    assert _dask.is_assignment(frame().assign(m=1).expr)
    assert _dask.is_filter(frame()[frame()["n"] > 1].expr)
    assert not _dask.is_assignment(doubled)
    assert not _dask.is_filter(doubled)
    assert dict(_dask.operands(doubled)) == {"left": frame()["n"].expr, "right": 2}
    mapped = frame().map_partitions(lambda part, column: part[[column]], "n").expr
    assert "n" in [value for name, value in _dask.operands(mapped) if name is None]


def test_expressions_tell_whose_rows_they_have():
    numbers = frame()
    assert _dask.name((numbers["n"] * 2).expr) == _dask.name((numbers["n"] * 2).expr)
    assert _dask.name((numbers["n"] * 2).expr) != _dask.name((numbers["n"] * 3).expr)
    for kept in (numbers["n"], numbers.assign(m=1), numbers.rename(columns={"n": "m"})):
        assert _dask.is_row_by_row(kept.expr)
        assert _dask.name(kept.expr.dependencies()[0]) == _dask.name(numbers.expr)
    assert not _dask.is_row_by_row(numbers[numbers["n"] > 1].expr)
    assert not _dask.is_row_by_row(numbers.map_partitions(len, meta=("n", int)).expr)
    assert _dask.is_relabelled(numbers.reset_index().expr)
    assert not _dask.is_relabelled(numbers.assign(m=1).expr)
    assert _dask.is_running(numbers["n"].cumsum().expr)
    assert not _dask.is_running((numbers["n"] * 2).expr)


def test_which_partitions_are_read():
    with dask.config.set({"dataframe.convert-string": False}):
        read = dd.from_map(lambda number: pd.DataFrame({"n": [number]}), range(4))
    assert _dask.chosen_partitions(read.expr) is None
    assert _dask.chosen_partitions(read.partitions[1:3].optimize(fuse=False).expr) == [1, 2]


def test_columns_of_a_frame_as_they_are():
    assert _dask.is_projection(frame()[["n"]].expr)
    assert not _dask.is_projection((frame() * 2).expr)
    (function,) = [
        value
        for name, value in _dask.operands(frame().map_partitions(len, meta=("n", int)).expr)
        if name == "func"
    ]
    counted = frame().map_partitions(len, meta=("n", int)).expr.substitute(function, id)
    assert dict(_dask.operands(counted))["func"] is id
    assert _dask.collection(frame().expr).compute()["n"].count() == 5


@pytest.mark.parametrize("kind", ["Int64", "Float32", "UInt8", "int64[pyarrow]"])
def test_quantiles_of_numbers_that_can_be_null(kind):
    _dask.teach_quantiles()
    assert frame(kind)["n"].quantile([0.0, 1.0]).compute().tolist() == [1, 5]
    assert frame(kind).describe().compute().n["count"] == 5


def test_quantiles_on_workers_that_know_nothing_of_us(client):
    _dask.teach_quantiles()
    numbers = client.persist(frame()["n"])
    assert float(numbers.quantile(1.0).compute()) == 5


def test_dali_gives_memory_back():
    backend = pytest.importorskip("nvidia.dali.backend")
    assert callable(backend.ReleaseUnusedMemory)
    _dali.release_memory()


def test_floats_of_compiled_code_are_constants_or_inputs():
    inputs = list[int]()

    def backend(graph, example_inputs):
        inputs.append(sum(node.op == "placeholder" for node in graph.graph.nodes))
        return graph

    for constant in (False, True):
        torch._dynamo.reset()
        add = torch.compile(lambda x, y: x + y, backend=backend, dynamic=True)
        with _torch.constant_floats(constant):
            assert add(torch.ones(3), 0.5).tolist() == [1.5] * 3
        assert add(torch.ones(4), 0.5).tolist() == [1.5] * 4
    # The size is an input, too.
    assert inputs == [3, 2]


def test_a_function_is_run_on_workers_that_answer_in_time(client):
    addresses = list(client.scheduler_info()["workers"])
    answers = _dask.run(client, divmod, 7, 2, workers=addresses[:1], seconds=20)
    assert answers == {addresses[0]: (3, 1)}
    (error,) = _dask.run(client, divmod, 7, 0, workers=addresses[:1], seconds=20).values()
    assert isinstance(error, ZeroDivisionError)
    assert _dask.run(client, time.sleep, 3, workers=addresses[:1], seconds=0.1) is None


def test_a_task_is_wrapped():
    doubled = dask.delayed(divmod, pure=False)(dask.delayed(int)("7"), 2)
    wrapped = _dask.wrap(doubled, lambda function: lambda *args: [function(*args)])
    assert wrapped.key == doubled.key
    assert wrapped.compute(scheduler="sync") == [(3, 1)]
    assert _dask.wrap(dask.delayed(5), None).compute(scheduler="sync") == 5
