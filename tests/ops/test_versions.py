from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import walkv
from walkv.ops import history
from walkv.ops.naming import record_prefix


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    text: str


NOTES = walkv.Declaration("notes", Note, key="note_id", history=3)


def test_all_that_the_log_knows_newest_first(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        first = store.put(b"k", b"one")
        store.put(b"other", b"x")
        store.put(b"k", b"two", ttl_seconds=1000)
        store.delete(b"k")
        store.put(b"k", b"three")
        store.delete_range(prefix=b"k")
        found = history(store, b"k")
    assert [(each.kind, each.value) for each in found] == [
        ("delete range", None),
        ("put", b"three"),
        ("delete", None),
        ("put", b"two"),
        ("put", b"one"),
    ]
    assert [each.sequence for each in found] == [first + n for n in (5, 4, 3, 2, 0)]
    assert all(each.time is not None for each in found)
    assert [each.expires_at is not None for each in found] == [False, False, False, True, False]


def test_what_was_settled_is_known_without_its_time(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"one")
        sequence = store.put(b"k", b"two")
        store.compact()
        (only,) = history(store, b"k")
        assert (only.value, only.sequence, only.time) == (b"two", sequence, None)
        assert history(store, b"nothing") == []
        store.put(b"k", b"three")
        assert [each.value for each in history(store, b"k")] == [b"three"]


def test_a_store_that_keeps_its_log_knows_more(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", keep_log=walkv.KeepLog()) as store:
        store.put(b"k", b"one")
        store.put(b"k", b"two")
        store.compact()
        assert [each.value for each in history(store, b"k")] == [b"two", b"one"]


def test_a_namespace_adds_what_it_has_kept_and_nothing_twice(tmp_path: Path) -> None:
    with walkv.AgentStore(tmp_path / "s") as agent:
        notes = agent.namespace(NOTES)
        for number in range(3):
            notes.put(Note("n", f"text {number}"))
        agent.store.compact()
        notes.put(Note("n", "text 3"))
        notes.put(Note("n", "text 4"))
        key = record_prefix("notes") + notes.table.packed_key("n")
        found = history(agent.store, key, versioned=True)
        assert [each.kind for each in found] == ["put", "put", "version", "version"]
        assert len({each.value for each in found}) == 4
        kept = notes.history("n")
        assert [note.text for note in kept] == ["text 3", "text 2", "text 1"]
        agent.store.compact()
        found = history(agent.store, key, versioned=True)
        assert [each.kind for each in found] == ["put", "version", "version", "version"]
        assert [each.kind for each in history(agent.store, key)] == ["put"]
