"""Strategies of persistence: what others build by hand of caches and files, said in walkv's calls.

Each test is one of the design's examples, and holds it against what it promises: after every
operation of a simulated machine the power may fail, and what is then found is looked at.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.support import processes
from tests.unit.hooked import HookedFileSystem
from walkv import AgentStore, AsyncAgentStore, Declaration, Wal, WriteBack, WriteThrough
from walkv.testing import SimulatedFileSystem

POLICIES: list[Any] = [WriteThrough(), Wal(), WriteBack()]


class Cache:
    """What every strategy of the design offers: ``put`` and ``get`` of JSON by key."""

    def __init__(self, store: walkv.Store) -> None:
        self.store = store

    def put(self, key: str, value: Any, sync: Any = None) -> None:
        self.store.put(key.encode(), json.dumps(value).encode(), sync=sync)

    def get(self, key: str) -> Any:
        found = self.store.get(key.encode())
        return None if found is None else json.loads(found)

    def keys(self) -> list[str]:
        return [key.decode() for key in self.store.scan(keys_only=True)]


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def cache_in(fs: SimulatedFileSystem, policy: Any) -> Cache:
    return Cache(walkv.open("/cache", sync=policy, filesystem=fs))


def after_power_failures(fs: SimulatedFileSystem) -> Iterator[SimulatedFileSystem]:
    """The machine after each power failure that may happen now."""
    for disk in fs.crash_states():
        yield SimulatedFileSystem.after_power_failure(disk)


def caches_after(fs: SimulatedFileSystem) -> Iterator[Cache]:
    for machine in after_power_failures(fs):
        with walkv.open("/cache", filesystem=machine) as store:
            yield Cache(store)


# -- the three strategies ------------------------------------------------------------------------


def test_write_through_is_on_the_disk_when_put_returns(fs: SimulatedFileSystem) -> None:
    cache = cache_in(fs, WriteThrough())
    for number in range(5):
        cache.put("language", number)
        assert cache.get("language") == number
        for after in caches_after(fs):
            assert after.get("language") == number
    assert cache.get("nothing") is None


def test_write_through_has_the_old_value_or_the_new_one_at_every_moment(
    fs: SimulatedFileSystem,
) -> None:
    cache = cache_in(fs, WriteThrough())
    cache.put("amount", "old" * 1000)
    found = set()

    def look(_operation: str, _path: str) -> None:
        for after in caches_after(fs):
            found.add(after.get("amount"))

    fs.on_operation = look
    cache.put("amount", "new" * 1000)
    fs.on_operation = None
    assert found == {"old" * 1000, "new" * 1000}


def test_write_back_is_flushed_when_its_interval_is_over(fs: SimulatedFileSystem) -> None:
    cache = cache_in(fs, WriteBack(interval_seconds=5))
    written = [f"key_{number:02}" for number in range(100)]
    for key in written:
        cache.put(key, f"value of {key}")
    counts = set()
    for after in caches_after(fs):
        kept = after.keys()
        assert kept == written[: len(kept)], "what is kept is a prefix of what was written"
        assert all(after.get(key) == f"value of {key}" for key in kept)
        counts.add(len(kept))
    assert min(counts) < 100, "nothing was at risk, so the interval is not what saves it"
    # The process may end as it likes: what it wrote is with the operating system.
    fs.clock.advance(6)
    cache.put("trigger", "flush")
    for after in caches_after(fs):
        assert after.keys()[:100] == written


def test_write_back_survives_a_kill_at_once(fs: SimulatedFileSystem) -> None:
    cache = cache_in(fs, WriteBack(interval_seconds=5))
    for number in range(100):
        cache.put(f"key_{number:02}", number)
    after = Cache(walkv.open("/cache", filesystem=fs.after_kill()))
    written = after.keys()
    assert [after.get(key) for key in written] == list(range(100))


def test_write_ahead_log_has_everything_after_a_crash(fs: SimulatedFileSystem) -> None:
    cache = cache_in(fs, Wal())
    cache.put("key1", "value1")
    cache.put("key2", "value2")
    fs.kill()
    for after in caches_after(fs):
        assert (after.get("key1"), after.get("key2")) == ("value1", "value2")
        assert not after.store.recovery_report.created


def test_a_log_that_was_torn_off_is_cut_and_said(fs: SimulatedFileSystem) -> None:
    """The design's recovery stops with an error at half a line; here it is a part of the report."""
    cache = cache_in(fs, WriteBack())
    cache.put("key1", "value1")
    cache.store.sync()
    cache.put("key2", "value2" * 1000)
    cut_bytes = set()
    for after in caches_after(fs):
        assert after.get("key1") == "value1"
        assert after.get("key2") in (None, "value2" * 1000)
        report = after.store.recovery_report
        cut_bytes.add(report.cut_bytes)
        assert bool(report.cut_bytes) == bool(report.cut_reason)
    assert 0 in cut_bytes
    assert max(cut_bytes) > 0, "no state had a torn tail"


