"""Short transactions under the commit lock: what they read stays so, and refusals leave nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hooked import HookedFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

import walkv
from walkv import (
    ClosedError,
    ConflictError,
    LimitError,
    ReadOnlyError,
    Store,
    Wal,
    WriteBack,
    WriteThrough,
    limits,
)
from walkv.engine.memtable import Memtable
from walkv.engine.store import ExclusiveStore
from walkv.errors import WouldBlockError
from walkv.testing import SimulatedFileSystem

State = dict[bytes, bytes]


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def store(fs: SimulatedFileSystem) -> Iterator[Store]:
    with walkv.open("/s", filesystem=fs) as opened:
        yield opened


def both(store: Store) -> tuple[ExclusiveStore, ExclusiveStore]:
    """The store for those who may wait, and for those who may not."""
    return ExclusiveStore(store.engine), ExclusiveStore(store.engine, blocking=False)


# -- reads see the writes --------------------------------------------------------------------------

keys = st.sampled_from([b"a", b"a\0", b"ab", b"b", b"b1", b"c", b"c\xff"])
bounds = st.none() | keys
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.binary(max_size=2)),
        st.tuples(st.just("put_until"), keys, st.binary(max_size=2), st.integers(-1, 1)),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("delete_prefix"), st.sampled_from([b"a", b"b", b"c\xff", b""])),
        st.tuples(st.just("delete_range"), bounds, keys),
        st.tuples(st.just("scan"), bounds, bounds, st.booleans(), st.none() | st.integers(0, 3)),
    ),
    max_size=10,
)


def do(tx: Any, state: State, now_ms: int, step: tuple[Any, ...]) -> None:
    """One step, in a transaction and in its model; then everything is read."""
    match step:
        case ("put", key, value):
            tx.put(key, value)
            state[key] = value
        case ("put_until", key, value, seconds):
            tx.put_until(key, value, now_ms + 1000 * seconds + 1)
            # What has expired by now may be seen by its writer alone.
            if seconds >= 0:
                state[key] = value
            else:
                tx.delete(key)
                state.pop(key, None)
        case ("delete", key):
            tx.delete(key)
            state.pop(key, None)
        case ("delete_prefix", prefix):
            tx.delete_range(prefix)
            for key in [key for key in state if key.startswith(prefix)]:
                del state[key]
        case ("delete_range", start, stop):
            tx.delete_range(start=start, stop=stop)
            for key in [key for key in state if (start or b"") <= key < stop]:
                del state[key]
        case (_, start, stop, reverse, limit):
            expected = [
                (key, state[key])
                for key in sorted(state, reverse=reverse)
                if (start or b"") <= key and (stop is None or key < stop)
            ][:limit]
            options = {"start": start, "stop": stop, "reverse": reverse, "limit": limit}
            assert list(tx.scan(**options)) == expected
            assert list(tx.scan(**options, keys_only=True)) == [key for key, _ in expected]


def compare(tx: Any, state: State, written: bool) -> None:
    wanted = [b"a", b"a\0", b"ab", b"b", b"b1", b"c", b"c\xff", b"nothing"]
    assert tx.get_many(wanted) == [state.get(key) for key in wanted]
    for key in wanted:
        assert tx.get(key) == state.get(key)
        value, version = tx.get_versioned(key)
        assert value == state.get(key)
        assert (version is None) == (value is None)
        assert written or version != 0
    assert list(tx.scan(b"")) == sorted(state.items())


@pytest.mark.parametrize("kind", ["exclusive", "transaction"])
@given(st.lists(steps, min_size=1, max_size=3), st.integers(0, 2))
@settings(max_examples=60, deadline=None, database=None)
def test_reads_see_the_writes_of_their_own(
    kind: str, transactions: list[list[tuple[Any, ...]]], settled: int
) -> None:
    fs = SimulatedFileSystem()
    with walkv.open("/s", filesystem=fs) as store:
        kv = ExclusiveStore(store.engine)
        state: State = {b"a": b"0", b"b": b"0", b"c": b"0"}
        for key, value in state.items():
            store.put(key, value)
        now_ms = fs.wall_time_ns() // 1_000_000
        for number, script in enumerate(transactions):
            if number == settled:
                store.compact()
            model = dict(state)

            def run(tx: Any, script: Any = script, model: State = model) -> None:
                compare(tx, model, written=False)
                for step in script:
                    do(tx, model, now_ms, step)
                    compare(tx, model, written=True)

            if kind == "exclusive":
                kv.transact(run, None)
            else:
                transaction = kv.transaction()
                run(transaction)
                transaction.commit_ticket(None)
            state = model
            assert dict(store.scan()) == state


def test_an_entry_is_absent_from_its_moment_on(fs: SimulatedFileSystem, store: Store) -> None:
    kv, _ = both(store)
    now_ms = fs.wall_time_ns() // 1_000_000

    def write(tx: Any) -> None:
        tx.put_until(b"a", b"1", now_ms + 500)
        tx.put_until(b"b", b"2", now_ms + 501)
        tx.put_until(b"gone", b"3", now_ms)

    kv.transact(write, None)
    transaction = kv.transaction()
    transaction.put_until(b"c", b"4", now_ms + 500)
    assert transaction.get(b"c") == b"4"
    transaction.commit_ticket(None)
    assert list(store.scan(keys_only=True)) == [b"a", b"b", b"c"]
    fs.clock.advance(0.5)
    assert list(store.scan(keys_only=True)) == [b"b"]
    fs.clock.advance(0.001)
    assert list(store.scan(keys_only=True)) == []


def test_bad_keys_and_values_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_VALUE_BYTES", 10)
    kv, _ = both(store)

    def write(put: Callable[[Any], Any]) -> None:
        with pytest.raises(LimitError):
            kv.transact(put, None)
        transaction = kv.transaction()
        with pytest.raises(LimitError):
            put(transaction)
        transaction.discard()

    for key, value in ((b"", b"v"), (b"k" * 65_536, b"v"), (b"k", b"v" * 11)):
        write(lambda tx, key=key, value=value: tx.put(key, value))
        write(lambda tx, key=key, value=value: tx.put_until(key, value, 1 << 50))
    assert store.count() == 0


def test_what_is_read_after_ranges_costs_the_new_writes_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were all writes put in order again for every read, deleting many would take for ever."""
    kv, _ = both(store)
    prepared = []
    plain = Memtable.prepare

    def counting(self: Memtable, operations: list[Any], first: int) -> Any:
        prepared.append(len(operations) // 2)
        return plain(self, operations, first)

    def write(tx: Any) -> None:
        for number in range(300):
            key = b"%04d" % number
            assert tx.get(key) is None
            tx.put(key, b"v")
            tx.delete_range(key + b"/")
            assert list(tx.scan(limit=1)) == [(b"0000", b"v")]

    monkeypatch.setattr(Memtable, "prepare", counting)
    kv.transact(write, None)
    # Once on the way, and once when they are committed.
    assert sum(prepared) == 2 * 600
    assert store.count() == 300


# -- all or nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
def test_nothing_is_written_if_the_function_raises(store: Store, blocking: bool) -> None:
    kv = both(store)[0 if blocking else 1]
    store.put(b"k", b"before")
    sequence = store.stats().last_sequence

    def write(tx: Any) -> None:
        tx.put(b"k", b"after")
        tx.delete_range(b"")
        raise LookupError("half way")

    for _ in range(2):  # the lock has been let go, too
        with pytest.raises(LookupError):
            kv.transact(write, None)
    assert dict(store.scan()) == {b"k": b"before"}
    assert store.stats().last_sequence == sequence


def test_what_writes_nothing_has_no_ticket(store: Store) -> None:
    kv, impatient = both(store)
    sequence = store.stats().last_sequence
    for each in (kv, impatient):
        assert each.transact(lambda tx: tx.get(b"k"), None) == (None, None)
        assert each.transact(lambda tx: tx.delete_range(start=b"b", stop=b"a"), None)[1] is None
    assert kv.transaction().commit_ticket(None) is None
    assert store.stats().last_sequence == sequence


def test_a_transaction_that_is_over_takes_no_more(store: Store) -> None:
    kept: list[Any] = []
    kv, _ = both(store)
    kv.transact(lambda tx: (kept.append(tx), tx.put(b"k", b"v")), None)
    for use in (
        lambda tx: tx.put(b"k", b"late"),
        lambda tx: tx.put_until(b"k", b"late", 1 << 50),
        lambda tx: tx.delete(b"k"),
    ):
        with pytest.raises(ClosedError):
            use(kept[0])
    transaction = kv.transaction()
    transaction.put(b"k2", b"v")
    assert len(transaction) == 1
    transaction.commit_ticket(None)
    with pytest.raises(ClosedError):
        transaction.commit_ticket(None)
    assert dict(store.scan()) == {b"k": b"v", b"k2": b"v"}


def test_an_open_transaction_meets_conflicts(store: Store) -> None:
    kv, _ = both(store)
    for read in (lambda tx: tx.get(b"k"), lambda tx: list(tx.scan(b""))):
        transaction = kv.transaction()
        read(transaction)
        transaction.put(b"mine", b"1")
        kv.transact(lambda tx: tx.put(b"k", b"theirs"), None)
        with pytest.raises(ConflictError):
            transaction.commit_ticket(None)
        assert store.get(b"mine") is None


# -- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "policy", "syncs"),
    [
        (Wal(), None, 1),
        (WriteBack(1000.0), None, 0),
        (WriteBack(1000.0), Wal(), 1),
        (WriteBack(1000.0), WriteThrough(), 1),
        (WriteThrough(), WriteBack(1000.0), 0),
        (Wal(), Wal(), 1),
    ],
)
def test_a_ticket_waits_as_its_policy_says(
    fs: SimulatedFileSystem, default: Any, policy: Any, syncs: int
) -> None:
    with walkv.open("/s", sync=default, filesystem=fs) as store:
        kv, impatient = both(store)
        assert kv.policy == default
        store.sync()
        for each in (kv, impatient):
            before = store.stats().sync_count
            _, ticket = each.transact(lambda tx: tx.put(b"k", b"v"), policy)
            assert ticket is not None
            # Visible, and nobody has waited yet.
            assert store[b"k"] == b"v"
            assert store.stats().sync_count == before
            ticket.wait()
            assert store.stats().sync_count - before == syncs
            assert ticket.position == store.engine.write_log.position
            store.delete(b"k", sync=WriteThrough())
        transaction = kv.transaction()
        transaction.put(b"k", b"v")
        before = store.stats().sync_count
        ticket = transaction.commit_ticket(policy)
        assert ticket is not None
        assert store.stats().sync_count == before
        ticket.wait()
        assert store.stats().sync_count - before == syncs


