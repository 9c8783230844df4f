"""AgentStore and AsyncAgentStore: their lives, policies, batches, and namespaces of one's own."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import (
    AgentStore,
    AsyncAgentStore,
    ClosedError,
    CodecError,
    ConflictError,
    Declaration,
    LockedError,
    Namespace,
    ReadOnlyError,
    StoreFailedError,
    Wal,
    WalkvError,
    WriteBack,
    WriteThrough,
)
from walkv.namespaces.sessions import Session
from walkv.testing import Fault, FaultyFileSystem, SimulatedFileSystem

PATH = "/a.walkv"
ATTRIBUTES = (
    "sessions", "messages", "checkpoints", "task_contexts", "contexts", "workflows", "executions",
    "configurations", "tasks", "users", "knowledge_sources",
)  # fmt: skip


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore(PATH, filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


def fill(agent: AgentStore) -> None:
    """Something in every namespace."""
    agent.sessions.create("s1", "ada")
    agent.messages.append("s1", role="user", content="hello")
    agent.checkpoints.put("t1", "c1", {"n": 1})
    agent.checkpoints.put_writes("t1", "c1", "task", [("x", 1)])
    agent.task_contexts.store("s1", {"n": 1})
    agent.contexts.create("w1", "planner", context_id="x1")
    agent.workflows.create("w", ["planner"], workflow_id="w1")
    agent.executions.log(tool_name="ls", execution_id="e1", task_id="t1")
    agent.configurations.create("role_config", "coder", {}, config_id="f1")
    agent.configurations.set("theme", "dark")
    agent.tasks.create("s1", "x", [{"description": "y", "subtask_id": "st1"}], task_id="t1")
    agent.users.create("ada", api_keys={"k": "sk"})
    agent.knowledge_sources.add("docs", source_id="k1")


WRITES: list[Callable[[Any], Any]] = [
    lambda a: a.sessions.create("s2", "ada"),
    lambda a: a.sessions.update("s1", mark_error=True),
    lambda a: a.sessions.cleanup_expired(-1),
    lambda a: a.sessions.delete("s1"),
    lambda a: a.messages.append("s1", role="user", content="x"),
    lambda a: a.messages.pop("s1"),
    lambda a: a.messages.clear("s1"),
    lambda a: a.messages.splice("s1", 1, 2, [{"role": "system", "content": "x"}]),
    lambda a: a.checkpoints.put("t1", "c2", {}),
    lambda a: a.checkpoints.put_writes("t1", "c1", "k", [("a", 1)]),
    lambda a: a.checkpoints.copy_thread("t1", f"t{random.random()}"),
    lambda a: a.checkpoints.delete_thread("t1"),
    lambda a: a.checkpoints.prune(keep_last=0),
    lambda a: a.task_contexts.store("s1", 2),
    lambda a: a.contexts.save_compressed("x1", "x", 0.5),
    lambda a: a.workflows.update_role_status("w1", "planner", "completed"),
    lambda a: a.executions.start(role="x"),
    lambda a: a.executions.once("pay", lambda: 1),
    lambda a: a.configurations.activate("f1"),
    lambda a: a.configurations.set("theme", "light"),
    lambda a: a.tasks.create("s1", "x", [{"description": "y"}]),
    lambda a: a.tasks.update_subtask_status("st1", "completed"),
    lambda a: a.users.add_usage("ada", 1),
    lambda a: a.knowledge_sources.delete("k1"),
    lambda a: a.sessions.query(user_id="ada").delete(),
]

READS: list[Callable[[Any], Any]] = [
    lambda a: a.sessions.get("s1"),
    lambda a: a.sessions.metrics(),
    lambda a: a.messages.history("s1"),
    lambda a: a.messages.count("s1"),
    lambda a: a.checkpoints.get("t1"),
    lambda a: a.checkpoints.list("t1"),
    lambda a: a.checkpoints.get_writes("t1", "c1"),
    lambda a: a.checkpoints.usage(),
    lambda a: a.checkpoints.threads(),
    lambda a: a.task_contexts.get("s1"),
    lambda a: a.contexts.list_by_role("planner"),
    lambda a: a.workflows.active(),
    lambda a: a.executions.list(),
    lambda a: a.executions.statistics(),
    lambda a: a.configurations.get_active("role_config", "coder"),
    lambda a: a.configurations.all(),
    lambda a: a.tasks.details("t1"),
    lambda a: a.users.info("ada"),
    lambda a: a.knowledge_sources.list(),
]


# -- opening and closing -------------------------------------------------------------------------


def test_a_path_is_opened_and_closed(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a") as agent:
        assert (agent.path, agent.closed) == (str(tmp_path / "a"), False)
        assert repr(agent) == f"<walkv.AgentStore {agent.path!r} open>"
        fill(agent)
        with pytest.raises(LockedError):
            AgentStore(tmp_path / "a")
    assert agent.closed
    assert repr(agent).endswith("closed>")
    agent.close()
    for call in (*READS, *WRITES):
        with pytest.raises(ClosedError):
            call(agent)
    with pytest.raises(ClosedError), agent.batch():
        pass
    with AgentStore(tmp_path / "a", create=False) as again:
        assert [read(again) is not None for read in READS] == [True] * len(READS)
        assert again.verify() == []


def test_an_open_store_stays_open(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "a") as store:
        with AgentStore(store) as agent:
            fill(agent)
        agent.close()
        assert not agent.closed
        assert agent.sessions.exists("s1")
        # Two of them see one store, and keep their batches apart.
        other = AgentStore(store)
        with agent.batch():
            agent.sessions.create("s2", "ada")
            assert not other.sessions.exists("s2")
            other.sessions.create("s3", "ada")
        assert other.sessions.exists("s2")
        assert agent.sessions.exists("s3")
        assert other.verify() == []


def test_what_is_not_there_is_not_made_when_told_so(tmp_path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(FileNotFoundError):
            AgentStore(tmp_path / "a", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


def test_a_killed_process_leaves_what_it_had_committed(fs: SimulatedFileSystem) -> None:
    agent = AgentStore(PATH, filesystem=fs)
    fill(agent)
    machine = fs.after_kill()
    with AgentStore(PATH, filesystem=machine) as after:
        assert [read(after) for read in READS] == [read(agent) for read in READS]
        assert after.verify() == []
        for write in WRITES:
            write(after)
        assert after.verify() == []
    agent.close()


# -- policies ------------------------------------------------------------------------------------


def test_default_policies(agent: AgentStore) -> None:
    through = {"users", "configurations", "settings"}
    back = {"executions"}
    for name, namespace in agent.by_name.items():
        expected = WriteThrough if name in through else WriteBack if name in back else Wal
        assert type(namespace.sync) is expected, name
    assert [getattr(agent, name) for name in ATTRIBUTES] == [
        agent.by_name[name] for name in ATTRIBUTES
    ]


def test_policies_by_namespace(fs: SimulatedFileSystem) -> None:
    policies = {"tasks": WriteThrough(), "configurations": WriteBack(), "messages": WriteBack(2.0)}
    with AgentStore(PATH, filesystem=fs, policies=policies) as agent:
        assert agent.tasks.sync == agent.tasks.subtasks.sync == WriteThrough()
        assert agent.configurations.settings.sync == WriteBack()
        assert agent.messages.sync == WriteBack(2.0)
        assert agent.sessions.sync == Wal()
    policies = {"tasks": WriteThrough(), "subtasks": WriteBack(), "settings": WriteBack()}
    with AgentStore(PATH, filesystem=fs, policies=policies) as agent:
        assert agent.tasks.subtasks.sync == agent.configurations.settings.sync == WriteBack()
        assert agent.configurations.sync == WriteThrough()


@pytest.mark.parametrize(
    ("policies", "error", "words"),
    [
        ({"session": Wal()}, ValueError, "no namespace 'session'; sessions, messages"),
        ({"sessions": "wal"}, TypeError, "sync is"),
        ({"sessions": Wal}, TypeError, "sync is"),
    ],
)
def test_policies_that_are_none_are_refused_and_the_lock_is_free(
    tmp_path: Path, policies: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        AgentStore(tmp_path / "a", policies=policies)

    async def test() -> None:
        with pytest.raises(error, match=words):
            await AsyncAgentStore.open(tmp_path / "a", policies=policies)

    asyncio.run(test())
    with walkv.open(tmp_path / "a") as store:
        with pytest.raises(error, match=words):
            AgentStore(store, policies=policies)

        async def shared() -> None:
            with pytest.raises(error, match=words):
                await AsyncAgentStore.open(store, policies=policies)

        asyncio.run(shared())
        assert not store.closed


def survives(fs: SimulatedFileSystem) -> set[bool]:
    """Whether the session "s1" is there after a power failure that may happen now."""
    found = set()
    for disk in fs.crash_states():
        after = SimulatedFileSystem.after_power_failure(disk)
        with AgentStore(PATH, filesystem=after) as agent:
            found.add(agent.sessions.exists("s1"))
            assert agent.verify() == []
    return found


def test_a_policy_says_when_a_commit_is_durable(fs: SimulatedFileSystem) -> None:
    policies = {"sessions": WriteBack(1e9)}
    agent = AgentStore(PATH, filesystem=fs, policies=policies)
    agent.sessions.create("s1", "ada")
    assert survives(fs) == {False, True}
    agent.sync()
    assert survives(fs) == {True}
    agent.sessions.delete("s1", sync=Wal())
    assert survives(fs) == {False}
    agent.close()


# -- reading only --------------------------------------------------------------------------------


def test_a_reader_reads_and_writes_nothing(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a") as writer:
        fill(writer)
        files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with AgentStore(tmp_path / "a", read_only=True) as reader:
            assert [read(reader) for read in READS] == [read(writer) for read in READS]
            assert reader.verify() == []
            for write in WRITES:
                with pytest.raises(ReadOnlyError):
                    write(reader)
            with pytest.raises(ReadOnlyError), reader.batch():
                pass
        assert files == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_reader_follows_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with AgentStore(path) as writer, AgentStore(path, read_only=True) as reader:
        fill(writer)
        assert reader.sessions.get("s1") is None
        assert reader.store.refresh()
        assert [read(reader) for read in READS] == [read(writer) for read in READS]
        for number in range(3):
            writer.messages.append("s1", role="user", content=number)
            writer.executions.start(role="coder")
            writer.checkpoints.put("t1", f"n{number}", {"number": number})
            if number == 1:
                writer.store.compact()
            reader.store.refresh()
            assert [read(reader) for read in READS] == [read(writer) for read in READS]
        assert reader.verify() == []


def test_a_reader_that_was_there_before_any_record(tmp_path: Path) -> None:
    """It knows neither layouts nor indexes until the writer has told the store."""
    with walkv.open(tmp_path / "a") as store:
        reader = AgentStore(tmp_path / "a", read_only=True)
        assert reader.sessions.get("s1") is None
        assert reader.workflows.active() == []
        assert reader.verify() == []
        writer = AgentStore(store)
        fill(writer)
        reader.store.refresh()
        assert [read(reader) for read in READS] == [read(writer) for read in READS]
        assert reader.messages.query(message_id="x").all() == []
        assert len(reader.tasks.list("s1")) == 1
        reader.close()


def test_tasks_read_only(tmp_path: Path) -> None:
    async def test() -> None:
        with AgentStore(tmp_path / "a") as writer:
            fill(writer)
            async with AsyncAgentStore(tmp_path / "a", read_only=True) as reader:
                for read in READS:
                    assert await read(reader) == read(writer)
                for write in WRITES:
                    with pytest.raises(ReadOnlyError):
                        await write(reader)
                writer.sessions.create("s2", "ada")
                await reader.store.refresh()
                assert await reader.sessions.exists("s2")
                assert await reader.verify() == []

    asyncio.run(asyncio.wait_for(test(), 60))


# -- for tasks -----------------------------------------------------------------------------------


def test_the_life_of_an_agent_of_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        agent = AsyncAgentStore(tmp_path / "a", policies={"messages": WriteThrough()})
        assert repr(agent).endswith("not open>")
        assert not (tmp_path / "a").exists()
        await agent.close()
        async with agent:
            assert agent.path == str(tmp_path / "a")
            assert repr(agent) == f"<walkv.AsyncAgentStore {agent.path!r} open>"
            assert [getattr(agent, name).name for name in ATTRIBUTES] == list(ATTRIBUTES)
            assert repr(agent.messages) == "<walkv AsyncMessages 'messages'>"
            async with agent as same:
                assert same is agent
        assert agent.closed
        await agent.close()
        await agent.close()
        agent = await AsyncAgentStore.open(tmp_path / "a", create=False)
        for write in WRITES[:1]:
            await write(agent)
        await agent.sync()
        await agent.close()
        for call in (*READS, *WRITES):
            with pytest.raises(ClosedError):
                await call(agent)
        with pytest.raises(FileNotFoundError):
            await AsyncAgentStore.open(tmp_path / "b", create=False)

    asyncio.run(asyncio.wait_for(test(), 60))


def test_threads_and_tasks_share_a_store(tmp_path: Path) -> None:
    async def test() -> None:
        with walkv.open(tmp_path / "a") as store, AgentStore(store) as agent:
            fill(agent)
            face = walkv.AsyncStore.of(store)
            for source in (store, face, agent):
                async with AsyncAgentStore(source) as tasks:
                    for read in READS:
                        assert await read(tasks) == read(agent)
                    made = await tasks.messages.append("s1", role="user", content="x")
                    assert agent.messages.history("s1")[-1] == made
                assert not store.closed
            face.detach()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_policies_of_an_agent_are_those_of_its_tasks(fs: SimulatedFileSystem) -> None:
    async def test() -> None:
        with AgentStore(PATH, filesystem=fs, policies={"messages": WriteBack()}) as agent:
            async with AsyncAgentStore(agent, policies={"sessions": WriteThrough()}) as tasks:
                policies = {name: each._threaded.sync for name, each in tasks.by_name.items()}
                assert policies == agent.policies | {"sessions": WriteThrough()}
                assert policies["messages"] == WriteBack()

    asyncio.run(test())


# -- batches -------------------------------------------------------------------------------------


def test_a_batch_is_all_or_nothing(agent: AgentStore) -> None:
    def work() -> None:
        agent.sessions.create("s1", "ada")
        agent.messages.append("s1", role="user", content="hello")
        agent.checkpoints.put("t1", "c1", {"n": 1})
        agent.tasks.create("s1", "x", [{"description": "y"}] * 2, task_id="t1")
        agent.configurations.create("role_config", "coder", {})
        assert agent.sessions.exists("s1")
        assert agent.messages.count("s1") == 1
        assert agent.checkpoints.get("t1") is not None
        assert len(agent.tasks.details("t1").subtasks) == 2  # type: ignore[union-attr]
        assert agent.configurations.get_active("role_config", "coder") is not None

    def fails() -> None:
        work()
        raise ZeroDivisionError

    before = dict(agent.store.scan())
    with pytest.raises(ZeroDivisionError):
        agent.transact(fails)
    assert dict(agent.store.scan()) == before
    sequence = agent.store.engine.sequence
    with agent.batch():
        work()
        assert agent.store.engine.sequence == sequence
    assert agent.sessions.exists("s1")
    assert agent.messages.count("s1") == 1


def test_who_else_writes_goes_their_own_way(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a") as agent:
        seen = []

        def other() -> None:
            seen.append(agent.sessions.exists("s1"))
            agent.sessions.create("s2", "bob")

        with agent.batch():
            agent.sessions.create("s1", "ada")
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert seen == [False]
        assert agent.sessions.exists("s1")
        assert agent.sessions.exists("s2")


def test_a_conflict_is_told_and_transact_tries_again(agent: AgentStore) -> None:
    agent.users.create("ada")
    other = AgentStore(agent.store)
    rounds: list[int] = []

    def work() -> int:
        rounds.append(1)
        found = agent.users.get("ada")
        assert found is not None
        if len(rounds) < 4:
            other.users.add_usage("ada", 1)
        return agent.users.add_usage("ada", 10)["task_count"]

    with pytest.raises(ConflictError), agent.batch():
        work()
    assert agent.users.get("ada").usage_stats["task_count"] == 1  # type: ignore[union-attr]
    assert agent.transact(work) == 13
    assert len(rounds) == 4
    with pytest.raises(ValueError, match="retries"):
        agent.transact(work, retries=-1)


def test_a_batch_inside_a_batch_is_a_part_of_it(agent: AgentStore) -> None:
    with agent.batch():
        agent.sessions.create("s1", "ada")
        with agent.batch():
            agent.sessions.create("s2", "ada")
        assert agent.sessions.exists("s2")
        with suppress(ZeroDivisionError), agent.batch():
            raise ZeroDivisionError
    assert agent.sessions.count() == 2
    before = dict(agent.store.scan())

    def half() -> None:
        agent.sessions.create("s3", "ada")
        with suppress(ZeroDivisionError), agent.batch():
            agent.sessions.create("s4", "ada")
            raise ZeroDivisionError

    with pytest.raises(WalkvError, match="failed half way"):
        agent.transact(half)
    assert dict(agent.store.scan()) == before


def test_what_is_refused_in_a_batch_leaves_the_batch_as_it_was(agent: AgentStore) -> None:
    agent.sessions.create("s1", "ada")
    with agent.batch():
        agent.messages.append("s1", role="user", content="a")
        with pytest.raises(walkv.RecordExistsError):
            agent.sessions.create("s1", "eve")
        with pytest.raises(CodecError):
            agent.messages.append("s1", role="user", content=object())
        with pytest.raises(walkv.RecordExistsError):
            agent.messages.append_many("s1", [{"role": "u", "content": 1, "message_id": "x"}] * 2)
        with pytest.raises(CodecError):
            agent.checkpoints.put("t1", "c1", object())
    assert agent.messages.count("s1") == 1


def test_the_strongest_policy_counts(fs: SimulatedFileSystem) -> None:
    agent = AgentStore(PATH, filesystem=fs, policies={"sessions": WriteBack(1e9)})
    with agent.batch():
        agent.sessions.create("s1", "ada")
        agent.executions.start(role="x")
    assert survives(fs) == {False, True}
    with agent.batch():
        agent.sessions.update("s1", mark_error=True)
        agent.users.create("ada")
    assert survives(fs) == {True}
    with agent.batch(sync=WriteBack(1e9)):
        agent.sessions.delete("s1")
        agent.users.add_usage("ada", 1)
    assert survives(fs) == {False, True}
    agent.close()


def test_batches_of_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:

            async def work(number: int) -> None:
                async with agent.batch():
                    await agent.sessions.create(f"s{number}", "ada")
                    await agent.messages.append(f"s{number}", role="user", content=number)
                    assert await agent.messages.count(f"s{number}") == 1
                    assert await agent.sessions.exists(f"s{number}")
                    if number % 2:
                        raise ZeroDivisionError

            done = await asyncio.gather(*map(work, range(20)), return_exceptions=True)
            assert [type(each) for each in done] == [type(None), ZeroDivisionError] * 10
            assert await agent.sessions.count() == await agent.messages.query().count() == 10
            await agent.users.create("ada")
            rounds: list[int] = []

            async def spend() -> Any:
                await agent.users.get("ada")
                rounds.append(1)
                if len(rounds) == 1:
                    await asyncio.create_task(agent.users.add_usage("ada", 1))
                return await agent.users.add_usage("ada", 10)

            assert (await agent.transact(spend))["task_count"] == 11
            assert len(rounds) == 2
            assert await agent.verify() == []

    asyncio.run(asyncio.wait_for(test(), 60))


# -- namespaces of one's own ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class LongNote:
    note_id: str
    author: str
    text: str = ""
    stars: int = 0


NOTES = Declaration("notes", Note, key="note_id", indexes=["author"], history=2)


class Notes(Namespace[Note]):
    """With an operation of its own."""

    def by(self, author: str) -> list[str]:
        return [note.note_id for note in self.query(author=author)]


def test_a_namespace_of_ones_own(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    notes = agent.namespace(NOTES, cls=Notes, sync=WriteThrough())
    assert isinstance(notes, Notes)
    assert notes.sync == WriteThrough()
    with agent.batch():
        notes.put_many([Note(f"n{n}", ["ada", "bob"][n % 2]) for n in range(10)])
        agent.sessions.create("s1", "ada")
    assert notes.by("bob") == ["n1", "n3", "n5", "n7", "n9"]
    assert notes.query(author="ada").explain().index == "author"
    notes.update("n1", text="x")
    assert notes.history("n1") == [Note("n1", "bob")]
    assert agent.by_name["notes"] is notes
    assert agent.namespace(NOTES).count() == 10
    with pytest.raises(TypeError, match="'messages' already"):
        agent.namespace(replace(NOTES, name="messages"))
    with AgentStore(PATH, filesystem=fs.after_kill()) as after:
        assert after.verify() == []
        assert after.namespace(NOTES).get("n1") == Note("n1", "bob", "x")


def test_one_open_store_has_one_declaration(agent: AgentStore) -> None:
    agent.namespace(NOTES).put(Note("n1", "ada"))
    other = AgentStore(agent.store)
    assert other.namespace(NOTES).count(author="ada") == 1
    for changed in (
        replace(NOTES, indexes=["text"]),
        Declaration("notes", LongNote, "note_id", indexes=["author"], history=2),
    ):
        for each in (agent, other):
            with pytest.raises(TypeError, match="declared otherwise"):
                each.namespace(changed)
    assert agent.verify() == other.verify() == []


def test_indexes_and_fields_come_and_go(fs: SimulatedFileSystem) -> None:
    with AgentStore(PATH, filesystem=fs) as agent:
        agent.namespace(NOTES).put_many(Note(f"n{n}", "ada", str(n)) for n in range(50))
    more = Declaration("notes", LongNote, "note_id", indexes=["text", ("author", "stars")])
    with AgentStore(PATH, filesystem=fs) as agent:
        notes = agent.namespace(more)
        plan = notes.query(author="ada").order_by("-stars").explain()
        assert (plan.index, plan.sorted_in_memory) == ("author,stars", False)
        assert notes.query(text="7").explain().index == "text"
        assert [note.note_id for note in notes.query(text="7")] == ["n7"]
        notes.put(LongNote("n99", "ada", "99", 5))
        assert notes.query(author="ada").order_by("-stars").first() == notes.get("n99")
        assert agent.verify() == []
    with AgentStore(PATH, filesystem=fs) as agent:
        bare = agent.namespace(replace(NOTES, indexes=[]))
        assert bare.query(author="ada").explain().index == ""
        assert bare.count(author="ada") == 51
        assert bare.get("n99") == Note("n99", "ada", "99")
        prefix = bare.table.base + b"i"
        assert list(agent.store.scan(prefix)) == []
        assert agent.verify() == []


def test_a_namespace_of_tasks_of_ones_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            notes = await agent.namespace(NOTES, cls=Notes)
            await asyncio.gather(*(notes.put(Note(f"n{n}", "ada")) for n in range(10)))
            assert len(await notes.by("ada")) == 10
            async with agent.batch():
                await notes.delete("n1")
                await agent.sessions.create("s1", "ada")
                assert await notes.count() == 9
            found = [note.note_id async for note in notes.query(author="ada")]
            assert found == [f"n{n}" for n in (0, *range(2, 10))]
            with pytest.raises(TypeError, match="already"):
                await agent.namespace(replace(NOTES, name="tasks"))
            assert await agent.verify() == []

    asyncio.run(asyncio.wait_for(test(), 60))


# -- what is not the agent's ---------------------------------------------------------------------


def test_keys_of_others_stay_as_they_are_and_are_not_seen(tmp_path: Path) -> None:
    keys = [b"a", b"sessions", b"\x01", b"\x01\0", b"\xff", b"\xff" * 40, b"r\0sessions", b"i"]
    with walkv.open(tmp_path / "a") as store:
        for key in keys:
            store.put(key, b"mine " + key)
    with AgentStore(tmp_path / "a") as agent:
        assert [namespace.count() for namespace in agent.by_name.values()] == [0] * 13
        assert agent.checkpoints.threads() == []
        fill(agent)
        for write in WRITES:
            write(agent)
        agent.checkpoints.prune(keep_last=0)
        for namespace in agent.by_name.values():
            namespace.query().delete()
        assert agent.verify() == []
        found = {key: value for key, value in agent.store.scan() if key[0]}
        assert found == {key: b"mine " + key for key in keys}
        agent.store.compact()
    with walkv.open(tmp_path / "a") as store:
        assert list(store.scan(b"\1")) == [(b"\1", b"mine \1"), (b"\1\0", b"mine \1\0")]


def test_a_registry_that_is_none_is_refused(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "a") as store:
        store.put(b"\0\0", b"something else")
    with pytest.raises(CodecError, match="registry"):
        AgentStore(tmp_path / "a")
    with walkv.open(tmp_path / "a") as store:
        assert dict(store.scan()) == {b"\0\0": b"something else"}


# -- what is wrong -------------------------------------------------------------------------------


def test_verify_names_what_is_wrong(fs: SimulatedFileSystem) -> None:
    agent = AgentStore(PATH, filesystem=fs)
    fill(agent)
    assert agent.verify() == []
    table = agent.sessions.table
    (entry, *_), record = agent.store.scan(table.index_prefix(1)), table.records
    agent.store.delete(entry[0])
    (line,) = agent.verify()
    assert line.startswith("sessions: the index entry")
    assert line.endswith("is missing")
    agent.store.put(*entry)
    agent.store.put(entry[0][:-1] + b"\1\0", entry[1])
    (line,) = agent.verify()
    assert line.endswith("has no record")
    agent.store.delete(entry[0][:-1] + b"\1\0")
    ((key, value),) = agent.store.scan(record)
    agent.store.put(key, b"\xc1")
    assert any("cannot be read" in line for line in agent.verify())
    agent.store.put(key, value)
    assert agent.verify() == []
    agent.close()


def test_a_full_disk_leaves_everything_as_it_was(fs: SimulatedFileSystem) -> None:
    """Whatever is written: the call raises, and can be made again when there is room."""
    disk = FaultyFileSystem(fs)
    agent = AgentStore(PATH, filesystem=disk)
    fill(agent)
    for write in WRITES:
        fs.clock.advance(1)
        now = agent.sessions.now()
        agent.sessions.put(Session("s1", "ada", "active", now, now))
        agent.messages.append("s1", role="user", content="x")
        agent.checkpoints.put("t1", "c1", {"n": 2})
        before = dict(agent.store.scan())
        disk.fault = Fault(lambda call: call.operation == "write", code=ENOSPC, forever=True)
        with pytest.raises(OSError, match="free some space") as caught:
            write(agent)
        assert caught.value.errno == ENOSPC
        disk.heal()
        assert dict(agent.store.scan()) == before
        write(agent)
        assert dict(agent.store.scan()) != before
    assert agent.verify() == []
    agent.close()


def test_a_sync_that_fails_stops_the_store_and_says_so(fs: SimulatedFileSystem) -> None:
    disk = FaultyFileSystem(fs)
    agent = AgentStore(PATH, filesystem=disk)
    agent.sessions.create("s1", "ada")
    disk.fault = Fault(lambda call: call.operation == "sync_data")
    with pytest.raises(StoreFailedError):
        agent.sessions.create("s2", "ada")
    for write in WRITES:
        with pytest.raises(StoreFailedError):
            write(agent)
    with pytest.raises(StoreFailedError):
        agent.close()
    agent.close()
    for lost in fs.crash_states():
        with AgentStore(PATH, filesystem=fs.after_power_failure(lost)) as after:
            assert after.sessions.exists("s1")
            assert after.verify() == []
