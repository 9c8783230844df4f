"""The namespaces as tasks see them: the same, and the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import errno
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.unit.hooked import HookedFileSystem, fail
from walkv import (
    AgentStore,
    AsyncAgentStore,
    ClosedError,
    CodecError,
    ConflictError,
    Declaration,
    ReadOnlyError,
    RecordExistsError,
    RecordNotFoundError,
    StoreFailedError,
    Wal,
    WalkvError,
    WriteBack,
    WriteThrough,
    limits,
)
from walkv.errors import WouldBlockError
from walkv.namespaces.aio import AsyncNamespace, AsyncQuery, Turns, async_face, is_small
from walkv.namespaces.base import Namespace
from walkv.namespaces.common import INTERNAL
from walkv.namespaces.faces import ASYNC_CLASSES, CLASSES
from walkv.namespaces.query import Query
from walkv.testing import SimulatedFileSystem

SYNCS = {"sync", "sync_data", "sync_directory"}


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    group: str = ""
    count: int = 0
    text: str = ""


class Rows(Namespace[Row]):
    # As if it were walkv's own, and so called in the thread of the loop.
    __module__ = "walkv.tests"

    def more(self, key: str, by: int = 1, *, sync: Any = None) -> Row:
        """One more, or several."""
        return self._modify(key, lambda row: {"count": row.count + by}, sync)

    def twice(self, rows: Any, *, again: Any = ()) -> int:
        """Goes through two iterables."""
        everything = [*rows, *again]
        self.put_many(everything)
        return len(everything)


def rows(name: str = "rows", **options: Any) -> Declaration[Row]:
    return Declaration(name, Row, key="id", indexes=["group", ("group", "count")], **options)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a fresh event loop that gives up rather than hang."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(limited())


async def collected(entries: Any) -> list[Any]:
    return [entry async for entry in entries]


# -- every method has a twin -----------------------------------------------------------------------


def public(cls: type[Any]) -> dict[str, Any]:
    return {
        name: method
        for name, method in inspect.getmembers(cls, callable)
        if not name.startswith("_") and name not in INTERNAL
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_of_a_namespace_has_a_twin(name: str) -> None:
    cls, face = CLASSES[name], ASYNC_CLASSES[name]
    for method_name, method in public(cls).items():
        twin = getattr(face, method_name)
        if inspect.isclass(method):
            continue
        expected = inspect.signature(method).parameters
        found = inspect.signature(twin).parameters
        assert list(found)[1:] == list(expected)[1:], method_name
        for parameter, kind in expected.items():
            if parameter != "self" and method_name != "record":
                assert (found[parameter].kind, found[parameter].default) == (
                    kind.kind,
                    kind.default,
                )
        if method_name not in ("query", "record"):
            assert inspect.iscoroutinefunction(twin), f"{name}.{method_name} cannot be awaited"
        assert inspect.getdoc(twin), method_name
    surplus = set(public(face)) - set(public(cls))
    assert surplus == set()


def test_a_query_and_an_agent_have_twins() -> None:
    of_tasks = set(public(AsyncQuery))
    # Parts of a larger read, and the test of a record in hand, are not for tasks.
    assert set(public(Query)) - of_tasks <= {"matches", "packed_keys", "read", "walk"}
    assert hasattr(AsyncQuery, "__aiter__")
    for name in ("page", "all", "first", "count", "delete"):
        assert inspect.iscoroutinefunction(getattr(AsyncQuery, name))
    assert set(public(AgentStore)) - {"by_name"} <= set(public(AsyncAgentStore))


def test_a_face_is_made_of_any_namespace() -> None:
    face = async_face(Rows)
    assert issubclass(face, AsyncNamespace)
    assert face.__name__ == "AsyncRows"
    assert face.more.__doc__ == "One more, or several."
    assert inspect.iscoroutinefunction(face.more)


# -- hot and cold give the same --------------------------------------------------------------------


async def story(namespace: Any, log: list[Any]) -> None:
    """Everything generic, once; what it gave goes to the log."""

    async def note(call: Any) -> None:
        try:
            found = await call
        except (walkv.WalkvError, ValueError) as error:
            found = (type(error), str(error))
        log.append(found)

    await note(namespace.get("007"))
    await note(namespace.get("none"))
    await note(namespace.get(5))
    await note(namespace.exists("010"))
    await note(namespace.exists("none"))
    await note(namespace.get_many(["003", "none", "001"]))
    await note(namespace.scan(limit=3))
    await note(namespace.scan(limit=-1))
    await note(namespace.scan("005"))
    await note(namespace.count())
    await note(namespace.count(group="b"))
    await note(namespace.update("007", text="new"))
    await note(namespace.update("none", text="new"))
    await note(namespace.update("007", wrong=1))
    await note(namespace.add(Row("007")))
    await note(namespace.add(Row("new", "c")))
    await note(namespace.put(Row("008", "c", 5)))
    await note(namespace.put("no row"))
    await note(namespace.put_many([Row("m1", "c"), Row("m2", "c")]))
    await note(namespace.put_many(Row(f"m{n}", "c", n) for n in range(3, 6)))
    await note(namespace.more("009", by=3))
    await note(namespace.history("007"))
    await note(namespace.delete("011"))
    await note(namespace.delete("none"))
    record, version = await namespace.get_versioned("012")
    log.append(record)
    await note(namespace.update("012", expected_version=version, count=7))
    try:
        await namespace.update("012", expected_version=version, count=8)
    except ConflictError as error:
        log.append(error.expected_version == version)
    await note(namespace.get_versioned("none"))
    await note(namespace.query(group="c").order_by("-count").all())
    await note(namespace.query(group="a").order_by("count").limit(2).first())
    await note(namespace.query(count__gte=2).count())
    page = await namespace.query(group="b").limit(3).page()
    log.append(page.items)
    await note(namespace.query(group="b").limit(2).after(page.cursor).all())
    await note(namespace.query(group="b").order_by("count").after(page.cursor).all())
    await note(namespace.query(group="c", count=4).delete())
    log.append(await collected(namespace.query(group="c")))
    log.append(await collected(namespace.query().order_by("text").limit(4)))
    log.append(str(namespace.query(group="c").explain()))
    await note(namespace.verify())


class Awaited:
    """A namespace for threads, as if it were one for tasks."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._namespace, name)
        if name == "query":
            return lambda **equals: AwaitedQuery(method(**equals))

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