def test_what_is_no_policy_is_refused_before_anything_is_done(store: Store) -> None:
    called: list[Any] = []
    for each in both(store):
        with pytest.raises(TypeError, match="sync is WriteThrough"):
            each.transact(called.append, "wal")  # type: ignore[arg-type]  # what is tested
    assert called == []


def test_a_reader_refuses_writes(fs: SimulatedFileSystem, store: Store) -> None:
    store.put(b"k", b"v")
    with walkv.open("/s", read_only=True, filesystem=fs) as reader:
        kv, _ = both(reader)
        assert not kv.writable
        assert kv.path == "/s"
        assert kv.get(b"k") == b"v"
        assert kv.get_versioned(b"k") == (b"v", 1)
        assert kv.get_many([b"x", b"k"]) == [None, b"v"]
        assert list(kv.scan(b"")) == [(b"k", b"v")]
        with kv.view() as view:
            assert view.get(b"k") == b"v"
        for use in (
            lambda: kv.transact(lambda tx: tx.put(b"k", b"w"), None),
            kv.transaction,
            lambda: kv.opening,
            lambda: kv.policy,
        ):
            with pytest.raises(ReadOnlyError):
                use()
    for use in (lambda: kv.transact(lambda tx: None, None), kv.transaction, lambda: kv.get(b"k")):
        with pytest.raises(ClosedError):
            use()


