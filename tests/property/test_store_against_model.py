"""The store against a dict, under every call there is, with crashes.

Without threads, with a memtable of a few entries, on a file system in memory: whatever fails here
fails again.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

import walkv
from walkv import ConflictError, Store, Wal, WriteBack, WriteThrough, limits
from walkv.engine import wal
from walkv.testing import ManualClock, SimulatedFileSystem

PATH = "/s.walkv"
KEYS = st.binary(min_size=1, max_size=3).map(lambda key: bytes(b % 3 + 97 for b in key))
VALUES = st.one_of(st.binary(max_size=6), st.integers(0, 255).map(lambda byte: bytes([byte]) * 600))
BOUNDS = st.one_of(st.none(), KEYS, st.just(b""))
POLICIES = st.sampled_from([None, Wal(), WriteThrough(), WriteBack(interval_seconds=2.0)])

Entry = tuple[bytes, int | None]
"""Value, and the ms since 1970 from which on it is absent."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits, "MIN_MEMTABLE_BYTES", 1)
    monkeypatch.setattr(wal, "_AHEAD", bytes(300))
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Model:
    """What the store should hold."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}

    def copy(self) -> Model:
        twin = Model()
        twin.entries = dict(self.entries)
        return twin

    def live(self, now_ms: int) -> dict[bytes, bytes]:
        return {
            key: value
            for key, (value, expiry) in sorted(self.entries.items())
            if expiry is None or expiry > now_ms
        }

    def apply(self, operations: list[tuple[Any, ...]], now_ms: int) -> None:
        for kind, *arguments in operations:
            if kind == "put":
                key, value, ttl = arguments
                expiry = None if ttl is None else now_ms + max(1, round(ttl * 1000))
                self.entries[key] = (value, expiry)
            elif kind == "delete":
                self.entries.pop(arguments[0], None)
            else:
                start, stop = arguments
                for key in [k for k in self.entries if within(k, start, stop)]:
                    del self.entries[key]


def within(key: bytes, start: bytes | None, stop: bytes | None) -> bool:
    return (start is None or key >= start) and (stop is None or key < stop)


def collect(target: Any, operations: list[tuple[Any, ...]]) -> None:
    """Put operations into a batch or a transaction."""
    for kind, *arguments in operations:
        if kind == "put":
            target.put(arguments[0], arguments[1], ttl_seconds=arguments[2])
        elif kind == "delete":
            target.delete(arguments[0])
        else:
            target.delete_range(start=arguments[0], stop=arguments[1])


PUTS = st.tuples(st.just("put"), KEYS, VALUES, st.one_of(st.none(), st.sampled_from([0.5, 3.0])))
DELETES = st.tuples(st.just("delete"), KEYS)
RANGES = st.tuples(st.just("range"), KEYS, st.one_of(st.none(), KEYS))
OPERATIONS = st.lists(st.one_of(PUTS, PUTS, DELETES, RANGES), min_size=1, max_size=5)


class StoreMachine(RuleBasedStateMachine):
    """Rules call the store and the model alike; invariants compare them."""

    views = Bundle("views")
    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.fs = SimulatedFileSystem(clock=self.clock)
        self.model = Model()
        # The states since the last one known to be durable: what a power failure may leave.
        self.history: list[Model] = [self.model.copy()]
        self.open_views: list[tuple[walkv.View, Model]] = []
        self.reader: Store | None = None
        self.versions: dict[bytes, int] = {}
        self.generation = 0

    @initialize(policy=POLICIES, memtable_bytes=st.sampled_from([1_500, 4_000, 20_000]))
    def begin(self, policy: Any, memtable_bytes: int) -> None:
        self.policy = policy or Wal()
        self.memtable_bytes = memtable_bytes
        self.store = self.open()

    def open(self) -> Store:
        return walkv.open(
            PATH,
            sync=self.policy,
            memtable_bytes=self.memtable_bytes,
            cache_bytes=20_000,
            filesystem=self.fs,
        )

    @property
    def now_ms(self) -> int:
        return self.clock.wall_ns // 1_000_000

    def live(self) -> dict[bytes, bytes]:
        return self.model.live(self.now_ms)

    def committed(self, operations: list[tuple[Any, ...]], policy: Any) -> None:
        self.model.apply(operations, self.now_ms)
        self.history.append(self.model.copy())
        if type(policy or self.policy) is not WriteBack:
            self.durable()

    def durable(self) -> None:
        del self.history[:-1]

    # -- writes ----------------------------------------------------------------------------------

    @rule(key=KEYS, value=VALUES, policy=POLICIES)
    def put(self, key: bytes, value: bytes, policy: Any) -> None:
        version = self.store.put(key, value, sync=policy)
        assert self.store.get_versioned(key) == (value, version)
        self.committed([("put", key, value, None)], policy)

    @rule(key=KEYS, value=VALUES, ttl=st.sampled_from([0.001, 0.5, 3.0, 100.0]))
    def put_that_expires(self, key: bytes, value: bytes, ttl: float) -> None:
        self.store.put(key, value, ttl_seconds=ttl)
        self.committed([("put", key, value, ttl)], None)

    @rule(key=KEYS, policy=POLICIES)
    def delete(self, key: bytes, policy: Any) -> None:
        self.store.delete(key, sync=policy)
        assert key not in self.store
        self.committed([("delete", key)], policy)

    @rule(start=KEYS, stop=st.one_of(st.none(), KEYS), policy=POLICIES)
    def delete_range(self, start: bytes, stop: bytes | None, policy: Any) -> None:
        self.store.delete_range(start=start, stop=stop, sync=policy)
        self.committed([("range", start, stop)], policy)

    @rule(operations=OPERATIONS, policy=POLICIES)
    def batch(self, operations: list[tuple[Any, ...]], policy: Any) -> None:
        with self.store.batch(policy) as batch:
            collect(batch, operations)
        self.committed(operations, policy)

    @rule(operations=OPERATIONS)
    def discarded_batch(self, operations: list[tuple[Any, ...]]) -> None:
        with contextlib.suppress(ZeroDivisionError), self.store.batch() as batch:
            collect(batch, operations)
            raise ZeroDivisionError

    @rule(key=KEYS, value=VALUES)
    def compare_and_set(self, key: bytes, value: bytes) -> None:
        _, version = self.store.get_versioned(key)
        assert (version is None) == (key not in self.live())
        new = self.store.put(key, value, expected=version)
        assert version is None or new > version
        self.committed([("put", key, value, None)], None)

    @rule(key=KEYS, off_by=st.sampled_from([-1, 1, 1000]))
    def wrong_compare_and_set(self, key: bytes, off_by: int) -> None:
        _, version = self.store.get_versioned(key)
        wrong = 5 if version is None else version + off_by
        with pytest.raises(ConflictError) as caught:
            self.store.put(key, b"never", expected=wrong)
        assert (caught.value.expected_version, caught.value.actual_version) == (wrong, version)
        if version is not None:
            with pytest.raises(ConflictError):
                self.store.delete(key, expected=None)

    # -- transactions ----------------------------------------------------------------------------

    @rule(reads=st.lists(KEYS, max_size=3), start=BOUNDS, operations=OPERATIONS)
    def transact(
        self, reads: list[bytes], start: bytes | None, operations: list[tuple[Any, ...]]
    ) -> None:
        with self.store.transaction() as transaction:
            live = self.live()
            assert transaction.get_many(reads) == [live.get(key) for key in reads]
            collect(transaction, operations)
            after = self.model.copy()
            after.apply(operations, self.now_ms)
            expected = [
                (k, v) for k, v in after.live(self.now_ms).items() if within(k, start, None)
            ]
            assert list(transaction.scan(start=start)) == expected
        self.committed(operations, None)

    @rule(target=transactions, reads=st.lists(KEYS, min_size=1, max_size=2), bounds=BOUNDS)
    def begin_transaction(self, reads: list[bytes], bounds: bytes | None) -> Any:
        transaction = self.store.transaction()
        transaction.get_many(reads)
        ranges = []
        if bounds is not None:
            list(transaction.scan(start=bounds, stop=bounds + b"c"))
            ranges.append((bounds, bounds + b"c"))
        transaction.put(b"own", b"1")
        return transaction, reads, ranges, self.live(), self.generation, self.store

    @rule(begun=consumes(transactions))
    def end_transaction(self, begun: Any) -> None:
        transaction, reads, ranges, then, generation, store = begun
        if generation != self.generation or store is not self.store:
            transaction.discard()
            return
        now = self.live()

        def read(state: dict[bytes, bytes]) -> object:
            inside = [[i for i in state.items() if within(i[0], *bounds)] for bounds in ranges]
            return [state.get(key) for key in reads], inside

        try:
            transaction.commit()
        except ConflictError:
            return  # also right where a key was written again with the value it had
        assert read(then) == read(now), "committed although what it had read had changed"
        self.committed([("put", b"own", b"1", None)], None)

    @rule(key=KEYS, value=VALUES)
    def conflict(self, key: bytes, value: bytes) -> None:
        transaction = self.store.transaction()
        transaction.get(key)
        transaction.put(b"own", b"never")
        self.put(key, value, None)
        with pytest.raises(ConflictError):
            transaction.commit()

    @rule(start=KEYS, value=VALUES)
    def phantom(self, start: bytes, value: bytes) -> None:
        transaction = self.store.transaction()
        transaction.count(start=start)
        transaction.put(b"own", b"never")
        self.put(start + b"b", value, None)
        with pytest.raises(ConflictError):
            transaction.commit()

    # -- reads -----------------------------------------------------------------------------------

    @rule(
        start=BOUNDS,
        stop=BOUNDS,
        reverse=st.booleans(),
        limit=st.one_of(st.none(), st.integers(0, 6)),
    )
    def scan(
        self, start: bytes | None, stop: bytes | None, reverse: bool, limit: int | None
    ) -> None:
        live = self.live()
        expected = [item for item in live.items() if within(item[0], start, stop)]
        assert self.store.count(start=start, stop=stop) == len(expected)
        expected = expected[::-1] if reverse else expected
        expected = expected[:limit]
        options: Any = {"start": start, "stop": stop, "reverse": reverse, "limit": limit}
        assert list(self.store.scan(**options)) == expected
        assert list(self.store.scan(**options, keys_only=True)) == [key for key, _ in expected]

    @rule(prefix=KEYS, reverse=st.booleans())
    def scan_prefix(self, prefix: bytes, reverse: bool) -> None:
        expected = [item for item in self.live().items() if item[0].startswith(prefix)]
        found = list(self.store.scan(prefix, reverse=reverse))
        assert found == (expected[::-1] if reverse else expected)

    @rule(keys=st.lists(KEYS, max_size=5))
    def get_many(self, keys: list[bytes]) -> None:
        live = self.live()
        assert self.store.get_many(keys) == [live.get(key) for key in keys]
        assert [self.store.get(key, b"none") for key in keys] == [
            live.get(key, b"none") for key in keys
        ]

    @rule(key=KEYS, value=VALUES)
    def scan_while_writing(self, key: bytes, value: bytes) -> None:
        expected = list(self.live().items())
        entries = self.store.scan()
        found = [next(entries)] if expected else []
        self.put(key, value, None)
        self.store.delete_range(b"b")
        self.committed([("range", b"b", b"c")], None)
        assert [*found, *entries] == expected

    @precondition(lambda self: len(self.open_views) < 4)
    @rule(target=views)
    def view(self) -> Any:
        pair = (self.store.view(), self.model.copy())
        self.open_views.append(pair)
        return pair

    @rule(pair=consumes(views))
    def close_view(self, pair: Any) -> None:
        pair[0].close()
        self.open_views = [p for p in self.open_views if p is not pair]
        with pytest.raises(walkv.WalkvError):
            pair[0].get(b"a")

    # -- the store itself ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.durable()

    @rule()
    def compact(self) -> None:
        self.store.compact()
        self.durable()
        if not self.open_views:
            assert self.store.stats().snapshot_count <= 1

    @rule()
    def verify(self) -> None:
        report = self.store.verify()
        assert report.ok, report.problems

    def gone(self) -> None:
        self.open_views = []
        self.reader = None
        self.generation += 1

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.durable()
        self.gone()
        self.store = self.open()
        assert self.store.recovery_report.clean

    @rule()
    def kill(self) -> None:
        self.fs, old = self.fs.after_kill(), self.fs
        old.kill()
        self.gone()
        self.clock = self.fs.clock
        self.store = self.open()
        self.durable()

    @rule(seed=st.integers(0, 1 << 20))
    def lose_power(self, seed: int) -> None:
        chooser = random.Random(seed)
        disk = chooser.choice(list(self.fs.crash_states(chooser)))
        self.fs.kill()
        wall_ns = self.clock.wall_ns
        self.fs = SimulatedFileSystem.after_power_failure(disk, seed=seed)
        self.clock = self.fs.clock
        self.clock.wall_ns = wall_ns
        self.gone()
        self.store = self.open()
        found = dict(self.store.scan())
        for model in reversed(self.history):
            if model.live(self.now_ms) == found:
                break
        else:
            raise AssertionError("no prefix of the commits since the last durable one")
        self.model = model.copy()
        self.history = [model.copy()]

    @rule()
    def follow(self) -> None:
        if self.reader is None:
            self.reader = walkv.open(PATH, read_only=True, filesystem=self.fs)
        before = self.fs.operation_count
        self.reader.refresh()
        assert dict(self.reader.scan()) == self.live()
        assert list(self.reader.scan(reverse=True)) == list(self.live().items())[::-1]
        assert not self.reader.refresh()
        assert self.fs.operation_count == before, "a read-only store has written"

    # -- always ----------------------------------------------------------------------------------

    @invariant()
    def same_as_model(self) -> None:
        if hasattr(self, "store"):
            assert dict(self.store.scan()) == self.live()

    @invariant()
    def views_stand_still(self) -> None:
        for view, model in self.open_views:
            live = model.live(self.now_ms)
            assert dict(view.scan()) == live
            assert list(view.scan(reverse=True)) == list(live.items())[::-1]
            for key in (b"a", b"ab", b"own"):
                assert view.get(key) == live.get(key)


@pytest.mark.parametrize("steps", [50])
def test_the_store_is_a_dict(steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=300,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