class AwaitedQuery(Awaited):
    def __getattr__(self, name: str) -> Any:
        method = getattr(self._namespace, name)
        if name in ("where", "order_by", "limit", "offset", "after"):
            return lambda *args, **kwargs: AwaitedQuery(method(*args, **kwargs))
        return method if name == "explain" else super().__getattr__(name)

    async def __aiter__(self) -> Any:
        for record in self._namespace:
            yield record


def filled(path: Path, count: int = 40, *, settled: bool = True) -> None:
    """A store with rows, all of them in a snapshot, or all of them in the log."""
    with AgentStore(path) as agent:
        namespace = agent.namespace(rows(history=2))
        namespace.put_many(
            [Row(f"{n:03}", "ab"[n % 2], n % 5, "x" * (n % 7)) for n in range(count)]
        )
        namespace.update("007", count=9)
        if settled:
            agent.store.compact()


@pytest.mark.parametrize("kind", ["hot", "cold", "read again", "busy"])
def test_tasks_get_what_threads_get(tmp_path: Path, kind: str) -> None:
    filled(tmp_path / "one")
    filled(tmp_path / "two", settled=kind != "hot")
    expected: list[Any] = []
    with AgentStore(tmp_path / "one") as threads:
        threaded = threads.namespace(rows(history=2), cls=Rows)
        asyncio.run(story(Awaited(threaded), expected))
        kept = threaded.scan()
    found: list[Any] = []

    async def test() -> None:
        cache_bytes = 0 if kind == "cold" else limits.DEFAULT_CACHE_BYTES
        async with AsyncAgentStore(tmp_path / "two", cache_bytes=cache_bytes) as agent:
            namespace = await agent.namespace(rows(history=2), cls=Rows)
            if kind == "read again":
                assert len(await namespace.scan()) == 40
            if kind == "busy":
                # The lock is always held by somebody: nothing can be done in the loop's thread.
                engine = agent.store.as_sync().engine
                plain = engine.without_waiting
                engine.without_waiting = lambda *_: None  # type: ignore[method-assign]  # refuses
                await story(namespace, found)
                engine.without_waiting = plain  # type: ignore[method-assign]  # as it was
            else:
                await story(namespace, found)
            assert await namespace.scan() == kept
            assert await agent.verify() == []

    run(test)
    assert found == expected
    assert len(found) > 35


def test_what_can_be_gone_through_once_is_not_lost_on_the_way() -> None:
    """A call that is refused in the loop's thread is made again: with the same arguments."""

    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            engine = agent.store.as_sync().engine
            plain = engine.without_waiting
            refused: list[Any] = []

            def refuse(*args: Any) -> None:
                refused.append(args)

            engine.without_waiting = refuse  # type: ignore[method-assign]  # as if it were busy
            await namespace.put_many(Row(str(n)) for n in range(3))
            await namespace.put_many(map(Row, "ab"))
            made = await namespace.twice(map(Row, "cd"), again=(Row(each) for each in "ef"))
            await agent.messages.append_many(
                "s", ({"role": "user", "content": str(n)} for n in range(2))
            )
            engine.without_waiting = plain  # type: ignore[method-assign]  # as it was
            assert made == 4
            assert len(refused) == 4
            assert "".join([row.id for row in await namespace.scan()]) == "012abcdef"
            assert await agent.messages.count("s") == 2
            async with agent.batch():
                await namespace.put_many(Row(each) for each in "gh")
            assert await namespace.count() == 11

    run(test)


# -- the loop never waits --------------------------------------------------------------------------


