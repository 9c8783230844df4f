from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from xxhash import xxh3_64_digest

import walkv
from walkv.namespaces import registry

Run = Callable[..., Result]
Fails = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str


def flip(file: Path, offset_bytes: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset_bytes] ^= 1
    file.write_bytes(data)


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
        assert "walkv reindex" in result.stderr
        mended, last = run("reindex", path).stdout.splitlines()
        assert mended.startswith("mended: sessions: the index entry ")
        assert last == "indexes agree with the records"
        assert run_json("reindex", path) == {"ok": True, "mended": [], "disagreements": []}
        assert run_json("verify", path)["ok"] is True

    def test_what_cannot_be_mended(self, run: Run, run_json: Any, tmp_path: Path) -> None:
        path = tmp_path / "agent.walkv"
        with walkv.AgentStore(path) as agent:
            agent.sessions.create("s1", user_id="ada")
            agent.store.delete(registry.KEY)
        result = run("reindex", path, status=1)
        assert "disagree: sessions: it has entries" in result.stdout
        assert "agree with" not in result.stdout
        found = run_json("reindex", path, status=1)
        assert (found["ok"], found["mended"], len(found["disagreements"])) == (False, [], 1)

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
        monkeypatch.setattr(walkv.Store, "verify", lambda self, progress, **_: report)
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

    def test_namespaces_that_an_application_has_declared(
        self, run: Run, run_json: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "agent.walkv"
        with walkv.AgentStore(path) as agent:
            notes = agent.namespace(walkv.Declaration("notes", Note, "note_id", ["author"]))
            notes.put(Note("n1", "ada"))
        assert run_json("verify", path)["ok"] is True
        with walkv.open(path) as opened:
            opened.delete_range(prefix=notes.table.index_of("author").prefix)
        result = run("verify", path, status=1)
        assert result.stdout.startswith("disagree: notes: the index entry ")

    def test_a_registry_that_cannot_be_read(self, run: Run, store: Path) -> None:
        with walkv.open(store) as opened:
            opened.put(b"\0\0", b"\xc1")
        assert "disagree: the registry" in run("verify", store, status=1).stdout

    def test_a_damaged_kept_segment(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "kept.walkv"
        with walkv.open(path, keep_log=walkv.KeepLog()) as opened:
            opened.put(b"k", b"v" * 100)
            opened.compact()
        (kept,) = (path / "log").glob("*.kept")
        assert run("verify", path).stdout.startswith("no damage: 4 files")
        flip(kept, 150)
        assert run("verify", path, status=1).stdout.startswith(f"damaged: {kept} at byte 64")

    def test_a_rate(self, run: Run, fails: Fails, store: Path) -> None:
        assert run("verify", store, "--limit-rate", "50").stdout.startswith("no damage: ")
        for rate in ("0", "-1", "fast"):
            assert "--limit-rate" in fails("verify", store, "--limit-rate", rate, status=2)

    def test_an_encrypted_store(
        self, run: Run, run_json: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "sealed.walkv"
        monkeypatch.setenv("WALKV_KEY", "correct horse")
        with walkv.AgentStore(path) as agent:
            agent.sessions.create("s1", user_id="ada")
            agent.store.compact()
        run("verify", path)
        (snapshot,) = (path / "snapshots").iterdir()
        data = bytearray(snapshot.read_bytes())
        root_offset = int.from_bytes(data[-56:-48], "little")
        salt = int.from_bytes(data[32:40], "little")
        data[-65] ^= 1
        seed = (salt + root_offset) & (1 << 64) - 1
        data[root_offset : root_offset + 8] = xxh3_64_digest(
            bytes(data[root_offset + 8 : -64]), seed
        )
        snapshot.write_bytes(data)
        found = run_json("verify", path, status=1)
        (problem,) = found["problems"]
        assert (problem["kind"], problem["offset_bytes"]) == ("tampered", root_offset)
