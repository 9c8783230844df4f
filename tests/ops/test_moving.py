"""Export and import of walkv's own files: all comes back, and what is not whole is refused."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest

import walkv
from walkv import AgentStore, Declaration
from walkv.errors import FormatError, ImportSourceError
from walkv.namespaces import registry
from walkv.namespaces.faces import CLASSES
from walkv.ops import export, import_
from walkv.ops.moving import framing

FORMATS = framing.FORMATS
HELLO = "hello\n\u2028"


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str
    number: int = 0
    extra: Any = None
    token: str = field(default="", repr=False, metadata={"secret": True})


NOTES = Declaration("notes", Note, "note_id", ["author", ("author", "number")], history=3)


def filled(path: Path) -> AgentStore:
    """A store with something in every namespace, in notes of its own, and beside them."""
    agent = AgentStore(path, sync=walkv.WriteBack())
    agent.sessions.create("s1", "ada", {"odd": (1, {2, 3}), b"k": b"\0\xff", "big": 1 << 90})
    agent.messages.append("s1", role="user", content=HELLO)
    agent.messages.append("s1", role="assistant", content=[{"text": "hi", "n": 0.1 + 0.2}])
    agent.messages.append("s1", role="user", content="taken back")
    agent.messages.pop("s1")
    state: dict[str, Any] = {"step": 0, "text": "word " * 2000, "none": None}
    for step in range(4):
        state = {**state, "step": step, "log": "x" * step}
        parent = None if step == 0 else f"c{step - 1}"
        agent.checkpoints.put("t1", f"c{step}", state, parent_id=parent, run_id="run")
    agent.checkpoints.put("t1", "sub", {"a": 1}, namespace="inner")
    agent.checkpoints.copy_thread("t1", "t2")
    agent.checkpoints.put_writes("t1", "c3", "task", [("channel", {1}), ("__error__", "bad")])
    agent.task_contexts.store("s1", {"version": 1})
    agent.task_contexts.store("s1", {"version": 2})
    agent.contexts.create("w1", "planner", {"part": 1}, context_id="x1")
    agent.contexts.update("x1", sections={"part": 2})
    agent.workflows.create("w1", ["planner", "critic"])
    agent.executions.once("pay", lambda: 7)
    agent.configurations.create("role_config", "planner", {"a": 1})
    agent.configurations.set("theme", "dark", "of the window")
    agent.tasks.create("s1", "do it", subtasks=[{"description": "first"}])
    agent.users.create("ada", {"lang": "en"}, {"openai": "sk-secret"})
    agent.knowledge_sources.add("manual", "/docs", "folder")
    notes = agent.namespace(NOTES)
    for number in range(3):
        notes.put(Note("n1", "ada", number, datetime.now(UTC), "t0ken"))
    notes.put(Note("n2", "grace"), ttl_seconds=3600)
    agent.store.put(b"user/1", b"Ada")
    agent.store.put(b"\0odd", b"\xff\n")
    agent.store.put(b"later", b"x", ttl_seconds=3600)
    return agent


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moving") / "master.walkv"
    filled(path).close()
    return path


@pytest.fixture
def agent(master: Path, tmp_path: Path) -> Iterator[AgentStore]:
    shutil.copytree(master, tmp_path / "a.walkv")
    with AgentStore(tmp_path / "a.walkv", sync=walkv.WriteBack()) as opened:
        yield opened


def everything(agent: AgentStore) -> dict[str, Any]:
    """All that can be read of an agent, by what it is."""
    found: dict[str, Any] = {
        name: namespace.scan() for name, namespace in agent.by_name.items() if name in CLASSES
    }
    found["checkpoints"] = {
        (thread, namespace): agent.checkpoints.list(thread, None, namespace=namespace)
        for thread in ("t1", "t2")
        for namespace in ("", "inner")
    }
    found["created"] = [each.created_at for each in agent.checkpoints.list("t1", None)]
    found["writes"] = agent.checkpoints.get_writes("t1", "c3")
    found["old"] = [agent.task_contexts.history("s1"), agent.contexts.history("x1")]
    found["next"] = agent.messages.count("s1")
    notes = agent.namespace(NOTES)
    found["notes"] = [notes.scan(), notes.history("n1"), notes.query(author="ada").all()]
    found["plain"] = [
        (key, value) for key, value in agent.store.scan() if key in (b"user/1", b"\0odd", b"later")
    ]
    return found


def expiries(store: walkv.Store) -> dict[bytes, int]:
    from walkv.ops.moving.moment import Moment

    with Moment(store.engine) as moment:
        return {key: expiry for key, _, expiry in moment.entries(b"", None) if expiry}


def said(path: Path) -> list[Any]:
    """The items of an export, as they stand there."""
    with path.open("rb") as file:
        documents = [each.value for each in framing.FileReader(file, str(path)).documents()]
    assert framing.MARK in documents[0]
    assert "end" in documents[-1]
    return [each for each in documents[1:-1] if "segment" not in each]


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["records", "entries"])
@pytest.mark.parametrize("form", FORMATS)
def test_everything_comes_back(agent: AgentStore, tmp_path: Path, form: str, kind: str) -> None:
    seen: list[tuple[int, int]] = []
    report = export(
        agent.store,
        tmp_path / "out",
        format=form,
        kind=kind,
        secrets=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] == sum(report.counts.values())
    assert report.sequences == (agent.store.stats().last_sequence,)
    assert report.size_bytes == (tmp_path / "out").stat().st_size
    steps: list[tuple[int, int]] = []
    moved = import_(
        tmp_path / "b.walkv",
        tmp_path / "out",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert moved.ok, (moved.problems, moved.differences)
    assert moved.kind == "walkv"
    assert {name: each.written_count for name, each in moved.namespaces.items()} == report.counts
    assert steps[-1][0] == steps[-1][1]
    with AgentStore(tmp_path / "b.walkv") as other:
        assert everything(other) == everything(agent)
        assert other.verify() == []
        assert expiries(other.store) == expiries(agent.store)
        assert other.messages.append("s1", role="user", content="on").seq == 4
        assert other.executions.once("pay", lambda: pytest.fail("it is done")) == 7
    if kind == "records":
        again = import_(tmp_path / "b.walkv", tmp_path / "out")
        assert again.ok, again.differences
        assert not any(each.written_count for each in again.namespaces.values())


def test_entries_make_the_same_store(agent: AgentStore, tmp_path: Path) -> None:
    export(agent.store, tmp_path / "out", kind="entries", secrets=True)
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok
    with walkv.open(tmp_path / "b.walkv") as other:
        assert list(other.scan()) == list(agent.store.scan())
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok


def test_what_an_export_says_of_itself_is_enough_to_read_it(
    agent: AgentStore, tmp_path: Path
) -> None:
    export(agent.store, tmp_path / "out.jsonl", secrets=True)
    header, *items, end = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert header["walkv_export"] == 1
    assert header["sequence"] == agent.store.stats().last_sequence
    notes = header["namespaces"]["notes"]
    assert (notes["key"], notes["secrets"], notes["history"]) == (["note_id"], ["token"], 3)
    assert notes["layouts"] == [[1, ["note_id", "author", "number", "extra", "token"]]]
    assert set(notes["indexes"]) == {"author", "author,number"}
    counted: dict[str, int] = {}
    for item in items:
        name = item.get("namespace", "")
        if "head" in item:
            continue
        counted[name] = counted.get(name, 0) + 1
    assert {name: each["count"] for name, each in end["end"]["counts"].items()} == counted
    assert {name: n for name, n in header["counts"].items() if n} == counted
    (message,) = [
        i["record"] for i in items if i.get("record", {}).get("content") == "hello\n\u2028"
    ]
    assert (message["session_id"], message["seq"], message["role"]) == ("s1", 1, "user")
    inner = [i["checkpoint"] for i in items if i.get("checkpoint", {}).get("namespace")]
    assert [each["data"] for each in inner] == [{"a": 1}, {"a": 1}]


def test_msgpack_is_read_with_msgpack_alone(agent: AgentStore, tmp_path: Path) -> None:
    export(agent.store, tmp_path / "out", format="msgpack", namespaces=["sessions"])
    with (tmp_path / "out").open("rb") as file:
        header, session, end = (
            msgpack.unpackb(each, timestamp=3, strict_map_key=False)
            for each in msgpack.Unpacker(file)
        )
    assert header["namespaces"].keys() == end["end"]["counts"].keys() == {"sessions"}
    assert session["record"]["user_id"] == "ada"


def test_a_part_of_a_store(agent: AgentStore, tmp_path: Path) -> None:
    def counts(**selection: Any) -> dict[str, int]:
        return export(agent.store, io.BytesIO(), **selection).counts

    assert counts(namespaces=["messages"]) == {"messages": 2}
    assert counts(prefix=b"user/") == {"": 1}
    assert counts(prefix=b"") == {"": 3}
    assert counts(prefix=b"\0") == {"": 1}
    assert counts(namespaces=["messages"], prefix=b"l") == {"": 1, "messages": 2}
    assert counts(kind="entries", prefix=b"user/") == {"": 1}
    with pytest.raises(LookupError, match="there is no namespace 'nothing'; there are"):
        counts(namespaces=["nothing"])
    with pytest.raises(ValueError, match="kind"):
        counts(kind="all")
    export(agent.store, tmp_path / "out", secrets=True)
    moved = import_(tmp_path / "b.walkv", tmp_path / "out", namespaces=["messages", ""])
    assert {name: each.written_count for name, each in moved.namespaces.items()} == {
        "": 3,
        "messages": 2,
    }
    with pytest.raises(ImportSourceError, match="not all of these"):
        import_(tmp_path / "c.walkv", tmp_path / "out", namespaces=["nothing"])
    assert not (tmp_path / "c.walkv").exists()


def test_an_export_is_of_one_moment(agent: AgentStore, tmp_path: Path) -> None:
    def meanwhile(done: int, total: int) -> None:
        agent.store.put(b"zz%d" % done, b"new")
        agent.sessions.update("s1", status="completed")

    before = agent.sessions.get("s1")
    export(agent.store, tmp_path / "out", secrets=True, progress=meanwhile)
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok
    with AgentStore(tmp_path / "b.walkv") as other:
        assert other.sessions.get("s1") == before
        assert other.store.count(b"zz") == 0


# -- what is there already -------------------------------------------------------------------------


def test_what_is_in_the_store_stays_unless_it_is_to_be_replaced(
    agent: AgentStore, tmp_path: Path
) -> None:
    export(agent.store, tmp_path / "out", secrets=True)
    with AgentStore(tmp_path / "b.walkv") as other:
        other.sessions.create("s1", "grace")
        other.sessions.create("s2", "grace")
        other.store.put(b"user/1", b"Grace")
        other.namespace(NOTES).put(Note("n1", "grace", 9))
        moved = import_(other.store, tmp_path / "out")
        assert not moved.ok
        assert moved.namespaces["sessions"].differing_count == 1
        assert moved.namespaces["notes"].differing_count == 1
        assert moved.difference_count == 3
        assert "another one in the store" in moved.differences[0]
        session = other.sessions.get("s1")
        assert session is not None
        assert session.user_id == "grace"
        assert other.store.get(b"user/1") == b"Grace"
        assert import_(other.store, tmp_path / "out", replace=True).ok
        assert other.sessions.get("s1") == agent.sessions.get("s1")
        assert other.sessions.exists("s2")
        assert [note.note_id for note in other.namespace(NOTES).query(author="grace")] == ["n2"]
        assert other.verify() == []


def test_messages_are_joined_and_no_number_is_given_out_twice(
    agent: AgentStore, tmp_path: Path
) -> None:
    export(agent.store, tmp_path / "out", namespaces=["messages", "checkpoints"])
    with AgentStore(tmp_path / "b.walkv") as other:
        for number in range(5):
            other.messages.append("s0", role="user", content=number)
        other.messages.append("s1", role="user", content="first")
        other.checkpoints.put("t0", "c0", {"mine": 1})
        moved = import_(other.store, tmp_path / "out")
        assert moved.namespaces["messages"].differing_count == 1
        assert moved.namespaces["checkpoints"].same
        assert other.messages.count("s1") == len(other.messages.history("s1", None)) == 2
        assert other.messages.append("s1", role="user", content="on").seq == 4
        assert other.messages.count("s0") == 5
        newest = other.checkpoints.get("t1")
        assert newest == agent.checkpoints.get("t1")
        assert other.checkpoints.get("t0") is not None
        assert other.verify() == []


def test_entries_of_a_namespace_are_not_mixed_with_others(
    agent: AgentStore, tmp_path: Path
) -> None:
    export(agent.store, tmp_path / "out", kind="entries", secrets=True)
    with AgentStore(tmp_path / "b.walkv") as other:
        other.namespace(NOTES)
        other.messages.append("s1", role="user", content="mine")
        before = list(other.store.scan())
        with pytest.raises(ImportSourceError, match="nothing was written"):
            import_(other.store, tmp_path / "out")
        assert list(other.store.scan()) == before


# -- secrets ---------------------------------------------------------------------------------------


def test_secrets_are_masked_and_masked_records_are_not_taken_for_whole(
    agent: AgentStore, tmp_path: Path
) -> None:
    report = export(agent.store, tmp_path / "out")
    assert report.masked == {"notes": ("token",), "users": ("api_keys",)}
    text = (tmp_path / "out").read_text()
    assert "sk-secret" not in text
    assert "t0ken" not in text
    with pytest.raises(ImportSourceError, match=r"users\.api_keys"):
        import_(tmp_path / "b.walkv", tmp_path / "out")
    assert not (tmp_path / "b.walkv").exists()
    assert import_(tmp_path / "b.walkv", tmp_path / "out", without_masked=True).ok
    with AgentStore(tmp_path / "b.walkv") as other:
        user = other.users.get("ada")
        assert user is not None
        assert (user.preferences, user.api_keys) == ({"lang": "en"}, {})
        note = other.namespace(NOTES).get("n1")
        assert note is not None
        assert (note.number, note.token) == (2, "")
        assert other.verify() == []
    assert import_(agent.store, tmp_path / "out", without_masked=True).ok
    kept = agent.users.get("ada")
    assert kept is not None
    assert kept.api_keys == {"openai": "sk-secret"}


def test_entries_with_secrets_are_refused_unless_they_are_wanted(agent: AgentStore) -> None:
    with pytest.raises(ValueError, match=r"notes\.token"):
        export(agent.store, io.BytesIO(), kind="entries")
    assert export(agent.store, io.BytesIO(), kind="entries", namespaces=["messages"]).counts


# -- namespaces of an application ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoteTwo:
    note_id: str
    writer: str
    number: int = 0


NOTES_TWO = Declaration(
    "notes",
    NoteTwo,
    "note_id",
    ["writer"],
    version=2,
    migrations={2: lambda old: {"note_id": old["note_id"], "writer": old["author"]}},
)


def test_records_of_older_schemas_come_as_they_are(agent: AgentStore, tmp_path: Path) -> None:
    path = agent.store.path
    agent.close()
    with AgentStore(path) as newer:
        newer.namespace(NOTES_TWO).put(NoteTwo("n3", "emmy"))
        export(newer.store, tmp_path / "out", secrets=True)
        expected = newer.namespace(NOTES_TWO).scan()
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok
    with walkv.open(tmp_path / "b.walkv", read_only=True) as store:
        assert registry.read(store)["notes"].indexes == {}  # type: ignore[arg-type]
    with AgentStore(tmp_path / "b.walkv") as other:
        notes = other.namespace(NOTES_TWO)
        assert notes.scan() == expected
        assert [note.note_id for note in notes.query(writer="ada")] == ["n1"]
        assert notes.verify() == []


@dataclass(frozen=True, slots=True)
class Loud:
    note_id: str
    author: str
    number: int = 0
    extra: Any = None
    token: str = field(default="", repr=False, metadata={"secret": True})


LOUD = Declaration(
    "notes",
    Loud,
    "note_id",
    ["author"],
    version=2,
    migrations={2: lambda old: {**old, "author": old["author"].upper()}},
)


def test_what_a_migration_changes_is_indexed_by_the_application(
    agent: AgentStore, tmp_path: Path
) -> None:
    path = agent.store.path
    agent.close()
    with AgentStore(path) as newer:
        newer.namespace(LOUD)
        export(newer.store, tmp_path / "out", secrets=True)
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok
    with AgentStore(tmp_path / "b.walkv") as other:
        notes = other.namespace(LOUD)
        assert [note.note_id for note in notes.query(author="ADA")] == ["n1"]
        assert notes.verify() == []


def test_another_key_is_refused(agent: AgentStore, tmp_path: Path) -> None:
    export(agent.store, tmp_path / "out", namespaces=["notes"], secrets=True)
    with AgentStore(tmp_path / "b.walkv") as other:
        other.namespace(Declaration("notes", Note, "author"))
    with pytest.raises(FormatError, match="are stored by"):
        import_(tmp_path / "b.walkv", tmp_path / "out")


def test_what_keeps_more_than_records_is_left_out_and_comes_as_entries(tmp_path: Path) -> None:
    from walkv.integrations.langgraph import WalkvSaver

    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    checkpoint: Any = {
        "v": 1,
        "id": "1",
        "ts": "",
        "channel_values": {"n": 1},
        "channel_versions": {"n": "1"},
        "versions_seen": {},
    }
    with AgentStore(tmp_path / "a.walkv") as agent:
        WalkvSaver(agent).put(config, checkpoint, {}, {"n": "1"})
        report = export(agent.store, tmp_path / "records")
        assert "langgraph_checkpoints" in report.left_out
        with pytest.raises(ValueError, match="cannot be exported as records"):
            export(agent.store, io.BytesIO(), namespaces=["langgraph_checkpoints"])
        export(agent.store, tmp_path / "out", kind="entries")
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok
    with AgentStore(tmp_path / "b.walkv") as other:
        found = WalkvSaver(other).get_tuple(config)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"n": 1}


def test_what_has_expired_meanwhile_is_not_written(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "a.walkv") as store:
        store.put(b"soon", b"x", ttl_seconds=0.2)
        store.put(b"stays", b"y")
        export(store, tmp_path / "out")
    time.sleep(0.25)
    moved = import_(tmp_path / "b.walkv", tmp_path / "out")
    assert moved.ok
    found = moved.namespaces[""]
    assert (found.written_count, found.expired_count, found.source_count) == (1, 1, 1)


# -- files -----------------------------------------------------------------------------------------


def small(path: Path, form: str, **options: Any) -> bytes:
    with AgentStore(path / "small.walkv", sync=walkv.WriteBack()) as agent:
        agent.messages.append("s1", role="user", content="hi")
        agent.store.put(b"user/1", b"Ada")
        export(agent.store, path / "small", format=form, namespaces=["messages"], prefix=b"u")
    return (path / "small").read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_was_cut_is_never_taken_for_whole(tmp_path: Path, form: str) -> None:
    data = small(tmp_path, form)
    for length in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(ImportSourceError):
            import_(tmp_path / "b.walkv", tmp_path / "cut")
    assert not (tmp_path / "b.walkv").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_with_a_flipped_bit_is_refused(tmp_path: Path, form: str) -> None:
    data = small(tmp_path, form)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(ImportSourceError):
            import_(tmp_path / "b.walkv", tmp_path / "bad")
    assert not (tmp_path / "b.walkv").exists()


def test_what_is_behind_the_end_and_what_is_twice_is_refused(tmp_path: Path) -> None:
    data = small(tmp_path, "jsonl")
    lines = data.splitlines(keepends=True)
    for bad in (data + lines[1], data + data, b"".join([*lines[:2], lines[1], *lines[2:]])):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ImportSourceError):
            import_(tmp_path / "b.walkv", tmp_path / "bad")


def forged(path: Path, *documents: Any, **header: Any) -> Path:
    """A file whose checksums are right, whatever is in it."""
    from walkv.ops.moving.items import Item, Tally

    first: dict[str, Any] = {
        "walkv_export": 1,
        "kind": "records",
        "time": "",
        "sequence": 1,
        "counts": {},
        "namespaces": {},
    } | header
    tallies: dict[str, Tally] = {}
    for each in documents:
        (what,) = {"record", "entry", "head", "checkpoint", "write", "old"} & each.keys()
        name = each.get("namespace", "")
        item = Item(name, what, each[what], 0, each.get("version", 0), each.get("expiry_ms", 0))
        if what != "head":
            tallies.setdefault(name, Tally()).add(item)
    data = b"".join(framing.encode(each, "jsonl") for each in (first, *documents))
    checksum = framing.Checksum()
    checksum.add(data)
    counts = {name: tally.as_dict() for name, tally in tallies.items()}
    end = framing.encode({"end": {"counts": counts, "xxh3_128": checksum.hex}}, "jsonl")
    path.write_bytes(data + end)
    return path


def schema(*names: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": [names[0]],
        "layouts": [[1, list(names)]],
        "indexes": {},
        "next_index": 1,
        "secrets": [],
        "history": 0,
        "masked": [],
    } | changes


SESSION = CLASSES["sessions"].declaration.record.__dataclass_fields__


@pytest.mark.parametrize(
    "header",
    [
        {"walkv_export": 2},
        {"walkv_export": "1"},
        {"walkv_export": True},
        {"kind": "all"},
        {"counts": {"x": "many"}},
        {"sequence": None},
        {"namespaces": []},
        {"namespaces": {"No!": schema("a")}},
        {"namespaces": {"own": schema("a", key=["b"])}},
        {"namespaces": {"own": schema("a", key=[])}},
        {"namespaces": {"own": schema("a", layouts=[])}},
        {"namespaces": {"own": schema("a", layouts=[[1, "a"]])}},
        {"namespaces": {"own": schema("a", layouts=[[1, ["a", "a"]]])}},
        {"namespaces": {"own": schema("a", layouts=[[0, ["a"]]])}},
        {"namespaces": {"own": schema("a", layouts=[[1 << 40, ["a"]]])}},
        {"namespaces": {"own": schema("a", indexes={"a": 999})}},
        {"namespaces": {"own": schema("a", indexes={"a": "1"})}},
        {"namespaces": {"own": schema("a", history=-1)}},
        {"namespaces": {"own": schema("a; import os")}},
        {"namespaces": {"own": schema("class")}},
        {"namespaces": {"sessions": schema("session_id", "unheard")}},
    ],
    ids=lambda header: json.dumps(header)[:60],
)
def test_a_hostile_header_ends_in_a_typed_error(tmp_path: Path, header: dict[str, Any]) -> None:
    path = forged(tmp_path / "bad", **header)
    try:
        moved = import_(tmp_path / "b.walkv", path)
    except FormatError:
        return
    assert moved.ok  # nothing of it was used
    assert moved.namespaces == {}


@pytest.mark.parametrize(
    "document",
    [
        {"namespace": "own", "record": {"a": 1}},
        {"namespace": "own", "record": {"b": 1, "a": 1}},
        {"namespace": "own", "record": [1]},
        {"namespace": "own", "record": {"a": [1], "b": 1}},
        {"namespace": "own", "record": {"a": float("nan"), "b": 1}},
        {"namespace": "own", "record": {"a": 1 << 80, "b": 1}},
        {"namespace": "own", "record": {"a": 1, "b": 1}, "layout": 7},
        {"namespace": "own", "record": {"a": 1, "b": 1}, "layout": -1},
        {"namespace": "own", "record": {"a": 1, "b": 1}, "expiry_ms": "soon"},
        {"namespace": "own", "old": {"a": 1, "b": 1}, "version": 1 << 70},
        {"namespace": "other", "record": {"a": 1}},
        {"namespace": ["own"], "record": {"a": 1}},
        {"record": {"a": 1}},
        {"entry": {"key": "text", "value": b""}},
        {"entry": {"key": b"k"}},
        {"namespace": "own", "entry": {"key": b"k", "value": b""}},
    ],
    ids=lambda document: str(document)[:70],
)
def test_a_hostile_item_is_refused_before_anything_is_written(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    good = {"namespace": "own", "record": {"a": 1, "b": 1}}
    path = forged(tmp_path / "bad", good, namespaces={"own": schema("a", "b")})
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = framing.encode(document, "jsonl")
    path.write_bytes(b"".join(lines))
    with pytest.raises(ImportSourceError):
        import_(tmp_path / "b.walkv", path)
    assert not (tmp_path / "b.walkv").exists()


@pytest.mark.parametrize(
    "document",
    [
        {"namespace": "sessions", "record": dict.fromkeys(SESSION, 7)},
        {"namespace": "sessions", "record": {**dict.fromkeys(SESSION), "session_id": "s"}},
        {"entry": {"key": b"", "value": b""}},
        {"entry": {"key": b"k" * 70_000, "value": b""}},
        {
            "namespace": "checkpoints",
            "checkpoint": dict.fromkeys(
                (
                    "thread_id",
                    "namespace",
                    "number",
                    "checkpoint_id",
                    "parent_id",
                    "run_id",
                    "metadata",
                    "created_at",
                    "data",
                ),
                7,
            ),
        },
    ],
    ids=lambda document: str(document)[:40],
)
def test_items_that_no_store_takes_are_told_and_the_others_are_moved(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    sessions = schema(*SESSION)
    checkpoints = schema("thread_id", "namespace", "number", key=["thread_id"])
    good = {"namespace": "own", "record": {"a": 1, "b": 1}}
    path = forged(
        tmp_path / "bad",
        document,
        good,
        namespaces={"own": schema("a", "b"), "sessions": sessions, "checkpoints": checkpoints},
    )
    moved = import_(tmp_path / "b.walkv", path)
    assert not moved.ok
    assert moved.problem_count == 1
    assert len(moved.problems) == 1
    assert moved.namespaces["own"].written_count == 1


# -- interrupted -----------------------------------------------------------------------------------


KILLED = """
    import os, signal, sys
    import walkv
    from walkv.ops import export, import_

    what, store, file, stop, form = sys.argv[1:]

    def progress(done, total):
        if done >= int(stop):
            os.kill(os.getpid(), signal.SIGKILL)

    if what == "export":
        with walkv.open(store, read_only=True) as opened:
            export(opened, file, format=form, secrets=True, progress=progress)
    else:
        import_(store, file, progress=progress)