def test_what_the_strategies_cost_in_syncs(tmp_path: Path) -> None:
    counts = {}
    for policy in POLICIES:
        with walkv.open(tmp_path / type(policy).__name__, sync=policy) as store:
            before = store.stats().sync_count
            for number in range(100):
                store.put(b"%d" % number, b"value")
            counts[type(policy)] = store.stats().sync_count - before
    assert counts[WriteThrough] == counts[Wal] == 100
    assert counts[WriteBack] < 10


def test_a_log_shares_its_syncs_among_threads(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=Wal()) as store:
        before = store.stats().sync_count

        def work(thread: int) -> None:
            for number in range(50):
                store.put(b"%d/%d" % (thread, number), b"value")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.stats().sync_count - before < 16 * 50
        assert store.count() == 16 * 50


# -- in an agent ---------------------------------------------------------------------------------


class UserPreferenceStore:
    """Preferences of users, written through: the default policy of users."""

    def __init__(self, agent: AgentStore) -> None:
        self._agent = agent

    def save_preference(self, user_id: str, key: str, value: Any) -> None:
        if not self._agent.users.exists(user_id):
            self._agent.users.create(user_id)
        self._agent.users.update_preferences(user_id, {key: value}, merge=True)

    def load_preference(self, user_id: str, key: str) -> Any:
        user = self._agent.users.get(user_id)
        return None if user is None else user.preferences.get(key)


def test_user_preferences_are_written_through(fs: SimulatedFileSystem) -> None:
    with AgentStore("/agent", filesystem=fs) as agent:
        assert agent.users.sync == WriteThrough()
        store = UserPreferenceStore(agent)
        store.save_preference("user_123", "language", "en-GB")
        store.save_preference("user_123", "theme", "dark")
        assert store.load_preference("user_123", "language") == "en-GB"
        assert store.load_preference("user_123", "font") is None
        assert store.load_preference("user_456", "theme") is None
        for machine in after_power_failures(fs):
            with AgentStore("/agent", filesystem=machine) as after:
                user = after.users.get("user_123")
                assert user is not None
                assert user.preferences == {"language": "en-GB", "theme": "dark"}


class ConversationStore:
    """The last hundred messages of each user, written back once a minute."""

    def __init__(self, agent: AgentStore, flush_interval: float = 60) -> None:
        self._agent = agent
        self._policy = WriteBack(interval_seconds=flush_interval)

    def add_message(self, user_id: str, role: str, content: str) -> None:
        self._agent.messages.append(
            user_id, role=role, content=content, max_messages=100, sync=self._policy
        )

    def flush(self) -> None:
        self._agent.sync()

    def get_history(self, user_id: str, n: int = 10) -> list[str]:
        return [message.content for message in self._agent.messages.history(user_id, limit=n)]


def test_a_conversation_is_written_back(fs: SimulatedFileSystem) -> None:
    def histories() -> set[tuple[str, ...]]:
        found = set()
        for machine in after_power_failures(fs):
            with AgentStore("/agent", filesystem=machine) as after:
                found.add(tuple(ConversationStore(after).get_history("user_123", 200)))
        return found

    said = ["Hello", "Hello!", "What is RAG?"]
    with AgentStore("/agent", filesystem=fs) as agent:
        store = ConversationStore(agent, flush_interval=60)
        for number, text in enumerate(said):
            store.add_message("user_123", "assistant" if number % 2 else "user", text)
        assert store.get_history("user_123", n=2) == said[1:]
        assert store.get_history("nobody") == []
        assert histories() <= {tuple(said[:count]) for count in range(4)}
        assert () in histories()
        fs.clock.advance(61)
        store.add_message("user_123", "assistant", "RAG is ...")
        assert all(list(found[:3]) == said for found in histories())
        store.flush()
        assert histories() == {(*said, "RAG is ...")}