class Watch:
    """Notes which thread asks the operating system for what."""

    def __init__(self) -> None:
        self.loop_thread = 0
        self.in_loop: list[tuple[str, str]] = []
        self.elsewhere: list[tuple[str, str]] = []

    def __call__(self, operation: str, path: str) -> None:
        mine = threading.get_ident() == self.loop_thread
        (self.in_loop if mine else self.elsewhere).append((operation, path))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_no_sync_and_no_read_happens_in_the_thread_of_the_loop(
    tmp_path: Path, cache_bytes: int
) -> None:
    filled(tmp_path / "s", 500)
    watch = Watch()
    fs = HookedFileSystem(hook=watch)

    async def test() -> None:
        watch.loop_thread = threading.get_ident()
        agent = AsyncAgentStore(
            tmp_path / "s",
            filesystem=fs,
            cache_bytes=cache_bytes,
            memtable_bytes=limits.MIN_MEMTABLE_BYTES,
        )
        async with agent:
            namespace = await agent.namespace(rows(history=2), cls=Rows)
            for policy in (Wal(), WriteThrough(), WriteBack(), None):
                log: list[Any] = []
                await story(namespace, log)
                await namespace.more("001", sync=policy)
                await namespace.put(Row("large", text="x" * 50_000), sync=policy)
                async with agent.batch(sync=policy):
                    await namespace.more("001")
                    await agent.sessions.create(f"{policy}", user_id="ada")
                    await namespace.query(group="nothing").all()
            await agent.users.create("ada")
            await agent.sessions.update("None", mark_error=True)
            await agent.messages.append("None", role="user", content="hello", max_messages=1)
            await agent.messages.history("None")
            await agent.executions.once("step", lambda: 1)
            async with agent.executions.record(tool_name="search"):
                pass
            await agent.checkpoints.put("t", "c", {"messages": ["x" * 5000]})
            await agent.checkpoints.get("t")
            await agent.transact(lambda: namespace.more("002"))
            await agent.sync()

    run(test)
    # A small commit is handed to the operating system in place: that takes microseconds.
    assert {operation for operation, _ in watch.in_loop} <= {"write"}
    assert {path.rpartition(".")[2] for _, path in watch.in_loop} <= {"wal"}
    assert {operation for operation, _ in watch.in_loop} == {"write"}
    done = {operation for operation, _ in watch.elsewhere}
    assert {"sync_data", "read", "create", "rename"} <= done


class Others(Namespace[Row]):
    """Not walkv's own: who knows what it does, and for how long."""

    def where(self) -> int:
        return threading.get_ident()


def test_what_may_take_long_happens_in_another_thread() -> None:
    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
            others = await agent.namespace(rows("others"), cls=Others)
            assert await others.where() != threading.get_ident()
            await others.put(Row("1"))
            assert await others.get("1") == Row("1")
            # What is large is encoded there, too.
            namespace = await agent.namespace(rows())
            encoded: list[bool] = []
            for each in (namespace._inline, namespace._threaded):
                schema, plain = each.table.schema, each.table.schema.encode

                def encode(*args: Any, plain: Any = plain) -> Any:
                    encoded.append(threading.get_ident() == thread)
                    return plain(*args)

                schema.encode = encode
            thread = threading.get_ident()
            await namespace.put(Row("small"))
            await namespace.put(Row("large", text="x" * 100_000))
            await namespace.put_many(Row(str(n)) for n in range(2000))
            assert encoded == [True] + [False] * 2001

    run(test)


