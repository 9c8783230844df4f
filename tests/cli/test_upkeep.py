from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

import walkv

Run = Callable[..., Result]
Fails = Callable[..., str]


class TestStats:
    def test_human(self, run: Run, store: Path) -> None:
        found = dict(line.split(maxsplit=1) for line in run("stats", store).stdout.splitlines())
        assert found["store"] == str(store)
        assert found["state"] == "closed cleanly"
        assert found["entries"] == "3"
        assert "\x1b" not in run("stats", store).stdout

    def test_json(self, run_json: Any, store: Path) -> None:
        found = run_json("stats", store)
        assert found["path"] == str(store)
        assert found["last_sequence"] == 3
        assert found["memtable_entries"] == 3
        assert found["recovery"]["clean"] is True
        assert found["source"] == "reader"
        names = {field.name for field in dataclasses.fields(walkv.Stats)}
        assert set(found) == names | {"recovery", "source"}

    def test_of_a_store_that_is_open(self, run: Run, store: Path) -> None:
        with walkv.open(store) as opened:
            opened.put(b"k", b"v")
            assert f"process {os.getpid()} on " in run("stats", store).stdout


class TestCompact:
    def test_gives_space_back(self, run: Run, run_json: Any, tmp_path: Path) -> None:
        path = tmp_path / "big.walkv"
        for number in range(20):
            run("put", path, "k", "-", input=bytes([number]) * 50_000)
        assert " before, " in run("compact", path).stdout
        run("put", path, "gone", "x" * 50_000)
        run("delete", path, "gone")
        found = run_json("compact", path)
        assert found["after_bytes"] < 10_000 < 50_000 < found["before_bytes"]
        assert run("get", path, "k").stdout_bytes == bytes([19]) * 50_000

    def test_damage(self, fails: Fails, damaged: tuple[Path, Path, int]) -> None:
        path, file, offset_bytes = damaged
        with walkv.open(path) as opened:
            opened.put(b"0000", b"something to fold in")
        assert fails("compact", path).startswith(f"{file} at byte {offset_bytes}: ")


def test_a_store_that_was_killed_is_mended_and_that_is_said(run: Run, store: Path) -> None:
    (file,) = (store / "log").iterdir()
    whole = file.read_bytes()
    with walkv.open(store) as opened:
        opened.put(b"torn", b"x" * 100)
    (file,) = (store / "log").iterdir()
    # The log of a process that died in the middle of a write.
    file.write_bytes(file.read_bytes()[: len(whole) + 60])
    result = run("put", store, "k", "v")
    assert result.stderr.startswith("walkv: the store was not closed cleanly; replayed ")
    assert "cut a torn tail of " in result.stderr
    assert result.stderr.count("\n") == 1
    assert run("put", store, "k", "v").stderr == ""
