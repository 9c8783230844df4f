"""Batches: all or nothing across namespaces, seen by their owner alone, under the right policy."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
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
    RecordExistsError,
    RecordNotFoundError,
    Wal,
    WalkvError,
    WriteBack,
    WriteThrough,
)
from walkv.namespaces.base import Namespace
from walkv.testing import SimulatedFileSystem


@dataclass(frozen=True, slots=True)
class Entry:
    id: str
    owner: str = ""
    count: int = 0


class Entries(Namespace[Entry]):
    """With writes that stop half way, and that wait."""

    def write_then(self, entry: Entry, then: Callable[[], Any]) -> None:
        def run(tx: Any) -> None:
            values = self.table.schema.values(entry)
            key = self.table.key_of(values)
            self.write_in(tx, key, values, tx.get(self.table.records + key), None)
            then()

        self._write(run, None)

    def more(self, key: str) -> int:
        return self._modify(key, lambda entry: {"count": entry.count + 1}, None).count


def entries(name: str = "entries", **options: Any) -> Declaration[Entry]:
    return Declaration(name, Entry, key="id", indexes=["owner"], **options)


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def opened(fs: SimulatedFileSystem, path: str = "/s", **options: Any) -> AgentStore:
    return AgentStore(path, filesystem=fs, **options)


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with opened(fs) as made:
        yield made


@pytest.fixture
def one(agent: AgentStore) -> Entries:
    return made(agent.namespace(entries(), cls=Entries))


@pytest.fixture
def two(agent: AgentStore) -> Entries:
    return made(agent.namespace(entries("others", history=2), cls=Entries))


def made(namespace: Namespace[Any]) -> Entries:
    assert isinstance(namespace, Entries)
    return namespace


def contents(agent: AgentStore) -> dict[bytes, bytes]:
    return dict(agent.store.scan())


def elsewhere(work: Callable[[], Any]) -> Any:
    """Call a function in another thread; what it returned or raised."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001  # whoever called looks at it
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def boom() -> None:
    raise LookupError("half way")


# -- all or nothing --------------------------------------------------------------------------------


def test_everything_commits_together(agent: AgentStore, one: Entries, two: Entries) -> None:
    two.put(Entry("old"))
    sequence = agent.store.stats().last_sequence
    with agent.batch():
        one.put(Entry("1", "ada"))
        two.add(Entry("2"))
        two.update("2", count=5)
        two.delete("old")
        agent.sessions.create("s", user_id="ada")
        agent.messages.append("s", role="user", content="hello")
        one.put_many([Entry("3", "ada"), Entry("4", "bob")])
        assert one.query(owner="bob").delete() == 1
        # Nobody else sees any of it, and nothing has been committed.
        assert elsewhere(lambda: (one.get("1"), two.count(), agent.sessions.count())) == (
            None,
            1,
            0,
        )
        assert agent.store.stats().last_sequence == sequence
        # The owner sees all of it.
        assert [entry.id for entry in one.query(owner="ada")] == ["1", "3"]
        assert two.scan() == [Entry("2", count=5)]
        assert two.history("2") == [Entry("2")]
        assert two.get_many(["2", "old"]) == [Entry("2", count=5), None]
        assert two.get_versioned("2") == (Entry("2", count=5), 0)
        assert agent.messages.count("s") == 1
        assert one.exists("3")
        assert not one.exists("4")
    assert [entry.id for entry in one.scan()] == ["1", "3"]
    assert agent.messages.count("s") == 1
    assert agent.verify() == []


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, GeneratorExit])
def test_nothing_is_written_if_the_block_raises(
    agent: AgentStore, one: Entries, two: Entries, error: type[BaseException]
) -> None:
    one.put(Entry("1"))
    before = contents(agent)

    def block() -> None:
        with agent.batch():
            one.update("1", count=1)
            two.put(Entry("2"))
            agent.sessions.create("s", user_id="ada")
            raise error

    with pytest.raises(error):
        block()
    assert contents(agent) == before
    # The thread is out of it.
    one.put(Entry("2"))
    assert elsewhere(lambda: one.get("2")) == Entry("2")


def test_a_batch_that_writes_nothing_commits_nothing(agent: AgentStore, one: Entries) -> None:
    sequence = agent.store.stats().last_sequence
    with agent.batch(sync=WriteThrough()):
        assert one.get("1") is None
        assert not one.delete("1")
        assert one.query().delete() == 0
    with agent.batch():
        pass
    assert agent.store.stats().last_sequence == sequence