class Gate:
    """A hook under which one kind of call waits until it is let through."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, operation: str, path: str) -> None:
        if operation == self.operation and path.endswith(".wal"):
            self.entered.set()
            self.open.wait(30)

    async def reached(self) -> None:
        await asyncio.to_thread(self.entered.wait, 30)


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[HookedFileSystem, Gate]]:
    fs, gate = HookedFileSystem(), Gate("sync_data")
    yield fs, gate
    gate.open.set()


def test_a_task_that_is_cancelled_while_it_waits_leaves_its_commit(
    tmp_path: Path, gated: tuple[HookedFileSystem, Gate]
) -> None:
    fs, gate = gated

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s", filesystem=fs) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put(Row("1"))
            fs.hook = gate
            tasks = [asyncio.create_task(namespace.more("1")) for _ in range(3)]
            await gate.reached()
            # All are visible, none is acknowledged, and the loop is free.
            while (await namespace.get("1")).count < 3:
                await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(namespace.more("1"), 0.01)
            assert not tasks[0].done()
            gate.open.set()
            assert [(await tasks[n]).count for n in (0, 2)] == [1, 3]
            assert await namespace.get("1") == Row("1", count=4)
            fs.hook = None
            assert (await namespace.more("1")).count == 5
            assert await agent.verify() == []
        with AgentStore(tmp_path / "s") as threads:
            assert threads.namespace(rows()).get("1") == Row("1", count=5)

    run(test)


def test_a_task_that_is_cancelled_in_another_thread_does_not_hand_on_its_ticket(
    tmp_path: Path, gated: tuple[HookedFileSystem, Gate]
) -> None:
    fs, gate = gated

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s", filesystem=fs) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put(Row("1", "a"))
            fs.hook = gate
            # A deletion by a query is made in another thread.
            task = asyncio.create_task(namespace.query(group="a").delete())
            await gate.reached()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # What does not wait itself is not made to wait for somebody else's commit.
            assert await namespace.count() == 0
            await namespace.put(Row("2"), sync=WriteBack())
            assert await namespace.query().count() == 1
            gate.open.set()

    run(test)


def test_one_sync_serves_many_tasks(tmp_path: Path) -> None:
    fs, gate = HookedFileSystem(), Gate("sync_data")

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s", filesystem=fs) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put(Row("1"))
            fs.hook = gate
            before = (await agent.store.stats()).sync_count
            first = asyncio.create_task(namespace.more("1"))
            await gate.reached()
            others = [asyncio.create_task(namespace.more("1")) for _ in range(100)]
            while (await namespace.get("1")).count < 101:
                await asyncio.sleep(0)
            gate.open.set()
            await asyncio.gather(first, *others)
            assert (await agent.store.stats()).sync_count - before <= 3

    run(test)


# -- many tasks, and threads beside them -----------------------------------------------------------


@pytest.mark.parametrize("policy", [Wal(), WriteBack()], ids=["Wal", "WriteBack"])
def test_many_tasks_update_one_record_exactly(tmp_path: Path, policy: Any) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s") as agent:
            namespace = await agent.namespace(rows(history=2), cls=Rows)
            await namespace.put(Row("1"))

            async def work() -> list[int]:
                return [(await namespace.more("1", sync=policy)).count for _ in range(5)]

            found = await asyncio.gather(*(work() for _ in range(200)))
            assert sorted(n for each in found for n in each) == list(range(1, 1001))
            assert await namespace.get("1") == Row("1", count=1000)
            assert [row.count for row in await namespace.history("1")] == [999, 998]
            assert await agent.verify() == []

    run(test)


def test_tasks_and_threads_over_one_store(tmp_path: Path) -> None:
    async def test() -> None:
        with walkv.open(tmp_path / "s", memtable_bytes=200_000) as store:
            threads = AgentStore(store)
            same = threads.namespace(rows(), cls=Rows)
            async with AsyncAgentStore(store) as agent:
                namespace = await agent.namespace(rows(), cls=Rows)
                await namespace.put(Row("1"))
                text = "x" * 300

                def of_a_thread(number: int) -> None:
                    for turn in range(20):
                        same.more("1", sync=WriteBack())  # type: ignore[attr-defined]  # Rows
                        same.put(Row(f"thread {number} {turn}", "t", turn, text), sync=WriteBack())
                        assert len(same.query(group="t").all()) > 0

                async def of_a_task(number: int) -> None:
                    for turn in range(10):
                        await namespace.more("1", sync=WriteBack())
                        row = Row(f"task {number} {turn}", "a", turn, text)
                        await namespace.add(row, sync=WriteBack())
                        if turn % 5 == 0:
                            assert row in await namespace.query(group="a", count=turn).all()

                await asyncio.gather(
                    *(asyncio.to_thread(of_a_thread, number) for number in range(4)),
                    *(of_a_task(number) for number in range(20)),
                )
                assert await namespace.get("1") == same.get("1") == Row("1", count=80 + 200)
                assert await namespace.count(group="t") == 80
                assert same.count(group="a") == 200
                assert await agent.verify() == threads.verify() == []
            # Faces of a store that was given open leave it open.
            assert same.count() == 281
            assert not store.closed

    run(test)


# -- queries ---------------------------------------------------------------------------------------


def test_going_through_a_query() -> None:
    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
            namespace = await agent.namespace(rows())
            many = [Row(f"{n:04}", "ab"[n % 2], n) for n in range(700)]
            await namespace.put_many(many)
            assert await collected(namespace.query()) == many
            assert await collected(namespace.query(group="a").order_by("-count")) == many[-2::-2]
            assert await collected(namespace.query().order_by("-count")) == many[::-1]
            assert await collected(namespace.query().limit(300)) == many[:300]
            assert await collected(namespace.query().offset(650)) == many[650:]
            assert await collected(namespace.query(group="none")) == []
            page = await namespace.query().limit(10).page()
            assert await collected(namespace.query().after(page.cursor)) == many[10:]
            # What is changed on the way: behind the place it is seen, before it it does not matter.
            seen = []
            async for row in namespace.query():
                seen.append(row.id)
                if row.id == "0001":
                    await namespace.delete("0000")
                    await namespace.put(Row("9999"))
                    await namespace.delete("0600")
            assert seen == [f"{n:04}" for n in range(700) if n != 600] + ["9999"]
            with pytest.raises(CodecError, match="no such field"):
                namespace.query(wrong=1)
            with pytest.raises(CodecError, match="cursor"):
                await collected(namespace.query().after("nonsense"))

    run(test)


def test_a_query_that_is_sorted_in_memory_is_read_once() -> None:
    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
            namespace = await agent.namespace(rows())
            await namespace.put_many(Row(f"{n:04}", "a", n, str(n)) for n in range(600))
            calls: list[Any] = []
            query = namespace.query().order_by("-text")
            assert query.explain().sorted_in_memory
            plain = query._caller.in_thread

            async def counting(*args: Any, **kwargs: Any) -> Any:
                calls.append(args)
                return await plain(*args, **kwargs)

            query._caller.in_thread = counting
            found = [row.text for row in await collected(query)]
            query._caller.in_thread = plain
            assert found == sorted(map(str, range(600)), reverse=True)
            assert len(calls) == 1

    run(test)


# -- errors and ends -------------------------------------------------------------------------------


def test_errors_are_typed_and_leave_nothing() -> None:
    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put(Row("1"))
            before = [each async for each in agent.store.scan()]
            for call, error in (
                (lambda: namespace.add(Row("1")), RecordExistsError),
                (lambda: namespace.update("2", count=1), RecordNotFoundError),
                (lambda: namespace.update("1", count="x"), CodecError),
                (lambda: namespace.update("1", expected_version=9, count=1), ConflictError),
                (lambda: namespace.put(Row("1"), sync="wal"), TypeError),
                (lambda: namespace.put(Row("1"), ttl_seconds=-1), ValueError),
                (lambda: namespace.put(), TypeError),
                (lambda: namespace.get(1), CodecError),
                (lambda: namespace.query(count__gt="x").all(), CodecError),
                (lambda: agent.namespace(Declaration("sessions", Row, key="id")), TypeError),
                (lambda: agent.namespace(Declaration("x", Row, key="y")), TypeError),
            ):
                with pytest.raises(error):
                    await call()
            assert [each async for each in agent.store.scan()] == before

    run(test)


def test_a_failed_sync_reaches_every_task_that_waits(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        agent = await AsyncAgentStore.open(tmp_path / "s", filesystem=fs)
        namespace = await agent.namespace(rows(), cls=Rows)
        await namespace.put(Row("1"))
        fs.hook = fail("sync_data", ".wal", errno.EIO, times=1000)
        found = await asyncio.gather(
            *(namespace.more("1") for _ in range(10)), return_exceptions=True
        )
        assert {type(each) for each in found} == {StoreFailedError}
        with pytest.raises(StoreFailedError):
            await namespace.get("1")
        with pytest.raises(StoreFailedError):
            async with agent.batch():
                pass
        fs.hook = None
        with pytest.raises(StoreFailedError):
            await agent.close()

    run(test)


def test_a_full_disk_reaches_the_task_that_wrote(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s", filesystem=fs) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put(Row("1"))
            fs.hook = fail("write", ".wal", errno.ENOSPC)
            with pytest.raises(OSError, match="not written"):
                await namespace.put(Row("1", text="x" * 1000))
            fs.hook = None
            assert await namespace.get("1") == Row("1")
            assert (await namespace.more("1")).count == 1

    run(test)


def test_a_read_only_agent() -> None:
    fs = SimulatedFileSystem()

    async def test() -> None:
        async with AsyncAgentStore("/s", filesystem=fs) as agent:
            await (await agent.namespace(rows())).put(Row("1", "a"))
        async with AsyncAgentStore("/s", filesystem=fs, read_only=True) as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            assert await namespace.get("1") == Row("1", "a")
            assert await namespace.query(group="a").count() == 1
            assert await agent.verify() == []
            for call in (
                lambda: namespace.put(Row("2")),
                lambda: namespace.more("1"),
                lambda: namespace.delete("1"),
                lambda: namespace.query(group="a").delete(),
                lambda: agent.transact(lambda: namespace.put(Row("2"))),
                lambda: agent.sessions.create("s", user_id="ada"),
            ):
                with pytest.raises(ReadOnlyError):
                    await call()

    run(test)


def test_a_follower_takes_in_what_the_writer_registers() -> None:
    fs = SimulatedFileSystem()

    async def test() -> None:
        with AgentStore("/s", filesystem=fs) as writer:
            writer.namespace(rows()).put(Row("1", "a"))
            async with AsyncAgentStore("/s", filesystem=fs, read_only=True) as agent:
                namespace = await agent.namespace(rows())
                assert await namespace.query(group="a").count() == 1
                writer.close()
                with AgentStore("/s", filesystem=fs) as other:
                    fewer = Declaration("rows", Row, key="id", indexes=[])
                    other.namespace(fewer).put(Row("2", "a"))
                    await agent.store.refresh()
                    assert await namespace.query(group="a").count() == 2

    run(test)


def test_opening_and_closing() -> None:
    fs = SimulatedFileSystem()

    async def test() -> None:
        agent = AsyncAgentStore("/s", filesystem=fs)
        assert "not open" in repr(agent)
        await agent.close()  # it was never opened
        async with agent:
            assert await agent.__aenter__() is agent
            assert (agent.path, agent.closed) == ("/s", False)
            assert "open" in repr(agent)
            assert repr(agent.sessions) == "<walkv AsyncSessions 'sessions'>"
            assert agent.sessions.name == "sessions"
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put(Row("1"))
        assert agent.closed
        for call in (
            lambda: namespace.get("1"),
            lambda: namespace.put(Row("2")),
            lambda: namespace.query().all(),
            lambda: namespace.scan(),
        ):
            with pytest.raises(ClosedError):
                await call()
        with pytest.raises(ClosedError):
            async with agent.batch():
                pass
        with pytest.raises(FileNotFoundError):
            await AsyncAgentStore.open("/none", filesystem=fs, create=False)
        with pytest.raises(ValueError, match="no namespace 'none'"):
            await AsyncAgentStore.open("/s", filesystem=fs, policies={"none": Wal()})
        # It was closed again, and so is not locked.
        async with await AsyncAgentStore.open("/s", filesystem=fs) as again:
            assert await (await again.namespace(rows())).count() == 1

    run(test)


def test_an_agent_over_an_open_store(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s") as store:
            for number in range(2):
                async with AsyncAgentStore(store, policies={"sessions": WriteBack()}) as agent:
                    namespace = await agent.namespace(rows())
                    await namespace.put(Row(str(number)))
                assert not store.closed
            assert await namespace.count() == 2
            assert await store.count() > 2

    run(test)


def test_a_namespace_of_its_own_policy_and_expiry(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s", filesystem=fs, sync=WriteThrough()) as agent:
            lazy = await agent.namespace(rows("lazy"), sync=WriteBack(1000.0))
            strict = await agent.namespace(rows("strict", ttl_seconds=10))
            await agent.sync()
            before = (await agent.store.stats()).sync_count
            await lazy.put(Row("1"))
            assert (await agent.store.stats()).sync_count == before
            await strict.put(Row("1"))
            assert (await agent.store.stats()).sync_count > before
            fs.advance(11)
            assert await strict.count() == 0
            assert await lazy.count() == 1

    run(test)


# -- let go ----------------------------------------------------------------------------------------


def test_a_face_that_is_let_go_neither_hangs_nor_writes(tmp_path: Path) -> None:
    async def test() -> None:
        with AgentStore(tmp_path / "s") as threads:
            engine = threads.store.engine
            agent = await AsyncAgentStore.open(threads)
            under_way = []
            with engine.commit_lock:
                # They wait for the lock in other threads.
                for name in ("a", "b"):
                    call = agent.sessions.create(name, user_id="ada")
                    under_way.append(asyncio.create_task(call))
                for _ in range(10):
                    await asyncio.sleep(0)
                await agent.close()
                assert agent.closed
            assert [(await task).session_id for task in under_way] == ["a", "b"]
            assert engine.write_log.durable == engine.write_log.position
            with pytest.raises(ClosedError):
                await agent.sessions.create("c", user_id="ada")
            with pytest.raises(ClosedError):
                await agent.sessions.get("a")
            work: list[int] = []
            with pytest.raises(ClosedError):
                await agent.executions.once("pay", lambda: work.append(1))
            assert work == []
            assert sorted(each.session_id for each in threads.sessions.scan()) == ["a", "b"]
            assert threads.executions.scan() == []

    run(test)


# -- code of others, and what is large -------------------------------------------------------------


class WritesThenReads(Namespace[Row]):
    """Writes, and then reads what cannot be read in place."""

    def add_and_count(self, row: Row) -> int:
        self.put(row)
        return self.query().count()


class Careless(WritesThenReads):
    __module__ = "walkv.tests"


def test_code_of_others_may_read_after_it_has_written(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s") as agent:
            namespace = await agent.namespace(rows(), cls=WritesThenReads)
            log = agent.store.as_sync().engine.write_log
            assert await namespace.add_and_count(Row("1")) == 1
            assert log.durable == log.position
            assert await namespace.add_and_count(Row("2")) == 2
            careless = await agent.namespace(rows("careless"), cls=Careless)
            with pytest.raises(WalkvError, match="has written something and then had to wait"):
                await careless.add_and_count(Row("1"))
            assert log.durable == log.position
            assert await careless.count() == 1

    run(test)


class Refusing:
    """In the place of a namespace that is called in the thread of the loop."""

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("in the thread of the loop")

        return call


LARGE_CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("messages", lambda each: each.append("s", role="user", content="x" * 70_000)),
    ("messages", lambda each: each.append_many("s", [{"role": "user", "content": "x"}] * 600)),
    (
        "messages",
        lambda each: each.append_many("s", ({"role": "u", "content": ""} for _ in range(600))),
    ),
    (
        "messages",
        lambda each: each.append("s", role="u", content="", metadata={"b": b"x" * 70_000}),
    ),
    ("checkpoints", lambda each: each.put("t", "c", {"messages": [["x" * 100] * 600]})),
    ("checkpoints", lambda each: each.put("t", "c", {"a": {f"{n}": {n} for n in range(600)}})),
    ("executions", lambda each: each.log(tool_name="t", output_data=[(n,) for n in range(600)])),
]


@pytest.mark.parametrize(("name", "call"), LARGE_CALLS)
def test_what_is_large_is_not_encoded_in_the_thread_of_the_loop(
    tmp_path: Path, name: str, call: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s") as agent:
            namespace = getattr(agent, name)
            monkeypatch.setattr(namespace, "_inline", Refusing())
            await call(namespace)
            with pytest.raises(AssertionError, match="in the thread of the loop"):
                await namespace.get("small")

    run(test)


def test_arguments_are_weighed() -> None:
    class Text(str):
        __slots__ = ()

    class Words(dict[str, Any]):
        pass

    small = [
        (),
        ("x" * 60_000,),
        (1, None, True, 2.5, object()),
        ([[[["x"] * 400]]],),
        (Row("1", text="x" * 60_000),),
        (Words(a=[1]),),
    ]
    large = [
        ("x" * 70_000,),
        ("x" * 40_000, b"x" * 40_000),
        (Text("x" * 70_000),),
        (bytearray(70_000),),
        (memoryview(bytes(70_000)),),
        ([["x" * 1000] * 70],),
        ([None] * 600,),
        ([[None] * 30] * 30,),
        ({"x" * 70_000: 1},),
        ({str(n): n for n in range(600)},),
        (Words(a="x" * 70_000),),
        ({*range(600)}, 1),
        (Row("1", text="x" * 70_000),),
        ([Row("1", text="x" * 7000)] * 10,),
    ]
    assert all(map(is_small, small))
    assert not any(map(is_small, large))
    endless: list[Any] = []
    endless.append(endless)
    assert not is_small(endless)


def test_a_large_record_is_not_decoded_in_the_thread_of_the_loop(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "s") as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            await namespace.put_many([Row("small"), Row("large", text="x" * 70_000)])
            inline = namespace._inline
            assert inline.get("small") == Row("small")
            for call in (inline.get, inline.exists, inline.more, inline.delete):
                with pytest.raises(WouldBlockError):
                    call("large")
            assert (await namespace.get("large")).text == "x" * 70_000
            assert (await namespace.more("large")).count == 1
            assert await namespace.delete("large")
            assert await agent.verify() == []

    run(test)


# -- in turn ---------------------------------------------------------------------------------------


class Calls:
    """Two functions that do the same, as ``Caller.in_turn`` takes them, and what became of them."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace
        self.made: list[tuple[str, str]] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    async def __call__(
        self, turns: Turns, name: str, *, small: bool = True, waits: bool = False, sync: Any = None
    ) -> str:
        def inline() -> str:
            self.made.append((name, "inline"))
            self._namespace._inline.put(Row(name), sync=sync)
            return f"{name} inline"

        def threaded() -> str:
            if waits:
                self.entered.set()
                assert self.go_on.wait(30)
            self.made.append((name, "threaded"))
            self._namespace._threaded.put(Row(name), sync=sync)
            return f"{name} threaded"

        return await self._namespace._caller.in_turn(turns, inline, threaded, small=small)

    async def reached(self) -> None:
        await asyncio.to_thread(self.entered.wait, 30)

    def order(self) -> str:
        """Names of the rows in the order of their commits."""
        table, kv = self._namespace._threaded.table, self._namespace._threaded.access.kv
        found = [(kv.get_versioned(key)[1], key) for key, _ in kv.scan(table.records)]
        rows = [self._namespace._threaded._record(kv.get(key)) for _, key in sorted(found)]
        return "".join(row.id for row in rows)


