"""What is told of running jobs."""

from __future__ import annotations

import json
import logging

import pytest

from nemo_image_curate.compute import progress
from nemo_image_curate.compute.logs import JsonFormatter
from nemo_image_curate.compute.progress import Progress


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """As a command has them."""
    monkeypatch.setattr(progress, "settings", progress.Settings(quiet_seconds=0))


def count(shown: Progress) -> None:
    shown.end({"rows": 90, "errors": {"decode": 3, "missing": 1}})
    shown.end(
        [{"rows": 7, "dropped": {"by_condition": 2, "by_null": 1}}, {"rows": 5, "missing": 4}]
    )
    shown.end("of another kind")
    shown.fail(ValueError("odd"))


def test_rows_and_what_was_rejected_are_summed(capsys):
    with Progress("save", 4, None).running() as shown:
        count(shown)
        (line,) = progress.status()
        assert line.startswith("save: 4 of 4 partitions, 109 rows, ")
    assert progress.status() == []
    first, last = capsys.readouterr().err.splitlines()
    assert first == "save: 4 partitions"
    assert last.startswith("save: 4 of 4 partitions, 109 rows, ")
    assert " images/s, rejected 11 (5 missing, 3 decode, 2 by condition, 1 by null), " in last
    assert "failed 1 (1 ValueError), took 0:00:0" in last
    assert progress.finished()[-1]["rows"] == 109


def test_what_is_not_to_be_shown(capsys):
    with Progress("save", 4, False).running() as shown:
        count(shown)
    assert capsys.readouterr().err == ""


def test_jobs_of_scripts_that_do_not_take_long_say_nothing(capsys):
    progress.settings.quiet_seconds = 1000
    with Progress("save", 4, None).running() as shown:
        count(shown)
    assert capsys.readouterr().err == ""


def test_long_jobs_tell_how_far_they_are_and_what_they_wait_for(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with Progress("save", 4, None).running() as shown:
        shown.end({"rows": 90})
        said = ""
        while "save: 1 of 4 partitions, 90 rows" not in said:
            said += capsys.readouterr().err
    monkeypatch.setattr(progress, "_LINE_SECONDS", 1000.0)
    monkeypatch.setattr(progress, "_STILL_SECONDS", 0.0)
    with Progress("save", 4, None, lambda: "no worker is connected").running():
        while "save: waiting: no worker is connected" not in said:
            said += capsys.readouterr().err


def test_lines_of_json(capsys, monkeypatch, caplog):
    progress.settings.as_json = True
    with caplog.at_level(logging.INFO), Progress("save", 4, None).running() as shown:
        count(shown)
    assert capsys.readouterr().err == ""
    record = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (record["job"], record["partitions"], record["of"], record["rows"]) == (
        "save",
        4,
        4,
        109,
    )
    assert record["rejected"]["decode"] == 3
    assert record["failed"] == {"ValueError": 1}


def test_fields_of_json_are_those_that_are_documented(caplog):
    """Others read them: none may go."""
    progress.settings.as_json = True
    with (
        caplog.at_level(logging.INFO),
        progress.stage("dedup", 1, 2),
        progress.stage("cluster", 2, 3),
        Progress("read", 4, None).running() as shown,
    ):
        count(shown)
    first, last = (json.loads(JsonFormatter().format(record)) for record in caplog.records)
    assert (first["event"], last["event"]) == ("start", "end")
    assert last["message"].startswith("dedup 1 of 2, cluster 2 of 3, read: 4 of 4 partitions")
    assert list(last)[4:] == [
        *("event", "job", "stage", "partitions", "of", "rows", "seconds", "images_per_second"),
        *("seconds_left", "rejected", "failed", "warnings"),
    ]
    assert (last["job"], last["stage"]) == ("read", "dedup 1 of 2, cluster 2 of 3")
    assert (first["seconds_left"], last["seconds_left"]) == (None, 0)
    for name in list(last)[4:]:
        assert f"``{name}``" in Progress.fields.__doc__ or name == "event", name


def test_a_stage_ends_with_its_block():
    with pytest.raises(ValueError, match="odd"), progress.stage("embed", 1, 2):
        raise ValueError("odd")
    with Progress("save", 1, False).running() as shown:
        assert shown.what == "save"
