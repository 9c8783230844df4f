"""What LangGraph's SQLite savers and stores have written reads back as it did."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.sqlite import SqliteStore

import walkv
from tests.integrations.langgraph import graphs
from tests.integrations.langgraph.handmade import config, put
from walkv.cli.app import walkv_command
from walkv.errors import CodecError, FormatError
from walkv.integrations.langgraph import WalkvSaver, WalkvStore, import_sqlite, strict_serializer
from walkv.integrations.langgraph.sqlite import split_msgpack

SCENARIOS = [
    graphs.one_node_asks_twice,
    graphs.three_floors,
    graphs.map_and_reduce,
    graphs.one_of_several_fails,
    graphs.time_travel,
    graphs.differences,
    graphs.several_threads_and_namespaces,
]


@dataclasses.dataclass
class Own:
    """A class that only the application has."""

    number: int


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints.sqlite"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[walkv.AgentStore]:
    with walkv.AgentStore(tmp_path / "agent.walkv", sync=walkv.WriteBack()) as agent:
        yield agent


CONNECTIONS: list[sqlite3.Connection] = []

# SqliteStore's own, from Python 3.12 on.
of_the_other_store = pytest.mark.filterwarnings("ignore:The default datetime adapter")


@pytest.fixture(autouse=True)
def connections_are_closed() -> Iterator[None]:
    yield
    while CONNECTIONS:
        CONNECTIONS.pop().close()


def sqlite_saver(file: Path, serde: Any = None) -> SqliteSaver:
    connection = sqlite3.connect(file, check_same_thread=False)
    CONNECTIONS.append(connection)
    connection.execute("PRAGMA synchronous=OFF")
    return SqliteSaver(connection, serde=serde)


def check_same(source: SqliteSaver, saver: WalkvSaver) -> int:
    """See that all checkpoints are alike; returns how many there are."""
    found = list(source.list(None))
    assert sorted(saver.list(None), key=_place) == sorted(found, key=_place)
    for each in found:
        assert saver.get_tuple(each.config) == source.get_tuple(each.config)
    return len(found)


def _place(found: Any) -> tuple[str, str, str]:
    named = found.config["configurable"]
    return named["thread_id"], named["checkpoint_ns"], named["checkpoint_id"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_graphs_read_back_as_they_did(scenario: Any, file: Path, agent: walkv.AgentStore) -> None:
    source = sqlite_saver(file, strict_serializer([(graphs.__name__, "Interrupt")]))
    scenario(graphs.Drive(lambda: nullcontext(source), lambda _: False, "sync"))
    done = import_sqlite(file, agent)
    saver = WalkvSaver(agent)
    assert check_same(source, saver) == done.checkpoint_count > 0
    assert done.write_count == sum(len(each.pending_writes or ()) for each in source.list(None))
    latest = {each.config["configurable"]["thread_id"] for each in source.list(None)}
    for thread_id in latest:
        named = {"configurable": {"thread_id": thread_id}}
        assert saver.get_tuple(named) == source.get_tuple(named)


def test_of_the_async_saver_too(file: Path, agent: walkv.AgentStore) -> None:
    async def fill() -> None:
        async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
            named: Any = config("t")
            checkpoint: Any = {
                "v": 4,
                "id": "1",
                "ts": "2024-05-01T10:00:00+00:00",
                "channel_values": {"messages": [HumanMessage("hello", id="1")]},
                "channel_versions": {"messages": saver.get_next_version(None, None)},
                "versions_seen": {},
            }
            await saver.aput(named, checkpoint, {"step": 1}, {})

    asyncio.run(fill())
    assert import_sqlite(file, agent).checkpoint_count == 1
    assert check_same(sqlite_saver(file), WalkvSaver(agent)) == 1


def test_classes_of_the_application_are_moved_and_not_made(
    file: Path, agent: walkv.AgentStore
) -> None:
    source = sqlite_saver(file, JsonPlusSerializer(allowed_msgpack_modules=[Own]))
    put(source, "1", {"own": Own(7), "big": [Own(n) for n in range(3000)], "none": None})
    import_sqlite(file, agent)
    assert check_same(source, WalkvSaver(agent, allow=[Own])) == 1
    with pytest.raises(CodecError, match="Own"):
        WalkvSaver(agent).get_tuple(config())


def test_what_was_encrypted_needs_its_key(file: Path, agent: walkv.AgentStore) -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(serde=strict_serializer(), key=b"k" * 16)
    source = sqlite_saver(file, serde)
    put(source, "1", {"secret": "text"})
    (error,) = import_sqlite(file, agent).errors
    assert "EncryptedSerializer" in error
    assert import_sqlite(file, agent, serde=serde).checkpoint_count == 1
    assert check_same(source, WalkvSaver(agent, serde=serde)) == 1


def test_it_goes_on_where_it_was_stopped(file: Path, agent: walkv.AgentStore) -> None:
    source = sqlite_saver(file)
    parent = None
    for n in range(20):
        named = put(source, f"{n:02}", {"n": n, "text": "x" * n}, parent=parent)
        source.put_writes(named, [("n", n), ("text", "y" * 50_000)], f"task{n}", "path")
        parent = f"{n:02}"

    def stop(done: int, total: int) -> None:
        assert total == 20
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_sqlite(file, agent, progress=stop)
    told: list[int] = []
    done = import_sqlite(file, agent, progress=lambda done, _: told.append(done))
    assert (done.checkpoint_count, done.present_count) == (13, 7)
    assert done.write_count == 26
    assert told == list(range(1, 21))
    assert check_same(source, WalkvSaver(agent)) == 20
    again = import_sqlite(file, agent)
    assert (again.checkpoint_count, again.present_count, again.write_count) == (0, 20, 0)


def test_what_came_to_the_file_meanwhile_is_added(file: Path, agent: walkv.AgentStore) -> None:
    source = sqlite_saver(file)
    put(source, "1", {"n": 1})
    import_sqlite(file, agent)
    put(source, "2", {"n": 2}, parent="1")
    put(source, "1", {"n": 1}, thread_id="other")
    assert import_sqlite(file, agent).checkpoint_count == 2
    assert check_same(source, WalkvSaver(agent)) == 3


def test_a_thread_that_has_gone_on_is_left_alone(file: Path, agent: walkv.AgentStore) -> None:
    source = sqlite_saver(file)
    put(source, "1", {"n": 1})
    put(source, "1", {"n": 1}, thread_id="other")
    import_sqlite(file, agent)
    saver = WalkvSaver(agent)
    put(saver, "3", {"n": 3}, parent="1")
    put(source, "2", {"n": 2}, parent="1")
    done = import_sqlite(file, agent)
    assert done.skipped_threads == ("t",)
    assert done.thread_count == 1
    found = saver.get_tuple(config())
    assert found is not None
    assert found.checkpoint["channel_values"] == {"n": 3}
    assert len(list(saver.list(config()))) == 2


def test_what_was_pruned_here_does_not_come_back(file: Path, agent: walkv.AgentStore) -> None:
    source = sqlite_saver(file)
    for n in range(9):
        put(source, f"{n}", {"n": n}, parent=f"{n - 1}" if n else None)
    import_sqlite(file, agent)
    saver = WalkvSaver(agent)
    saver.prune(["t"], keep_last=2)
    put(source, "9", {"n": 9}, parent="8")
    assert import_sqlite(file, agent).checkpoint_count == 1
    assert [found.checkpoint["id"] for found in saver.list(config())] == ["9", "8", "7"]


def test_writes_that_came_to_a_checkpoint_that_is_there(
    file: Path, agent: walkv.AgentStore
) -> None:
    source = sqlite_saver(file)
    named = put(source, "1", {"n": 1})
    source.put_writes(named, [("n", 1)], "first")
    import_sqlite(file, agent)
    source.put_writes(named, [("n", 2), ("__interrupt__", "?")], "second", "~path")
    put(source, "2", {"n": 2}, parent="1")
    assert import_sqlite(file, agent).write_count == 2
    assert check_same(source, WalkvSaver(agent)) == 2


ODD: list[tuple[Any, ...]] = [
    (None, None, None, None),
    ("msgpack", "text", "{}", None),
    ("msgpack", None, "{}", None),
    ("msgpack", b"\x91\x01", "{}", None),
    ("msgpack", b"\x81\xaechannel_values\x81\x90\x01", "{}", None),
    ("json", b"[" * 100_000, "{}", None),
    ("json", b'{"channel_values": {}}', "{}", None),
    ("pickle", b"cos\nsystem\n(S'true'\ntR.", "{}", None),
    ("json", b"{}", "no json", None),
    ("json", b"{}", b"\xff", None),
    ("json", b"{}", "[1]", None),
    ("msgpack", b"\x80", "{}", ("task", 0, "n", "msgpack", 10**11)),
    ("msgpack", b"\x80", "{}", ("task", 0, "n", None, None)),
    ("msgpack", b"\x80", "{}", ("task", "x", "n", "msgpack", b"\x01")),
]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_row_ends_its_thread_and_no_other(
    odd: tuple[Any, ...], file: Path, agent: walkv.AgentStore
) -> None:
    source = sqlite_saver(file)
    for thread_id in ("a", "b", "c"):
        put(source, "1", {"n": 1}, thread_id=thread_id)
        put(source, "3", {"n": 3}, thread_id=thread_id, parent="1")
    kind, blob, metadata, write = odd
    with closing(sqlite3.connect(file)) as connection:
        row = ("b", "", "2", "1", kind, blob, metadata)
        connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        if write is not None:
            connection.execute(
                "INSERT INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx,"
                " channel, type, value) VALUES ('b', '', '2', ?, ?, ?, ?, ?)",
                write,
            )
        connection.commit()
    for _ in range(2):
        done = import_sqlite(file, agent)
        (error,) = done.errors
        assert "'2'" in error
        assert "'b'" in error
    saver = WalkvSaver(agent)
    for thread_id, count in (("a", 2), ("b", 1), ("c", 2)):
        assert len(list(saver.list(config(thread_id)))) == count


def test_what_is_encrypted_on_the_way(file: Path, agent: walkv.AgentStore) -> None:
    source = sqlite_saver(file)
    named = put(source, "1", {"secret": "open sesame"}, metadata={"secret": "open sesame"})
    source.put_writes(named, [("secret", "open sesame")], "task")
    serde = EncryptedSerializer.from_pycryptodome_aes(serde=strict_serializer(), key=b"k" * 16)
    assert import_sqlite(file, agent, serde=serde).errors == ()
    assert check_same(source, WalkvSaver(agent, serde=serde)) == 1
    assert not any(b"sesame" in value for _, value in agent.store.scan())


@of_the_other_store
def test_odd_items_hold_up_no_others(file: Path, agent: walkv.AgentStore) -> None:
    with SqliteStore.from_conn_string(str(file)) as source:
        source.setup()
        for n in range(6):
            source.put(("a",), f"k{n}", {"n": n})
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE store SET value = '[1]' WHERE key = 'k1'")
        connection.execute("UPDATE store SET created_at = 'long ago' WHERE key = 'k2'")
        connection.execute("UPDATE store SET updated_at = NULL WHERE key = 'k3'")
        connection.execute("UPDATE store SET prefix = '' WHERE key = 'k4'")
        connection.commit()
    done = import_sqlite(file, agent)
    assert (done.item_count + len(done.errors), len(done.errors) >= 3) == (6, True)
    assert WalkvStore(agent).get(("a",), "k5") is not None


def test_old_files(file: Path, agent: walkv.AgentStore) -> None:
    """Without a column for paths, and with checkpoints and metadata as JSON."""
    source = sqlite_saver(file)
    named = put(source, "1", {"n": 1})
    source.put_writes(named, [("n", 2)], "task", "path")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE writes DROP COLUMN task_path")
        checkpoint = {
            "v": 1,
            "id": "2",
            "ts": "2024-05-01T10:00:00+00:00",
            "channel_values": {"n": 1},
            "channel_versions": {"n": 2},
            "versions_seen": {},
        }
        row = ("t", "", "2", "1", "json", json.dumps(checkpoint).encode(), None)
        connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
    assert import_sqlite(file, agent).checkpoint_count == 2
    saver = WalkvSaver(agent)
    found = [saver.get_tuple(config("t", name)) for name in ("1", "2")]
    assert [each and each.checkpoint["channel_values"] for each in found] == [{"n": 1}, {"n": 1}]
    assert found[0] is not None
    assert found[0].pending_writes == [("task", "n", 2)]


def test_the_file_is_read_as_of_one_moment_and_not_changed(
    file: Path, agent: walkv.AgentStore
) -> None:
    source = sqlite_saver(file)
    for n in range(5):
        put(source, f"{n}", {"n": n})
    source.conn.commit()
    before = file.read_bytes()

    def write_meanwhile(done: int, total: int) -> None:
        put(source, f"{done}x", {"n": done})

    assert import_sqlite(file, agent, progress=write_meanwhile).checkpoint_count == 5
    assert file.read_bytes() == before


def test_what_is_no_sqlite_file(tmp_path: Path, agent: walkv.AgentStore) -> None:
    other = tmp_path / "other"
    other.write_text("no database, " * 100)
    with pytest.raises(FormatError, match="other"):
        import_sqlite(other, agent)
    with pytest.raises(FileNotFoundError):
        import_sqlite(tmp_path / "missing", agent)
    assert not (tmp_path / "missing").exists()


def test_an_odd_path(tmp_path: Path, agent: walkv.AgentStore) -> None:
    odd = tmp_path / "a?b#c%20d.sqlite"
    put(sqlite_saver(odd), "1", {"n": 1})
    assert import_sqlite(odd, agent).checkpoint_count == 1


@pytest.mark.parametrize(
    "value", [b"", b"\xc0", b"\x81", b"\x91\x01", b"\x81\xaechannel_values\x01"]
)
def test_what_is_no_checkpoint_is_not_split(value: bytes) -> None:
    assert split_msgpack(value) is None


@of_the_other_store
def test_items_and_their_vectors(file: Path, agent: walkv.AgentStore) -> None:
    with SqliteStore.from_conn_string(str(file), ttl={"default_ttl": 60}) as source:
        source.setup()
        for n in range(12):
            source.put(("docs", f"user{n % 3}"), f"k{n}", {"text": "x" * n, "n": [n, None]})
        source.put(("docs",), "for ever", {"a": 1}, ttl=None)
        before = [_shown(item) for item in source.search((), limit=99)]
    with closing(sqlite3.connect(file)) as connection:
        # As the store writes them where SQLite can load its extension for vectors.
        connection.execute(
            "CREATE TABLE store_vectors (prefix text, key text, field_name text, embedding BLOB)"
        )
        for n in range(12):
            vector = struct.pack("<2f", n, 1.0)
            row = (f"docs.user{n % 3}", f"k{n}", "$", vector)
            connection.execute("INSERT INTO store_vectors VALUES (?, ?, ?, ?)", row)
        connection.commit()
    done = import_sqlite(file, agent)
    assert (done.item_count, done.checkpoint_count) == (13, 0)
    assert import_sqlite(file, agent).present_count == 13
    index: Any = {"dims": 2, "embed": lambda texts: [[0.0, 1.0] for _ in texts]}
    store = WalkvStore(agent, index=index, ttl={"omit_expired": True})
    found = [_shown(item) for item in store.search((), limit=99)]
    assert sorted(found) == sorted(before)
    (best,) = store.search(("docs",), query="anything", limit=1)
    assert (best.key, best.score) == ("k0", 1.0)
    records = {item.key: item for item in agent.by_name["langgraph_items"].scan()}
    assert records["k1"].ttl_minutes == 60
    assert records["k1"].expires_at > datetime.now(UTC)
    assert records["for ever"].expires_at is None
    assert agent.verify() == []


def _shown(item: Any) -> tuple[Any, ...]:
    # SQLite's times have no zone.
    times = [each.replace(tzinfo=None) for each in (item.created_at, item.updated_at)]
    return item.namespace, item.key, str(item.value), *times


class TestCommand:
    def run(self, *arguments: Any, status: int = 0) -> str:
        done = CliRunner().invoke(walkv_command, ["import", *map(str, arguments)])
        assert done.exit_code == status, done.output
        return done.output

    def test_a_file(self, file: Path, tmp_path: Path) -> None:
        put(sqlite_saver(file), "1", {"messages": [AIMessage("hello", id="1")]})
        store = tmp_path / "agent.walkv"
        assert "1 of 1 threads" in self.run("langgraph-sqlite", file, store)
        found = json.loads(self.run("langgraph-sqlite", file, store, "--json"))
        assert (found["checkpoint_count"], found["present_count"]) == (0, 1)
        assert found["source_bytes"] > 0
        with WalkvSaver(store) as saver:
            assert saver.get_tuple(config()) is not None

    def test_what_cannot_be_moved_is_told(self, file: Path, tmp_path: Path) -> None:
        source = sqlite_saver(file)
        put(source, "1", {"n": 1})
        put(source, "1", {"n": 1}, thread_id="odd")
        source.conn.execute("UPDATE checkpoints SET type = NULL WHERE thread_id = 'odd'")
        source.conn.commit()
        store = tmp_path / "agent.walkv"
        assert "not moved: checkpoint '1' of thread 'odd'" in self.run(
            "langgraph-sqlite", file, store, status=1
        )
        with WalkvSaver(store) as saver:
            assert saver.threads() == ["t"]

    def test_threads_that_are_left_alone_are_named(self, file: Path, tmp_path: Path) -> None:
        put(sqlite_saver(file), "1", {"n": 1}, thread_id="gone\non")
        store = tmp_path / "agent.walkv"
        with WalkvSaver(store) as saver:
            put(saver, "2", {"n": 2}, thread_id="gone\non")
        assert "left alone" in self.run("langgraph-sqlite", file, store)

    def test_wrong_use(self, file: Path, tmp_path: Path) -> None:
        assert "KIND" in self.run("something", file, status=2)
        assert "does not exist" in self.run("langgraph-sqlite", file, status=2)
        file.write_text("no database, " * 100)
        assert "SQLite" in self.run("langgraph-sqlite", file, tmp_path / "s", status=1)
        file.unlink()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE t (a)")
        assert "nothing of LangGraph" in self.run("langgraph-sqlite", file, tmp_path, status=1)
        with pytest.raises(FormatError, match="nothing of LangGraph"):
            import_sqlite(file, tmp_path / "s")
        assert not (tmp_path / "s").exists()