def test_a_closed_store_refuses_everything(store: Store) -> None:
    kv, impatient = both(store)
    called: list[Any] = []
    store.close()
    for use in (
        lambda: kv.transact(called.append, None),
        lambda: impatient.transact(lambda tx: tx.put(b"k", b"v"), None),
        lambda: impatient.transact(lambda tx: tx.get(b"k"), None),
        lambda: impatient.get(b"k"),
        lambda: kv.scan(b""),
        kv.transaction,
        kv.view,
    ):
        with pytest.raises(ClosedError):
            use()
    assert called == []


# -- without waiting -------------------------------------------------------------------------------


def test_what_would_wait_is_refused_and_leaves_nothing(store: Store) -> None:
    _, impatient = both(store)
    store.put(b"k", b"v")
    sequence = store.stats().last_sequence

    def write_then(wait: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(tx: Any) -> None:
            tx.put(b"k", b"half way")
            wait(tx)

        return run

    for use in (
        impatient.view,
        impatient.transaction,
        lambda: impatient.get_versioned(b"absent"),
        lambda: impatient.transact(write_then(lambda tx: list(tx.scan(b""))), None),
        lambda: impatient.transact(write_then(lambda tx: tx.get_versioned(b"absent")), None),
    ):
        with pytest.raises(WouldBlockError):
            use()
    assert dict(store.scan()) == {b"k": b"v"}
    assert store.stats().last_sequence == sequence
    for limit in (-1, "1"):
        with pytest.raises(ValueError, match="limit"):
            impatient.scan(b"", limit=limit)  # type: ignore[arg-type]  # what is tested


def test_what_is_in_memory_and_little_is_read_without_waiting(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    model = {b"%03d" % number: b"%d" % number * 20 for number in range(300)}

    def never(operation: str, path: str) -> None:
        assert operation != "read"

    def check(impatient: ExclusiveStore) -> None:
        fs.hook = never
        assert dict(impatient.scan()) == model
        assert list(impatient.scan(reverse=True, limit=5)) == sorted(model.items())[:-6:-1]
        assert list(impatient.scan(b"01", keys_only=True)) == [b"%03d" % n for n in range(10, 20)]
        assert impatient.get_many([b"001", b"absent"]) == [model[b"001"], None]
        fs.hook = None

    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        _, impatient = both(store)
        with store.batch() as batch:
            for key, value in model.items():
                batch.put(key, value)
        with pytest.raises(WouldBlockError):
            list(impatient.scan())  # 300 new keys would have to be put in order
        assert len(list(store.scan())) == 300
        check(impatient)
        assert impatient.get_versioned(b"001") == (model[b"001"], 2)
        store.compact()
        for read in (
            lambda: list(impatient.scan()),
            lambda: impatient.get_many([b"001"]),
            lambda: impatient.get_versioned(b"001"),
        ):
            fs.hook = never
            with pytest.raises(WouldBlockError):
                read()
            fs.hook = None
        assert len(list(store.scan())) == 300
        check(impatient)
        with store.batch() as batch:
            for number in range(10):
                batch.put(b"large%d" % number, b"x" * 10_000)
            for number in range(600):
                batch.put(b"many%d" % number, b"")
        assert len(list(store.scan())) == 910
        for prefix in (b"large", b"many"):
            with pytest.raises(WouldBlockError):
                list(impatient.scan(prefix))
        assert len(list(impatient.scan(b"many", limit=5))) == 5
        with pytest.raises(WouldBlockError):
            impatient.get_many([b"large%d" % number for number in range(10)])
        assert len(impatient.get_many([b"large%d" % number for number in range(5)])) == 5
        store.put(b"huge", b"x" * 100_000)
        with pytest.raises(WouldBlockError):
            impatient.get_versioned(b"huge")


@pytest.mark.parametrize("how", ["one by one", "as a range"])
@pytest.mark.parametrize("settled", [False, True])
def test_what_is_deleted_is_not_gone_through_without_waiting(
    fs: SimulatedFileSystem, how: str, settled: bool
) -> None:
    """An empty answer may take long: what was deleted stands before it."""
    with walkv.open("/s", filesystem=fs) as store:
        _, impatient = both(store)
        with store.batch() as batch:
            for number in range(2000):
                batch.put(b"gone%04d" % number, b"")
        if settled:
            store.compact()
        assert store.count(b"gone") == 2000  # and so it is in memory, and in order
        if how == "as a range":
            store.delete_range(b"gone")
        else:
            with store.batch() as batch:
                for number in range(2000):
                    batch.delete(b"gone%04d" % number)
        assert store.count(b"gone") == 0
        with pytest.raises(WouldBlockError):
            list(impatient.scan(b"gone"))
        assert list(impatient.scan(b"other")) == []


def test_a_lock_that_is_held_is_not_waited_for(store: Store) -> None:
    kv, impatient = both(store)
    called: list[Any] = []
    inside, leave = threading.Event(), threading.Event()

    def slow(tx: Any) -> None:
        tx.put(b"k", b"slow")
        inside.set()
        leave.wait(30)

    holder = threading.Thread(target=lambda: kv.transact(slow, None))
    holder.start()
    inside.wait(30)
    with pytest.raises(WouldBlockError):
        impatient.transact(called.append, None)
    for read in (impatient.scan, lambda: impatient.get_many([b"k"])):
        with pytest.raises(WouldBlockError):
            read()
    # A look-up needs no lock, and does not see what is not committed.
    assert impatient.get(b"k") is None
    leave.set()
    holder.join()
    assert called == []
    impatient.transact(lambda tx: tx.put(b"k", b"quick"), None)
    assert store[b"k"] == b"quick"


def test_room_is_not_waited_for(fs: SimulatedFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MIN_MEMTABLE_BYTES", 1)
    with walkv.open("/s", filesystem=fs, memtable_bytes=8_000) as store:
        kv, impatient = both(store)
        refused = 0
        for number in range(60):
            called: list[Any] = []

            def write(tx: Any, called: list[Any] = called, number: int = number) -> None:
                called.append(tx)
                tx.put(b"%03d" % number, b"v" * 200)

            before = store.stats().flush_count
            try:
                impatient.transact(write, None)
            except WouldBlockError:
                refused += 1
                assert called == []
                assert store.stats().flush_count == before
                kv.transact(write, None)
        assert refused > 3
        assert store.count() == 60


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[tuple[HookedFileSystem, Store]]:
    """A store whose entries are in a snapshot, with a cache that holds next to nothing."""
    with walkv.open(tmp_path / "s") as store:
        for number in range(2000):
            store.put(b"%04d" % number, b"v%d" % number * 20, sync=WriteBack())
        store.compact()
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs, cache_bytes=20_000) as store:
        yield fs, store


def test_files_are_not_read_without_waiting(cold: tuple[HookedFileSystem, Store]) -> None:
    fs, store = cold
    kv, impatient = both(store)
    me, reads = threading.get_ident(), []

    def hook(operation: str, path: str) -> None:
        if operation == "read" and threading.get_ident() == me and not waiting:
            reads.append(path)

    fs.hook, waiting = hook, False
    random, refused = Random(1), 0
    for _ in range(400):
        key = b"%04d" % random.randrange(2000)
        for use in (
            lambda key=key: impatient.get(key),
            lambda key=key: impatient.transact(lambda tx: tx.get(key), None)[0],
            lambda key=key: impatient.transact(lambda tx: tx.get_versioned(key), None)[0][0],
        ):
            try:
                assert use() == store_value(key)
            except WouldBlockError:
                refused += 1
                waiting = True
                assert kv.get(key) == store_value(key)
                waiting = False
    assert reads == []
    assert refused > 100


def store_value(key: bytes) -> bytes:
    return b"v%d" % int(key) * 20


def test_a_version_in_memory_needs_no_file(cold: tuple[HookedFileSystem, Store]) -> None:
    _, store = cold
    _, impatient = both(store)
    version = store.put(b"0001", b"warm")
    (found, _) = impatient.transact(lambda tx: tx.get_versioned(b"0001"), None)
    assert found == (b"warm", version)

    def write(tx: Any) -> Any:
        tx.put(b"0002", b"mine")
        return tx.get_versioned(b"0002")

    assert impatient.transact(write, None)[0] == (b"mine", 0)


# -- many writers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exclusive", "mixed"])
def test_no_update_is_lost_when_there_is_hardly_any_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Waiting for room lets other commits in: it must be over before anything is read."""
    monkeypatch.setattr(limits, "MIN_MEMTABLE_BYTES", 1)
    with walkv.open(tmp_path / "s", sync=WriteBack(), memtable_bytes=40_000) as store:
        kv, impatient = both(store)
        turns, writers = 40, 16
        begin = threading.Barrier(writers)
        failed: list[BaseException] = []

        def increment(tx: Any) -> int:
            value = int(tx.get(b"count") or b"0") + 1
            tx.put(b"count", b"%d" % value)
            tx.put(b"filler%d" % (value % 50), bytes(700))
            return value

        def once(number: int) -> int:
            if kind == "mixed" and number % 2:
                try:
                    return impatient.transact(increment, None)[0]
                except WouldBlockError:
                    pass
            return kv.transact(increment, None)[0]

        seen: list[list[int]] = [[] for _ in range(writers)]

        def work(number: int) -> None:
            begin.wait()
            try:
                for _ in range(turns):
                    seen[number].append(once(number))
            except BaseException as error:  # noqa: BLE001  # shown below
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert sorted(n for each in seen for n in each) == list(range(1, turns * writers + 1))
        assert store[b"count"] == b"%d" % (turns * writers)
        assert store.stats().flush_count > 3
    with walkv.open(tmp_path / "s") as store:
        assert store[b"count"] == b"%d" % (turns * writers)
