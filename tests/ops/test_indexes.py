"""Indexes, counts and numbers against the records: what disagrees is listed, and can be mended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv.namespaces import codec, keys, registry
from walkv.ops import rebuild_indexes, repair, verify_indexes


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str | None
    stars: int = 0


NOTES = walkv.Declaration("notes", Note, key="note_id", indexes=["author", ("stars", "author")])


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "agent.walkv"
    with walkv.AgentStore(path) as agent:
        notes = agent.namespace(NOTES)
        for number in range(20):
            notes.put(Note(f"n{number}", f"a{number % 3}" if number % 4 else None, number))
        notes.put(Note("short", "a0", 9), ttl_seconds=1e6)
        agent.sessions.create("s1", user_id="ada")
        for number in range(5):
            agent.messages.append("s1", role="user", content=f"m{number}")
        agent.messages.append("s2", role="user", content="only")
        for number in range(4):
            agent.checkpoints.put("t1", f"c{number}", {"step": number, "text": "x" * 5_000})
    return path


@pytest.fixture
def store(path: Path) -> Iterator[walkv.Store]:
    with walkv.open(path, create=False) as store:
        yield store


def table(store: walkv.Store, name: str) -> Any:
    agent = walkv.AgentStore(store)
    found = agent.by_name.get(name) or agent.namespace(NOTES)
    return found.table


def check(store: walkv.Store, count: int, *words: str) -> list[str]:
    """There are so many disagreements, of which the first says this; mending ends them all."""
    lines = verify_indexes(store)
    assert len(lines) == count, lines
    for word in words:
        assert word in lines[0]
    assert sorted(rebuild_indexes(store)) == sorted(lines)
    assert verify_indexes(store) == []
    assert rebuild_indexes(store) == []
    return lines


def test_all_agree(store: walkv.Store) -> None:
    assert verify_indexes(store) == []
    assert rebuild_indexes(store) == []


def test_a_store_without_records(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "plain.walkv") as store:
        store.put(b"k", b"v")
        assert verify_indexes(store) == []


def test_a_read_only_store(store: walkv.Store, path: Path) -> None:
    index = table(store, "sessions").index_of("user_id")
    store.delete_range(prefix=index.prefix)
    with walkv.open(path, read_only=True) as reader:
        assert len(verify_indexes(reader)) == 1


class TestIndexes:
    def test_missing_entries_of_a_declared_namespace(self, store: walkv.Store) -> None:
        before = dict(store.scan())
        store.delete_range(prefix=b"\0notes\0i")
        check(store, 2 * 15 + 1 + 6, "notes: the index entry", "is missing")
        assert dict(store.scan()) == before
        agent = walkv.AgentStore(store)
        assert len(agent.namespace(NOTES).query(author="a1").all()) == 5
        assert agent.verify() == []

    def test_entries_expire_with_their_record(self, store: walkv.Store) -> None:
        store.delete_range(prefix=b"\0notes\0i")
        rebuild_indexes(store)
        expiring = [
            key for key, _ in store.scan(prefix=b"\0notes\0i") if store.engine.entry(key)[2]
        ]
        assert len(expiring) == 2

    def test_entries_without_a_record(self, store: walkv.Store) -> None:
        store.delete(table(store, "notes").records + keys.pack_one("n1"))
        check(store, 2, "has no record")

    def test_an_entry_of_another_value(self, store: walkv.Store) -> None:
        notes = table(store, "notes")
        key = keys.pack_one("n1")
        wrong = notes.index_of("author").prefix + keys.pack_one("nobody") + key
        store.put(wrong, len(key).to_bytes(2, "big"))
        store.put(notes.index_of("author").prefix + b"junk", b"\0\0")
        store.put(b"\0notes\0i\xfe" + keys.pack_one("a1") + key, len(key).to_bytes(2, "big"))
        check(store, 3, "has no record")

    def test_a_record_that_cannot_be_read_stays(self, store: walkv.Store) -> None:
        key = table(store, "notes").records + keys.pack_one("bad")
        store.put(key, b"\x93\x7f\x01\x02")
        (line,) = verify_indexes(store)
        assert "cannot be read" in line
        assert rebuild_indexes(store) == []
        assert store.get(key) is not None

    def test_a_record_under_another_key(self, store: walkv.Store) -> None:
        notes = table(store, "notes")
        data = store.get(notes.records + keys.pack_one("n1"))
        assert data is not None
        store.put(notes.records + keys.pack_one("other"), data)
        lines = verify_indexes(store)
        assert any("has another key in it" in line for line in lines)

    def test_records_of_older_versions_are_not_judged(self, path: Path) -> None:
        @dataclass(frozen=True, slots=True)
        class Newer:
            note_id: str
            author: str | None
            stars: int = 0

        newer = walkv.Declaration(
            "notes",
            Newer,
            key="note_id",
            indexes=["author"],
            version=2,
            migrations={2: lambda fields: {**fields, "author": "everybody"}},
        )
        with walkv.AgentStore(path) as agent:
            notes = agent.namespace(newer)
            notes.put(Newer("new", "ada"))
            assert len(notes.query(author="everybody").all()) == 21
        with walkv.open(path) as store:
            assert verify_indexes(store) == []
            store.delete_range(prefix=b"\0notes\0i")
            assert len(verify_indexes(store)) == 1


class TestMessages:
    @pytest.mark.parametrize(
        "head", [None, [1, 3, 5], [1, 6, 4], [3, 6, 5], b"junk", [1, 6, 5, 1], ["a", 6, 5]]
    )
    def test_heads(self, store: walkv.Store, head: Any) -> None:
        messages = table(store, "messages")
        key = messages.other + keys.pack_one("s1")
        if head is None:
            store.delete(key)
        else:
            store.put(key, head if isinstance(head, bytes) else codec.encode(head))
        check(store, 1, "messages: the", "'s1'")
        agent = walkv.AgentStore(store)
        assert agent.messages.count("s1") == 5
        assert agent.messages.append("s1", role="user", content="new").seq == 6

    def test_a_session_whose_messages_are_gone(self, store: walkv.Store) -> None:
        messages = table(store, "messages")
        store.delete_range(prefix=messages.records + keys.pack_one("s2"))
        store.delete_range(prefix=messages.base + b"i")
        lines = verify_indexes(store)
        assert any("'s2' has no messages left" in line for line in lines)
        rebuild_indexes(store)
        assert verify_indexes(store) == []
        agent = walkv.AgentStore(store)
        assert agent.messages.count("s2") == 0
        assert agent.messages.append("s2", role="user", content="new").seq == 2

    def test_messages_lost_in_the_middle(self, store: walkv.Store) -> None:
        messages = table(store, "messages")
        key = keys.pack("s1", 3)
        store.delete(messages.records + key)
        check(store, 2)
        assert walkv.AgentStore(store).messages.count("s1") == 4


class TestCheckpoints:
    @pytest.mark.parametrize("what", [b"t", b"n", b"m", b"i", b"p\0\0\0\0\0\0\0\1n"])
    def test_what_is_kept_beside_them(self, store: walkv.Store, what: bytes) -> None:
        checkpoints = table(store, "checkpoints")
        store.delete_range(prefix=checkpoints.other + what)
        check(store, 4 if what == b"i" else 1, "checkpoints: the")
        agent = walkv.AgentStore(store)
        agent.checkpoints.put("t1", "new", {"step": 9, "text": "y" * 5_000})
        agent.checkpoints.put("t2", "other", {"step": 1})
        for number in range(4):
            found = agent.checkpoints.get("t1", f"c{number}")
            assert found is not None
            assert found.data["step"] == number
        assert agent.checkpoints.list("t1")[0].checkpoint_id == "new"
        assert agent.verify() == []

    def test_a_head_that_is_older_than_the_checkpoints(self, store: walkv.Store) -> None:
        checkpoints = table(store, "checkpoints")
        store.put(checkpoints.other + b"t" + keys.pack_one("t1"), codec.encode([1, {"": 2}]))
        check(store, 1, "head of the thread 't1'")

    def test_an_id_without_a_checkpoint(self, store: walkv.Store) -> None:
        checkpoints = table(store, "checkpoints")
        store.put(checkpoints.other + b"i" + keys.pack("t9", "", "x"), keys.pack("t9", "", 1))
        check(store, 1, "has no checkpoint")


def test_langgraph_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("langgraph")
    from langgraph.checkpoint.base import empty_checkpoint

    from walkv.integrations.langgraph import WalkvSaver

    path = tmp_path / "graph.walkv"
    with WalkvSaver(path) as saver:
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        for step in range(3):
            checkpoint = empty_checkpoint()
            checkpoint["channel_values"] = {"text": "x" * 3_000 + str(step)}
            checkpoint["channel_versions"] = {"text": step + 1}
            config = saver.put(config, checkpoint, {"step": step}, {"text": step + 1})
    with walkv.open(path) as store:
        assert verify_indexes(store) == []
        before = dict(store.scan())
        other = b"\0langgraph_checkpoints\0x"
        for what in (b"t", b"s", b"m", b"n", b"i"):
            store.delete_range(prefix=other + what)
        assert len(rebuild_indexes(store)) == 7
        assert dict(store.scan()) == before


def test_a_registry_of_a_newer_version(store: walkv.Store) -> None:
    store.put(registry.KEY, codec.encode([99, {}]))
    with pytest.raises(walkv.FormatError):
        verify_indexes(store)


def test_entries_of_a_namespace_that_is_not_registered(store: walkv.Store) -> None:
    store.delete(registry.KEY)
    store.put(b"\0\xff\xfe not a name", b"1")
    lines = verify_indexes(store)
    assert {"checkpoints", "messages", "notes", "sessions"} == {
        line.partition(":")[0] for line in lines
    }
    assert rebuild_indexes(store) == []


def test_a_repair_mends_what_a_loss_has_left(path: Path, tmp_path: Path) -> None:
    """Message by message a frame is lost: counts and indexes agree in the end."""
    segment = max((path / "log").glob("*.wal"))
    data = segment.read_bytes()
    losses = whole = 0
    for at in range(1_000, len(data) - 1_000, len(data) // 12):
        segment.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        target = tmp_path / f"target.{at}"
        report = repair(path, target)
        losses += not report.complete
        if report.disagreements:  # the frame with the registry
            assert "registry does not know it" in report.disagreements[0]
            continue
        with walkv.AgentStore(target) as agent:
            assert agent.verify() == []
            assert agent.messages.count("s1") == len(agent.messages.history("s1", limit=None))
        whole += 1
    assert losses > 6
    assert whole > 6


def test_a_repair_says_so_if_the_registry_cannot_be_read(path: Path, tmp_path: Path) -> None:
    with walkv.open(path) as store:
        store.put(registry.KEY, b"\xc1")
    report = repair(path, tmp_path / "target")
    assert report.complete
    assert "could not be checked" in report.disagreements[0]
