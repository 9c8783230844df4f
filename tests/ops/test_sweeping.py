from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import walkv
from walkv import testing
from walkv.ops import Swept, sweep


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str


def test_what_has_expired_goes_and_all_else_stays() -> None:
    fs = testing.SimulatedFileSystem(clock=(clock := testing.ManualClock()))
    with walkv.open("s", filesystem=fs) as store:
        store.put(b"short", b"12345", ttl_seconds=10)
        store.put(b"long", b"x", ttl_seconds=1000)
        store.put(b"plain", b"x")
        store.compact()
        store.put(b"also", b"12", ttl_seconds=10)
        clock.advance(60)
        found = Swept(2, len(b"short12345also12"))
        assert sweep(store, dry_run=True) == found
        before = store.last_sequence
        seen: list[tuple[int, int]] = []
        assert sweep(store, progress=lambda done, total: seen.append((done, total))) == found
        assert seen[-1][0] == seen[-1][1] == 4
        assert store.last_sequence == before + 2
        assert sweep(store) == Swept(0, 0)
        assert list(store.scan(keys_only=True)) == [b"long", b"plain"]


def test_the_space_comes_back() -> None:
    fs = testing.SimulatedFileSystem(clock=(clock := testing.ManualClock()))
    with walkv.open("s", filesystem=fs) as store:
        with store.batch() as batch:
            for number in range(2_500):
                batch.put(b"%05d" % number, b"%050d" % number, ttl_seconds=10)
        store.put(b"k", b"v")
        store.compact()
        clock.advance(60)
        assert sweep(store).entry_count == 2_500
        assert store.stats().memtable_entries > 2_000
        store.compact()
        assert store.stats().snapshot_entries == 1


def test_an_entry_that_is_written_anew_meanwhile_stays() -> None:
    fs = testing.SimulatedFileSystem(clock=(clock := testing.ManualClock()))
    with walkv.open("s", filesystem=fs) as store:
        store.put(b"a", b"old", ttl_seconds=10)
        store.put(b"b", b"old", ttl_seconds=10)
        clock.advance(60)
        # Progress is told when all were found and none was deleted yet.
        sweep(store, progress=lambda *_: store.put(b"b", b"new") and None)
        assert store.get(b"b") == b"new"


def test_records_go_with_their_index_entries() -> None:
    fs = testing.SimulatedFileSystem(clock=(clock := testing.ManualClock()))
    declaration = walkv.Declaration("notes", Note, key="note_id", indexes=["author"])
    with walkv.AgentStore("s", filesystem=fs) as agent:
        notes = agent.namespace(declaration)
        notes.put(Note("n1", "ada"), ttl_seconds=10)
        notes.put(Note("n2", "ada"))
        clock.advance(60)
        assert sweep(agent.store).entry_count == 2
        assert agent.verify() == []
        assert [note.note_id for note in notes.query(author="ada")] == ["n2"]


def test_a_reader_can_only_count(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"v", ttl_seconds=0.001)
    with walkv.open(tmp_path / "s", read_only=True) as reader:
        while reader.get(b"k") is not None:
            pass
        assert sweep(reader, dry_run=True).entry_count == 1
        with pytest.raises(walkv.ReadOnlyError):
            sweep(reader)