async def pause() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def agent_of_tasks(tmp_path: Path) -> Callable[..., AsyncAgentStore]:
    return functools.partial(AsyncAgentStore, tmp_path / "s")


def test_calls_in_turn_commit_in_the_order_in_which_they_were_made(
    agent_of_tasks: Callable[..., AsyncAgentStore],
) -> None:
    async def test() -> None:
        async with agent_of_tasks() as agent:
            calls = Calls(await agent.namespace(rows(), cls=Rows))
            turns = Turns()
            assert await calls(turns, "z") == "z inline"
            assert await calls(turns, "y", small=False) == "y threaded"
            tasks = [
                asyncio.create_task(calls(turns, "f", small=False, waits=True)),
                *(asyncio.create_task(calls(turns, name)) for name in "ecab"),
                asyncio.create_task(calls(turns, "d", small=False)),
                asyncio.create_task(calls(turns, "0")),
            ]
            await calls.reached()
            await pause()
            assert calls.order() == "zy"
            assert turns.waiting == len(tasks)
            # Others have turns of their own.
            assert await calls(Turns(), "x") == "x inline"
            calls.go_on.set()
            found = await asyncio.gather(*tasks)
            assert found == [f"{name} threaded" for name in "fecabd0"]
            assert calls.order() == "zyxfecabd0"
            assert turns.waiting == 0
            assert await calls(turns, "w") == "w inline"

    run(test)


