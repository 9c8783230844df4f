from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from tests.cli.conftest import ENTRIES

Run = Callable[..., Result]
Fails = Callable[..., str]


def test_nothing_is_missing(run: Run, run_json: Any, store: Path, tmp_path: Path) -> None:
    result = run("repair", store, tmp_path / "new.walkv")
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert facts["entries"] == "3"
    assert facts["missing"] == "nothing is known"
    assert result.stderr == ""
    with walkv.open(tmp_path / "new.walkv") as opened:
        assert dict(opened.scan()) == ENTRIES
    found = run_json("repair", store, tmp_path / "again.walkv")
    assert (found["complete"], found["entry_count"]) == (True, 3)


def test_what_is_missing_is_listed(
    run: Run, run_json: Any, damaged: tuple[Path, Path, int], tmp_path: Path
) -> None:
    path, file, offset_bytes = damaged
    result = run("repair", path, tmp_path / "new.walkv", status=1)
    (row,) = [line for line in result.stdout.splitlines() if "data page" in line]
    assert row.startswith(f"snapshots/{file.name}")
    assert f"{offset_bytes} to " in row
    assert "0000 to before " in row
    found = run_json("repair", path, tmp_path / "again.walkv", status=1)
    (loss,) = found["damages"]
    assert (loss["path"], loss["offset_bytes"]) == (f"snapshots/{file.name}", offset_bytes)
    assert loss["lost"] is True
    run("verify", tmp_path / "new.walkv")
    assert run("scan", tmp_path / "new.walkv", "--keys-only").stdout.count("\n") > 1_000


def test_a_report(run: Run, fails: Fails, store: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    (store / "MANIFEST").unlink()
    result = run("repair", store, tmp_path / "new.walkv", "--report", report)
    assert "damaged, nothing lost: MANIFEST" in result.stderr
    fields = json.loads(report.read_text())
    assert fields["complete"] is True
    assert fields["damages"][0]["path"] == "MANIFEST"
    line = fails("repair", store, tmp_path / "other.walkv", "--report", report)
    assert "choose another file" in line
    assert not (tmp_path / "other.walkv").exists()


def test_bad_input(fails: Fails, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.walkv"
    missing = tmp_path / "missing"
    assert fails("repair", missing, target) == f"{missing}: there is no walkv store here"
    (tmp_path / "empty").mkdir()
    assert "there is no walkv store here" in fails("repair", tmp_path / "empty", target)
    assert "this is a file" in fails("repair", store / "MANIFEST", target)
    assert "outside of it" in fails("repair", store, store)
    assert "this is here already" in fails("repair", store, tmp_path / "empty" / "..")
    assert "path is empty" in fails("repair", "", target, status=2)
    assert "path is empty" in fails("repair", store, "", status=2)
    nowhere = tmp_path / "a" / "file"
    nowhere.parent.mkdir()
    nowhere.touch()
    assert "Not a directory" in fails("repair", store, nowhere / "new.walkv")
    assert not target.exists()


def test_a_store_that_is_open(fails: Fails, store: Path, tmp_path: Path) -> None:
    with walkv.open(store):
        line = fails("repair", store, tmp_path / "new.walkv")
    assert f"process {os.getpid()}" in line
    assert "close it there" in line


def test_no_space(
    fails: Fails, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert "No space left on device" in fails("repair", store, tmp_path / "new.walkv")
    monkeypatch.undo()
    assert not (tmp_path / "new.walkv").exists()
    assert not (tmp_path / "new.walkv.repairing").exists()


def test_ctrl_c(run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.pwrite

    def interrupt(descriptor: int, data: bytes, offset: int) -> int:
        if data.startswith(b"WALKVSNP"):
            raise KeyboardInterrupt
        return written(descriptor, data, offset)

    before = shutil.copytree(store, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupt)
        result = run("repair", store, tmp_path / "new.walkv", status=130)
    assert result.stderr == "walkv: interrupted\n"
    assert sorted(os.listdir(tmp_path)) == ["copy", "some.walkv"]
    for path in before.rglob("*"):
        if path.is_file():
            assert (store / path.relative_to(before)).read_bytes() == path.read_bytes()
