"""The feed of committed batches."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import (
    Change,
    ClosedError,
    CorruptionError,
    Delete,
    DeleteRange,
    HistoryLostError,
    KeepLog,
    Put,
    WriteBack,
)
from walkv.engine import recovery
from walkv.engine.changes import Feed
from walkv.testing import Fault, FaultyFileSystem, ManualClock, SimulatedFileSystem

ALL = KeepLog(1e6, 1 << 30)
LATE = WriteBack(interval_seconds=1e6, max_unsynced_bytes=1 << 30)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[walkv.Store]:
    with walkv.open(tmp_path / "s", keep_log=ALL) as opened:
        yield opened


def keys(changes: Any) -> list[bytes]:
    return [change.operations[0].key for change in changes]


def test_a_batch_is_one_change() -> None:
    clock = ManualClock()
    fs = FaultyFileSystem(SimulatedFileSystem(clock=clock), clock=clock, threads=False)
    with walkv.open("/s", filesystem=fs) as store:
        store.put(b"a", b"1")
        clock.advance(1.5)
        with store.batch() as batch:
            batch.put(b"b", b"2", ttl_seconds=10)
            batch.delete(b"a")
            batch.delete_range(prefix=b"x")
            batch.delete_range(start=b"\xff")
        first, second = store.changes()
    moment = datetime.fromtimestamp(clock.wall_ns / 1e9, UTC)
    assert first.operations == (Put(b"a", b"1", None),)
    assert (first.first_sequence, first.last_sequence) == (1, 1)
    assert (second.first_sequence, second.last_sequence) == (2, 5)
    assert second.time == moment
    assert (second.time - first.time).total_seconds() == 1.5
    assert second.operations == (
        Put(b"b", b"2", datetime.fromtimestamp(clock.wall_ns / 1e9 + 10, UTC)),
        Delete(b"a"),
        DeleteRange(b"x", b"y"),
        DeleteRange(b"\xff", None),
    )


def test_from_a_sequence_on(store: walkv.Store) -> None:
    for number in range(10):
        store.put(b"%d" % number, b"")
        if number % 4 == 3:
            store.compact()
    everything = list(store.changes())
    assert keys(everything) == [b"%d" % number for number in range(10)]
    for change in everything:
        after = [c for c in everything if c.last_sequence > change.last_sequence]
        assert list(store.changes(change.last_sequence)) == after
    assert list(store.changes(0)) == everything
    assert list(store.changes(store.last_sequence)) == []


def test_a_batch_is_never_split(store: walkv.Store) -> None:
    with store.batch() as batch:
        for number in range(5):
            batch.put(b"%d" % number, b"")
    (change,) = store.changes()
    assert list(store.changes(change.first_sequence)) == [change]
    assert list(store.changes(change.last_sequence)) == []


def test_only_what_is_durable(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=LATE) as store:
        store.put(b"a", b"1")
        assert keys(store.changes(durable=False)) == [b"a"]
        feed = store.changes(follow=True)
        assert list(store.changes()) == []
        store.put(b"b", b"2", sync=walkv.Wal())
        assert keys([next(feed), next(feed)]) == [b"a", b"b"]
        store.put(b"c", b"3")
        assert keys(store.changes()) == [b"a", b"b"]
        store.sync()
        assert keys(store.changes()) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("policy", [walkv.Wal(), WriteBack()], ids=["wal", "write-back"])
def test_follow_while_others_write(tmp_path: Path, policy: Any) -> None:
    """Four threads commit and the log rotates: the feed has it all, in commit order."""
    count = 400
    with walkv.open(tmp_path / "s", sync=policy, keep_log=ALL, memtable_bytes=64 * 1024) as store:

        def write(writer: int) -> None:
            for number in range(count):
                store.put(b"%d/%04d" % (writer, number), bytes(200))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        feed = store.changes(follow=True)
        for thread in threads:
            thread.start()
        found = [next(feed) for _ in range(4 * count)]
        for thread in threads:
            thread.join()
        sequences = [change.first_sequence for change in found]
        assert sequences == sorted(set(sequences))
        assert sorted(keys(found)) == sorted(store.scan(keys_only=True))
        assert store.stats().kept_segment_count > 3
        assert list(store.changes(durable=False)) == found


def test_it_ends_when_the_store_closes(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s")
    store.put(b"a", b"1")
    feed = store.changes(follow=True)
    assert next(feed).operations == (Put(b"a", b"1"),)
    closing = threading.Timer(0.1, store.close)
    closing.start()
    assert list(feed) == []
    closing.join()
    with pytest.raises(ClosedError):
        store.changes()


def test_a_reader_follows_the_writer(store: walkv.Store) -> None:
    with walkv.open(store.path, read_only=True) as reader:
        feed = reader.changes(follow=True)
        for number in range(30):
            store.put(b"%d" % number, b"")
            assert next(feed).operations == (Put(b"%d" % number, b""),)
            if number % 7 == 6:
                store.compact()
        assert list(reader.changes()) == list(store.changes())


def test_tasks_follow(tmp_path: Path) -> None:
    async def run() -> list[Change]:
        async with await walkv.aopen(tmp_path / "s") as store:
            found: list[Change] = []

            async def follow() -> None:
                async for change in store.changes(follow=True):
                    found.append(change)

            following = asyncio.create_task(follow())
            for number in range(20):
                await store.put(b"%d" % number, b"")
            while len(found) < 20:
                await asyncio.sleep(0)
            assert [c async for c in store.changes(store.last_sequence - 2)] == found[-2:]
            assert [c async for c in store.changes()] == found
        await following
        return found

    assert keys(asyncio.run(run())) == [b"%d" % number for number in range(20)]


def test_the_log_does_not_reach_back(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"a", b"1")
        store.put(b"b", b"2")
        store.compact()
        store.put(b"c", b"3")
        with pytest.raises(HistoryLostError, match="no longer reaches back") as caught:
            store.changes(0)
        assert (caught.value.since, caught.value.oldest) == (0, 2)
        assert keys(store.changes(caught.value.oldest)) == [b"c"]
        assert keys(store.changes()) == [b"c"]


def test_it_is_lost_while_it_is_read(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"a", b"1")
        feed = store.changes(follow=True)
        assert keys([next(feed)]) == [b"a"]
        store.put(b"b", b"2")
        store.compact()  # the segment is open: it can still be read
        store.put(b"c", b"3")
        store.compact()
        store.put(b"d", b"4")
        assert keys([next(feed)]) == [b"b"]
        with pytest.raises(HistoryLostError):
            next(feed)


def test_a_gap_in_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        for number in range(4):
            store.put(b"%d" % number, b"")
            store.compact()
        second = sorted((path / "log").glob("*.kept"))[1]
        second.unlink()
        assert keys(store.changes()) == [b"2", b"3"]
        with pytest.raises(HistoryLostError) as caught:
            store.changes(0)
        assert keys(store.changes(caught.value.oldest)) == [b"2", b"3"]


def test_the_store_has_not_come_so_far(store: walkv.Store) -> None:
    store.put(b"a", b"1")
    with pytest.raises(HistoryLostError, match="has come to sequence 1"):
        store.changes(2)
    with walkv.open(store.path, read_only=True) as reader:
        with pytest.raises(HistoryLostError, match="has come to sequence 1"):
            list(reader.changes(2))
        store.put(b"b", b"2")
        store.put(b"c", b"3")
        assert reader.last_sequence == 1
        assert keys(reader.changes(2)) == [b"c"]  # although it has not refreshed


@pytest.mark.parametrize("since", [-1, 1.5, "1", True])
def test_since_is_a_sequence(store: walkv.Store, since: Any) -> None:
    with pytest.raises(ValueError, match="since is a sequence"):
        store.changes(since)


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        store.put(b"a", bytes(100))
        store.put(b"b", bytes(100))
        store.compact()
        (kept,) = (path / "log").glob("*.kept")
        data = bytearray(kept.read_bytes())
        data[150] ^= 1
        kept.write_bytes(data)
        with pytest.raises(CorruptionError, match="checksum"):
            list(store.changes())


def test_what_the_writer_takes_back_is_replaced(tmp_path: Path) -> None:
    """A frame that was whole in the file and did not count: a reader may have seen it."""
    disk = SimulatedFileSystem()
    fs = FaultyFileSystem(disk, threads=False)
    with walkv.open("/s", filesystem=fs) as store:
        store.put(b"a", b"1")
        reader = walkv.open("/s", read_only=True, filesystem=disk)
        feed = reader.changes(follow=True)
        assert keys([next(feed)]) == [b"a"]

        engine: Any = store.engine
        log = engine.write_log
        # The frame is written, and what comes after it fails.
        payload = b"\x92\xc4\x01b\xc4\x012"
        log.write(payload, 1, 2)
        assert next(feed).operations == (Put(b"b", b"2"),)
        log.undo()
        store.put(b"c", b"3")
        again = next(feed)
        assert (again.first_sequence, again.operations) == (2, (Put(b"c", b"3"),))
        reader.close()


def test_a_feed_holds_up_nobody(store: walkv.Store) -> None:
    """It may stand anywhere, half read, while the store commits, compacts and closes."""
    for number in range(100):
        store.put(b"%d" % number, bytes(50_000))
    feed = store.changes()
    next(feed)
    store.compact()
    store.put(b"x", b"")
    rest = list(feed)
    assert len(rest) == 100


def test_a_failed_store_says_so() -> None:
    fs = FaultyFileSystem(SimulatedFileSystem(), threads=False)
    store = walkv.open("/s", filesystem=fs)
    store.put(b"a", b"1")
    feed = store.changes(follow=True)
    next(feed)
    fs.fault = Fault(lambda call: call.operation == "sync_data")
    with pytest.raises(walkv.StoreFailedError):
        store.put(b"b", b"2")
    with pytest.raises(walkv.StoreFailedError):
        next(feed)
    with pytest.raises(walkv.StoreFailedError):
        store.close()


def test_the_file_is_given_back(store: walkv.Store) -> None:
    store.put(b"a", b"1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        feed = store.changes(follow=True)
        next(feed)
        feed.close()  # type: ignore[attr-defined]  # a generator
        list(store.changes())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_segment_between_its_two_names_is_no_gap(tmp_path: Path) -> None:
    """Settled, the manifest no longer names it, and it is not renamed yet."""
    path = str(tmp_path / "s")
    fs = FaultyFileSystem(threads=False)
    found: list[Any] = []

    def look(call: Any) -> None:
        if call.operation == "rename" and call.path.endswith(".kept"):
            fs.before = None
            with walkv.open(path, read_only=True) as reader:
                for each in (reader, store):
                    found.append([keys(each.changes()), keys(each.changes(5))])

    with walkv.open(path, keep_log=ALL, filesystem=fs) as store:
        for number in range(10):
            store.put(b"%d" % number, b"")
        everything = keys(store.changes())
        fs.before = look
        store.compact()
        assert found == [[everything, everything[5:]]] * 2


def test_damage_in_the_tail_is_told_to_the_writer_too(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        for number in range(10):
            store.put(b"%d" % number, bytes(20))
        third = sum(change.size_bytes for change in list(store.changes())[:3])
        (tail,) = (tmp_path / "s" / "log").glob("*.wal")
        data = bytearray(tail.read_bytes())
        data[64 + third + 50] ^= 1
        tail.write_bytes(data)
        feed = store.changes()
        assert keys([next(feed), next(feed), next(feed)]) == [b"0", b"1", b"2"]
        with pytest.raises(CorruptionError, match="was published"):
            next(feed)


def test_zeros_behind_a_kept_seal_hide_nothing(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", keep_log=ALL) as store:
        store.put(b"a", b"")
        store.compact()
        store.put(b"b", b"")
        (kept,) = (tmp_path / "s" / "log").glob("*.kept")
        kept.write_bytes(kept.read_bytes() + bytes(100))
        assert keys(store.changes()) == keys(store.changes(0)) == [b"a", b"b"]


def test_only_as_far_back_as_is_needed(tmp_path: Path) -> None:
    """An old segment that is damaged is in nobody's way who does not need it."""
    with walkv.open(tmp_path / "s", keep_log=ALL) as store:
        for number in range(5):
            store.put(b"%d" % number, b"")
            store.compact()
        first = min((tmp_path / "s" / "log").glob("*.kept"))
        first.write_bytes(b"\xff" * 100)
        assert keys(store.changes(store.last_sequence - 1)) == [b"4"]
        with pytest.raises(CorruptionError):
            list(store.changes())


