"""Commits that wait together share a sync, and none returns before one that covers it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import walkv
from walkv import StoreFailedError, Wal, WriteThrough
from walkv.testing import Call, Fault, FaultyFileSystem


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class SyncRecorder:
    """Numbers every write and sync of the log in one order, and makes syncs slow.

    Attributes:
        began: for each sync that is over, the tick at which it began.
    """

    def __init__(self, fs: FaultyFileSystem, seconds: float = 0.004) -> None:
        self._lock = threading.Lock()
        self._tick = 0
        self._seconds = seconds
        self.began: list[int] = []
        self._pause = threading.Event()
        self._wrap(fs)

    def tick(self) -> int:
        with self._lock:
            self._tick += 1
            return self._tick

    def newest_begin(self) -> int:
        """When the newest sync that is over began."""
        with self._lock:
            return max(self.began, default=0)

    def _wrap(self, fs: FaultyFileSystem) -> None:
        recorder = self
        opened, created = fs.open, fs.create

        def wrap(file: object) -> object:
            sync_data = file.sync_data  # type: ignore[attr-defined]  # a File

            def slow() -> None:
                began = recorder.tick()
                recorder._pause.wait(recorder._seconds)
                sync_data()
                with recorder._lock:
                    recorder.began.append(began)

            file.sync_data = slow  # type: ignore[attr-defined]  # a File
            return file

        fs.open = lambda path, *, writable=False: wrap(  # type: ignore[method-assign, assignment, return-value]
            opened(path, writable=writable)
        )
        fs.create = lambda path: wrap(created(path))  # type: ignore[method-assign, assignment, return-value]


@pytest.mark.parametrize("policy", [Wal(), WriteThrough()], ids=["Wal", "WriteThrough"])
def test_no_commit_returns_before_a_sync_that_began_after_its_write(
    tmp_path: Path, policy: Wal | WriteThrough
) -> None:
    fs = FaultyFileSystem()
    recorder = SyncRecorder(fs)
    written = threading.local()

    def note(call: Call) -> None:
        # In the thread that commits, before its write; a sync that began before is too early.
        if call.operation == "write" and call.path.endswith(".wal"):
            written.tick = recorder.tick()

    fs.before = note
    store = walkv.open(tmp_path / "s", sync=policy, filesystem=fs)
    before = len(recorder.began)
    early: list[tuple[int, int]] = []
    threads_count, commits = (32, 6) if type(policy) is Wal else (8, 4)

    def work(number: int) -> None:
        for step in range(commits):
            store.put(b"%d/%d" % (number, step), b"x")
            if recorder.newest_begin() <= written.tick:
                early.append((number, step))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    syncs = len(recorder.began) - before
    assert early == []
    total = threads_count * commits
    if type(policy) is Wal:
        assert syncs < total / 3, "the group does not share its syncs"
    else:
        assert syncs >= total, "every write-through commit has a sync of its own"
    store.close()


def test_tasks_share_syncs_and_wait_for_them(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    recorder = SyncRecorder(fs)
    ticks: list[int] = []

    def note(call: Call) -> None:
        if call.operation == "write" and call.path.endswith(".wal"):
            ticks.append(recorder.tick())

    fs.before = note

    async def main() -> int:
        store = await walkv.aopen(tmp_path / "s", filesystem=fs)
        before = len(recorder.began)
        early = 0

        async def work(number: int) -> None:
            nonlocal early
            for step in range(5):
                # The append is done before ``put`` first waits, so its write is the next one.
                position = len(ticks)
                await store.put(b"%d/%d" % (number, step), b"x")
                early += recorder.newest_begin() <= ticks[position]

        await asyncio.gather(*(work(number) for number in range(32)))
        assert early == 0
        syncs = len(recorder.began) - before
        await store.close()
        return syncs

    assert asyncio.run(main()) < 160 / 3


@pytest.mark.parametrize("face", ["threads", "tasks"])
def test_a_failing_sync_reaches_the_whole_group(tmp_path: Path, face: str) -> None:
    fs = FaultyFileSystem()
    SyncRecorder(fs, seconds=0.05)
    told: list[BaseException | None] = []

    def fail() -> None:
        fs.fault = Fault(lambda call: call.operation == "sync_data")

    if face == "threads":
        store = walkv.open(tmp_path / "s", filesystem=fs)
        store.put(b"kept", b"1")
        fail()

        def work(number: int) -> None:
            try:
                store.put(b"%d" % number, b"x")
            except BaseException as error:  # noqa: BLE001  # looked at below
                told.append(error)
            else:
                told.append(None)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:

        async def main() -> None:
            store = await walkv.aopen(tmp_path / "s", filesystem=fs)
            await store.put(b"kept", b"1")
            fail()
            puts = [store.put(b"%d" % number, b"x") for number in range(16)]
            told.extend(await asyncio.gather(*puts, return_exceptions=True))  # type: ignore[arg-type]
            try:
                await store.close()
            except StoreFailedError:
                return

        asyncio.run(main())
    assert [type(error) for error in told] == [StoreFailedError] * 16
    assert {id(error.__cause__) for error in told if error} == {id(fs.raised[0])}
    fs.kill()
    with walkv.open(tmp_path / "s") as reopened:
        assert reopened[b"kept"] == b"1"
