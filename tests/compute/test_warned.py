"""Warnings of tasks: each kind told once, all counted."""

from __future__ import annotations

import json
import logging
import warnings

import dask
import distributed
import pytest

from nemo_image_curate.compute import jobs, progress, warned
from nemo_image_curate.compute.logs import JsonFormatter


def noisy(number: int) -> int:
    """Warn like a decoder and a model; of libraries, and of this package."""
    for row in range(3):
        logging.getLogger("nemo_image_curate.tests").warning("no memory for %d images", number)
        logging.getLogger("some.library").warning("of row %d", row)
        warnings.warn("an odd picture", UserWarning, stacklevel=1)
    logging.getLogger("nemo_image_curate.tests").info("fine")
    return number


@pytest.fixture(params=["threads", "processes"])
def where(request):
    """Tasks run in threads of this process, or on workers in processes of their own."""
    if request.param == "processes":
        request.getfixturevalue("client")


def compute() -> None:
    tasks = [dask.delayed(noisy, pure=False)(number) for number in range(4)]
    assert jobs.compute_all(tasks, list("abcd"), "embed") == [0, 1, 2, 3]


@pytest.mark.usefixtures("where")
def test_each_kind_is_told_once_and_all_are_counted(caplog, capfd):
    compute()
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("embed: ")]
    assert len(told) == 4, told
    assert {text.partition(" images")[0].rstrip("0123") for text in told[:3]} == {
        "embed: no memory for ",
        "embed: of row ",
        "embed: UserWarning: an odd picture",
    }
    assert told[3].startswith("embed: 36 warnings of 3 kinds: 12 like this one: ")
    counts = progress.finished()[-1]["warnings"]
    assert sorted(counts.values()) == [12, 12, 12]
    assert "odd picture" not in capfd.readouterr().err


def test_of_few_there_is_no_sum(caplog):
    def once() -> None:
        warnings.warn("only once", stacklevel=1)

    jobs.compute_all([dask.delayed(once)()], ["a"], "embed")
    assert [r.getMessage() for r in caplog.records] == ["embed: UserWarning: only once"]


def test_handlers_and_filters_are_afterwards_as_before():
    root, own = logging.getLogger(), logging.getLogger("nemo_image_curate")
    before = (root.handlers[:], own.handlers[:], warnings.filters[:], warnings.showwarning)
    with warned.gathered() as outer, warned.gathered() as inner:
        noisy(0)
    compute()
    assert (root.handlers, own.handlers, warnings.filters, warnings.showwarning) == before
    assert sum(kind.number for kind in inner.values()) == 9
    assert outer == {}


def test_what_is_no_warning_goes_on_to_who_wants_it(caplog):
    with caplog.at_level(logging.INFO), warned.gathered():
        noisy(0)
        logging.getLogger("nemo_image_curate.tests").error("a fault")
    assert [r.getMessage() for r in caplog.records] == ["fine", "a fault"]


def test_kinds_are_bounded():
    with warned.gathered() as counted:
        for number in range(200):
            name = "".join(chr(97 + int(digit)) for digit in str(number))
            logging.getLogger("lib").warning("kind %s", name)
    assert len(counted) == warned._MOST_KINDS + 1
    assert counted[warned.OTHERS].number == 200 - warned._MOST_KINDS


def test_a_failed_task_has_warned_too(caplog):
    def fail() -> None:
        noisy(0)
        raise ValueError("broken")

    with pytest.raises(jobs.JobError):
        jobs.compute_all([dask.delayed(fail)()], ["a"], "embed")
    assert sum(progress.finished()[-1]["warnings"].values()) == 9


def test_in_workers_of_this_process(caplog):
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        compute()
    assert sum(progress.finished()[-1]["warnings"].values()) == 36


def test_a_line_of_json(caplog, monkeypatch):
    monkeypatch.setattr(progress, "settings", progress.Settings(as_json=True))
    compute()
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert {line["event"] for line in lines if line["level"] == "warning"} == {"warning"}
