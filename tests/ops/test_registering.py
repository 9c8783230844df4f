"""A registry that is lost: put back where records tell what they are, and never guessed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv.agent.namespaces import key_value
from walkv.namespaces import codec, registry
from walkv.ops import rebuild_registry, repair, verify_indexes


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str
    stars: int = 0


@dataclass(frozen=True, slots=True)
class Swapped:
    """As many fields of the same types, in another order."""

    author: str
    note_id: str
    stars: int = 0


@dataclass(frozen=True, slots=True)
class Renamed:
    note_id: str
    title: str
    stars: int = 0


@dataclass(frozen=True, slots=True)
class Longer:
    note_id: str
    author: str
    stars: int = 0
    tags: list[Any] | None = None


NOTES = walkv.Declaration("notes", Note, "note_id", ["author"], history=2)


def declared(record: type[Any]) -> walkv.Declaration[Any]:
    return walkv.Declaration("notes", record, "note_id")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with records of walkv and of an application, some of which expire."""
    with walkv.AgentStore(tmp_path / "s") as agent:
        agent.sessions.create("s1", user_id="ada")
        agent.tasks.create("t1", user_input="what is it?")
        for number in range(5):
            agent.messages.append("s1", role="user", content=f"message {number}")
            agent.checkpoints.put("thread", f"c{number}", {"step": number})
        with agent.executions.record(role="planner", tool_name="search"):
            pass
        notes = agent.namespace(NOTES)
        for stars in range(4):
            notes.put(Note("n1", "ada", stars))
        notes.put(Note("n2", "bob"), ttl_seconds=1e6)
    return tmp_path / "s"


def change(path: Path, function: Callable[[walkv.Store], Any]) -> Any:
    with walkv.open(path, create=False) as store:
        return function(store)


def registered(path: Path) -> dict[str, registry.Entry]:
    return change(path, lambda store: registry.read(key_value(store.engine)))  # type: ignore[no-any-return]


def lose(path: Path) -> None:
    change(path, lambda store: store.delete(registry.KEY))


def test_what_walkv_declares_is_inferred(path: Path) -> None:
    before = registered(path)
    lose(path)
    lines = change(path, rebuild_registry)
    after = registered(path)
    assert after.keys() == {"sessions", "tasks", "messages", "checkpoints", "executions"}
    assert {name: before[name] for name in after} == after
    assert len(lines) == len(after)
    assert all("inferred" in line for line in lines)
    (line,) = change(path, verify_indexes)
    assert line.startswith("notes: it has entries")
    assert change(path, rebuild_registry) == []
    with walkv.AgentStore(path) as agent:
        assert [each.content for each in agent.messages.history("s1")][-1] == "message 4"
        found = agent.checkpoints.get("thread")
        assert found is not None
        assert found.data == {"step": 4}
        assert agent.sessions.get("s1") is not None
        assert agent.verify() == []


def test_a_declaration_of_the_applications_own(path: Path) -> None:
    before = registered(path)
    lose(path)
    change(path, lambda store: store.delete_range(prefix=b"\0notes\0i"))
    change(path, lambda store: rebuild_registry(store, [NOTES]))
    assert registered(path)["notes"] == before["notes"]
    assert change(path, verify_indexes) == [], "with an index goes what is in it"
    with walkv.AgentStore(path) as agent:
        notes = agent.namespace(NOTES)
        assert notes.get("n1") == Note("n1", "ada", 3)
        assert [note.note_id for note in notes.query(author="bob").all()] == ["n2"]


@pytest.mark.parametrize("record", [Swapped, Longer])
def test_one_that_does_not_fit_is_not_taken(path: Path, record: type[Any]) -> None:
    lose(path)
    change(path, lambda store: rebuild_registry(store, [declared(record)]))
    assert "notes" not in registered(path)


def test_an_old_version_that_does_not_fit(path: Path) -> None:
    """It was written under another layout, so the first one was another."""

    def spoil(store: walkv.Store) -> None:
        old = next(iter(store.scan(prefix=b"\0notes\0h", keys_only=True)))
        store.put(old, codec.encode([0, "n1", "ada", "many stars"]))
        store.delete(registry.KEY)

    change(path, spoil)
    change(path, lambda store: rebuild_registry(store, [NOTES]))
    assert "notes" not in registered(path)


@pytest.mark.parametrize(
    "row", [[1, "n1", "ada", 3], [0, "n1", "ada"], [0, "n9", "ada", 3], [0, "n1", 5, 3], "text", []]
)
def test_a_record_that_does_not_fit(path: Path, row: Any) -> None:
    def spoil(store: walkv.Store) -> None:
        key = next(iter(store.scan(prefix=b"\0notes\0r", keys_only=True)))
        store.put(key, codec.encode(row))
        store.delete(registry.KEY)

    change(path, spoil)
    change(path, lambda store: rebuild_registry(store, [NOTES]))
    assert "notes" not in registered(path)


def test_records_are_never_read_as_something_else(path: Path) -> None:
    """Who declares a namespace anew would have its layout taken for that of what is there."""
    lose(path)
    before = change(path, lambda store: dict(store.scan()))
    with pytest.raises(walkv.FormatError, match="rebuild_registry"):
        walkv.AgentStore(path)
    assert change(path, lambda store: dict(store.scan())) == before
    change(path, rebuild_registry)
    with walkv.AgentStore(path) as agent:
        with pytest.raises(walkv.FormatError, match="namespace notes") as caught:
            agent.namespace(declared(Renamed))
        assert "delete_range(prefix=b'\\x00notes\\x00')" in str(caught.value)
        agent.store.delete_range(prefix=b"\0notes\0")
        agent.namespace(declared(Renamed)).put(Renamed("n1", "a title"))
    with walkv.AgentStore(path, read_only=True) as agent:
        assert agent.namespace(declared(Renamed)).get("n1") == Renamed("n1", "a title")


