from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from walkv.ops import backups

Run = Callable[..., Result]
Fails = Callable[..., str]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def facts(result: Result) -> dict[str, str]:
    rows = [line.split("  ", 1) for line in result.stdout.splitlines()]
    return {name.strip(): fact.strip() for name, fact in rows}


def entries(path: Path) -> dict[bytes, bytes]:
    with walkv.open(path, read_only=True) as store:
        return dict(store.scan())


class TestBackup:
    def test_human(self, run: Run, store: Path, target: Path) -> None:
        found = facts(run("backup", store, target))
        assert found["up to sequence"] == "3"
        assert found["copied"].endswith("in 1 object")
        assert found["there already"] == "0 bytes in 0 objects"
        assert found["removed"] == "0 backups"
        assert facts(run("backup", store, target))["there already"].endswith("in 1 object")

    def test_json_and_retention(self, run_json: Any, store: Path, target: Path) -> None:
        first = run_json("backup", store, target)
        second = run_json("backup", store, target, "--keep", 1, "--limit-rate", 100)
        assert second["removed"] == [first["name"]]
        assert second["copied_bytes"] == 0
        third = run_json("backup", store, target, "--keep-days", 1)
        assert third["removed"] == []
        assert datetime.fromisoformat(third["time"]).tzinfo is not None

    def test_bad_input(self, fails: Fails, store: Path, target: Path, tmp_path: Path) -> None:
        none = tmp_path / "none"
        assert fails("backup", none, target) == f"{none}: there is no walkv store here"
        assert "something else" in fails("backup", store, store.parent)
        assert "inside the store" in fails("backup", store, store / "b")
        assert "--keep" in fails("backup", store, target, "--keep", 0, status=2)
        assert "empty" in fails("backup", store, "", status=2)
        assert "gopher" in fails("backup", store, "gopher://x/y")
        assert not target.exists()

    def test_of_a_damaged_store(
        self, fails: Fails, damaged: tuple[Path, Path, int], target: Path
    ) -> None:
        path, file, offset_bytes = damaged
        assert fails("backup", path, target).startswith(f"{file} at byte {offset_bytes}: ")

    def test_ctrl_c(self, start: Any, run: Run, store: Path, target: Path) -> None:
        run("backup", store, target)
        with walkv.open(store) as opened:
            opened.put(b"k", os.urandom(4 << 20))
        process = start("backup", store, target, "--limit-rate", 4)
        while not list((target / "objects").glob(".*")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
        assert (process.returncode, stdout) == (130, b"")
        assert stderr == b"walkv: interrupted\n"
        assert not list((target / "objects").glob(".*"))
        assert run("backups", "verify", target).stdout.startswith("no damage: 1 backup, ")


class TestRestore:
    def test_human(self, run: Run, store: Path, target: Path, tmp_path: Path) -> None:
        run("backup", store, target)
        found = facts(run("restore", target, tmp_path / "r"))
        assert found["restored"] == str(tmp_path / "r")
        assert found["up to sequence"] == "3"
        assert entries(tmp_path / "r") == entries(store)

    def test_json_and_moments(
        self, run_json: Any, store: Path, target: Path, tmp_path: Path
    ) -> None:
        name = run_json("backup", store, target)["name"]
        report = run_json("restore", target, tmp_path / "a", "--sequence", 2)
        assert (report["sequence"], report["backups"]) == (2, [name])
        assert len(entries(tmp_path / "a")) == 2
        time = backups(target)[0].time
        for number, written in enumerate(
            (time.isoformat(), time.astimezone().replace(tzinfo=None).isoformat(sep=" "))
        ):
            report = run_json("restore", target, tmp_path / f"t{number}", "--time", written)
            assert report["sequence"] == 3
        report = run_json("restore", target, tmp_path / "n", "--backup", name)
        assert report["sequence"] == 3

    def test_bad_input(self, run: Run, fails: Fails, store: Path, target: Path) -> None:
        free = target.parent / "free"
        assert fails("restore", target, free) == f"{target}: there are no backups here"
        run("backup", store, target)
        assert "something here already" in fails("restore", target, store)
        message = fails("restore", target, free, "--sequence", 4)
        assert "do not lead to sequence 4; they lead to sequences 0 to 3, or in time 20" in message
        later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        assert "do not lead to the store as it was at" in fails(
            "restore", target, free, "--time", later
        )
        both = ("--time", later, "--sequence", 1)
        assert "not both" in fails("restore", target, free, *both, status=2)
        assert "is no time" in fails("restore", target, free, "--time", "noon", status=2)
        assert fails("restore", target, free, "--backup", "b") == (
            "b: there is no backup of this name here"
        )
        (path,) = (target / "objects").iterdir()
        path.unlink()
        assert path.name in fails("restore", target, free)
        assert not free.exists()


class TestBackups:
    def test_list(self, run: Run, store: Path, target: Path) -> None:
        names = [json.loads(run("backup", store, target, "--json").stdout)["name"] for _ in "ab"]
        lines = run("backups", "list", target).stdout.splitlines()
        assert lines[0].split()[0] == "backup"
        assert [line.split()[0] for line in lines[1:]] == names[::-1]
        found = [
            json.loads(line)
            for line in run("backups", "list", target, "--json").stdout.splitlines()
        ]
        assert [each["name"] for each in found] == names[::-1]
        assert {each["sequence"] for each in found} == {3}
        path = target / "backups" / f"{names[0]}.json"
        path.write_text(path.read_text().replace('"sequence": 3', '"sequence": 4'))
        result = run("backups", "list", target, status=1)
        assert "unreadable" in result.stdout.splitlines()[2]
        found = [
            json.loads(line)
            for line in run("backups", "list", target, "--json", status=1).stdout.splitlines()
        ]
        assert found[0]["problem"] is None
        assert "checksum" in found[1]["problem"]

    def test_verify(self, run: Run, run_json: Any, store: Path, target: Path) -> None:
        name = run_json("backup", store, target)["name"]
        assert run("backups", "verify", target).stdout.startswith("no damage: 1 backup, ")
        assert run_json("backups", "verify", target)["ok"]
        (path,) = (target / "objects").iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        result = run("backups", "verify", target, status=1)
        assert result.stdout.startswith(f"damaged: {path}: ")
        assert "1 of 1 backup cannot be restored" in result.stderr
        found = run_json("backups", "verify", target, status=1)
        assert (found["ok"], found["damaged"]) == (False, [name])
        assert found["problems"][0]["path"] == str(path)

    def test_prune(self, run: Run, run_json: Any, store: Path, target: Path) -> None:
        for _ in range(3):
            run("backup", store, target)
        assert run("backups", "prune", target).stdout.startswith("removed 0 backups: ")
        assert len(run_json("backups", "prune", target, "--keep", 1)["removed"]) == 2
        assert len(backups(target)) == 1

    @pytest.mark.parametrize("command", ["list", "verify", "prune"])
    def test_nothing_there(self, fails: Fails, target: Path, command: str) -> None:
        assert fails("backups", command, target) == f"{target}: there are no backups here"