def test_where_it_is_read_to_while_the_log_rotates(tmp_path: Path) -> None:
    """Of the old tail and the new one nobody may mix up the numbers."""
    with walkv.open(tmp_path / "s", keep_log=ALL) as store:
        for number in range(5):
            store.put(b"%d" % number, bytes(100))
        expected = list(store.changes())
        engine: Any = store.engine
        log = engine.write_log
        found: list[list[Change]] = []

        class Slowly(type(log)):  # type: ignore[misc]
            def _close_window(self) -> None:
                if self._base != base:
                    thread = threading.Thread(target=lambda: found.append(list(store.changes())))
                    thread.start()
                    thread.join()
                super()._close_window()

        base = log._base
        log.__class__ = Slowly
        store.compact()
        log.__class__ = Slowly.__base__
        assert found[0] == expected


def test_a_reader_that_was_overtaken_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer commits more than is taken at once, just as the reader looks at the end."""
    judge = recovery.judge
    with walkv.open(tmp_path / "s") as store:
        store.put(b"0", b"")
        with walkv.open(tmp_path / "s", read_only=True) as reader:
            overtaken = False

            def slowly(scanner: Any, read_on: Any) -> Any:
                nonlocal overtaken
                if not overtaken:
                    overtaken = True
                    for number in range(1, 7):
                        store.put(b"%d" % number, bytes([number]) * 600_000)
                return judge(scanner, read_on)

            monkeypatch.setattr(recovery, "judge", slowly)
            feed = Feed(reader.engine, None, durable=True)
            found = []
            while taken := feed.take():
                found += taken
            feed.close()
            assert keys(found) == [b"%d" % number for number in range(7)]
