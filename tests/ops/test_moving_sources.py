"""Files of other stores, made by these: what they say is in walkv afterwards, nothing hidden."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache
import pytest
from agents import SQLiteSession

import walkv
from walkv import AgentStore, Declaration
from walkv.errors import ImportSourceError
from walkv.namespaces import codec
from walkv.ops import ImportReport, detect, import_
from walkv.ops.moving.sources.google_adk import session_id_of

ITEMS: list[Any] = [
    {"role": "user", "content": "what is 2**70, and ünïcode\u2028?"},
    {"type": "function_call", "call_id": "c", "name": "power", "arguments": '{"n": 70}'},
    {"type": "function_call_output", "call_id": "c", "output": str(1 << 70)},
    {"role": "assistant", "content": [{"type": "output_text", "text": "big"}], "n": 1 << 70},
]
ROLES = ["user", "assistant", "tool", "assistant"]


def keep(items: list[Any], *place: Any) -> None:
    """Add items to a session, and give its database back."""
    session = SQLiteSession(*place)
    asyncio.run(session.add_items(items))
    session.close()


def say(content: str, *place: Any) -> None:
    keep([{"role": "user", "content": content}], *place)


def counts(report: ImportReport) -> dict[str, tuple[int, int, int]]:
    """In the source, written, there before."""
    return {
        name: (each.source_count, each.written_count, each.present_count)
        for name, each in report.namespaces.items()
    }


def fingerprint(path: Path) -> list[tuple[str, bytes]]:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return [(str(file), file.read_bytes()) for file in files if not file.name.endswith("-shm")]


# -- OpenAI Agents ---------------------------------------------------------------------------------


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    path = tmp_path / "conversations.db"

    async def talk() -> None:
        for name in ("ada", "grace"):
            session = SQLiteSession(name, path)
            for item in ITEMS:
                await session.add_items([item])
            await session.add_items([{"role": "user", "content": "taken back"}])
            await session.pop_item()
            session.close()

    asyncio.run(talk())
    return path


def test_a_conversation_of_the_agents_sdk(conversations: Path, tmp_path: Path) -> None:
    assert detect(conversations) == "openai-agents"
    before = fingerprint(conversations)
    report = import_(tmp_path / "a.walkv", conversations)
    assert report.ok, report.differences
    assert counts(report) == {"messages": (8, 8, 0), "sessions": (2, 2, 0)}
    assert fingerprint(conversations) == before
    with AgentStore(tmp_path / "a.walkv") as agent:
        found = agent.messages.history("ada")
        assert [message.content for message in found] == ITEMS
        assert [message.role for message in found] == ROLES
        assert [message.seq for message in found] == [1, 2, 3, 4]
        session = agent.sessions.get("ada")
        assert session is not None
        assert session.status == "active"
        assert session.created_at <= session.updated_at
        assert agent.messages.count("grace") == 4
        assert agent.messages.append("ada", role="user", content="on").seq == 5
        assert agent.verify() == []


def test_what_came_since_is_added_and_what_was_changed_here_stays(
    conversations: Path, tmp_path: Path
) -> None:
    import_(tmp_path / "a.walkv", conversations)
    say("new", "ada", conversations)
    with AgentStore(tmp_path / "a.walkv") as agent:
        agent.sessions.delete("grace")
        report = import_(agent.store, conversations)
        assert counts(report)["messages"] == (9, 5, 4)
        assert [message.content for message in agent.messages.history("ada")][4]["content"] == "new"
        agent.messages.append("ada", role="user", content="mine")
        say("theirs", "ada", conversations)
        report = import_(agent.store, conversations)
        assert not report.ok
        assert report.namespaces["messages"].differing_count == 1
        assert agent.messages.history("ada")[-1].content == "mine"


def test_a_file_that_is_being_written_is_read_as_of_one_moment(
    conversations: Path, tmp_path: Path
) -> None:
    live = sqlite3.connect(conversations)
    live.execute("PRAGMA wal_autocheckpoint = 0")
    row = ("ada", json.dumps({"role": "user", "content": "in the log"}))
    live.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    live.commit()
    live.execute("INSERT INTO agent_messages (session_id, message_data) VALUES ('ada', '{}')")

    def meanwhile(done: int, total: int) -> None:
        live.commit()  # once it was written, and before it is compared

    report = import_(tmp_path / "a.walkv", conversations, progress=meanwhile)
    assert report.ok
    assert counts(report)["messages"] == (9, 9, 0)
    live.close()
    assert counts(import_(tmp_path / "a.walkv", conversations))["messages"] == (10, 1, 9)


def test_rows_that_are_none_are_told_and_the_others_come(
    conversations: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(conversations)) as file, file:
        for data in ("{", "7", "[" * 100_000, '{"role": "\\ud800"}', b"\xff"):
            file.execute(
                "INSERT INTO agent_messages (session_id, message_data) VALUES ('ada', ?)", (data,)
            )
        file.execute("INSERT INTO agent_sessions VALUES ('bad', 'yesterday', 'today')")
    file.close()
    report = import_(tmp_path / "a.walkv", conversations)
    assert not report.ok
    assert report.problem_count == len(report.problems) == 6
    assert any("'bad'" in line for line in report.problems)
    assert sum("of session 'ada'" in line or "'ada'" in line for line in report.problems) == 5
    with AgentStore(tmp_path / "a.walkv") as agent:
        assert agent.messages.count("ada") == 4


def test_tables_of_other_names_are_found_and_two_pairs_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "own.db"

    def add(sessions: str, messages: str) -> None:
        keep(ITEMS, "s", path, sessions, messages)

    add("talks", "lines")
    assert counts(import_(tmp_path / "a.walkv", path))["messages"] == (4, 4, 0)
    add("more_talks", "more_lines")
    with pytest.raises(ImportSourceError, match="talks and lines, more_talks and more_lines"):
        import_(tmp_path / "b.walkv", path)


# -- Google ADK ------------------------------------------------------------------------------------

ADK = """
    import asyncio, logging, sys, warnings
    warnings.simplefilter("ignore")
    logging.disable()
    from google.adk.events import Event, EventActions
    from google.adk.sessions import DatabaseSessionService
    from google.adk.sessions.schemas import v0
    from google.adk.sessions.sqlite_session_service import SqliteSessionService
    from google.genai import types
    from sqlalchemy import create_engine

    async def fill(service):
        for user in ("ada", "grace/2"):
            state = {"app:currency": "EUR", "user:name": user, "cart": [1, 0.1 + 0.2, 2**70]}
            session = await service.create_session(
                app_name="shop", user_id=user, session_id="s1", state=state
            )
            for number in range(3):
                author = "user" if number % 2 == 0 else "clerk"
                role = "user" if author == "user" else "model"
                content = types.Content(role=role, parts=[types.Part(text=f"line {number}")])
                actions = EventActions(state_delta={"step": number, "app:count": number})
                event = Event(
                    author=author, content=content, invocation_id=f"i{number}",
                    timestamp=1.7e9 + number // 2, actions=actions, id=f"{user} {9 - number}",
                    long_running_tool_ids={"tool"},
                )
                await service.append_event(session, event)

    async def main(folder):
        await fill(SqliteSessionService(f"{folder}/sqlite.db"))
        await fill(DatabaseSessionService(f"sqlite+aiosqlite:///{folder}/database.db"))
        engine = create_engine(f"sqlite:///{folder}/pickled.db")
        v0.Base.metadata.create_all(engine)
        engine.dispose()
        await fill(DatabaseSessionService(f"sqlite+aiosqlite:///{folder}/pickled.db"))

    asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def adk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all three generations, made by ADK in a process of its own: it warns on import."""
    path = tmp_path_factory.mktemp("adk")
    code = textwrap.dedent(ADK)
    subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("generation", ["sqlite", "database", "pickled"])
def test_sessions_of_adk(adk: Path, tmp_path: Path, generation: str) -> None:
    path = adk / f"{generation}.db"
    assert detect(path) == "google-adk"
    before = fingerprint(path)
    report = import_(tmp_path / "a.walkv", path)
    assert report.ok, report.differences
    assert fingerprint(path) == before
    assert counts(report) == {
        "messages": (6, 6, 0),
        "sessions": (2, 2, 0),
        "settings": (3, 3, 0),
        "task_contexts": (2, 2, 0),
    }
    with AgentStore(tmp_path / "a.walkv") as agent:
        key = session_id_of("shop", "grace/2", "s1")
        assert key == "shop/grace%2F2/s1"
        session = agent.sessions.get(key)
        assert session is not None
        assert session.user_id == "grace/2"
        assert session.metadata == {
            "source": "google-adk",
            "app_name": "shop",
            "session_id": "s1",
        }
        found = agent.messages.history(key)
        assert [m.content["content"]["parts"][0]["text"] for m in found] == [
            "line 0",
            "line 1",
            "line 2",
        ]
        assert [message.role for message in found] == ["user", "model", "user"]
        assert [message.message_id for message in found] == [f"grace/2 {n}" for n in (9, 8, 7)]
        assert [message.content["id"] for message in found] == [m.message_id for m in found]
        assert [message.content["timestamp"] for message in found] == [1.7e9, 1.7e9, 1.7e9 + 1]
        assert [message.created_at.timestamp() for message in found] == [1.7e9, 1.7e9, 1.7e9 + 1]
        assert found[1].content["author"] == "clerk"
        assert list(found[1].content["long_running_tool_ids"]) == ["tool"]
        actions = found[1].content["actions"]
        if generation == "pickled":
            assert actions.startswith(b"\x80")  # as it was, and not read
        else:
            assert actions["state_delta"] == {"step": 1, "app:count": 1}
        context = agent.task_contexts.get(key)
        assert context is not None
        assert context.context == {"step": 2, "cart": [1, 0.1 + 0.2, 2**70]}
        assert agent.configurations.setting("adk/app/shop") == {"currency": "EUR", "count": 2}
        assert agent.configurations.setting("adk/user/shop/grace%2F2") == {"name": "grace/2"}
        assert import_(agent.store, path).ok
        assert agent.verify() == []


def test_states_and_events_of_adk_that_are_none_are_told(adk: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(adk / "sqlite.db", tmp_path / "bad.db"))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE sessions SET state = '[]' WHERE user_id = 'ada'")
        file.execute("UPDATE app_states SET update_time = 1e300")
        file.execute("UPDATE events SET event_data = 'x' WHERE id = 'ada 8'")
    file.close()
    report = import_(tmp_path / "a.walkv", path)
    assert report.problem_count == 3
    assert counts(report)["messages"][0] == 5


# -- diskcache -------------------------------------------------------------------------------------


def fill_cache(cache: Any) -> None:
    cache.set("text", "Zoë", tag="t")
    cache.set(b"\xfe bytes", b"\0\xff")
    cache.set(7, 8)
    cache.set(1.5, -0.25)
    cache.set("long text", "ä" * 40_000)
    cache.set("long bytes", b"\1" * 40_000)
    cache.set("expires", "soon", expire=3600)


EXPECTED = {
    b"c/text": "Zoë".encode(),
    b"c/\xfe bytes": b"\0\xff",
    b"c/7": b"8",
    b"c/1.5": b"-0.25",
    b"c/long text": ("ä" * 40_000).encode(),
    b"c/long bytes": b"\1" * 40_000,
    b"c/expires": b"soon",
}


@pytest.mark.parametrize("make", [diskcache.Cache, diskcache.FanoutCache])
def test_a_cache(tmp_path: Path, make: Callable[..., Any]) -> None:
    with make(str(tmp_path / "cache")) as cache:
        fill_cache(cache)
        cache.set("gone", "x", expire=0.001)
        time.sleep(0.01)
        assert detect(tmp_path / "cache") == "diskcache"
        report = import_(tmp_path / "a.walkv", tmp_path / "cache", prefix=b"c/")
    assert report.ok, report.differences
    assert counts(report) == {"": (7, 7, 0)}
    assert report.namespaces[""].expired_count == 1
    with walkv.open(tmp_path / "a.walkv") as store:
        assert dict(store.scan()) == EXPECTED
        from walkv.ops.moving.moment import Moment

        with Moment(store.engine) as moment:
            expiry = {key: expiry_ms for key, _, expiry_ms in moment.entries(b"", None)}
        assert 3_500_000 < expiry.pop(b"c/expires") - time.time() * 1000 <= 3_600_000
        assert not any(expiry.values())


class Marks:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_pickles_are_read_only_if_that_is_allowed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with diskcache.Cache(str(tmp_path / "cache")) as cache:
        cache.set("plain", {"a": (1, {2})})
        cache.set("large", list(range(20_000)))
        cache.set("trap", Marks(str(trap)))
        cache.set("object", {1: object})
        cache.set((1, 2), "pickled key")
        cache.set("fine", b"x")
    report = import_(tmp_path / "a.walkv", tmp_path / "cache")
    assert not report.ok
    assert not trap.exists()
    assert report.problem_count == 5
    assert all("runs what is in it" in line for line in report.problems)
    with walkv.open(tmp_path / "a.walkv") as store:
        assert list(store.scan()) == [(b"fine", b"x")]
        report = import_(store, tmp_path / "cache", allow_pickle=True)
        assert trap.exists()
        assert codec.decode(store[b"plain"]) == {"a": (1, {2})}
        assert codec.decode(store[b"large"]) == list(range(20_000))
    assert report.problem_count == 2, report.problems  # a key that is a tuple, and a class


def test_the_database_of_a_cache_names_no_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"not of the cache")
    with diskcache.Cache(str(tmp_path / "cache")) as cache:
        for key in ("up", "absolute", "link", "missing", "none", "good"):
            cache.set(key, b"x" * 40_000)
        os.symlink(tmp_path / "secret", tmp_path / "cache" / "link.val")
    with closing(sqlite3.connect(tmp_path / "cache" / "cache.db")) as file, file:
        for key, name in (
            ("up", "../secret"),
            ("absolute", str(tmp_path / "secret")),
            ("link", "link.val"),
            ("missing", "00/00/00.val"),
            ("none", None),
        ):
            file.execute("UPDATE Cache SET filename = ? WHERE key = ?", (name, key))
    file.close()
    report = import_(tmp_path / "a.walkv", tmp_path / "cache")
    assert report.problem_count == 5
    with walkv.open(tmp_path / "a.walkv") as store:
        assert list(store.scan(keys_only=True)) == [b"good"]


def test_two_keys_that_become_one_are_told(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path / "cache")) as cache:
        cache.set("7", "text")
        cache.set(7, "number")
    report = import_(tmp_path / "a.walkv", tmp_path / "cache")
    assert not report.ok
    assert report.namespaces[""].differing_count == 1


# -- a plain table ---------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "data.db"
    file = sqlite3.connect(path)
    file.execute('CREATE TABLE "My Notes" (id INTEGER PRIMARY KEY, author TEXT, body, score REAL)')
    rows = [(1, "ada", "hello", 0.5), (2, "grace", b"\0\1", None), (3, None, 7, 2)]
    file.executemany('INSERT INTO "My Notes" VALUES (?, ?, ?, ?)', rows)
    file.commit()
    file.close()
    return path


def test_the_rows_of_a_table_become_records(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportSourceError, match="My Notes"):
        detect(table)
    options: dict[str, Any] = {"kind": "sqlite-table", "table": "My Notes", "key": "id"}
    report = import_(tmp_path / "a.walkv", table, **options)
    assert report.ok
    assert counts(report) == {"my_notes": (3, 3, 0)}
    assert counts(import_(tmp_path / "a.walkv", table, **options)) == {"my_notes": (3, 0, 3)}

    @dataclass(frozen=True, slots=True)
    class Row:
        id: int
        author: str | None
        body: Any
        score: float | None

    with AgentStore(tmp_path / "a.walkv") as agent:
        rows = agent.namespace(Declaration("my_notes", Row, "id", ["author"]))
        assert rows.get(2) == Row(2, "grace", b"\0\1", None)
        assert rows.query(author="ada").all() == [Row(1, "ada", "hello", 0.5)]
        assert rows.count() == 3


def test_the_rows_of_a_table_become_keys_and_values(table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kind": "sqlite-table", "table": "My Notes", "prefix": b"n/"}
    report = import_(tmp_path / "a.walkv", table, key="id", value="body", **options)
    assert report.ok
    with walkv.open(tmp_path / "a.walkv") as store:
        assert list(store.scan()) == [(b"n/1", b"hello"), (b"n/2", b"\0\1"), (b"n/3", b"7")]
    report = import_(tmp_path / "b.walkv", table, key="author", value="score", **options)
    assert report.problem_count == 2
    assert "row 2: NULL" in report.problems[0]


def test_what_a_table_needs_is_asked_for(table: Path, tmp_path: Path) -> None:
    def bad(error: type[Exception], match: str, **options: Any) -> None:
        with pytest.raises(error, match=match):
            import_(tmp_path / "b.walkv", table, kind="sqlite-table", **options)
        assert not (tmp_path / "b.walkv").exists()

    bad(ValueError, "its name")
    bad(ImportSourceError, "there are My Notes", table="Notes", key="id")
    bad(ImportSourceError, "it has id, author, body, score", table="My Notes", key="nothing")
    bad(ValueError, "key column", table="My Notes")
    bad(ValueError, "cannot be called 'sessions'", table="My Notes", key="id", namespace="sessions")
    with closing(sqlite3.connect(table)) as file, file:
        file.execute('CREATE TABLE odd ("a b" TEXT)')
        file.execute("CREATE TABLE bare (a TEXT)")
    file.close()
    bad(walkv.FormatError, "'a b'", table="odd", key="a b")
    bad(ImportSourceError, "no row", table="bare", key="a")
    with pytest.raises(ValueError, match="a source is one of"):
        import_(tmp_path / "b.walkv", table, kind="mysql")


def test_a_key_of_several_columns(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as file, file:
        file.execute("CREATE TABLE pairs (a, b, c)")
        file.execute("INSERT INTO pairs VALUES (1, 'x', 1), (1, 'y', 2), (NULL, 'z', 3)")
    file.close()
    report = import_(
        tmp_path / "a.walkv",
        tmp_path / "data.db",
        kind="sqlite-table",
        table="pairs",
        key=["a", "b"],
    )
    assert counts(report) == {"pairs": (2, 2, 0)}
    assert report.problems == ("row 3: a is NULL, and is of the key",)


# -- what is no source -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "walkv", "openai-agents", "google-adk", "diskcache"])
@pytest.mark.parametrize("what", ["text", "nothing", "sqlite", "cut", "directory", "pickle"])
def test_what_is_no_source_is_refused(tmp_path: Path, kind: str | None, what: str) -> None:
    path = tmp_path / "source"
    if what == "directory":
        path.mkdir()
    elif what in ("sqlite", "cut"):
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("CREATE TABLE other (a)")
        file.close()
        if what == "cut":
            path.write_bytes(path.read_bytes()[:1000])
    else:
        data = {"text": b"hello", "nothing": b"", "pickle": pickle.dumps([1])}[what]
        path.write_bytes(data)
    expected = (ImportSourceError, IsADirectoryError) if what == "directory" else ImportSourceError
    with pytest.raises(expected) as caught:
        import_(tmp_path / "a.walkv", path, kind=kind)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "a.walkv").exists()


def test_an_empty_source_is_told(conversations: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(conversations)) as file, file:
        file.execute("DELETE FROM agent_messages")
        file.execute("DELETE FROM agent_sessions")
    file.close()
    with pytest.raises(ImportSourceError, match="nothing to import"):
        import_(tmp_path / "a.walkv", conversations)
    with diskcache.Cache(str(tmp_path / "cache")):
        pass
    with pytest.raises(ImportSourceError, match="nothing to import"):
        import_(tmp_path / "a.walkv", tmp_path / "cache")


def test_a_missing_source_is_a_missing_file(tmp_path: Path) -> None:
    for kind in (None, "walkv", "openai-agents", "diskcache", "sqlite-table"):
        with pytest.raises(FileNotFoundError):
            import_(tmp_path / "a.walkv", tmp_path / "nothing", kind=kind)


def test_a_locked_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversations: Path
) -> None:
    monkeypatch.setattr("walkv.ops.moving.sources.sqlite._WAIT_SECONDS", 0.05)
    file = sqlite3.connect(conversations)
    file.execute("PRAGMA journal_mode = DELETE")
    file.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ImportSourceError, match="locked; another program"):
        import_(tmp_path / "a.walkv", conversations)
    file.close()
    assert import_(tmp_path / "a.walkv", conversations).ok


def test_a_damaged_page_is_told(conversations: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(conversations)) as file, file:
        file.execute("PRAGMA journal_mode = DELETE")
        for number in range(2000):
            row = ("ada", json.dumps({"role": "user", "content": f"{number} " * 30}))
            file.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    file.close()
    data = bytearray(conversations.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = bytes(8192)
    conversations.write_bytes(data)
    with pytest.raises(ImportSourceError, match="malformed"):
        import_(tmp_path / "a.walkv", conversations)


def test_langgraphs_file_is_sent_to_its_own_import(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "checkpoints.db")) as file, file:
        file.execute("CREATE TABLE checkpoints (thread_id TEXT)")
    file.close()
    assert detect(tmp_path / "checkpoints.db") == "langgraph-sqlite"
    with pytest.raises(ImportSourceError, match="import_sqlite"):
        import_(tmp_path / "a.walkv", tmp_path / "checkpoints.db")


KILLED = """
    import os, signal, sys
    from walkv.ops import import_

    def progress(done, total):
        if done >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

    import_(sys.argv[1], sys.argv[2], progress=progress)
"""


@pytest.mark.parametrize("stop", [1, 600, 1600])
def test_an_import_that_was_killed_goes_on(conversations: Path, tmp_path: Path, stop: int) -> None:
    items: list[Any] = [{"role": "user", "content": str(number)} for number in range(1000)]
    keep(items, "long", conversations)
    code = textwrap.dedent(KILLED)
    command = [sys.executable, "-c", code, tmp_path / "a.walkv", conversations, str(stop)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    report = import_(tmp_path / "a.walkv", conversations)
    assert report.ok
    assert report.namespaces["messages"].present_count > 0
    with AgentStore(tmp_path / "a.walkv") as agent:
        assert [m.content for m in agent.messages.history("long", None)] == items
        assert agent.messages.count("long") == 1000
        assert agent.verify() == []
