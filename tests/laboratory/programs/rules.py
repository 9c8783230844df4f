"""Rules for what a program does with a store: it reads, writes, and runs transactions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import precondition

from tests.laboratory.programs.loop import at_once, either
from tests.laboratory.programs.world import (
    CHOICES,
    FACES,
    KEYS,
    World,
    after_prefix,
    collect,
    empty,
    step,
    within,
)
from walkv import ClosedError, ConflictError, LimitError, StoreFailedError
from walkv.engine.policies import SyncPolicy
from walkv.testing import Operation

VALUES = st.one_of(
    st.sampled_from([b"", b"1", b"22", b"333"]),
    st.sampled_from(b"xyz").map(lambda b: bytes([b]) * 600),
)
BOUNDS = st.one_of(st.none(), KEYS, st.just(b""))
TTLS = st.sampled_from([0.001, 0.5, 3.0, 100.0])
PUTS = st.tuples(st.just("put"), KEYS, VALUES, st.one_of(st.none(), TTLS))
DELETES = st.tuples(st.just("delete"), KEYS)
RANGES = st.one_of(
    st.tuples(st.just("delete_range"), KEYS, st.one_of(st.none(), KEYS)),
    KEYS.map(lambda prefix: ("delete_range", prefix, after_prefix(prefix))),
)
OPERATIONS = st.lists(st.one_of(PUTS, PUTS, DELETES, RANGES), min_size=1, max_size=5)
LIMITS = st.one_of(st.none(), st.integers(0, 6))
Item = tuple[bytes, bytes]


def raises(
    kind: type[BaseException], call: Callable[..., object], *args: Any, **options: Any
) -> Any:
    """The error of a call that must raise one of this kind."""
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def chosen(live: dict[bytes, bytes], options: dict[str, Any]) -> list[Item]:
    """What a scan with these options should give."""
    prefix = options.get("prefix")
    if prefix is None:
        bounds = options.get("start"), options.get("stop")
        items = [item for item in live.items() if within(item[0], *bounds)]
    else:
        items = [item for item in live.items() if item[0].startswith(prefix)]
    if options.get("reverse"):
        items.reverse()
    return items[: options.get("limit")]


def check_reads(thing: Any, live: dict[bytes, bytes], keys: list[bytes], **options: Any) -> None:
    """All reads of a store, view or transaction agree with a dict."""
    assert thing.get_many(keys) == [live.get(key) for key in keys]
    for key in keys:
        assert thing.get(key) == live.get(key)
        assert thing.get(key, b"none") == live.get(key, b"none")
        assert (key in thing) == (key in live)
        value, version = thing.get_versioned(key)
        assert value == live.get(key)
        assert (version is None) == (value is None)
    expected = chosen(live, options)
    assert list(thing.scan(**options)) == expected
    assert list(thing.scan(**options, keys_only=True)) == [key for key, _ in expected]
    bounds: dict[str, Any] = {
        name: options[name] for name in ("prefix", "start", "stop") if name in options
    }
    assert thing.count(**bounds) == len(chosen(live, bounds))


def check_items(thing: Any, live: dict[bytes, bytes], key: bytes) -> None:
    """Item access, which the plain faces have."""
    if key in live:
        assert thing[key] == live[key]
    else:
        assert raises(KeyError, lambda: thing[key]).args == (key,)


SCANS = st.one_of(
    st.fixed_dictionaries({"prefix": BOUNDS, "reverse": FACES, "limit": LIMITS}),
    st.fixed_dictionaries({"start": BOUNDS, "stop": BOUNDS, "reverse": FACES, "limit": LIMITS}),
)


class Writes(World):
    """Commits of one or more operations."""

    @step(dangerous=True, key=KEYS, value=VALUES, policy=CHOICES, tasks=FACES)
    def put(self, key: bytes, value: bytes, policy: SyncPolicy | None, tasks: bool) -> None:
        self.put_one(key, value, policy, tasks)
        assert self.face(tasks).get_versioned(key) == (value, self.versions[key])

    @step(dangerous=True, key=KEYS, value=VALUES)
    def put_item(self, key: bytes, value: bytes) -> None:
        with self.committing([("put", key, value, None)]):
            self.store[key] = value

    @step(dangerous=True, key=KEYS, value=VALUES, ttl=TTLS, tasks=FACES)
    def put_that_expires(self, key: bytes, value: bytes, ttl: float, tasks: bool) -> None:
        with self.committing([("put", key, value, ttl)]) as told:
            told.append(self.face(tasks).put(key, value, ttl_seconds=ttl))

    @step(dangerous=True, key=KEYS, policy=CHOICES, tasks=FACES)
    def delete(self, key: bytes, policy: SyncPolicy | None, tasks: bool) -> None:
        with self.committing([("delete", key)], policy):
            sequence = self.face(tasks).delete(key, sync=policy)
            assert isinstance(sequence, int)
        assert key not in self.store

    @step(key=KEYS)
    def delete_item(self, key: bytes) -> None:
        if key in self.live():
            with self.committing([("delete", key)]):
                del self.store[key]
        else:
            assert raises(KeyError, self.store.__delitem__, key).args == (key,)

    @step(dangerous=True, start=BOUNDS, stop=BOUNDS, policy=CHOICES, tasks=FACES)
    def delete_range(
        self, start: bytes | None, stop: bytes | None, policy: SyncPolicy | None, tasks: bool
    ) -> None:
        if start is None and stop is None:
            raises(TypeError, self.face(tasks).delete_range)
            return
        with self.committing([("delete_range", start, stop)], policy):
            self.face(tasks).delete_range(start=start, stop=stop, sync=policy)

    @step(dangerous=True, prefix=KEYS, tasks=FACES)
    def delete_prefix(self, prefix: bytes, tasks: bool) -> None:
        with self.committing([("delete_range", prefix, after_prefix(prefix))]):
            self.face(tasks).delete_range(prefix)

    @step(dangerous=True, operations=OPERATIONS, policy=CHOICES, tasks=FACES)
    def batch(self, operations: list[Operation], policy: SyncPolicy | None, tasks: bool) -> None:
        with self.committing(operations, policy), self.face(tasks).batch(policy) as batch:
            collect(batch, operations)

    @step(dangerous=True, operations=OPERATIONS, tasks=FACES, again=FACES)
    def batch_by_hand(self, operations: list[Operation], tasks: bool, again: bool) -> None:
        batch = self.face(tasks).batch()
        assert not batch.done
        collect(batch, operations)
        assert len(batch) == sum(not empty(operation) for operation in operations)
        if again:
            batch.discard()
        else:
            with self.committing(operations) as told:
                told.append(batch.commit())
                assert (told[0] is None) == (len(batch) == 0)
        assert batch.done
        raises(ClosedError, batch.put, b"a", b"never")
        raises(ClosedError, batch.commit)

    @step(operations=OPERATIONS, tasks=FACES)
    def discarded_batch(self, operations: list[Operation], tasks: bool) -> None:
        with contextlib.suppress(ZeroDivisionError), self.face(tasks).batch() as batch:
            collect(batch, operations)
            raise ZeroDivisionError

    @step(
        dangerous=True,
        key=KEYS,
        value=VALUES,
        kind=st.sampled_from(["put", "ttl", "delete"]),
        tasks=FACES,
    )
    def compare_and_set(self, key: bytes, value: bytes, kind: str, tasks: bool) -> None:
        store = self.face(tasks)
        _, version = store.get_versioned(key)
        assert (version is None) == (key not in self.live())
        ttl = 3.0 if kind == "ttl" else None
        operation = ("delete", key) if kind == "delete" else ("put", key, value, ttl)
        with self.committing([operation]) as told:
            if kind == "delete":
                new = store.delete(key, expected=version)
            else:
                new = store.put(key, value, ttl_seconds=ttl, expected=version)
            assert version is None or new > version
            told.append(new)

    @step(key=KEYS, off_by=st.sampled_from([-1, 1, 1000]), tasks=FACES)
    def wrong_compare_and_set(self, key: bytes, off_by: int, tasks: bool) -> None:
        store = self.face(tasks)
        _, version = store.get_versioned(key)
        wrong = 10**6 if version is None else version + off_by
        for call in (
            lambda: store.put(key, b"never", expected=wrong),
            lambda: store.delete(key, expected=wrong),
        ):
            error = raises(ConflictError, call)
            found = (error.key, error.expected_version, error.actual_version)
            assert found == (key, wrong, version)
        if version is not None:
            raises(ConflictError, store.delete, key, expected=None)
            raises(ConflictError, store.put, key, b"never", expected=None)

    @step(tasks=FACES)
    def refused_arguments(self, tasks: bool) -> None:
        store = self.face(tasks)
        raises(LimitError, store.put, b"", b"1")
        raises(LimitError, store.delete, bytes(65_536))
        raises(TypeError, store.put, "text", b"1")
        raises(TypeError, store.put, b"a", b"1", sync=0)
        raises(ValueError, store.put, b"a", b"1", ttl_seconds=0)
        raises(TypeError, store.scan, b"a", start=b"a")
        raises(ValueError, store.scan, limit=-1)


class Reads(World):
    """Reads of the store and of views."""

    @step(keys=st.lists(KEYS, max_size=4), options=SCANS, tasks=FACES)
    def read(self, keys: list[bytes], options: dict[str, Any], tasks: bool) -> None:
        live = self.live()
        check_reads(self.face(tasks), live, keys, **options)
        for key in keys:
            check_items(self.store, live, key)
            if key in live and key in self.versions:
                assert self.store.get_versioned(key)[1] == self.versions[key]

    @step(
        dangerous=True, key=KEYS, value=VALUES, tasks=FACES, reverse=FACES, turn=st.integers(0, 3)
    )
    def scan_while_writing(
        self, key: bytes, value: bytes, tasks: bool, reverse: bool, turn: int
    ) -> None:
        expected = chosen(self.live(), {"reverse": reverse})
        found = []
        entries = self.face(tasks).scan(reverse=reverse)
        with contextlib.closing(entries):
            # A scan by tasks is of the moment of its first step.
            found += [next(entries)] if expected else []
            self.put_one(key, value)
            if turn == 1:
                self.store.compact()
            with self.committing([("delete_range", b"b", b"c")]):
                self.store.delete_range(b"b")
            if turn == 2:
                self.store.compact()
            found += list(entries) if expected else []
        assert found == expected

    @precondition(lambda self: len(self.views) < 4)
    @step(keys=st.lists(KEYS, max_size=3), options=SCANS, tasks=FACES, keep=FACES)
    def view(self, keys: list[bytes], options: dict[str, Any], tasks: bool, keep: bool) -> None:
        """A view is opened, and perhaps kept for what comes."""
        view = self.face(tasks).view()
        with self.looking():
            assert view.sequence == self.store.stats().last_sequence
        self.views.append((view, self.model.begun))
        self.read_last_view(keys, options, keep)

    @precondition(lambda self: self.views)
    @step(at=st.integers(0, 3), keys=st.lists(KEYS, max_size=3), options=SCANS, keep=FACES)
    def read_view(self, at: int, keys: list[bytes], options: dict[str, Any], keep: bool) -> None:
        self.views.append(self.views.pop(at % len(self.views)))
        self.read_last_view(keys, options, keep)

    def read_last_view(self, keys: list[bytes], options: dict[str, Any], keep: bool) -> None:
        view, number = self.views[-1]
        live = self.live(view, number)
        if keep:
            check_reads(view, live, keys, **options)
            if hasattr(view, "__getitem__"):
                for key in keys:
                    check_items(view, live, key)
            return
        self.views.pop()
        with view:
            check_reads(view, live, keys, **options)
        view.close()
        raises(ClosedError, view.get, b"a")


class Transactions(World):
    """Transactions, alone and against each other."""

    @step(
        dangerous=True,
        keys=st.lists(KEYS, max_size=3),
        options=SCANS,
        operations=OPERATIONS,
        policy=CHOICES,
        tasks=FACES,
    )
    def transaction(
        self,
        keys: list[bytes],
        options: dict[str, Any],
        operations: list[Operation],
        policy: SyncPolicy | None,
        tasks: bool,
    ) -> None:
        with (
            self.committing(operations, policy),
            self.face(tasks).transaction(policy) as transaction,
        ):
            # The model has the commit already; what was before it is one number less.
            number = self.model.begun - any(not empty(each) for each in operations)
            check_reads(transaction, self.live(number=number), keys, **options)
            unsure = self.model.returning(now_ms=self.now_ms)
            collect(transaction, operations)
            assert len(transaction) == sum(not empty(each) for each in operations)
            if not unsure:
                after = self.model.live(now_ms=self.now_ms)
                check_reads(transaction, after, keys, **options)
                if hasattr(transaction, "__getitem__"):
                    check_items(transaction, after, b"a")

    @precondition(lambda self: len(self.transactions) < 3)
    @step(keys=st.lists(KEYS, min_size=1, max_size=2), options=SCANS, tasks=FACES)
    def begin_transaction(self, keys: list[bytes], options: dict[str, Any], tasks: bool) -> None:
        transaction = self.face(tasks).transaction()
        found = [transaction.get_many(keys), list(transaction.scan(**options))]
        transaction.put(b"own", b"1")
        self.transactions.append((transaction, keys, options, found))

    @precondition(lambda self: self.transactions)
    @step(at=st.integers(0, 2), discard=FACES)
    def end_transaction(self, at: int, discard: bool) -> None:
        transaction, keys, options, found = self.transactions.pop(at % len(self.transactions))
        if discard:
            transaction.discard()
            raises(ClosedError, transaction.put, b"own", b"never")
            return
        now = [self.store.get_many(keys), list(self.store.scan(**options))]
        unsure = self.expiries  # entries may have gone, or come back, by the time of day alone
        try:
            with self.committing([("put", b"own", b"1", None)]) as told:
                told.append(transaction.commit())
        except ConflictError:
            return  # also right where a key was written again with the value it had
        assert unsure or found == now, "committed although what it had read had changed"
        raises(ClosedError, transaction.commit)

    @step(key=KEYS, value=VALUES, phantom=FACES, tasks=FACES, flush=FACES)
    def conflict(self, key: bytes, value: bytes, phantom: bool, tasks: bool, flush: bool) -> None:
        transaction = self.face(tasks).transaction()
        if phantom:
            transaction.count(start=key)
        else:
            transaction.get(key)
        transaction.put(b"own", b"never")
        self.put_one(key + b"b" if phantom else key, value)
        if flush:
            self.store.compact()
        raises(ConflictError, transaction.commit)

    @step(
        dangerous=True,
        key=KEYS,
        operations=OPERATIONS,
        conflicts=st.integers(0, 3),
        policy=CHOICES,
        tasks=FACES,
        patient=FACES,
    )
    def transact(
        self,
        key: bytes,
        operations: list[Operation],
        conflicts: int,
        policy: SyncPolicy | None,
        tasks: bool,
        patient: bool,
    ) -> None:
        """A function whose first runs meet a rival."""
        operations = [each for each in operations if not empty(each)]
        if not operations:
            return
        runs: list[int] = []
        numbers: list[int] = []

        async def function(transaction: Any) -> int:
            value = await either(transaction.get(key))
            runs.append(len(runs))
            collect(transaction, operations)
            if len(runs) <= conflicts:
                self.put_one(key, b"rival")
            else:
                assert value == self.live().get(key)
                numbers.append(self.begun(operations))
            return len(runs)

        def call() -> Any:
            options: dict[str, Any] = {"retries": 20 if patient else 0, "sync": policy}
            if tasks:
                return self.face(True).transact(function, **options)
            return self.store.transact(lambda t: at_once(function(t)), **options)

        if conflicts and not patient:
            raises(ConflictError, call)
            assert len(runs) == 1
            return
        try:
            assert call() == conflicts + 1 == len(runs)
        except BaseException as error:
            if numbers and not isinstance(error, StoreFailedError):
                self.model.refuse(numbers[0])
            raise
        self.note_versions(operations, None)
        self.made(numbers[0], policy)
