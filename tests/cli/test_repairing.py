from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from tests.cli.conftest import ENTRIES
from walkv.engine.keyring import as_text

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
    facts, loss = (
        dict(re.findall(r"^(\w[\w ]*?)  +(.+)$", block, re.M))
        for block in result.stdout.split("\n\n")
    )
    assert facts["missing"] == "1 place"
    assert (loss["lost in"], loss["what"]) == (f"snapshots/{file.name}", "data page")
    assert loss["bytes"].startswith(f"{offset_bytes} to ")
    assert loss["keys"].startswith("0000 to before ")
    assert "checksum" in loss["reason"]
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
    assert "something here already" in fails("repair", store, tmp_path / "empty" / "..")
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


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose key is in the environment."""
    monkeypatch.setenv("WALKV_KEY", as_text(bytes(range(32))))
    with walkv.open(tmp_path / "sealed.walkv") as store:
        store.put(b"k", b"v")
        store.compact()
        store.put(b"l", b"w")
    return tmp_path / "sealed.walkv"


def test_an_encrypted_store(
    run: Run, fails: Fails, encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new.walkv"
    run("repair", encrypted, target)
    assert run("get", target, "k").stdout == "v"
    run("verify", target)
    monkeypatch.setenv("WALKV_KEY", as_text(bytes(32)))
    assert "not the key of the store" in fails("repair", encrypted, tmp_path / "other.walkv")
    monkeypatch.delenv("WALKV_KEY")
    assert "WALKV_KEY" in fails("repair", encrypted, tmp_path / "other.walkv")
    assert "WALKV_KEY" in fails("get", target, "k"), "it is encrypted, too"
    assert sorted(os.listdir(tmp_path)) == ["new.walkv", "sealed.walkv"]


def test_a_copy_of_the_manifest(
    run: Run, fails: Fails, encrypted: Path, store: Path, tmp_path: Path
) -> None:
    target, copy = tmp_path / "new.walkv", tmp_path / "MANIFEST"
    shutil.move(encrypted / "MANIFEST", copy)
    assert "give the MANIFEST of a backup" in fails("repair", encrypted, target)
    run("repair", encrypted, target, "--manifest", copy)
    assert run("scan", target).stdout.split() == ["k", "v", "l", "w"]
    other = tmp_path / "other.walkv"
    foreign = store / "MANIFEST"
    assert "another store" in fails("repair", encrypted, other, "--manifest", foreign)
    assert "does not exist" in fails("repair", encrypted, other, "--manifest", "x", status=2)
    assert not other.exists()