class TestAnOlderRegistry:
    """It was saved from an older snapshot, and does not know a layout that came later."""

    @pytest.fixture
    def older(self, path: Path) -> Path:
        entries = registered(path)
        with walkv.AgentStore(path) as agent:
            agent.namespace(declared(Longer)).put(Longer("n3", "eve", 1, ["x"]))
        assert len(registered(path)["notes"].layouts) == 2
        change(
            path,
            lambda store: key_value(store.engine).transact(
                lambda tx: registry.write(tx, entries), None
            ),
        )
        return path

    def test_the_layout_is_inferred(self, older: Path) -> None:
        (line,) = change(older, lambda store: rebuild_registry(store, [declared(Longer)]))
        assert line.startswith("notes: its newest layout")
        with walkv.AgentStore(older) as agent:
            notes = agent.namespace(declared(Longer))
            assert notes.get("n3") == Longer("n3", "eve", 1, ["x"])
            assert notes.get("n1") == Longer("n1", "ada", 3)

    def test_its_number_is_not_given_away(self, older: Path) -> None:
        @dataclass(frozen=True, slots=True)
        class Other:
            note_id: str
            author: str
            stars: int = 0
            links: list[Any] | None = None

        (line,) = change(older, rebuild_registry)
        assert line.startswith("notes: 1 of its layouts")
        assert change(older, rebuild_registry) == []
        with walkv.AgentStore(older) as agent:
            notes = agent.namespace(declared(Other))
            notes.put(Other("n4", "eve", 1, ["y"]))
            assert notes.get("n4") == Other("n4", "eve", 1, ["y"])
            assert notes.get("n1") == Other("n1", "ada", 3)
            with pytest.raises(walkv.CodecError):
                notes.get("n3")
        (line,) = change(older, verify_indexes)
        assert "cannot be read" in line


class TestRepair:
    @pytest.fixture
    def damaged(self, path: Path) -> Path:
        """The page of the registry is lost, and a newer one is in the log."""
        change(path, lambda store: store.compact())
        with walkv.AgentStore(path) as agent:
            agent.messages.append("s1", role="user", content="the last one")
            agent.namespace(NOTES).put(Note("n5", "ada"))
        (snapshot,) = (path / "snapshots").iterdir()
        data = bytearray(snapshot.read_bytes())
        data[90:98] = b"\xff" * 8
        snapshot.write_bytes(data)
        return path

    def test_it_says_what_was_inferred(self, damaged: Path, tmp_path: Path) -> None:
        report = repair(damaged, tmp_path / "new", declarations=[NOTES])
        assert sum("inferred" in line for line in report.warnings) == 2
        assert report.disagreements == ()
        with walkv.AgentStore(tmp_path / "new") as agent:
            assert agent.messages.history("s1")[-1].content == "the last one"
            assert agent.namespace(NOTES).get("n5") == Note("n5", "ada")
            assert agent.verify() == []

    def test_it_says_what_to_do_about_the_rest(self, damaged: Path, tmp_path: Path) -> None:
        report = repair(damaged, tmp_path / "new")
        (line,) = report.disagreements
        assert line.startswith("notes: it has entries")
        assert "rebuild_registry" in line

    def test_an_older_one_is_not_inferred_but_saved(self, tmp_path: Path) -> None:
        with walkv.AgentStore(tmp_path / "s", keep_log=walkv.KeepLog()) as agent:
            agent.sessions.create("s1", user_id="ada")
            agent.namespace(NOTES).put(Note("n1", "ada"))
        before = registered(tmp_path / "s")
        change(tmp_path / "s", lambda store: store.compact())
        (snapshot,) = (tmp_path / "s" / "snapshots").iterdir()
        snapshot.unlink()
        report = repair(tmp_path / "s", tmp_path / "new")
        assert report.complete
        assert not [line for line in report.warnings if "inferred" in line]
        assert registered(tmp_path / "new") == before
        assert report.disagreements == ()


def test_namespaces_of_langgraph(path: Path) -> None:
    """Floors above this one declare them; ``walkv repair`` hands them in."""
    base = pytest.importorskip("langgraph.checkpoint.base")
    from walkv.cli.repairing import _declarations
    from walkv.integrations.langgraph import WalkvSaver, WalkvStore

    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with WalkvSaver(path) as saver:
        made = base.empty_checkpoint()
        saver.put(config, made, {"source": "input", "step": 0}, {})
    with WalkvStore(path) as items:
        items.put(("a", "b"), "k", {"x": 1})
    before = registered(path)
    lose(path)
    change(path, lambda store: rebuild_registry(store, [NOTES, *_declarations()]))
    after = registered(path)
    assert after["langgraph_checkpoints"] == before["langgraph_checkpoints"]
    assert after["langgraph_items"] == before["langgraph_items"]
    assert change(path, verify_indexes) == []
    with WalkvSaver(path) as saver:
        (found,) = saver.list(config)
        assert found.checkpoint["id"] == made["id"]
    with WalkvStore(path) as items:
        assert [each.value for each in items.search(("a", "b"))] == [{"x": 1}]