def test_a_conversation_keeps_its_last_hundred_messages(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "agent.walkv") as agent:
        store = ConversationStore(agent)
        for number in range(250):
            store.add_message("user_123", "user", str(number))
        assert store.get_history("user_123", 1000) == [str(number) for number in range(150, 250)]
        assert agent.messages.count("user_123") == 100


class GraphMemory:
    """States of a graph's threads, in the log: the default policy of checkpoints."""

    def __init__(self, agent: AsyncAgentStore) -> None:
        self._agent = agent

    async def save_state(self, thread_id: str, step: int, state: dict[str, Any]) -> None:
        await self._agent.checkpoints.put(thread_id, f"step-{step}", state)

    async def load_state(self, thread_id: str) -> dict[str, Any]:
        found = await self._agent.checkpoints.get(thread_id)
        return {} if found is None else found.data


def test_the_memory_of_a_graph(fs: SimulatedFileSystem) -> None:
    state = {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello!"},
        ]
    }

    async def load(machine: SimulatedFileSystem) -> dict[str, Any]:
        async with AsyncAgentStore("/agent", filesystem=machine) as agent:
            return await GraphMemory(agent).load_state("user_123")

    async def main() -> None:
        async with AsyncAgentStore("/agent", filesystem=fs) as agent:
            memory = GraphMemory(agent)
            assert await memory.load_state("user_123") == {}
            await memory.save_state("user_123", 1, {"messages": []})
            await memory.save_state("user_123", 2, state)
            assert await memory.load_state("user_123") == state
            for machine in after_power_failures(fs):
                assert await load(machine) == state

    asyncio.run(main())


# -- mixed ---------------------------------------------------------------------------------------


class HybridCache(Cache):
    """What is critical is written through, the rest back: a policy for each call."""

    def put(self, key: str, value: Any, critical: bool = False) -> None:
        super().put(key, value, WriteThrough() if critical else WriteBack(interval_seconds=60))

    def flush(self) -> None:
        self.store.sync()


def test_critical_data_is_written_through_and_the_rest_back(fs: SimulatedFileSystem) -> None:
    cache = HybridCache(walkv.open("/cache", filesystem=fs))
    cache.put("user_payment", {"amount": 100}, critical=True)
    cache.put("access_log", {"ip": "1.2.3.4"}, critical=False)
    cache.put("view_count", 123, critical=False)
    found = set()
    for after in caches_after(fs):
        assert after.get("user_payment") == {"amount": 100}
        found.add((after.get("access_log") is not None, after.get("view_count")))
    # In the order in which they were written, whatever is lost.
    assert found == {(False, None), (True, None), (True, 123)}
    cache.flush()
    for after in caches_after(fs):
        assert after.get("view_count") == 123


def test_critical_data_takes_what_was_before_it_along(fs: SimulatedFileSystem) -> None:
    cache = HybridCache(walkv.open("/cache", filesystem=fs))
    cache.put("view_count", 123)
    cache.put("user_payment", {"amount": 100}, critical=True)
    for after in caches_after(fs):
        assert after.get("view_count") == 123


# -- performance ---------------------------------------------------------------------------------


