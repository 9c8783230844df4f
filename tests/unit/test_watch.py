"""A store in numbers, here and in other processes; its health; slow operations; the floor of free
space."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import DiskSpaceError, Health, Stats, WriteBack, limits, ops
from walkv.engine import watch
from walkv.engine.vfs import OsFileSystem
from walkv.testing import Fault, FaultyFileSystem, ManualClock, SimulatedFileSystem

FS = OsFileSystem()


class TestNumbers:
    def test_commits_syncs_and_groups(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            for number in range(10):
                store.put(b"%d" % number, b"1")
            stats = store.stats()
            assert stats.commit_count == stats.sync_count == 10
            assert stats.sync_seconds.count == 10
            assert stats.group_sizes.buckets == ((1.0, 10),)
            assert stats.written_bytes > 10 * 44
            for number in range(5):
                store.put(b"%d" % number, b"2", sync=WriteBack(1e3, 1 << 30))
            store.sync()
            assert store.stats().group_sizes.buckets == ((1.0, 10), (5.0, 1))

    def test_flushes_and_merges(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            for number in range(2):
                store.put(b"%d" % number, bytes(1000))
                store.compact()
            stats = store.stats()
        assert (stats.flush_count, stats.flush_seconds.count) == (2, 2)
        assert stats.merge_count == stats.merge_seconds.count >= 1
        assert stats.flushed_bytes > 0
        assert stats.merged_bytes > 0

    def test_pages_found_and_read(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            for number in range(100):
                store.put(b"%03d" % number, bytes(1000))
            store.compact()
        with walkv.open(tmp_path / "s") as store:
            assert (store.stats().cache_hits, store.stats().cache_misses) == (0, 0)
            store.get(b"050")
            assert (store.stats().cache_hits, store.stats().cache_misses) == (0, 1)
            store.get(b"050")
            store.get(b"050")  # hot by now: it needs no page
            assert (store.stats().cache_hits, store.stats().cache_misses) == (1, 1)

    def test_waits_for_room(self, tmp_path: Path) -> None:
        with walkv.open(
            tmp_path / "s", sync=WriteBack(), memtable_bytes=limits.MIN_MEMTABLE_BYTES
        ) as store:
            for number in range(3_000):
                store.put(b"%d" % number, bytes(500))
            stats = store.stats()
            assert stats.stall_seconds.count > 0
            assert stats.stall_seconds.largest >= 0.001

    def test_who_and_when(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s", min_free_bytes=5) as store:
            stats = store.stats()
            assert (stats.pid, stats.min_free_bytes) == (os.getpid(), 5)
            assert 0 <= time.time() - stats.opened_at.timestamp() < 60
            assert 0 <= stats.uptime_seconds < 60
            status = os.statvfs(tmp_path)
            assert stats.free_bytes is not None
            assert 0 < stats.free_bytes <= status.f_blocks * status.f_frsize
            with walkv.open(tmp_path / "s", read_only=True) as reader:
                assert reader.stats().commit_count == 0
                assert reader.stats().opened_at >= stats.opened_at


class TestPublished:
    def test_another_process_can_read_it(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        assert watch.published(FS, path) is None
        with walkv.open(path, sync=WriteBack(0.2)) as store:
            first = watch.published(FS, path)
            assert first is not None
            assert first.pid == os.getpid()
            assert first.stats is not None
            assert first.stats.commit_count == 0
            for number in range(50):
                store.put(b"%d" % number, b"")
            time.sleep(1.0)  # it is written once a second, while there are commits
            store.put(b"49", b"")
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                again = watch.published(FS, path)
                assert again is not None, "it is there all the time"
                assert again.stats is not None
                if again.stats.commit_count == 51:
                    break
                time.sleep(0.01)
            assert again.stats.commit_count == 51
            assert again.time is not None
            assert first.time is not None
            assert again.time > first.time
            code = (
                "import sys; from walkv.engine import watch; from walkv.engine.vfs import *\n"
                "found = watch.published(OsFileSystem(), sys.argv[1])\n"
                "print(found.pid, found.stats.commit_count, found.stats.sync_seconds.count > 0)"
            )
            command = [sys.executable, "-c", code, path]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert done.stdout.split() == [str(os.getpid()), "51", "True"]
            # Looking took no lock: an opener who came meanwhile would not have been refused for it.
        assert watch.published(FS, path) is None
        walkv.open(path).close()

    def test_a_writer_that_has_failed_says_so(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        fs = FaultyFileSystem()
        store = walkv.open(path, filesystem=fs)
        fs.fault = Fault(lambda call: call.operation == "sync_data")
        with pytest.raises(walkv.StoreFailedError):
            store.put(b"a", b"1")
        found = watch.published(FS, path)
        assert found is not None
        assert "Input/output error" in found.failure
        assert found.stats is None
        with pytest.raises(walkv.StoreFailedError):
            store.close()

    def test_a_failure_counts_also_where_it_cannot_be_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = walkv.open(tmp_path / "s")
        engine: Any = store.engine

        def no_memory(facts: Any) -> None:
            raise MemoryError

        engine._file_lock = type("Lock", (), {"tell": staticmethod(no_memory)})()
        engine._fail(MemoryError("no more"))
        assert store.health().status == "failed"
        assert isinstance(engine.failure, MemoryError)

    def test_looking_never_keeps_an_opener_out(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        walkv.open(path).close()
        code = (
            "import sys; from walkv.engine import watch; from walkv.engine.vfs import *\n"
            "print('ready', flush=True)\n"
            "while True: watch.published(OsFileSystem(), sys.argv[1])"
        )
        command = [sys.executable, "-c", code, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as looker:
            assert looker.stdout is not None
            looker.stdout.readline()
            for _ in range(100):
                walkv.open(path).close()
            looker.kill()

    def test_a_killed_writer_is_gone(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        code = "import sys, walkv; walkv.open(sys.argv[1]); print('up', flush=True); input()"
        command = [sys.executable, "-c", code, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            found = watch.published(FS, path)
            assert found is not None
            assert found.pid == writer.pid
            writer.kill()
            writer.wait()
        assert watch.published(FS, path) is None

    def test_a_store_that_closes_meanwhile_has_not_failed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = walkv.open(tmp_path / "s", sync=WriteBack(0.02))
        engine: Any = store.engine
        inside = threading.Event()
        stats = watch.stats

        def slowly(asked: Any) -> Stats:
            if threading.current_thread().name == "walkv-sync":
                inside.set()
                while not asked.closed:
                    time.sleep(0.001)
            return stats(asked)

        monkeypatch.setattr(watch, "stats", slowly)
        engine._rested = -1e9
        store.put(b"a", b"1")
        assert inside.wait(30)
        store.put(b"b", b"2")
        store.close()
        assert engine.write_log.durable == engine.write_log.position

    def test_a_listener_that_fails_is_no_failure(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise RuntimeError("something else")

        with walkv.open(tmp_path / "s", sync=WriteBack(0.02)) as store:
            engine: Any = store.engine
            engine.on_rest, engine._rested = fail, -1e9
            store.put(b"a", b"1")
            deadline = time.monotonic() + 30
            while "something else" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "something else" in caplog.text
            assert store.health().status == "ok"

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"stats": 5},
            {"stats": {"path": "x"}},
            {"stats": {f.name: None for f in dataclasses.fields(Stats)}},
            {"time_ns": 1 << 70, "stats": None},
        ],
    )
    def test_what_another_version_tells(self, tmp_path: Path, told: dict[str, Any]) -> None:
        path = tmp_path / "s"
        with walkv.open(path):
            (path / "LOCK").write_text(json.dumps({"pid": 5, "host": "elsewhere", **told}))
            found = watch.published(FS, str(path))
            assert found == (5, "elsewhere", None, None, None, "")

    def test_what_was_told_comes_back_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        with walkv.open(path) as store:
            store.put(b"a", b"1")
            engine: Any = store.engine
            watch.publish(engine)
            found = watch.published(FS, str(path))
            assert found is not None
            told, stats = found.stats, store.stats()
            assert told is not None
            same = {"uptime_seconds": 0.0, "free_bytes": 0}
            assert dataclasses.replace(told, **same) == dataclasses.replace(stats, **same)
            assert found.recovery == store.recovery_report
            assert ops.published(path) == found


class TestHealth:
    def test_a_directory_that_was_moved(self, tmp_path: Path) -> None:
        store = walkv.open(tmp_path / "s")
        (tmp_path / "s").rename(tmp_path / "elsewhere")
        assert store.health().status == "failed"
        assert "moved" in store.health().reasons[0]
        store.close()

    def test_ok(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            assert store.health() == Health("ok", ())
            with walkv.open(tmp_path / "s", read_only=True) as reader:
                assert reader.health() == Health("ok", ())
        assert store.health().status == "failed"
        assert "was closed" in store.health().reasons[0]

    def test_of_tasks(self, tmp_path: Path) -> None:
        async def run() -> Health:
            async with await walkv.aopen(tmp_path / "s") as store:
                return store.health()

        assert asyncio.run(run()) == Health("ok", ())

    def test_failed(self) -> None:
        fs = FaultyFileSystem(SimulatedFileSystem(), threads=False)
        store = walkv.open("/s", filesystem=fs)
        fs.fault = Fault(lambda call: call.operation == "sync_data")
        with pytest.raises(walkv.StoreFailedError):
            store.put(b"a", b"1")
        found = store.health()
        assert found.status == "failed"
        assert "Input/output error" in found.reasons[0]

    def test_a_flush_that_fails(self) -> None:
        fs = FaultyFileSystem(SimulatedFileSystem(), threads=False)
        with walkv.open("/s", filesystem=fs) as store:
            store.put(b"a", b"1")
            fs.fault = Fault(lambda c: c.operation == "create" and c.path.endswith(".snap"))
            with pytest.raises(OSError, match="error"):
                store.compact()
            found = store.health()
            assert found.status == "degraded"
            assert "flush or merge failed" in found.reasons[0]
            fs.heal()
            store.compact()
            assert store.health().status == "ok"


class Disk(FaultyFileSystem):
    """A disk with as much free space as one says."""

    free = 10_000_000

    def free_bytes(self, path: str) -> int | None:
        return self.free


class TestFreeSpace:
    def open(self, **options: Any) -> tuple[Disk, walkv.Store]:
        disk = Disk(SimulatedFileSystem(), threads=False)
        return disk, walkv.open("/s", filesystem=disk, min_free_bytes=1_000_000, **options)

    def test_puts_are_refused_and_the_rest_goes_on(self) -> None:
        disk, store = self.open()
        store.put(b"a", b"1")
        store.put(b"b", b"2")
        store.compact()  # the next put looks at the disk
        disk.free = 999_999
        with pytest.raises(DiskSpaceError) as caught:
            store.put(b"c", b"3")
        error = caught.value
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOSPC
        assert (error.path, error.free_bytes, error.min_free_bytes) == ("/s", 999_999, 1_000_000)
        assert str(error).startswith("/s: the disk has 999,999 bytes left")
        batch = store.batch()
        batch.put(b"c", bytes(5_000))
        batch.delete(b"a")
        with pytest.raises(DiskSpaceError):
            batch.commit()
        with pytest.raises(DiskSpaceError):
            store.transact(lambda transaction: transaction.put(b"c", b"3"))
        assert store.health().status == "degraded"
        assert "puts are refused" in store.health().reasons[0]
        assert dict(store.scan()) == {b"a": b"1", b"b": b"2"}
        store.delete(b"a")
        store.delete_range(prefix=b"x")
        with store.batch() as batch:
            batch.delete(b"b")
            batch.put(b"count", b"0")  # what goes with a deletion
        store.delete(b"count")
        with store.transaction() as transaction:
            transaction.delete(b"b")
        store.compact()
        assert store.stats().snapshot_bytes == 0
        disk.free = 2_000_000
        store.put(b"c", b"3")
        store.close()
        assert dict(walkv.open("/s", filesystem=disk).scan()) == {b"c": b"3"}

    def test_a_large_commit_is_looked_at_by_itself(self) -> None:
        disk, store = self.open()
        store.put(b"a", b"1")
        disk.free = 3_000_000
        store.put(b"small", bytes(1000))
        engine: Any = store.engine
        sync_count = engine.write_log.sync_count
        with pytest.raises(DiskSpaceError):
            store.put(b"large", bytes(2_500_000))
        batch = store.batch()
        for number in range(30):
            batch.put(b"%d" % number, bytes(100_000))
        with pytest.raises(DiskSpaceError):
            batch.commit()
        assert engine.write_log.sync_count == sync_count, "nothing was written, or taken back"
        assert store.count() == 2
        store.close()

    def test_it_is_looked_at_again_and_again(self) -> None:
        disk, store = self.open(sync=WriteBack(1e6, 1 << 40))

        def fill() -> None:
            for number in range(10_000):
                store.put(b"%d" % number, bytes(1000))
                disk.free -= 1_100

        with pytest.raises(DiskSpaceError):
            fill()
        assert disk.free > 500_000
        store.close()

    def test_tasks_are_refused_too(self) -> None:
        disk, store = self.open()
        disk.free = 0

        async def run() -> None:
            tasks = walkv.AsyncStore.of(store)
            with pytest.raises(DiskSpaceError):
                await tasks.put(b"a", b"1")
            await tasks.delete(b"a")
            with pytest.raises(DiskSpaceError):
                async with await tasks.transaction() as transaction:
                    transaction.put(b"a", b"1")

        asyncio.run(run())
        store.close()

    def test_messages_can_be_cleared(self) -> None:
        disk, store = self.open()
        agent = walkv.AgentStore(store)
        agent.sessions.create("s1", user_id="ada")
        for number in range(5):
            agent.messages.append("s1", role="user", content=f"message {number}")
        store.compact()
        disk.free = 0
        with pytest.raises(DiskSpaceError):
            agent.messages.append("s1", role="user", content="one more")
        agent.messages.clear("s1")
        agent.sessions.delete("s1")
        assert agent.messages.count() == agent.sessions.count() == 0
        assert agent.verify() == []
        store.close()

    def test_who_made_sure_of_room_need_not_wait_for_it(self) -> None:
        """Short transactions hold the lock from their first read to their commit."""
        _, store = self.open(sync=WriteBack(1e6, 1 << 40), memtable_bytes=4 << 20)
        engine: Any = store.engine
        waits = 0

        def wait() -> bool:
            nonlocal waits
            waits += 1
            return False

        engine._wait_for_room = wait
        with engine.commit_lock:
            for number in range(100):
                engine.ensure_room()
                before = waits
                engine._budget_at, engine._checked_to = 1 << 20, 0
                # The pace of a flush that goes on is slower now.
                engine.memtable_bytes = engine._memtable.bytes_used
                engine.append([b"%d" % number, bytes(8000)])
                assert waits == before, "it let go of the lock"
                engine.memtable_bytes = 4 << 20
                engine._set_room()
        store.close()

    def test_the_error_can_be_sent_elsewhere(self) -> None:
        error = DiskSpaceError("full", path="/s", free_bytes=1, min_free_bytes=2)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.free_bytes, again.min_free_bytes) == (str(error), 1, 2)

    def test_a_disk_that_does_not_tell(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status = os.statvfs(tmp_path)
        nothing = os.statvfs_result([status.f_bsize, status.f_frsize, *[0] * 8])
        monkeypatch.setattr(os, "statvfs", lambda path: nothing)
        with walkv.open(tmp_path / "s") as store:
            store.put(b"a", b"1")
            assert store.stats().free_bytes is None
            assert store.health().status == "ok"

    def test_no_floor(self) -> None:
        disk = Disk(SimulatedFileSystem(), threads=False)
        disk.free = 0
        with walkv.open("/s", filesystem=disk, min_free_bytes=0) as store:
            store.put(b"a", b"1")

    def test_a_floor_is_not_negative(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="min_free_bytes must be 0 or more"):
            walkv.open(tmp_path / "s", min_free_bytes=-1)


class TestSlow:
    def test_a_slow_sync_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        clock = ManualClock()

        class SlowDisk(FaultyFileSystem):
            def check(self, operation: str, path: str) -> OSError | None:
                if operation == "sync_data":
                    clock.advance(0.75)
                return super().check(operation, path)

        disk = SlowDisk(SimulatedFileSystem(clock=clock), clock=clock, threads=False)
        with walkv.open("/s", filesystem=disk, slow_seconds=0.7) as store:
            with caplog.at_level(logging.WARNING, "walkv.slow"):
                store.put(b"a", b"1")
            assert [r.name for r in caplog.records] == ["walkv.slow"]
            assert "a sync of the log took 0.750 s" in caplog.text
        caplog.clear()
        with walkv.open("/s", filesystem=disk, slow_seconds=0.8) as store:
            store.put(b"a", b"1")
        assert not caplog.records

    def test_a_listener_may_write_to_the_store(self, tmp_path: Path) -> None:
        """It is told when no lock is held."""
        store = walkv.open(tmp_path / "s", slow_seconds=1e-9)

        class Keeping(logging.Handler):
            count = 0

            def emit(self, record: logging.LogRecord) -> None:
                self.count += 1  # and each of these is slow as well
                store.put(b"log", record.getMessage().encode())

        listener = Keeping()
        logging.getLogger("walkv.slow").addHandler(listener)
        try:
            writing = threading.Thread(target=lambda: store.put(b"a", b"1"), daemon=True)
            writing.start()
            writing.join(30)
            assert not writing.is_alive(), "it waits for itself"
        finally:
            logging.getLogger("walkv.slow").removeHandler(listener)
        assert b"a sync of the log took" in store[b"log"]
        store.close()

    def test_the_bound_is_above_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="slow_seconds must be above 0"):
            walkv.open(tmp_path / "s", slow_seconds=0)


def test_the_logger_is_quiet_by_default() -> None:
    code = "import logging, walkv; logging.getLogger('walkv').error('nobody sees this')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
