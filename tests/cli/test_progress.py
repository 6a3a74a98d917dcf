"""How a download's progress is shown."""

from __future__ import annotations

import io
import json
import sys

import pytest

from arriero.cli.progress import shown
from arriero.hub.transfer import Progress

COMMON = {"source": "owner/name at a hub", "files": 2, "bytes": 300_000_000}
EVENTS = [
    Progress(event="plan", **COMMON, bytes_done=100_000_000, free=10**9),
    Progress(event="progress", **COMMON, bytes_done=150_000_000, bytes_fetched=50_000_000),
    Progress(event="file", **COMMON, bytes_done=300_000_000, bytes_fetched=200_000_000, files_done=1, file="a.json"),
]
PLAN = "owner/name at a hub: 2 files, 300.0 MB, 100.0 MB of them here already; 1.0 GB free; 16 s at 100 Mbit/s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def display(mode):
    with shown(mode) as watch:
        for event in EVENTS:
            watch(event)


@pytest.mark.parametrize(("mode", "told"), [("auto", PLAN), ("files", PLAN + "a.json (1 of 2)\n"), ("off", "")])
def test_a_file_gets_no_bar(capsys, mode, told):
    display(mode)
    assert capsys.readouterr() == ("", told)


def test_a_terminal_gets_one_bar_with_speed_and_time_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    display("auto")
    drawn = sys.stderr.getvalue()
    assert PLAN.strip() in drawn.replace("\r", "")
    assert "1 of 2 files" in drawn
    assert "300.0/300.0 MB" in drawn
    assert "0:00:00" in drawn


def test_events_are_json_objects_with_speed_and_time_left(capsys):
    display("json")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["plan", "progress", "file"]
    assert events[0]["seconds_left"] is None
    assert events[1]["bytes_per_second"] > 0
    assert events[1]["seconds_left"] > events[2]["seconds_left"] == 0