def test_a_call_that_was_refused_in_the_loop_keeps_its_turn(
    agent_of_tasks: Callable[..., AsyncAgentStore],
) -> None:
    async def test() -> None:
        async with agent_of_tasks() as agent:
            namespace = await agent.namespace(rows(), cls=Rows)
            calls = Calls(namespace)
            turns = Turns()

            def refused() -> str:
                raise WouldBlockError

            def made() -> str:
                calls.entered.set()
                assert calls.go_on.wait(30)
                namespace._threaded.put(Row("c"))
                return "made"

            task = asyncio.create_task(namespace._caller.in_turn(turns, refused, made, small=True))
            later = asyncio.create_task(calls(turns, "b"))
            await calls.reached()
            await pause()
            assert calls.made == []
            calls.go_on.set()
            assert await asyncio.gather(task, later) == ["made", "b threaded"]
            assert calls.order() == "cb"

    run(test)


def test_who_is_cancelled_while_he_waits_for_his_turn_does_nothing(
    agent_of_tasks: Callable[..., AsyncAgentStore],
) -> None:
    async def test() -> None:
        async with agent_of_tasks() as agent:
            calls = Calls(await agent.namespace(rows(), cls=Rows))
            turns = Turns()
            tasks = [
                asyncio.create_task(calls(turns, "e", small=False, waits=True)),
                *(asyncio.create_task(calls(turns, name)) for name in "dcba"),
            ]
            await calls.reached()
            # One whose call is being made sees it to its end; those who wait go at once.
            for number in (0, 1, 3):
                tasks[number].cancel()
            await pause()
            assert [task.done() for task in tasks] == [False, True, False, True, False]
            tasks[0].cancel()
            await pause()
            assert not tasks[0].done()
            late = asyncio.create_task(calls(turns, "0"))
            calls.go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert calls.made[0] == ("e", "threaded")
            assert await tasks[2] == "c threaded"
            assert await tasks[4] == "a threaded"
            assert await late == "0 threaded"
            assert calls.order() == "eca0"
            assert turns.waiting == 0
            assert not turns.lock.locked()
            assert await calls(turns, "1") == "1 inline"

    run(test)


