"""AsyncStore: the same engine for asyncio, and the loop that must never wait for the disk."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hooked import HookedFileSystem, fail

import walkv
from walkv.testing import Fault, FaultyFileSystem, SimulatedFileSystem


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a fresh event loop that gives up rather than hang."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(limited())


class Gate:
    """A hook under which one kind of call waits until it is let through."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, operation: str, path: str) -> None:
        if operation == self.operation:
            self.entered.set()
            self.open.wait(30)


async def collected(entries: Any) -> list[Any]:
    return [entry async for entry in entries]


@pytest.mark.parametrize("settle", [False, True])
def test_reads_and_writes(tmp_path: Path, settle: bool) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s") as store:
            assert store.recovery_report.created
            assert store.path == str(tmp_path / "s")
            assert "open" in repr(store)
            first = await store.put(b"a", b"1")
            assert first == 1
            await store.put(bytearray(b"b"), memoryview(b"2"), sync=walkv.WriteBack())
            await store.put(b"c", b"x" * 1_000_000, sync=walkv.WriteThrough())
            await store.put(b"d", b"4")
            assert await store.delete(b"d") == 5
            async with store.batch() as batch:
                batch.put(b"e", b"5")
                batch.put(b"f1", b"6")
                batch.put(b"f2", b"7")
                batch.delete(b"a")
            await store.delete_range(b"f")
            if settle:
                await store.compact()
            for _ in range(3):
                assert await store.get(b"b") == b"2"
                assert await store.get(b"a") is None
                assert await store.get(b"a", b"-") == b"-"
            assert await store.contains(b"b")
            assert not await store.contains(b"f1")
            assert await store.get_many([b"e", b"d", b"b"]) == [b"5", None, b"2"]
            assert await store.get_versioned(b"b") == (b"2", 2)
            assert await store.get_versioned(b"f1") == (None, None)
            keys = [b"b", b"c", b"e"]
            assert await collected(store.scan(keys_only=True)) == keys
            assert await collected(store.scan(reverse=True, keys_only=True)) == keys[::-1]
            assert await collected(store.scan(b"b")) == [(b"b", b"2")]
            assert await collected(store.scan(start=b"c", stop=b"d", keys_only=True)) == [b"c"]
            assert await collected(store.scan(limit=1)) == [(b"b", b"2")]
            assert await store.count() == 3
            assert await store.count(start=b"c") == 2
            await store.sync()
            stats = await store.stats()
            assert stats.unsynced_bytes == 0
            assert (await store.verify()).ok
            assert not await store.refresh()
        assert store.closed
        with walkv.open(tmp_path / "s") as again:
            assert again.recovery_report.clean
            assert list(again.scan(keys_only=True)) == keys

    run(test)


def test_wrong_arguments(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s") as any_store:
            store: Any = any_store
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: store.get("k"),
                lambda: store.put("k", b"v"),
                lambda: store.put(b"k", "v"),
                lambda: store.put(b"k", b"v", sync="wal"),
                lambda: store.put(b"k", b"v", expected="1"),
                lambda: store.delete("k"),
                lambda: store.delete_range(),
                lambda: store.count(b"k", start=b"k"),
                lambda: store.get_many(["k"]),
                lambda: store.get_versioned("k"),
                lambda: collected(store.scan("k")),
            ]
            for call in calls:
                with pytest.raises(TypeError):
                    await call()
            with pytest.raises(TypeError):
                store.batch(sync=1)
            with pytest.raises(walkv.LimitError):
                await store.put(b"", b"v")
            with pytest.raises(ValueError, match="limit"):
                await collected(store.scan(limit=-1))
            assert await store.count() == 0

    run(test)


