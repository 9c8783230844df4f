"""Encrypted stores on the command line: rekey, copy, and what the other commands say of keys."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from walkv.engine.keyring import as_text

Run = Callable[..., Result]
Fails = Callable[..., str]

KEY, NEW = as_text(b"k" * 32), as_text(b"n" * 32)


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WALKV_KEY", "WALKV_NEW_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """An encrypted store."""
    with walkv.open(tmp_path / "sealed.walkv", key=KEY) as store:
        for number in range(100):
            store.put(b"%d" % number, os.urandom(100))
        store.compact()
    return tmp_path / "sealed.walkv"


def count(path: Path, key: str | None) -> int:
    with walkv.open(path, read_only=True, key=key) as store:
        return store.count()


class TestRekey:
    @pytest.mark.parametrize("options", [[], ["--no-rotate"]])
    def test_from_the_environment(
        self, run: Run, sealed: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
    ) -> None:
        before = {path.name for path in (sealed / "snapshots").iterdir()}
        monkeypatch.setenv("WALKV_KEY", KEY)
        monkeypatch.setenv("WALKV_NEW_KEY", NEW)
        result = run("rekey", sealed, *options)
        assert result.stdout.startswith("the new key opens the store")
        assert KEY not in result.output
        assert NEW not in result.output
        after = {path.name for path in (sealed / "snapshots").iterdir()}
        assert (before == after) == bool(options)
        assert count(sealed, NEW) == 100
        with pytest.raises(walkv.EncryptionError):
            count(sealed, KEY)

    def test_from_a_file(
        self, run_json: Any, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "new.key").write_text(" a passphrase with blanks \n")
        monkeypatch.setenv("WALKV_KEY", KEY)
        # The file goes before.
        monkeypatch.setenv("WALKV_NEW_KEY", NEW)
        found = run_json("rekey", sealed, "--new-key-file", tmp_path / "new.key")
        assert found["rotated"] is True
        assert found["disk_bytes"] > 0
        assert count(sealed, " a passphrase with blanks ") == 100

    def test_bad_input(
        self,
        fails: Fails,
        sealed: Path,
        store: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert "WALKV_NEW_KEY" in fails("rekey", sealed, status=2)
        monkeypatch.setenv("WALKV_NEW_KEY", NEW)
        assert "encrypted, and no key was given" in fails("rekey", sealed)
        monkeypatch.setenv("WALKV_KEY", NEW)
        assert "not the key of the store" in fails("rekey", sealed)
        assert "not encrypted" in fails("rekey", store)
        monkeypatch.setenv("WALKV_KEY", KEY)
        monkeypatch.setenv("WALKV_NEW_KEY", "walkv-key-1:short")
        assert "no key" in fails("rekey", sealed)
        file = tmp_path / "file"
        assert str(file) in fails("rekey", sealed, "--new-key-file", file)
        for text in ("", "\n", "two\nlines\n", "x" * 5000):
            file.write_text(text)
            assert "one line of text" in fails("rekey", sealed, "--new-key-file", file)
        assert count(sealed, KEY) == 100

    def test_of_a_store_that_is_open(
        self, fails: Fails, sealed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WALKV_KEY", KEY)
        monkeypatch.setenv("WALKV_NEW_KEY", NEW)
        with walkv.open(sealed):
            line = fails("rekey", sealed)
        assert f"process {os.getpid()} on " in line
        assert line.endswith("or call store.rekey(new_key) there")

    def test_interrupted_and_finished(
        self,
        run: Run,
        sealed: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """After the first step the new key is the one, and a second run does the rest."""
        from walkv.engine.core import Engine

        def interrupted(self: Engine) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setenv("WALKV_KEY", KEY)
        monkeypatch.setenv("WALKV_NEW_KEY", NEW)
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "_write_anew", interrupted)
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                result = run("rekey", sealed, status=130)
            finally:
                signal.signal(signal.SIGINT, before)
        assert "the new key opens the store now" in result.stderr
        assert count(sealed, NEW) == 100
        monkeypatch.setenv("WALKV_KEY", NEW)
        run("rekey", sealed)
        assert count(sealed, NEW) == 100


class TestCopy:
    def test_there_and_back(
        self,
        run: Run,
        run_json: Any,
        store: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("WALKV_NEW_KEY", KEY)
        result = run("copy", store, tmp_path / "encrypted")
        facts = dict(line.split("  ", 1) for line in result.stdout.splitlines())
        assert facts["encrypted"].strip() == "yes"
        assert facts["entries"].strip() == "3"
        assert KEY not in result.output
        assert count(tmp_path / "encrypted", KEY) == 3
        monkeypatch.setenv("WALKV_KEY", KEY)
        (tmp_path / "new.key").write_text(NEW + "\n")
        found = run_json(
            "copy",
            tmp_path / "encrypted",
            tmp_path / "other",
            "--new-key-file",
            tmp_path / "new.key",
        )
        assert (found["encrypted"], found["entry_count"]) == (True, 3)
        assert count(tmp_path / "other", NEW) == 3
        assert run_json("copy", tmp_path / "encrypted", tmp_path / "p", "--plain")["encrypted"] is (
            False
        )
        monkeypatch.delenv("WALKV_KEY")
        assert count(tmp_path / "p", None) == 3

    def test_bad_input(self, fails: Fails, store: Path, sealed: Path, tmp_path: Path) -> None:
        free = tmp_path / "free"
        assert fails("copy", tmp_path / "none", free).endswith("there is no walkv store here")
        assert "something here already" in fails("copy", store, sealed)
        assert "inside of the store" in fails("copy", store, store / "c")
        assert "no key was given" in fails("copy", sealed, free)
        both = ("--plain", "--new-key-file", "f")
        assert "not both" in fails("copy", store, free, *both, status=2)
        assert "empty" in fails("copy", store, "", status=2)
        assert not free.exists()

    def test_ctrl_c(self, start: Any, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            for number in range(40):
                store.put(b"%d" % number, os.urandom(1 << 20), sync=walkv.WriteBack())
        process = start("copy", tmp_path / "s", tmp_path / "c")
        while not (tmp_path / ".c.copying" / "store" / "log").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
        assert (process.returncode, stdout) == (130, b"")
        assert stderr == b"walkv: interrupted\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


class TestBackups:
    def test_with_a_key_and_without(
        self,
        run: Run,
        run_json: Any,
        fails: Fails,
        sealed: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        target = tmp_path / "backups"
        first = run_json("backup", sealed, target)
        assert first["checked"] == "checksums"
        assert "checked         checksums" in run("backup", sealed, target).stdout
        result = run("backups", "verify", target)
        assert "2 backups checked by checksums alone" in result.stderr
        assert run_json("restore", target, tmp_path / "a")["checked"] == "checksums"
        assert "WALKV_KEY" in fails("restore", target, tmp_path / "b", "--sequence", 100)
        monkeypatch.setenv("WALKV_KEY", NEW)
        for line in (
            fails("restore", target, tmp_path / "b"),
            fails("backups", "verify", target),
        ):
            assert "another key" in line
        assert "not the key" in fails("backup", sealed, target)
        monkeypatch.setenv("WALKV_KEY", KEY)
        assert run_json("backup", sealed, target)["checked"] == "contents"
        assert run("backups", "verify", target).stderr == ""
        report = run_json("restore", target, tmp_path / "b", "--sequence", 100)
        assert (report["checked"], report["sequence"]) == ("contents", 100)
        assert count(tmp_path / "a", KEY) == count(tmp_path / "b", KEY) == 100

    def test_set_aside(self, run: Run, store: Path, tmp_path: Path) -> None:
        target = tmp_path / "backups"
        run("backup", store, target)
        (path,) = (target / "objects").iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        assert "--set-aside" in run("backups", "verify", target, status=1).stderr
        result = run("backups", "verify", target, "--set-aside", status=1)
        assert "1 object moved to damaged/" in result.stderr
        run("backup", store, target)
        found = json.loads(run("backups", "verify", target, "--json").stdout)
        assert (found["ok"], found["set_aside"]) == (True, [])

    def test_a_kept_segment_that_is_damaged(self, run: Run, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s", keep_log=walkv.KeepLog()) as store:
            store.put(b"k", b"v" * 100)
            store.compact()
        (kept,) = (tmp_path / "s" / "log").glob("*.kept")
        data = bytearray(kept.read_bytes())
        data[100] ^= 1
        kept.write_bytes(data)
        result = run("backup", tmp_path / "s", tmp_path / "backups")
        assert result.stderr.startswith(f"walkv: warning: left out of the backup: {kept}")
        assert result.stderr.count("\n") == 1