def test_a_turn_ends_with_the_commit_and_not_with_its_sync(
    agent_of_tasks: Callable[..., AsyncAgentStore], gated: tuple[HookedFileSystem, Gate]
) -> None:
    fs, gate = gated

    async def test() -> None:
        async with agent_of_tasks(filesystem=fs) as agent:
            calls = Calls(await agent.namespace(rows(), cls=Rows))
            turns = Turns()
            fs.hook = gate
            tasks = [asyncio.create_task(calls(turns, name, small=False)) for name in "cab"]
            await gate.reached()
            while calls.order() != "cab":
                await asyncio.sleep(0)
            await pause()
            assert turns.waiting == 0
            assert not any(task.done() for task in tasks)
            gate.open.set()
            assert await asyncio.gather(*tasks) == [f"{name} threaded" for name in "cab"]
            fs.hook = None

    run(test)


def test_a_turn_ends_with_an_error_too(
    agent_of_tasks: Callable[..., AsyncAgentStore],
) -> None:
    async def test() -> None:
        async with agent_of_tasks() as agent:
            calls = Calls(await agent.namespace(rows(), cls=Rows))
            turns = Turns()
            tasks = [
                asyncio.create_task(calls(turns, "c", small=False, waits=True)),
                asyncio.create_task(calls(turns, "\ud800")),
                asyncio.create_task(calls(turns, "a")),
            ]
            await calls.reached()
            calls.go_on.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(found[1], CodecError)
            assert calls.order() == "ca"
            with pytest.raises(CodecError):
                await calls(turns, "\ud800")
            assert (turns.waiting, turns.lock.locked()) == (0, False)
        with pytest.raises(ClosedError):
            await calls(turns, "b")
        with pytest.raises(ClosedError):
            await calls(turns, "b", small=False)
        assert turns.waiting == 0

    run(test)


@pytest.mark.parametrize("policy", [Wal(), WriteThrough(), WriteBack()], ids=str)
def test_many_calls_in_turn(agent_of_tasks: Callable[..., AsyncAgentStore], policy: Any) -> None:
    names = [chr(0x4E00 + n * 7919 % 900) for n in range(120)]

    async def test() -> None:
        async with agent_of_tasks() as agent:
            calls = Calls(await agent.namespace(rows(), cls=Rows))
            turns = Turns()
            tasks = [
                asyncio.create_task(calls(turns, name, small=n % 7 > 0, sync=policy))
                for n, name in enumerate(names)
            ]
            await asyncio.gather(*tasks)
            assert calls.order() == "".join(names)
            assert len(calls.made) == len(names)

    run(test)