def test_compare_and_set_and_ttl(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            version = await store.put(b"k", b"1", expected=None)
            with pytest.raises(walkv.ConflictError):
                await store.put(b"k", b"2", expected=None)
            await store.put(b"k", b"2", expected=version, ttl_seconds=10)
            with pytest.raises(walkv.ConflictError):
                await store.delete(b"k", expected=version)
            async with store.batch() as batch:
                batch.put(b"l", b"3", ttl_seconds=20)
            assert await store.get(b"k") == b"2"
            fs.advance(10)
            assert await store.get(b"k") is None
            assert await store.count() == 1

    run(test)


def test_scan_of_many_entries_is_as_of_its_first_step(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", sync=walkv.WriteBack()) as store:
            expected = [(b"%05d" % n, b"%d" % n) for n in range(3000)]
            for key, value in expected:
                await store.put(key, value)
            entries = store.scan()
            found = [await anext(entries)]
            await store.delete_range(b"")
            await store.compact()
            found += await collected(entries)
            assert found == expected
            assert await store.count() == 0

    run(test)


def test_views(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s") as store:
            version = await store.put(b"k", b"1")
            async with await store.view() as view:
                await store.put(b"k", b"2")
                await store.put(b"l", b"2")
                await store.compact()
                assert view.sequence == version
                assert await view.get(b"k") == b"1"
                assert await view.get(b"l", b"-") == b"-"
                assert await view.get_versioned(b"k") == (b"1", version)
                assert await view.get_many([b"l", b"k"]) == [None, b"1"]
                assert await collected(view.scan()) == [(b"k", b"1")]
                assert await collected(view.scan(b"l", keys_only=True)) == []
                assert await view.count() == 1
            with pytest.raises(walkv.ClosedError):
                await view.get(b"k")
            await view.close()

    run(test)


def test_transactions(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s") as store:
            await store.put(b"a", b"1")
            async with await store.transaction() as tx:
                tx.put(b"b", b"2")
                tx.delete(b"a")
                assert len(tx) == 2
                assert await tx.get(b"b") == b"2"
                assert await tx.get(b"a") is None
                assert await tx.get_many([b"a", b"b"]) == [None, b"2"]
                assert await tx.get_versioned(b"b") == (b"2", 0)
                assert await collected(tx.scan(keys_only=True)) == [b"b"]
                assert await tx.count() == 1
                assert await store.count() == 1
            assert await collected(store.scan()) == [(b"b", b"2")]
            tx = await store.transaction()
            await tx.get(b"b")
            await store.put(b"b", b"3")
            tx.put(b"c", b"4")
            with pytest.raises(walkv.ConflictError):
                await tx.commit()
            with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block of the transaction
                async with await store.transaction() as tx:
                    tx.put(b"d", b"")
                    raise ZeroDivisionError
            async with await store.transaction() as tx:
                tx.put(b"e", b"5")
                assert await tx.commit() is not None
            async with await store.transaction() as tx:
                tx.put(b"f", b"5")
                tx.discard()
            assert await collected(store.scan(keys_only=True)) == [b"b", b"e"]

    run(test)


def test_a_scan_left_early_counts_as_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", sync=walkv.WriteBack()) as store:
            for number in range(2000):
                await store.put(b"a%05d" % number, b"1")
            tx = await store.transaction()
            entries = tx.scan(b"a")
            assert await anext(entries) == (b"a00000", b"1")
            await store.put(b"a00000", b"2")
            tx.put(b"z", b"made from 1")
            with pytest.raises(walkv.ConflictError):
                await tx.commit()
            await entries.aclose()  # type: ignore[attr-defined]  # an async generator

    run(test)


def test_transact_with_functions_and_coroutines_loses_no_increment(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", sync=walkv.WriteBack()) as store:
            await store.put(b"n", b"0")

            async def increment(tx: Any) -> int:
                number = int(await tx.get(b"n")) + 1
                tx.put(b"n", b"%d" % number)
                return number

            async def worker() -> None:
                for _ in range(5):
                    await store.transact(increment, retries=1000)

            await asyncio.gather(*(worker() for _ in range(8)))
            assert await store.get(b"n") == b"40"
            assert await store.transact(lambda tx: tx.put(b"n", b"x")) is None
            assert await store.get(b"n") == b"x"

            async def always(tx: Any) -> None:
                await tx.get(b"n")
                await store.put(b"n", b"other")
                tx.put(b"n", b"mine")

            with pytest.raises(walkv.ConflictError):
                await store.transact(always, retries=1)
            with pytest.raises(ValueError, match="retries"):
                await store.transact(always, retries=-1)

    run(test)


def test_the_loop_runs_on_while_a_sync_takes_its_time(tmp_path: Path) -> None:
    """Counted in ticks, not seconds: while the sync is held, the loop gets any number of turns."""
    fs = HookedFileSystem()

    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            await store.put(b"warm", b"up")
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: store.put(b"k", b"v"),
                lambda: store.put(b"k", b"v", sync=walkv.WriteThrough()),
                lambda: store.put(b"k", b"x" * 100_000),
                lambda: store.put(b"k2", b"v", expected=None),
                lambda: store.delete(b"k"),
                lambda: store.delete_range(b"zz"),
                lambda: store.transact(lambda tx: tx.put(b"t", b"v")),
                lambda: store.put(b"wb", b"v", sync=walkv.WriteBack(3600, 1)),
                lambda: _unsynced_then_sync(store),
                store.compact,
                store.close,
            ]
            for number, call in enumerate(calls):
                gate = Gate("sync_data")
                fs.hook = gate
                task = asyncio.ensure_future(call())
                ticks = 0
                while ticks < 50:
                    await asyncio.sleep(0.001)
                    ticks += gate.entered.is_set()
                assert not task.done(), number
                if store.closed:
                    pass
                elif call is not store.close:  # other tasks read, and write back, meanwhile
                    assert await store.get(b"warm") == b"up"
                gate.open.set()
                await task
                fs.hook = None

    run(test)


async def _unsynced_then_sync(store: walkv.AsyncStore) -> None:
    await store.put(b"u", b"v", sync=walkv.WriteBack(3600))
    await store.sync()


def test_tasks_that_commit_while_a_sync_runs_share_the_next_one(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            await store.put(b"warm", b"up")
            before = (await store.stats()).sync_count
            gate = Gate("sync_data")
            fs.hook = gate
            first = asyncio.create_task(store.put(b"first", b""))
            while not gate.entered.is_set():
                await asyncio.sleep(0)
            others = [asyncio.create_task(store.put(b"%d" % n, b"")) for n in range(200)]
            for _ in range(10):
                await asyncio.sleep(0)
            assert not any(task.done() for task in others)
            gate.open.set()
            await asyncio.gather(first, *others)
            stats = await store.stats()
            assert stats.sync_count - before == 2
            assert stats.last_sequence == 202

    run(test)


def test_an_acknowledged_task_is_covered_by_a_completed_sync(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            face = store.as_sync()
            log = face.engine.write_log  # type: ignore[union-attr]  # a writer

            async def worker(number: int) -> None:
                for turn in range(30):
                    await store.put(b"%d.%d" % (number, turn), b"x" * number)
                    # Whatever was appended up to this task's own put is durable by now; the log
                    # may be ahead by what other tasks appended since.
                    assert log.durable >= positions.pop((number, turn))

            positions: dict[tuple[int, int], int] = {}
            engine: Any = face.engine
            append_one = engine.append_one

            def noted(key: bytes, value: bytes) -> tuple[int, int]:
                end, sequence = append_one(key, value)
                number, turn = key.split(b".")
                positions[int(number), int(turn)] = end
                return end, sequence

            engine.append_one = noted
            await asyncio.gather(*(worker(number) for number in range(40)))
            assert positions == {}
            assert (await store.stats()).sync_count < 40 * 30

    run(test)


def test_threads_and_tasks_on_one_store(tmp_path: Path) -> None:
    async def test() -> None:
        with walkv.open(tmp_path / "s") as store:
            face = walkv.AsyncStore.of(store)
            assert face.as_sync().engine is store.engine

            def thread(number: int) -> None:
                for turn in range(30):
                    store.put(b"thread%d.%d" % (number, turn), b"v")

            async def task(number: int) -> None:
                for turn in range(30):
                    await face.put(b"task%d.%d" % (number, turn), b"v")
                    assert await face.get(b"task%d.%d" % (number, turn)) == b"v"

            await asyncio.gather(
                *(asyncio.to_thread(thread, number) for number in range(4)),
                *(task(number) for number in range(10)),
            )
            assert await face.count() == 14 * 30 == store.count()
            await face.close()
            assert store.closed

    run(test)


def test_close_by_another_face_wakes_waiting_tasks(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        store = walkv.open(tmp_path / "s", filesystem=fs)
        face = walkv.AsyncStore.of(store)
        await face.put(b"warm", b"up")
        gate = Gate("sync_data")
        fs.hook = gate
        first = asyncio.create_task(face.put(b"a", b"1"))
        while not gate.entered.is_set():
            await asyncio.sleep(0)
        second = asyncio.create_task(face.put(b"b", b"2"))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(store.close))
        await asyncio.sleep(0.05)
        gate.open.set()
        await closing
        # Both were durable before close returned, so both are acknowledged.
        assert await asyncio.wait_for(first, 10) == 2
        assert await asyncio.wait_for(second, 10) == 3
        await face.close()

    run(test)
    with walkv.open(tmp_path / "s") as store:
        assert store.count() == 3


def test_a_failed_sync_fails_every_waiting_task(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        store = await walkv.aopen(tmp_path / "s", filesystem=fs)
        await store.put(b"a", b"1")
        fs.hook = fail("sync_data", ".wal", errno.EIO)
        tasks = [store.put(b"%d" % number, b"") for number in range(20)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {walkv.StoreFailedError}
        assert all(isinstance(result.__cause__, OSError) for result in results)  # type: ignore[union-attr]
        with pytest.raises(walkv.StoreFailedError):
            await store.put(b"b", b"2")
        with pytest.raises(walkv.StoreFailedError):
            await store.sync()
        with pytest.raises(walkv.StoreFailedError):
            await store.close()
        await store.close()

    run(test)


def test_a_failed_write_fails_its_task_only(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            await store.put(b"a", b"1")
            fs.hook = fail("write", ".wal", errno.ENOSPC, times=2)
            with pytest.raises(OSError, match="No space"):
                await store.put(b"b", b"2")
            await store.put(b"c", b"3")
            assert await collected(store.scan(keys_only=True)) == [b"a", b"c"]

    run(test)


def test_a_cancelled_task_leaves_the_store_in_order(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s", filesystem=fs) as store:
            await store.put(b"warm", b"up")
            gate = Gate("sync_data")
            fs.hook = gate
            cancelled = asyncio.create_task(store.put(b"a", b"1"))
            kept = asyncio.create_task(store.put(b"b", b"2"))
            while not gate.entered.is_set():
                await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            gate.open.set()
            await kept
            fs.hook = None
            assert await store.get(b"a") == b"1"
            await store.put(b"c", b"3")

    run(test)
    with walkv.open(tmp_path / "s") as again:
        assert list(again.scan(keys_only=True)) == [b"a", b"b", b"c", b"warm"]


def test_a_closed_store_says_so_everywhere(tmp_path: Path) -> None:
    async def test() -> None:
        store = await walkv.aopen(tmp_path / "s")
        await store.put(b"a", b"1")
        view = await store.view()
        tx = await store.transaction()
        tx.put(b"x", b"1")
        batch = store.batch()
        batch.put(b"x", b"1")
        scan = store.scan()
        await store.close()
        await store.close()
        assert store.closed
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.get(b"a"),
            lambda: store.contains(b"a"),
            lambda: store.get_many([b"a"]),
            lambda: store.get_versioned(b"a"),
            lambda: anext(scan),
            store.count,
            store.view,
            store.stats,
            store.verify,
            store.compact,
            store.sync,
            store.transaction,
            lambda: store.put(b"a", b"1"),
            lambda: store.put(b"a", b"1", expected=None),
            lambda: store.put(b"a", b"x" * 100_000),
            lambda: store.delete(b"a"),
            lambda: store.delete_range(b"a"),
            lambda: store.transact(lambda tx: None),
            lambda: view.get(b"a"),
            batch.commit,
            tx.commit,
        ]
        for call in calls:
            with pytest.raises(walkv.ClosedError):
                await call()
        with pytest.raises(walkv.ClosedError):
            store.scan()
        await view.close()

    run(test)


def test_read_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with await walkv.aopen(tmp_path / "s") as writer:
            await writer.put(b"a", b"1")
            async with await walkv.aopen(tmp_path / "s", read_only=True) as reader:
                assert await reader.get(b"a") == b"1"
                await writer.put(b"b", b"2")
                assert await reader.count() == 1
                assert await reader.refresh()
                assert await collected(reader.scan(keys_only=True)) == [b"a", b"b"]
                calls: list[Callable[[], Awaitable[object]]] = [
                    lambda: reader.put(b"a", b"1"),
                    lambda: reader.delete(b"a"),
                    lambda: reader.delete_range(b"a"),
                    reader.compact,
                    reader.sync,
                    reader.transaction,
                ]
                for call in calls:
                    with pytest.raises(walkv.ReadOnlyError):
                        await call()
                with pytest.raises(walkv.ReadOnlyError):
                    reader.batch()

    run(test)


def test_opening_errors_are_those_of_open(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(FileNotFoundError):
            await walkv.aopen(tmp_path / "s", create=False)
        async with await walkv.aopen(tmp_path / "s"):
            with pytest.raises(walkv.LockedError):
                await walkv.aopen(tmp_path / "s")

    run(test)


def test_without_threads_a_failed_sync_is_told_to_whoever_waits_and_to_nobody_else() -> None:
    async def test() -> None:
        fs = FaultyFileSystem(SimulatedFileSystem(), threads=False)
        store = await walkv.aopen("/s", filesystem=fs)
        await store.put(b"a", b"1")
        fs.fault = Fault(lambda call: call.operation == "sync_data")
        with pytest.raises(walkv.StoreFailedError):
            await store.put(b"b", b"2")
        # Else asyncio would complain, when it is collected, of an error that nobody has heard.
        assert store._waiters == []
        with pytest.raises(walkv.StoreFailedError):
            await store.close()

    run(test)


def test_a_face_that_was_let_go_writes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        with walkv.open(tmp_path / "s") as store:
            face = walkv.AsyncStore.of(store)
            await face.put(b"a", b"1")
            batch = face.batch()
            batch.put(b"b", b"1")
            face.detach()
            face.detach()
            assert face.closed
            assert not store.closed
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: face.put(b"b", b"1"),
                lambda: face.put(b"b", b"x" * 100_000),
                lambda: face.put(b"b", b"1", expected=None),
                lambda: face.delete(b"a"),
                lambda: face.get(b"a"),
                face.sync,
                face.count,
                batch.commit,
            ]
            for call in calls:
                with pytest.raises(walkv.ClosedError):
                    await call()
            with pytest.raises(walkv.ClosedError):
                face.batch()
            assert list(store.scan()) == [(b"a", b"1")]

    run(test)


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_acknowledged_after_a_face_was_let_go(tmp_path: Path, fails: bool) -> None:
    """It was written while the face was let go: nobody wakes who waits, so it looks itself."""
    fs = HookedFileSystem()

    async def test() -> None:
        store = walkv.open(tmp_path / "s", filesystem=fs)
        face = walkv.AsyncStore.of(store)
        log = store.engine.write_log
        store.put(b"a", b"1", sync=walkv.WriteBack(1000.0))
        position = log.position
        assert log.durable < position
        face.detach()
        if fails:
            fs.hook = fail("sync_data", ".wal", errno.EIO)
            for _ in range(2):
                with pytest.raises(walkv.StoreFailedError):
                    await face._acknowledge(position, None)
            with pytest.raises(walkv.StoreFailedError):
                store.close()
        else:
            await face._acknowledge(position, None)
            assert log.durable >= position
            store.close()
            await face._acknowledge(position, None)

    run(test)


def test_who_waits_while_a_face_is_let_go_is_told(tmp_path: Path) -> None:
    fs = HookedFileSystem()

    async def test() -> None:
        with walkv.open(tmp_path / "s", filesystem=fs) as store:
            face = walkv.AsyncStore.of(store)
            await face.put(b"warm", b"up")
            gate = Gate("sync_data")
            fs.hook = gate
            task = asyncio.create_task(face.put(b"a", b"1"))
            await asyncio.to_thread(gate.entered.wait, 30)
            face.detach()
            with pytest.raises(walkv.ClosedError, match="visible, and durable with the next sync"):
                await task
            assert store.get(b"a") == b"1"
            gate.open.set()
            fs.hook = None

    run(test)


@pytest.mark.parametrize("times", [1, 3])
def test_an_opening_that_is_cancelled_leaves_the_store_unlocked(tmp_path: Path, times: int) -> None:
    path = tmp_path / "store"

    async def main() -> None:
        opening = asyncio.create_task(walkv.aopen(path))
        for _ in range(times):
            await asyncio.sleep(0)
            opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(main())  # the loop ends with its task
    with walkv.open(path) as store:
        store.put(b"key", b"value")