def test_errors_inside_are_as_outside_and_may_be_caught(agent: AgentStore, one: Entries) -> None:
    with agent.batch():
        one.add(Entry("1"))
        with pytest.raises(RecordExistsError):
            one.add(Entry("1", "again"))
        with pytest.raises(RecordNotFoundError):
            one.update("2", count=1)
        with pytest.raises(CodecError):
            one.put(Entry("3", count="x"))  # type: ignore[arg-type]  # what is tested
        with pytest.raises(CodecError):
            one.put_many([Entry("4"), Entry("5", count="x")])  # type: ignore[arg-type]  # likewise
        with pytest.raises(ConflictError):
            one.update("1", expected_version=77, count=1)
        assert one.update("1", expected_version=0, count=1).count == 1
    assert one.scan() == [Entry("1", count=1)]


@pytest.mark.parametrize("how", ["raised", "caught", "caught in a part", "put_many"])
def test_a_write_that_fails_half_way_makes_the_batch_uncommittable(
    agent: AgentStore, one: Entries, two: Entries, how: str
) -> None:
    one.put(Entry("there"))
    before = contents(agent)

    def fail() -> None:
        one.write_then(Entry("half"), boom)

    def block() -> None:
        with agent.batch():
            two.put(Entry("1"))
            if how == "raised":
                fail()
            elif how == "caught":
                with pytest.raises(LookupError):
                    fail()
            elif how == "put_many":
                # The second one is refused when the first one has been written.
                with pytest.raises(RecordExistsError):
                    one._put_all([Entry("new"), Entry("there")], None, None, one._insert)
            else:
                with pytest.raises(LookupError), agent.batch():
                    fail()
            two.put(Entry("2"))

    with pytest.raises(LookupError if how == "raised" else WalkvError) as caught:
        block()
    if how != "raised":
        assert "failed half way" in str(caught.value)
        assert type(caught.value) is WalkvError
    assert contents(agent) == before


def test_a_batch_that_is_over_takes_no_more(agent: AgentStore, one: Entries) -> None:
    one.put(Entry("1"))
    kept: list[Any] = []
    with agent.batch():
        kept.append(agent._access.batch())
        lazy = iter(one.query())
        one.put(Entry("2"))
    with pytest.raises(ClosedError, match="committed or discarded"):
        kept[0].transaction.put(b"k", b"v")
    # What was begun inside and is gone through outside is read outside.
    assert [entry.id for entry in lazy] == ["1", "2"]


def test_a_store_that_is_closed_inside_commits_nothing(fs: SimulatedFileSystem) -> None:
    agent = opened(fs)
    one = made(agent.namespace(entries(), cls=Entries))

    def block() -> None:
        with agent.batch():
            one.put(Entry("1"))
            agent.close()

    with pytest.raises(ClosedError):
        block()
    with opened(fs) as again:
        assert again.namespace(entries()).count() == 0


# -- batches in batches ----------------------------------------------------------------------------


def test_a_batch_inside_is_a_part_of_the_outer_one(
    agent: AgentStore, one: Entries, two: Entries
) -> None:
    with agent.batch():
        one.put(Entry("1"))
        with agent.batch():
            two.put(Entry("2"))
            with agent.batch():
                one.update("1", count=1)
        assert elsewhere(lambda: (one.count(), two.count())) == (0, 0)
        assert two.count() == 1
        agent.transact(lambda: one.update("1", owner="ada"))
        assert elsewhere(one.count) == 0
    assert one.scan() == [Entry("1", "ada", 1)]
    assert two.count() == 1


def test_a_part_that_failed_without_a_write_does_no_harm(agent: AgentStore, one: Entries) -> None:
    def part() -> None:
        with agent.batch():
            assert one.get("1") == Entry("1")
            boom()

    with agent.batch():
        one.put(Entry("1"))
        with pytest.raises(LookupError):
            part()
        one.put(Entry("2"))
    assert one.count() == 2


def test_a_part_that_failed_after_a_write_spoils_the_whole(agent: AgentStore, one: Entries) -> None:
    def part() -> None:
        with agent.batch():
            one.put(Entry("2"))
            boom()

    def block() -> None:
        with agent.batch():
            one.put(Entry("1"))
            with pytest.raises(LookupError):
                part()
            one.put(Entry("3"))

    with pytest.raises(WalkvError, match="failed half way"):
        block()
    assert one.count() == 0


# -- conflicts -------------------------------------------------------------------------------------