"""


def killed(what: str, store: Path, file: Path, stop: int, form: str = "jsonl") -> None:
    code = textwrap.dedent(KILLED)
    command = [sys.executable, "-c", code, what, str(store), str(file), str(stop), form]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.walkv"
    with filled(path) as agent:
        for number in range(6):
            messages = [{"role": "user", "content": f"{n} " * 40} for n in range(150)]
            agent.messages.append_many(f"many{number}", messages)
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stop", [1, 300, 700])
def test_an_export_that_was_killed_goes_on(
    large: Path, tmp_path: Path, stop: int, form: str
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    killed("export", large, out, stop, form)
    assert not out.exists()
    part = tmp_path / "out.part"
    with pytest.raises(ImportSourceError):
        import_(tmp_path / "b.walkv", part)
    with walkv.open(large, read_only=True) as store:
        with pytest.raises(FileExistsError):
            export(store, out, format=form, secrets=True)
        report = export(store, out, format=form, secrets=True, resume=True)
        assert len(set(report.sequences)) == 1
        assert 0 < report.resumed_count <= stop
        export(store, whole, format=form, secrets=True)
        with pytest.raises(FileExistsError):
            export(store, out, format=form, secrets=True)
    assert not part.exists()
    assert said(out) == said(whole)
    assert import_(tmp_path / "b.walkv", out).ok


def test_an_export_goes_on_from_wherever_it_was_cut(agent: AgentStore, tmp_path: Path) -> None:
    out, part = tmp_path / "out", tmp_path / "out.part"
    whole = export(agent.store, tmp_path / "whole", secrets=True)
    data = (tmp_path / "whole").read_bytes()
    agent.store.put(b"user/9", b"came later")
    for length in range(0, len(data), 97):
        part.write_bytes(data[:length])
        report = export(agent.store, out, secrets=True, resume=True)
        assert report.counts[""] == whole.counts[""] + 1
        assert len(report.sequences) == (2 if report.resumed_count else len(report.sequences))
        assert said(out)[-1] == {"entry": {"key": b"user/9", "value": b"came later"}}
        out.unlink()
    part.write_bytes(data[: data.index(b"\n") + 1] + b'{"namespace": "' + b"x" * 2 * len(data))
    export(agent.store, out, secrets=True, resume=True)
    assert said(out)[-1] == {"entry": {"key": b"user/9", "value": b"came later"}}
    out.unlink()
    part.write_bytes(data)  # all but renamed
    assert export(agent.store, out, secrets=True, resume=True).counts == whole.counts
    assert out.read_bytes() == data


def test_only_an_export_of_the_same_goes_on(agent: AgentStore, tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    with pytest.raises(FileNotFoundError):
        export(agent.store, tmp_path / "out", resume=True)
    export(agent.store, part, secrets=True)
    data = part.read_bytes()
    for options, why in (
        ({}, "selection"),
        ({"secrets": True, "kind": "entries"}, "kind"),
        ({"secrets": True, "namespaces": ["notes"]}, "selection"),
        ({"secrets": True, "format": "msgpack"}, "jsonl"),
    ):
        with pytest.raises(ImportSourceError, match=why):
            export(agent.store, tmp_path / "out", resume=True, **options)  # type: ignore[arg-type]
    with walkv.open(tmp_path / "b.walkv") as other, pytest.raises(ImportSourceError, match="store"):
        export(other, tmp_path / "out", secrets=True, resume=True)
    assert part.read_bytes() == data
    part.write_bytes(b"something else")
    with pytest.raises(ImportSourceError):
        export(agent.store, tmp_path / "out", secrets=True, resume=True)
    assert part.read_bytes() == b"something else"


@pytest.mark.parametrize("stop", [1, 400, 900, 1400])
def test_an_import_that_was_killed_and_run_again_is_one_import(
    large: Path, tmp_path: Path, stop: int
) -> None:
    with walkv.open(large, read_only=True) as store:
        export(store, tmp_path / "file", secrets=True)
    killed("import", tmp_path / "b.walkv", tmp_path / "file", stop)
    moved = import_(tmp_path / "b.walkv", tmp_path / "file")
    assert moved.ok, moved.differences
    assert (sum(each.present_count for each in moved.namespaces.values()) > 0) == (stop > 0)
    with AgentStore(tmp_path / "b.walkv") as other:
        assert other.verify() == []
        export(other.store, tmp_path / "again", secrets=True)
    assert said(tmp_path / "again") == said(tmp_path / "file")


def test_a_progress_callback_that_raises_leaves_what_goes_on(
    agent: AgentStore, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(agent.store, tmp_path / "out", secrets=True, progress=stop)
    report = export(agent.store, tmp_path / "out", secrets=True, resume=True)
    assert report.resumed_count == 20


def test_an_entry_with_another_expiry_is_another_one(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "a.walkv") as store:
        store.put(b"k", b"v", ttl_seconds=3600)
        export(store, tmp_path / "out")
    with walkv.open(tmp_path / "b.walkv") as other:
        other.put(b"k", b"v")
        moved = import_(other, tmp_path / "out")
        assert not moved.ok
        assert moved.namespaces[""].differing_count == 1
        assert import_(other, tmp_path / "out", replace=True).ok
    with walkv.open(tmp_path / "a.walkv") as one, walkv.open(tmp_path / "b.walkv") as other:
        assert expiries(one) == expiries(other)


def test_what_was_not_imported_rightly_is_found_by_the_comparison(
    agent: AgentStore, tmp_path: Path
) -> None:
    export(agent.store, tmp_path / "out", secrets=True)
    target = walkv.open(tmp_path / "b.walkv")

    def spoil(done: int, total: int) -> None:
        if done < total:
            target.put(b"user/1", b"spoiled")
            AgentStore(target).sessions.delete("s1")

    moved = import_(target, tmp_path / "out", progress=spoil)
    assert not moved.ok
    assert moved.namespaces["sessions"].written_count == 1
    assert not moved.namespaces["sessions"].same
    assert not moved.namespaces[""].same
    assert any("is missing in the store" in line for line in moved.differences)
    target.close()


def test_old_versions_that_are_too_many_go_when_the_class_is_used(
    agent: AgentStore, tmp_path: Path
) -> None:
    export(agent.store, tmp_path / "out", namespaces=["notes"], secrets=True)
    fewer = Declaration("notes", Note, "note_id", ["author", ("author", "number")], history=1)
    with AgentStore(tmp_path / "b.walkv") as other:
        other.namespace(fewer)
    assert import_(tmp_path / "b.walkv", tmp_path / "out").ok
    with AgentStore(tmp_path / "b.walkv") as other:
        assert [note.number for note in other.namespace(fewer).history("n1")] == [1]