def batch_write(store: walkv.Store, values: dict[str, Any], batch_size: int = 100) -> int:
    keys = list(values)
    for start in range(0, len(keys), batch_size):
        with store.batch() as batch:
            for key in keys[start : start + batch_size]:
                batch.put(key.encode(), json.dumps(values[key]).encode())
    return -(-len(keys) // batch_size)


def test_batches_are_one_commit_each(tmp_path: Path) -> None:
    values = {f"key_{number:03}": number for number in range(250)}
    with walkv.open(tmp_path / "s") as store:
        before = store.stats().sync_count
        assert batch_write(store, values) == 3
        assert store.stats().sync_count - before == 3
        assert Cache(store).get("key_249") == 249
        assert store.count() == 250


def test_a_batch_is_there_whole_or_not_at_all(fs: SimulatedFileSystem) -> None:
    store = walkv.open("/cache", filesystem=fs)
    counts: set[int] = set()

    def look(_operation: str, _path: str) -> None:
        counts.update(len(after.keys()) for after in caches_after(fs))

    fs.on_operation = look
    batch_write(store, {f"key_{number}": number for number in range(20)}, batch_size=10)
    fs.on_operation = None
    assert counts == {0, 10, 20}


def test_asynchronous_persistence_does_not_hold_up_other_work(tmp_path: Path) -> None:
    held, released = threading.Event(), threading.Event()

    def hook(operation: str, _path: str) -> None:
        if operation == "sync_data" and held.is_set():
            assert released.wait(60)

    async def main() -> None:
        fs = HookedFileSystem(hook=hook)
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            held.set()
            puts = [asyncio.create_task(store.put(key, b"value")) for key in (b"key1", b"key2")]
            # The disk stands still; other tasks go on, and already see what was written.
            while await store.get(b"key2") is None:
                await asyncio.sleep(0)
            assert not any(put.done() for put in puts)
            held.clear()
            released.set()
            # Unlike a task that nobody awaits, an error would be seen here.
            await asyncio.gather(*puts)

    asyncio.run(main())
    with walkv.open(tmp_path / "s") as store:
        assert [store.get(b"key1"), store.get(b"key2")] == [b"value", b"value"]


def test_settled_data_is_compressed(tmp_path: Path) -> None:
    values = {f"key_{number:04}": {"text": "as so often " * 50} for number in range(500)}
    raw_bytes = sum(len(key) + len(json.dumps(value)) for key, value in values.items())
    with walkv.open(tmp_path / "s") as store:
        batch_write(store, values)
        store.compact()
        assert store.stats().disk_bytes < raw_bytes / 10
    with walkv.open(tmp_path / "s") as store:
        assert Cache(store).get("key_0499") == values["key_0499"]


# -- practice ------------------------------------------------------------------------------------


def choose_policy(data_type: str) -> Any:
    if data_type in ("user_payment", "user_preference", "auth_token"):
        return WriteThrough()
    if data_type in ("access_log", "view_count", "cache_hit"):
        return WriteBack(interval_seconds=60)
    return Wal()


@dataclass(frozen=True, slots=True)
class Item:
    key: str
    value: int


def test_the_kind_of_data_chooses_the_policy(fs: SimulatedFileSystem) -> None:
    kinds = ("user_payment", "access_log", "anything_else")
    with AgentStore("/agent", filesystem=fs) as agent:
        items = {
            kind: agent.namespace(Declaration(kind, Item, key="key"), sync=choose_policy(kind))
            for kind in kinds
        }
        assert [items[kind].sync for kind in kinds] == [
            WriteThrough(),
            WriteBack(interval_seconds=60),
            Wal(),
        ]
        for kind, survives in (("user_payment", True), ("anything_else", True)):
            items[kind].put(Item("a", 1))
            assert survivals(fs, kind) == {survives}
        items["access_log"].put(Item("a", 1))
        assert survivals(fs, "access_log") == {True, False}


def survivals(fs: SimulatedFileSystem, kind: str) -> set[bool]:
    found = set()
    for machine in after_power_failures(fs):
        with AgentStore("/agent", filesystem=machine) as after:
            items = after.namespace(Declaration(kind, Item, key="key"))
            found.add(items.exists("a"))
    return found


def test_policies_of_an_agents_own_kinds_of_data(fs: SimulatedFileSystem) -> None:
    policies: dict[str, Any] = {
        "messages": WriteBack(interval_seconds=60),
        "executions": WriteThrough(),
    }
    with AgentStore("/agent", filesystem=fs, policies=policies) as agent:
        assert agent.users.sync == WriteThrough()
        assert agent.sessions.sync == Wal()
        agent.executions.log(tool_name="pay", execution_id="e")
        agent.messages.append("s", role="user", content="hello")
        found = set()
        for machine in after_power_failures(fs):
            with AgentStore("/agent", filesystem=machine) as after:
                found.add((after.executions.exists("e"), after.messages.count("s")))
        assert found == {(True, 0), (True, 1)}
    with pytest.raises(ValueError, match="no namespace 'payments'"):
        AgentStore("/agent", filesystem=fs, policies={"payments": WriteThrough()})


def test_a_batch_commits_under_the_strongest_policy_in_it(fs: SimulatedFileSystem) -> None:
    with AgentStore("/agent", filesystem=fs) as agent:
        with agent.batch():
            agent.executions.log(tool_name="pay", execution_id="e")
            agent.users.create("ada")
        for machine in after_power_failures(fs):
            with AgentStore("/agent", filesystem=machine) as after:
                assert after.executions.exists("e")
                assert after.users.exists("ada")


def test_checkpoints_happen_by_themselves(tmp_path: Path) -> None:
    """The thread that the design starts for this is a part of the store."""
    main_thread, synced = threading.get_ident(), threading.Event()

    def hook(operation: str, _path: str) -> None:
        if operation == "sync_data" and threading.get_ident() != main_thread:
            synced.set()

    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", sync=WriteBack(interval_seconds=0.001), filesystem=fs) as store:
        fs.hook = hook
        for number in range(100):
            store.put(b"%d" % number, b"value")
        assert synced.wait(60)


RECOVER = """
        import os, signal
        import walkv
        from tests.interfaces.test_strategies import POLICIES

        policy = POLICIES[{number}]
        with walkv.AgentStore({path!r}, sync=policy) as agent:
            for number in range(200):
                agent.store.put(b"key/%04d" % number, b"%d" % number, sync=policy)
                agent.messages.append("s", role="user", content=str(number), sync=policy)
                print(number, flush=True)
                if number == 150:
                    os.kill(os.getpid(), signal.SIGKILL)
        """


@pytest.mark.parametrize("number", range(len(POLICIES)), ids=["through", "wal", "back"])
def test_everything_is_recovered_after_a_kill(tmp_path: Path, number: int) -> None:
    path = str(tmp_path / "agent.walkv")
    root = str(Path(__file__).parent.parent.parent)
    text = f"""
        import sys
        sys.path.insert(0, {root!r})
        """ + RECOVER.format(number=number, path=path)
    with processes.start(text) as process:
        assert process.stdout is not None
        acknowledged = [int(line) for line in process.stdout]
        assert process.wait(120) == -signal.SIGKILL
    assert acknowledged == list(range(151))
    with AgentStore(path) as agent:
        assert not agent.store.recovery_report.clean
        found = dict(agent.store.scan(prefix=b"key/"))
        assert found == {b"key/%04d" % number: b"%d" % number for number in acknowledged}
        history = agent.messages.history("s", limit=None)
        assert [message.content for message in history] == list(map(str, acknowledged))
        assert agent.verify() == []


@pytest.mark.parametrize("policy", POLICIES, ids=["through", "wal", "back"])
def test_a_closed_store_has_everything_whatever_its_policy(
    fs: SimulatedFileSystem, policy: Any
) -> None:
    cache = cache_in(fs, policy)
    for number in range(10):
        cache.put(f"key_{number}", number)
    cache.store.close()
    for after in caches_after(fs):
        assert len(after.keys()) == 10
        assert after.store.recovery_report.clean


def test_recovery_can_be_interrupted_as_often_as_it_likes(fs: SimulatedFileSystem) -> None:
    cache = cache_in(fs, Wal())
    for number in range(20):
        cache.put(f"key_{number:02}", number)
    fs.kill()

    def check(machine: SimulatedFileSystem) -> None:
        with walkv.open("/cache", filesystem=machine) as store:
            assert store.count() == 20

    machine = SimulatedFileSystem.after_power_failure(next(iter(fs.crash_states())))
    states: dict[bytes, Any] = {}

    def look(_operation: str, _path: str) -> None:
        for disk in machine.crash_states():
            states.setdefault(disk.digest(), disk)

    machine.on_operation = look
    check(machine)
    assert states
    for disk in states.values():
        check(SimulatedFileSystem.after_power_failure(disk))
