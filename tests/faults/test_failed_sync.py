"""After a failed sync the store stops, says so to everybody, and tries nothing again."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import walkv
from walkv import StoreFailedError, Wal, WriteBack, WriteThrough
from walkv.testing import Call, Fault, FaultyFileSystem
from walkv.testing.faults import SYNCS


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def is_log_sync(call: Call) -> bool:
    return call.operation == "sync_data" and call.path.endswith(".wal")


@pytest.mark.parametrize("threads", [False, True])
def test_everything_raises_and_nothing_is_synced_again(tmp_path: Path, threads: bool) -> None:
    fs = FaultyFileSystem(threads=threads)
    store = walkv.open(tmp_path / "s", filesystem=fs)
    store.put(b"kept", b"1")
    view = store.view()
    fs.fault = Fault(is_log_sync)
    with pytest.raises(StoreFailedError) as caught:
        store.put(b"lost", b"2")
    cause = caught.value.__cause__
    assert cause is fs.raised[0]
    first = fs.failed_calls[0].number
    for attempt in (
        lambda: store.put(b"x", b"y"),
        lambda: store.put(b"x", b"y", sync=WriteBack()),
        lambda: store.put(b"x", b"y", sync=WriteThrough()),
        lambda: store.delete(b"x"),
        lambda: store.delete_range(b"x"),
        lambda: store.get(b"kept"),
        lambda: list(store.scan()),
        lambda: view.get(b"kept"),
        store.sync,
        store.compact,
        store.transaction,
        store.stats,
        store.verify,
    ):
        with pytest.raises(StoreFailedError) as again:
            attempt()
        assert again.value.__cause__ is cause
    with pytest.raises(StoreFailedError), store.batch() as batch:
        batch.put(b"x", b"y")
    with contextlib.suppress(StoreFailedError):
        store.close()
    assert [c for c in fs.calls[first + 1 :] if c.operation in SYNCS | {"write", "truncate"}] == []
    with walkv.open(tmp_path / "s") as reopened:
        assert reopened[b"kept"] == b"1"


def test_every_waiter_of_a_group_is_told(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    store = walkv.open(tmp_path / "s", filesystem=fs)
    gate = threading.Event()
    waiting = threading.Barrier(9)

    def slow(call: Call) -> None:
        if is_log_sync(call):
            gate.wait(60)

    told: list[BaseException | None] = [None] * 8
    fs.before = slow
    fs.fault = Fault(is_log_sync)

    def commit(number: int) -> None:
        waiting.wait()
        try:
            store.put(b"%d" % number, b"x")
        except BaseException as error:  # noqa: BLE001  # looked at below
            told[number] = error

    threads = [threading.Thread(target=commit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    waiting.wait()
    gate.set()
    for thread in threads:
        thread.join()
    assert [type(error) for error in told] == [StoreFailedError] * 8
    assert {id(error.__cause__) for error in told if error is not None} == {id(fs.raised[0])}
    assert sum(map(is_log_sync, fs.calls)) == 1
    fs.kill()


def test_close_says_that_a_background_sync_had_failed(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    store = walkv.open(tmp_path / "s", sync=WriteBack(interval_seconds=0.01), filesystem=fs)
    failed = threading.Event()

    def notice(call: Call) -> None:
        if is_log_sync(call):
            failed.set()

    fs.before = notice
    fs.fault = Fault(is_log_sync)
    store.put(b"a", b"1")
    assert failed.wait(60)
    with pytest.raises(StoreFailedError) as caught:
        store.close()
    assert caught.value.__cause__ is fs.raised[0]
    store.close()
    fs.heal()
    walkv.open(tmp_path / "s", filesystem=fs).close()


@pytest.mark.parametrize("name", [".snap", "MANIFEST.tmp", "snapshots", ".wal"])
@pytest.mark.parametrize("policy", [Wal(), WriteBack()], ids=["Wal", "WriteBack"])
def test_close_says_that_one_of_its_own_syncs_failed(
    tmp_path: Path, name: str, policy: Wal | WriteBack
) -> None:
    fs = FaultyFileSystem(threads=False)
    store = walkv.open(tmp_path / "s", sync=policy, filesystem=fs)
    for number in range(400):
        store.put(b"%03d" % number, bytes(1_000), sync=WriteBack())
    fs.fault = Fault(lambda call: call.operation in SYNCS and call.path.endswith(name))
    with pytest.raises(StoreFailedError) as caught:
        store.close()
    assert caught.value.__cause__ is fs.raised[0]
    first = fs.failed_calls[0].number
    assert [call for call in fs.calls[first + 1 :] if call.operation in SYNCS] == []
    assert store.closed
    with walkv.open(tmp_path / "s") as reopened:
        assert reopened.count() == 400


def put_until_told(store: walkv.Store, first: int) -> tuple[int, BaseException | None]:
    """Put numbered keys until one fails: its number, and the error."""
    for number in range(first, first + 1_000):
        try:
            store.put(b"%04d" % number, bytes(500))
        except Exception as error:  # noqa: BLE001  # looked at by the caller
            return number, error
    return first + 1_000, None


def test_a_failing_flush_reaches_the_writer_as_an_error_of_the_store(tmp_path: Path) -> None:
    # First the snapshot cannot be created, which costs nobody anything; then it cannot be synced.
    fs = FaultyFileSystem(threads=False)
    store = walkv.open(tmp_path / "s", memtable_bytes=65_536, filesystem=fs)

    def is_snapshot(operation: str, call: Call) -> bool:
        return call.operation == operation and call.path.endswith(".snap")

    fs.fault = Fault(lambda call: is_snapshot("create", call))
    number = 0
    while not fs.raised:
        store.put(b"%04d" % number, bytes(500))
        number += 1
    fs.heal()
    fs.fault = Fault(lambda call: is_snapshot("sync", call))
    number, error = put_until_told(store, number)
    assert type(error) is StoreFailedError
    assert error.__cause__ is fs.raised[1]
    fs.kill()
    with walkv.open(tmp_path / "s") as reopened:
        assert reopened.count() == number


@pytest.mark.parametrize("threads", [False, True])
def test_a_writer_is_told_when_there_is_no_space_for_its_memory(
    tmp_path: Path, threads: bool
) -> None:
    fs = FaultyFileSystem(threads=threads)
    store = walkv.open(tmp_path / "s", memtable_bytes=65_536, filesystem=fs)
    fs.fault = Fault(
        lambda call: call.operation == "create" and call.path.endswith(".snap"),
        errno.ENOSPC,
        forever=True,
        operations=frozenset(("create",)),
    )
    acknowledged, error = put_until_told(store, 0)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert "everything before it is kept" in str(error)
    # Told after a few attempts, not after thousands in a loop.
    assert len(fs.failed_calls) < 100
    fs.heal()
    for number in range(acknowledged, acknowledged + 300):
        store.put(b"%04d" % number, bytes(500))
    store.close()
    with walkv.open(tmp_path / "s") as reopened:
        assert reopened.count() == acknowledged + 300
