"""Many threads on one store while it rotates, flushes and merges."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import walkv
from walkv import ConflictError, Store, Wal, WriteBack

MEMTABLE_BYTES = 65_536


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def together(*workers: Callable[[], None]) -> None:
    """Run them in threads; the first error of any is raised here."""
    errors: list[BaseException] = []

    def guarded(worker: Callable[[], None]) -> None:
        try:
            worker()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = walkv.open(tmp_path / "s", sync=WriteBack(), memtable_bytes=MEMTABLE_BYTES)
    yield opened
    opened.close()


def test_counters_of_transactions_are_exact(store: Store, tmp_path: Path) -> None:
    def work(seed: int) -> Callable[[], None]:
        def run() -> None:
            chooser = random.Random(seed)
            for _ in range(150):
                name = b"counter/%d" % chooser.randrange(3)

                def add(transaction: walkv.Transaction, name: bytes = name) -> None:
                    transaction.put(name, b"%d" % (int(transaction.get(name, b"0")) + 1))
                    transaction.put(b"total", b"%d" % (int(transaction.get(b"total", b"0")) + 1))
                    transaction.put(b"filler/%d" % chooser.randrange(50), b"x" * 900)

                store.transact(add, retries=10_000)

        return run

    together(*(work(seed) for seed in range(4)))
    assert int(store[b"total"]) == 600
    assert sum(int(value) for _, value in store.scan(b"counter/")) == 600
    assert store.stats().flush_count > 0
    store.close()
    with walkv.open(tmp_path / "s") as reopened:
        assert int(reopened[b"total"]) == 600


def test_money_is_neither_made_nor_lost(store: Store) -> None:
    accounts = [b"account/%02d" % number for number in range(10)]
    with store.batch() as batch:
        for account in accounts:
            batch.put(account, b"100")
    done = threading.Event()

    def transfer(seed: int) -> Callable[[], None]:
        def run() -> None:
            chooser = random.Random(seed)
            for _ in range(200):
                source, target = chooser.sample(accounts, 2)

                def move(
                    transaction: walkv.Transaction, source: bytes = source, target: bytes = target
                ) -> None:
                    have = int(transaction[source])
                    amount = min(have, 7)
                    transaction.put(source, b"%d" % (have - amount))
                    transaction.put(target, b"%d" % (int(transaction[target]) + amount))

                store.transact(move, retries=10_000)
                store.put(b"filler/%d" % chooser.randrange(99), b"x" * 700)

        return run

    def watch() -> None:
        while not done.is_set():
            assert sum(int(value) for _, value in store.scan(b"account/")) == 1000
            assert sum(int(value or b"0") for value in store.get_many(accounts)) == 1000
            with store.view() as view:
                assert sum(int(view[account]) for account in accounts) == 1000

    watcher = threading.Thread(target=watch)
    errors: list[BaseException] = []
    watcher.run = lambda: guarded(watch, errors)  # type: ignore[method-assign]
    watcher.start()
    together(*(transfer(seed) for seed in range(3)))
    done.set()
    watcher.join()
    assert errors == []


def guarded(worker: Callable[[], None], errors: list[BaseException]) -> None:
    try:
        worker()
    except BaseException as error:  # noqa: BLE001  # looked at by the caller
        errors.append(error)


def test_readers_see_whole_batches_and_never_miss_data(store: Store) -> None:
    # Every batch writes one number under all its keys, and deletes and puts back a range; keys that
    # are only ever overwritten are never absent, while memtables become snapshots below them.
    keys = [b"set/%02d" % number for number in range(12)]
    with store.batch() as batch:
        for key in keys:
            batch.put(key, b"0")
        batch.put(b"always", b"0")
    done = threading.Event()

    def write() -> None:
        for number in range(1, 200):
            with store.batch() as batch:
                if number % 2:
                    batch.delete_range(b"set/")
                for key in keys:
                    batch.put(key, b"%d" % number)
                batch.put(b"filler/%d" % (number % 40), bytes([number % 256]) * 1_500)
            store.put(b"always", b"%d" % number)
        done.set()

    def finish() -> None:
        try:
            write()
        finally:
            done.set()

    def read_whole() -> None:
        last = 0
        while not done.is_set():
            values = set(store.get_many(keys))
            assert len(values) == 1, values
            number = int(values.pop() or b"-1")
            assert number >= last, "time went backwards"
            last = number
            found = list(store.scan(b"set/"))
            assert [key for key, _ in found] == keys
            assert len({value for _, value in found}) == 1

    def read_one() -> None:
        last = 0
        while not done.is_set():
            assert store.get(keys[5]) is not None
            number = int(store[b"always"])
            assert number >= last
            last = number

    def compact() -> None:
        while not done.is_set():
            store.compact()

    together(finish, read_whole, read_whole, read_one, compact)
    assert store.stats().flush_count > 3
    assert store.verify().ok


def test_each_thread_reads_its_own_writes(store: Store, tmp_path: Path) -> None:
    def work(number: int) -> Callable[[], None]:
        def run() -> None:
            chooser = random.Random(number)
            mine: dict[bytes, bytes] = {}
            for step in range(400):
                key = b"%d/%02d" % (number, chooser.randrange(40))
                value = b"%d" % step + b"x" * chooser.randrange(900)
                policy = Wal() if step % 50 == 0 else None
                if chooser.random() < 0.2:
                    store.delete(key, sync=policy)
                    mine.pop(key, None)
                else:
                    store.put(key, value, sync=policy)
                    mine[key] = value
                assert store.get(key) == mine.get(key)
                if step % 40 == 0:
                    assert dict(store.scan(b"%d/" % number)) == mine
            everything[number] = mine

        return run

    everything: dict[int, dict[bytes, bytes]] = {}
    together(*(work(number) for number in range(6)))
    expected = {key: value for mine in everything.values() for key, value in mine.items()}
    assert dict(store.scan()) == expected
    store.close()
    with walkv.open(tmp_path / "s") as reopened:
        assert dict(reopened.scan()) == expected


def test_one_of_many_compare_and_sets_wins(store: Store) -> None:
    wins: list[int] = []

    def work(number: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(60):
                try:
                    store.put(b"turn/%d" % turn, b"%d" % number, expected=None)
                except ConflictError:
                    continue
                wins.append(turn)

        return run

    together(*(work(number) for number in range(6)))
    assert sorted(wins) == list(range(60))


def test_verify_and_followers_beside_writers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = walkv.open(path, memtable_bytes=1 << 20)
    done = threading.Event()

    def write(number: int) -> Callable[[], None]:
        def run() -> None:
            try:
                for step in range(500):
                    store.put(b"%d/%04d" % (number, step), b"v" * 60)
            finally:
                done.set()

        return run

    def verify() -> None:
        while not done.is_set():
            report = store.verify()
            assert report.ok, report.problems

    def follow() -> None:
        with walkv.open(path, read_only=True) as reader:
            seen = 0
            while not done.is_set():
                reader.refresh()
                count = reader.count()
                assert count >= seen
                seen = count
                for number in range(2):
                    keys = list(reader.scan(b"%d/" % number, keys_only=True))
                    assert keys == [b"%d/%04d" % (number, step) for step in range(len(keys))]

    def reopen() -> None:
        while not done.is_set():
            with walkv.open(path, read_only=True) as reader:
                assert reader.verify().ok

    together(write(0), write(1), verify, follow, reopen)
    store.close()


def test_close_beside_writers(tmp_path: Path) -> None:
    for attempt in range(10):
        path = tmp_path / f"s{attempt}"
        store = walkv.open(path, memtable_bytes=MEMTABLE_BYTES)
        counts = [0] * 4
        begun = threading.Barrier(5)

        def write(
            number: int,
            store: Store = store,
            counts: list[int] = counts,
            begun: threading.Barrier = begun,
        ) -> Callable[[], None]:
            def run() -> None:
                begun.wait()
                try:
                    while True:
                        store.put(b"%d/%06d" % (number, counts[number]), b"x" * 300)
                        counts[number] += 1
                except walkv.ClosedError:
                    return

            return run

        def close(
            store: Store = store, counts: list[int] = counts, begun: threading.Barrier = begun
        ) -> None:
            begun.wait()
            while min(counts) < 20:
                pass
            store.close()

        together(close, *(write(number) for number in range(4)))
        with walkv.open(path) as reopened:
            assert reopened.recovery_report.clean
            for number in range(4):
                found = reopened.count(b"%d/" % number)
                assert counts[number] <= found <= counts[number] + 1