READS: dict[str, Callable[[Entries], Any]] = {
    "get": lambda each: each.get("1"),
    "absent": lambda each: each.get("new"),
    "exists": lambda each: each.exists("1"),
    "get_many": lambda each: each.get_many(["1", "2"]),
    "get_versioned": lambda each: each.get_versioned("1"),
    "update": lambda each: each.update("1", owner="x"),
    "put": lambda each: each.put(Entry("1", "x")),
    "scan": lambda each: each.scan(),
    "query": lambda each: each.query(owner="ada").all(),
    "count": lambda each: each.count(),
    "iterating": lambda each: list(each.query()),
}
CHANGES: dict[str, Callable[[Entries], Any]] = {
    "changed": lambda each: each.update("1", count=9),
    "deleted": lambda each: each.delete("1"),
    "new": lambda each: each.add(Entry("new", "ada")),
    "another": lambda each: each.update("9", count=1),
}
HARMLESS = {
    "changed": {"absent"},
    "deleted": {"absent"},
    "new": {"get", "exists", "get_many", "get_versioned", "update", "put"},
    "another": {*READS} - {"scan", "count", "iterating"},
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_read_must_not_change_before_the_commit(
    agent: AgentStore, one: Entries, two: Entries, read: str, change: str
) -> None:
    one.put_many([Entry("1", "ada"), Entry("2", "ada"), Entry("9", "bob")])

    def block() -> None:
        with agent.batch():
            READS[read](one)
            two.put(Entry("written"))
            elsewhere(lambda: CHANGES[change](one))

    harmless = read in HARMLESS[change]
    if harmless:
        block()
    else:
        with pytest.raises(ConflictError):
            block()
    assert two.exists("written") == harmless
    assert agent.verify() == []


def test_transact_runs_again_until_there_is_no_conflict(
    fs: SimulatedFileSystem, agent: AgentStore, one: Entries
) -> None:
    one.put(Entry("1"))
    runs: list[int] = []

    def work() -> str:
        entry = one.get("1")
        assert entry is not None
        runs.append(entry.count)
        if len(runs) < 4:
            elsewhere(lambda: one.more("1"))
        one.update("1", owner=f"saw {entry.count}")
        return "done"

    assert agent.transact(work) == "done"
    assert runs == [0, 1, 2, 3]
    assert one.get("1") == Entry("1", "saw 3", 3)


def test_transact_gives_up(agent: AgentStore, one: Entries) -> None:
    one.put(Entry("1"))
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        one.update("1", owner="mine")
        elsewhere(lambda: one.more("1"))

    for retries in (0, 2):
        runs.clear()
        with pytest.raises(ConflictError):
            agent.transact(work, retries=retries)
        assert len(runs) == retries + 1
    runs.clear()
    with pytest.raises(ValueError, match="retries must be 0 or more"):
        agent.transact(work, retries=-1)
    # Inside a batch it would run again what cannot succeed.
    with pytest.raises(ConflictError), agent.batch():
        agent.transact(lambda: (runs.append(1), one.update("1", expected_version=7, count=0)))
    assert runs == [1]
    with pytest.raises(LookupError):
        agent.transact(boom)


def test_many_threads_transact_over_two_namespaces(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AgentStore(tmp_path / "s", sync=WriteBack()) as agent:
        one, two = (agent.namespace(entries(name)) for name in ("ones", "twos"))
        one.put(Entry("1", count=1000))
        two.put(Entry("1"))

        def move() -> None:
            left, right = one.get("1"), two.get("1")
            assert left is not None
            assert right is not None
            one.update("1", count=left.count - 1)
            two.update("1", count=right.count + 1)

        def work() -> None:
            for _ in range(10):
                agent.transact(move, retries=1000)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.get("1") == Entry("1", count=940)
        assert two.get("1") == Entry("1", count=60)


# -- whose batch it is -----------------------------------------------------------------------------


def test_other_threads_go_their_own_way(agent: AgentStore, one: Entries) -> None:
    def block() -> None:
        with agent.batch():
            one.put(Entry("mine"))
            elsewhere(lambda: one.put(Entry("theirs")))
            # Also one that was begun with what this thread knows of its surroundings.
            context = contextvars.copy_context()
            elsewhere(lambda: context.run(lambda: one.put(Entry("theirs, too"))))
            assert elsewhere(lambda: context.run(lambda: one.get("mine"))) is None
            boom()

    with pytest.raises(LookupError):
        block()
    assert [entry.id for entry in one.scan()] == ["theirs", "theirs, too"]


def test_threads_have_batches_of_their_own(agent: AgentStore, one: Entries, two: Entries) -> None:
    begin = threading.Barrier(4)
    wrong: list[Any] = []

    def work(number: int) -> None:
        begin.wait()
        for turn in range(20):
            key = f"{number}/{turn}"
            try:
                with agent.batch():
                    one.put(Entry(key))
                    two.put(Entry(key))
                    if one.get(key) is None or turn % 3 == 0:
                        boom()
            except LookupError:
                if turn % 3:
                    wrong.append(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    expected = sorted(f"{number}/{turn}" for number in range(4) for turn in range(20) if turn % 3)
    assert [entry.id for entry in one.scan()] == [entry.id for entry in two.scan()] == expected


def test_a_batch_is_of_one_agent(fs: SimulatedFileSystem, agent: AgentStore, one: Entries) -> None:
    with opened(fs, "/other") as other, AgentStore(agent.store) as twin:
        theirs = other.namespace(entries())
        same = twin.namespace(entries())

        def block() -> None:
            with agent.batch():
                one.put(Entry("1"))
                theirs.put(Entry("1"))
                assert elsewhere(theirs.count) == 1
                # Of another face of the same store, too.
                same.put(Entry("2"))
                assert same.get("1") is None
                with other.batch():
                    theirs.put(Entry("2"))
                    one.put(Entry("3"))
                    with agent.batch():
                        theirs.put(Entry("3"))
                        one.put(Entry("4"))
                    assert elsewhere(theirs.count) == 1
                    assert theirs.count() == 3
                assert elsewhere(theirs.count) == 3
                assert one.get("4") == Entry("4")
                boom()

        with pytest.raises(LookupError):
            block()
        assert [entry.id for entry in one.scan()] == ["2"]
        assert theirs.count() == 3


# -- policies --------------------------------------------------------------------------------------

BACK = WriteBack(interval_seconds=1000.0)


@pytest.mark.parametrize(
    ("store_policy", "policies", "given", "syncs"),
    [
        (BACK, [BACK, BACK], None, 0),
        (BACK, [BACK, Wal()], None, 1),
        (BACK, [WriteThrough(), BACK], None, 1),
        (BACK, [None, None], None, 0),
        (BACK, [Wal(), None], None, 1),
        # A namespace without a policy has the store's.
        (Wal(), [BACK, None], None, 1),
        (Wal(), [None, BACK], None, 1),
        (WriteThrough(), [BACK, None], None, 1),
        (Wal(), [BACK, BACK], None, 0),
        # What the batch was given goes before all.
        (Wal(), [WriteThrough(), Wal()], BACK, 0),
        (BACK, [BACK, None], WriteThrough(), 1),
    ],
)
def test_the_strongest_policy_wins(
    fs: SimulatedFileSystem, store_policy: Any, policies: list[Any], given: Any, syncs: int
) -> None:
    with opened(fs, sync=store_policy) as agent:
        spaces = [
            agent.namespace(entries(f"space_{number}", sync=policy))
            for number, policy in enumerate(policies)
        ]
        agent.sync()
        before = agent.store.stats().sync_count
        with agent.batch(sync=given):
            for namespace in spaces:
                namespace.put(Entry("1"))
        assert agent.store.stats().sync_count - before == syncs
        # A call may ask for more.
        agent.sync()
        before = agent.store.stats().sync_count
        with agent.batch(sync=given):
            spaces[0].put(Entry("2"), sync=BACK)
            spaces[1].put(Entry("2"), sync=Wal())
        assert agent.store.stats().sync_count - before == (0 if given == BACK else 1)


def test_what_is_only_read_does_not_count(fs: SimulatedFileSystem) -> None:
    with opened(fs, sync=BACK) as agent:
        strong = agent.namespace(entries("strong", sync=WriteThrough()))
        weak = agent.namespace(entries("weak", sync=BACK))
        agent.sync()
        before = agent.store.stats().sync_count
        with agent.batch():
            weak.put(Entry("1"))
            assert not strong.delete("1")
            assert strong.count() == 0
        assert agent.store.stats().sync_count == before


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_write_backs_both_promises_are_kept(fs: SimulatedFileSystem, order: int) -> None:
    # One loses little by time, the other by size.
    pair = [WriteBack(1.0, 1 << 30), WriteBack(1000.0, 2_000)][::order]
    with opened(fs, sync=Wal()) as agent:
        spaces = [agent.namespace(entries(f"space_{n}", sync=p)) for n, p in enumerate(pair)]
        agent.sync()

        def write(size: int) -> None:
            with agent.batch():
                for namespace in spaces:
                    namespace.put(Entry("1", "x" * size))

        write(10)
        assert agent.store.stats().unsynced_bytes > 0
        fs.clock.advance(2.0)
        write(10)  # without threads a commit does what is due
        assert agent.store.stats().unsynced_bytes <= 2_000
        write(1_500)
        assert agent.store.stats().unsynced_bytes <= 2_000


def test_after_a_power_failure_a_batch_is_there_or_not(fs: SimulatedFileSystem) -> None:
    disks: list[Any] = []
    agent = opened(fs, sync=BACK)
    one, two = (agent.namespace(entries(name, sync=BACK)) for name in ("ones", "twos"))
    agent.sync()
    fs.on_operation = lambda operation, path: disks.extend(fs.crash_states())
    for number in range(3):
        with agent.batch():
            one.put(Entry(str(number)))
            two.put(Entry(str(number)))
            agent.sessions.create(str(number), user_id="ada", sync=BACK)
    agent.sync()
    seen = set()
    for disk in disks[::3]:
        with opened(SimulatedFileSystem.after_power_failure(disk)) as again:
            spaces = [again.namespace(entries(name)) for name in ("ones", "twos")]
            counts = [again.sessions.count(), *(namespace.count() for namespace in spaces)]
            assert len(set(counts)) == 1
            assert again.verify() == []
            seen.add(counts[0])
    assert {0, 3} <= seen


# -- tasks -----------------------------------------------------------------------------------------


def run(test: Callable[[AsyncAgentStore, Any, Any], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a fresh event loop, with an agent and two namespaces."""

    async def limited() -> None:
        fs = SimulatedFileSystem()
        async with AsyncAgentStore("/s", filesystem=fs) as agent:
            one = await agent.namespace(entries(), cls=Entries)
            two = await agent.namespace(entries("others"), cls=Entries)
            await asyncio.wait_for(test(agent, one, two), 60)
            assert await agent.verify() == []

    asyncio.run(limited())


async def ids(namespace: Any) -> list[str]:
    return [entry.id for entry in await namespace.scan()]


async def from_outside(work: Callable[[], Awaitable[Any]]) -> Any:
    """Await a function in a task of its own."""

    async def call() -> Any:
        return await work()

    return await asyncio.create_task(call())


def test_a_batch_of_a_task() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        async with agent.batch():
            await one.put(Entry("1", "ada"))
            await agent.sessions.create("s", user_id="ada")
            async with agent.batch():
                await two.add(Entry("2"))
                await one.update("1", count=1)
            assert await one.get("1") == Entry("1", "ada", 1)
            assert await one.query(owner="ada").all() == [Entry("1", "ada", 1)]
            assert [entry async for entry in one.query()] == [Entry("1", "ada", 1)]
            assert await from_outside(lambda: one.count()) == 0
            assert await from_outside(lambda: one.query(owner="ada").first()) is None
        assert await one.count() == await two.count() == await agent.sessions.count() == 1

        async def block() -> None:
            async with agent.batch():
                await one.put(Entry("2"))
                boom()

        with pytest.raises(LookupError):
            await block()
        assert await one.count() == 1

    run(test)


def test_tasks_begun_inside_go_their_own_way() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        async def block() -> None:
            async with agent.batch():
                await one.put(Entry("mine"))
                await asyncio.gather(*(one.put(Entry(f"gathered {n}")) for n in range(3)))
                await asyncio.create_task(one.put(Entry("of a task")))
                assert await asyncio.gather(one.get("mine"), one.count()) == [None, 4]
                assert await one.count() == 1  # as it was when the batch was begun, and its own
                boom()

        with pytest.raises(LookupError):
            await block()
        assert await ids(one) == ["gathered 0", "gathered 1", "gathered 2", "of a task"]

    run(test)


def test_tasks_have_batches_of_their_own() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        async def work(number: int) -> None:
            for turn in range(4):
                key = f"{number}/{turn}"
                try:
                    async with agent.batch():
                        await one.put(Entry(key))
                        await asyncio.sleep(0)
                        assert await one.get(key) is not None
                        await two.put(Entry(key))
                        if turn % 2:
                            boom()
                except LookupError:
                    assert turn % 2

        await asyncio.gather(*(work(number) for number in range(10)))
        expected = sorted(f"{number}/{turn}" for number in range(10) for turn in (0, 2))
        assert await ids(one) == await ids(two) == expected

    run(test)


def test_a_write_of_a_task_that_fails_half_way() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        async def block() -> None:
            async with agent.batch():
                await two.put(Entry("1"))
                with pytest.raises(LookupError):
                    await one.write_then(Entry("half"), boom)

        with pytest.raises(WalkvError, match="failed half way"):
            await block()
        assert await one.count() == await two.count() == 0

    run(test)


def test_transact_of_tasks() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        await one.put(Entry("1"))
        runs: list[int] = []

        async def work() -> str:
            entry = await one.get("1")
            runs.append(entry.count)
            if len(runs) < 3:
                await from_outside(lambda: one.more("1"))
            await one.update("1", owner=f"saw {entry.count}")
            return "done"

        assert await agent.transact(work) == "done"
        assert runs == [0, 1, 2]
        assert await one.get("1") == Entry("1", "saw 2", 2)
        runs.clear()
        with pytest.raises(ConflictError):
            await agent.transact(work, retries=1)
        with pytest.raises(ValueError, match="retries"):
            await agent.transact(work, retries=-1)

    run(test)


class Gate:
    """Holds up whoever comes, until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.open.wait(30)

    async def reached(self) -> None:
        await asyncio.to_thread(self.entered.wait, 30)


@pytest.mark.parametrize("times", [1, 3])
def test_a_task_that_is_cancelled_inside_a_call_of_its_batch(times: int) -> None:
    """The call is at its end before the batch is discarded: nobody else may be in it then."""

    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        gate = Gate()

        async def work() -> None:
            async with agent.batch():
                await two.put(Entry("1"))
                await one.write_then(Entry("1"), gate)

        task = asyncio.create_task(work())
        await gate.reached()
        for _ in range(times):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
        # Others are not held up by it.
        await one.put(Entry("other"))
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ids(one) == ["other"]
        assert await two.count() == 0

    run(test)


def test_a_batch_goes_on_after_a_call_that_took_too_long() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        gate = Gate()

        async def slow() -> None:
            async with agent.batch():
                await two.put(Entry("1"))
                call = asyncio.current_task()
                assert call is not None
                opener = asyncio.create_task(cancel_then_open(call))
                with pytest.raises(asyncio.CancelledError):
                    await one.write_then(Entry("late", "ada"), gate)
                await opener
                # It was done to its end, so it is a part of the batch.
                assert await one.get("late") == Entry("late", "ada")
                await one.put(Entry("after"))

        async def cancel_then_open(task: asyncio.Task[Any]) -> None:
            await gate.reached()
            task.cancel()
            await asyncio.sleep(0)
            gate.open.set()

        await asyncio.create_task(slow())
        assert await ids(one) == ["after", "late"]
        assert await two.count() == 1
        assert await one.query(owner="ada").count() == 1

    run(test)


def test_a_batch_of_one_agent_while_another_is_used() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        async with AsyncAgentStore("/t", filesystem=SimulatedFileSystem()) as other:
            theirs = await other.namespace(entries())

            async def block() -> None:
                async with agent.batch():
                    await one.put(Entry("1"))
                    await theirs.put(Entry("1"))
                    async with other.batch():
                        await theirs.put(Entry("2"))
                        await one.put(Entry("2"))
                        assert await theirs.count() == 2
                        assert await one.count() == 2
                    boom()

            with pytest.raises(LookupError):
                await block()
            assert await ids(theirs) == ["1", "2"]
            assert await one.count() == 0

    run(test)


def test_batches_of_threads_and_tasks_over_one_store() -> None:
    async def test(agent: AsyncAgentStore, one: Any, two: Any) -> None:
        with AgentStore(agent.store.as_sync()) as threads:
            same = threads.namespace(entries())
            async with agent.batch():
                await one.put(Entry("of the task"))
                # In this very thread, but of the other face.
                same.put(Entry("direct"))
                with threads.batch():
                    same.put(Entry("of the thread"))
                    assert same.count() == 2
                    assert await one.get("of the task") == Entry("of the task")
            assert await ids(one) == ["direct", "of the task", "of the thread"]
            assert threads.verify() == []

    run(test)


def test_a_batch_that_is_read_only(fs: SimulatedFileSystem) -> None:
    opened(fs).close()

    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=fs, read_only=True) as agent:
            with pytest.raises(walkv.ReadOnlyError):
                async with agent.batch():
                    pass

    asyncio.run(test())
