from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv

Run = Callable[..., Result]
Fails = Callable[..., str]


def flip(file: Path, offset_bytes: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset_bytes] ^= 1
    file.write_bytes(data)


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
        names = {field.name for field in dataclasses.fields(walkv.Stats)} | {"recovery"}
        assert set(found) == names

    def test_of_a_store_that_is_open(self, run: Run, store: Path) -> None:
        with walkv.open(store) as opened:
            opened.put(b"k", b"v")
            assert "open in another program" in run("stats", store).stdout


class TestVerify:
    def test_no_damage(self, run: Run, run_json: Any, store: Path) -> None:
        result = run("verify", store)
        assert result.stdout.startswith("no damage: 2 files, ")
        assert result.stderr == ""
        found = run_json("verify", store)
        assert found.pop("checked_bytes") > 0
        expected = {"ok": True, "complete": True, "file_count": 2, "problems": []}
        assert found == {**expected, "disagreements": []}

    def test_records_and_indexes_are_held_against_each_other(
        self, run: Run, run_json: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "agent.walkv"
        with walkv.AgentStore(path) as agent:
            agent.sessions.create("s1", user_id="ada")
            index = agent.sessions.table.index_of("user_id")
        assert run_json("verify", path)["disagreements"] == []
        with walkv.open(path) as opened:
            opened.delete_range(prefix=index.prefix)
        result = run("verify", path, status=1)
        assert result.stdout.startswith("disagree: sessions: the index entry ")
        assert "records and indexes disagree" in result.stderr
        found = run_json("verify", path, status=1)
        assert (found["ok"], found["problems"], len(found["disagreements"])) == (False, [], 1)

    def test_names_file_and_offset(self, run: Run, damaged: tuple[Path, Path, int]) -> None:
        path, file, offset_bytes = damaged
        result = run("verify", path, status=1)
        assert result.stdout.startswith(f"damaged: {file} at byte {offset_bytes}: ")
        assert result.stdout.count("\n") == 1
        assert result.stderr.startswith("walkv: 1 damaged file; keep a copy")

    def test_json_of_damage(self, run_json: Any, damaged: tuple[Path, Path, int]) -> None:
        path, file, offset_bytes = damaged
        found = run_json("verify", path, status=1)
        (problem,) = found["problems"]
        assert (found["ok"], found["complete"]) == (False, True)
        assert problem["kind"] == "corruption"
        assert (problem["path"], problem["offset_bytes"]) == (str(file), offset_bytes)
        assert problem["expected"] != problem["found"]

    def test_lists_every_damaged_file(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "two.walkv"
        for number in range(2):
            with walkv.open(path) as opened:
                opened.put(b"%d" % number, b"x" * 300_000)  # enough to be settled at close
        files = sorted((path / "snapshots").iterdir())
        assert len(files) == 2
        for file in files:
            flip(file, 70)
        result = run("verify", path, status=1)
        for file in files:
            assert f"damaged: {file} at byte " in result.stdout
        assert "walkv: 2 damaged files; " in result.stderr

    def test_a_store_that_does_not_open(self, run: Run, run_json: Any, store: Path) -> None:
        (file,) = (store / "log").iterdir()
        flip(file, 150)
        result = run("verify", store, status=1)
        assert result.stdout.startswith(f"damaged: {file} at byte ")
        assert "the store does not open" in result.stderr
        found = run_json("verify", store, status=1)
        assert (found["ok"], found["complete"]) == (False, False)
        assert found["problems"][0]["path"] == str(file)

    def test_a_newer_format(
        self, run_json: Any, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = walkv.FormatError("too new", path="f", found_version=9, supported=(1,))
        report = walkv.VerifyReport(1, 0, (error,))
        monkeypatch.setattr(walkv.Store, "verify", lambda self, progress: report)
        found = run_json("verify", store, status=1)
        assert found["problems"] == [
            {
                "kind": "format",
                "path": "f",
                "reason": "too new",
                "found_version": 9,
                "supported": [1],
            }
        ]


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
