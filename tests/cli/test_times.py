"""Times: what one command prints another takes, and it is the same moment."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import Result

import walkv
from walkv.cli import values
from walkv.cli.app import walkv_command

Run = Callable[..., Result]

PRINTED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*")


@pytest.fixture(autouse=True)
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five hours from UTC: a time that says no zone is not that time there."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with walkv.open(tmp_path / "s", keep_log=walkv.KeepLog()) as store:
        for number in range(3):
            store.put(b"k", b"%d" % number)
    return tmp_path / "s"


def taken(text: str) -> datetime:
    """What restore understands by a time."""
    command = walkv_command.commands["restore"]
    (option,) = [each for each in command.params if each.name == "time"]
    found = option.process_value(click.Context(command), text)
    assert isinstance(found, datetime)
    return found


@pytest.mark.parametrize(
    "command", [("log", "s"), ("tail", "s"), ("history", "s", "k"), ("backups", "list", "target")]
)
def test_what_is_printed_can_be_given(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(path.parent)
    run("backup", "s", "target")
    lines = run(*command, "--json").stdout.splitlines()
    expected = [datetime.fromisoformat(json.loads(line)["time"]) for line in lines]
    printed = PRINTED.findall(run(*command).stdout)
    assert all(text.endswith("Z") for text in printed)
    assert [taken(text) for text in printed] == expected
    assert len(expected) == {"backups": 1, "log": len(expected)}.get(command[0], 3)


def test_a_commit_is_in_what_is_restored_to_its_time(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    run("backup", "s", "target")
    second = PRINTED.findall(run("history", "s", "k").stdout)[1]
    text = run("restore", "target", "restored", "--time", second).stdout
    assert run("get", "restored", "k").stdout == "1"
    assert re.search(rf"^last commit +{re.escape(second)}$", text, re.M)


def test_there_is_no_last_commit(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with walkv.open("empty"):
        pass
    run("backup", "empty", "target")
    assert "last commit" not in run("restore", "target", "restored").stdout


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28 19:30:55.695Z",
        "2026-11-28T19:30:55.695+00:00",
        "2026-11-28 20:30:55.695+01:00",
        "2026-11-28 19:30:55.695 UTC",
        "2026-11-28 19:30:55.695utc",
        "2026-11-28 14:30:55.695",
    ],
)
def test_forms(text: str) -> None:
    found = taken(text)
    assert found == datetime(2026, 11, 28, 19, 30, 55, 695_000, UTC)
    assert values.instant(found) == "2026-11-28 19:30:55.695000Z"


@pytest.mark.parametrize(
    "text", ["", "yesterday", "25:00", "UTC", "0001-01-01", "2026-11-28 UTC+1"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write it as"):
        values.read_instant(text)
