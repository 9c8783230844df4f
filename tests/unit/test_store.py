"""The public API of Store, from arguments to a closed store."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hooked import HookedFileSystem, fail

import walkv
from walkv import limits

KEYS = [b"a", b"a/1", b"a/2", b"b", b"b/1", b"c", b"\xff", b"\xff\xff"]


def fill(store: walkv.Store) -> None:
    for key in KEYS:
        store.put(key, b"v" + key)


def as_it_is(store: walkv.Store) -> None:
    """Leave everything in the memtable."""


def compacted(store: walkv.Store) -> None:
    store.compact()


def half_compacted(store: walkv.Store) -> None:
    """Some entries in a snapshot, the same and others in the memtable."""
    store.compact()
    for key in KEYS[::2]:
        store.put(key, b"v" + key)


places = pytest.mark.parametrize("settle", [as_it_is, compacted, half_compacted])
Settle = Callable[[walkv.Store], None]


# -- opening -------------------------------------------------------------------------------------


def test_open_creates_a_store_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "new.walkv"
    with walkv.open(path) as store:
        assert store.recovery_report.created
        assert store.path == str(path)
        assert repr(store) == f"<walkv.Store {str(path)!r} open>"
        assert not store.closed
    assert store.closed
    assert repr(store).endswith("closed>")


def test_open_takes_str_bytes_and_path(tmp_path: Path) -> None:
    name = str(tmp_path / "s")
    for path in (name, name.encode(), Path(name)):
        with walkv.open(path) as store:
            store.put(b"k", b"v")
    with pytest.raises(TypeError, match="path is a str"):
        walkv.open(17)


def test_open_without_create_refuses_and_makes_nothing(tmp_path: Path) -> None:
    refusing: list[dict[str, Any]] = [{"create": False}, {"read_only": True}]
    for options in refusing:
        with pytest.raises(FileNotFoundError):
            walkv.open(tmp_path / "absent", **options)
    (tmp_path / "empty").mkdir()
    for options in refusing:
        with pytest.raises(FileNotFoundError):
            walkv.open(tmp_path / "empty", **options)
    assert sorted(os.listdir(tmp_path)) == ["empty"]
    assert os.listdir(tmp_path / "empty") == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sync": walkv.Wal}, TypeError),
        ({"sync": "wal"}, TypeError),
        ({"memtable_bytes": limits.MIN_MEMTABLE_BYTES - 1}, ValueError),
        ({"cache_bytes": -1}, ValueError),
    ],
)
def test_open_refuses_bad_arguments(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        walkv.open(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_second_opener_is_refused_with_the_holder(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        with pytest.raises(walkv.LockedError) as caught:
            walkv.open(tmp_path / "s")
        assert caught.value.pid == os.getpid()
        assert caught.value.host == os.uname().nodename
        assert caught.value.path == os.path.join(store.path, "LOCK")
        store.put(b"k", b"v")
    walkv.open(tmp_path / "s").close()


def test_opening_a_file_or_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(walkv.FormatError, match="this is a file"):
        walkv.open(tmp_path / "file")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_bytes(b"hello")
    with pytest.raises(walkv.FormatError, match=r"notes\.txt"):
        walkv.open(tmp_path / "foreign")
    assert os.listdir(tmp_path / "foreign") == ["notes.txt"]


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.get("k"),
        lambda s: s.get_versioned("k"),
        lambda s: s.get_many([b"k", "k"]),
        lambda s: s["k"],
        lambda s: "k" in s,
        lambda s: s.put("k", b"v"),
        lambda s: s.put(b"k", "v"),
        lambda s: s.put(b"k", None),
        lambda s: s.put(b"k", 7),
        lambda s: s.delete("k"),
        lambda s: s.delete_range("k"),
        lambda s: s.delete_range(start="k"),
        lambda s: s.delete_range(),
        lambda s: s.scan("k"),
        lambda s: s.scan(start="k"),
        lambda s: s.scan(b"k", start=b"k"),
        lambda s: s.count(b"k", stop=b"k"),
        lambda s: s.batch().put("k", b"v"),
        lambda s: s.batch().put(b"k", "v"),
        lambda s: s.batch().delete("k"),
        lambda s: s.put(b"k", b"v", sync="wal"),
        lambda s: s.put(b"k", b"v", sync=walkv.WriteBack),
        lambda s: s.delete(b"k", sync=1),
        lambda s: s.batch(sync=1),
        lambda s: s.transaction(sync=1),
        lambda s: s.put(b"k", b"v", expected="1"),
    ],
)
def test_wrong_types_are_type_errors_and_write_nothing(
    tmp_path: Path, call: Callable[[Any], object]
) -> None:
    with walkv.open(tmp_path / "s") as store:
        with pytest.raises(TypeError):
            call(store)
        assert store.stats().last_sequence == 0


def test_any_buffer_is_a_key_or_value(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        value = bytearray(b"value")
        store.put(bytearray(b"k1"), value)
        value[:] = b"other"
        store.put(memoryview(b"k2"), memoryview(b"value")[1:3])
        assert store.get(memoryview(b"k1")) == b"value"
        assert list(store.scan(bytearray(b"k"))) == [(b"k1", b"value"), (b"k2", b"al")]
        assert all(type(part) is bytes for pair in store.scan() for part in pair)


def test_key_and_batch_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with walkv.open(tmp_path / "s") as store:
        longest = b"k" * limits.MAX_KEY_BYTES
        store.put(longest, b"")
        assert store.get(longest) == b""
        for key in (b"", longest + b"k"):
            calls: list[Callable[..., object]] = [
                lambda key=key: store.put(key, b"v"),
                lambda key=key: store.delete(key),
                lambda key=key: store.batch().put(key, b"v"),
                lambda key=key: store.batch().delete(key),
                lambda key=key: store.get_many([key]),
            ]
            for call in calls:
                with pytest.raises(walkv.LimitError) as caught:
                    call()
                assert caught.value.name == "MAX_KEY_BYTES"
                assert caught.value.limit == limits.MAX_KEY_BYTES
                assert caught.value.actual == len(key)
        monkeypatch.setattr(limits, "MAX_VALUE_BYTES", 100)
        with pytest.raises(walkv.LimitError) as caught:
            store.put(b"k", b"v" * 101)
        assert (caught.value.name, caught.value.actual) == ("MAX_VALUE_BYTES", 101)
        monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 50)
        batch = store.batch()
        batch.put(b"k", b"v" * 40)
        adds: list[Callable[[], None]] = [
            lambda: batch.put(b"l", b"v" * 10),
            lambda: batch.put(b"l", b"v" * 10, ttl_seconds=1),
            lambda: batch.delete(b"l" * 10),
        ]
        for add in adds:
            with pytest.raises(walkv.LimitError) as caught:
                add()
            assert caught.value.name == "MAX_BATCH_BYTES"
        assert len(batch) == 1
        batch.commit()
        assert store.count() == 2
        monkeypatch.setattr(limits, "MAX_BATCH_OPERATIONS", 2)
        batch = store.batch()
        for key in (b"1", b"2", b"3"):
            batch.put(key, b"")
        with pytest.raises(walkv.LimitError) as caught:
            batch.commit()
        assert caught.value.name == "MAX_BATCH_OPERATIONS"
        assert store.count() == 2


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_bad_ttl_is_a_value_error(tmp_path: Path, ttl: float) -> None:
    with walkv.open(tmp_path / "s") as store:
        with pytest.raises(ValueError, match="ttl_seconds"):
            store.put(b"k", b"v", ttl_seconds=ttl)
        with pytest.raises(ValueError, match="ttl_seconds"):
            store.batch().put(b"k", b"v", ttl_seconds=ttl)
        assert b"k" not in store


# -- reading and writing -------------------------------------------------------------------------


@places
def test_get_in_and_item_access(tmp_path: Path, settle: Settle) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        settle(store)
        for _ in range(3):  # cold, cached, hot
            for key in KEYS:
                assert store.get(key) == b"v" + key
                assert store[key] == b"v" + key
                assert key in store
            for key in (b"0", b"a/", b"a/11", b"zz", b"\xff\xff\xff"):
                assert store.get(key) is None
                assert store.get(key, 7) == 7
                assert key not in store
                with pytest.raises(KeyError):
                    store[key]
        assert store.get_many([b"c", b"nope", b"a", b"c"]) == [b"vc", None, b"va", b"vc"]
        store[b"c"] = b"new"
        assert store[b"c"] == b"new"
        del store[b"c"]
        assert b"c" not in store
        with pytest.raises(KeyError):
            del store[b"c"]
        assert store.get(b"c", b"") == b""


@places
def test_scan_options(tmp_path: Path, settle: Settle) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        settle(store)
        pairs = [(key, b"v" + key) for key in KEYS]
        assert list(store.scan()) == pairs
        assert list(store.scan(b"")) == pairs
        assert list(store.scan(reverse=True)) == pairs[::-1]
        assert list(store.scan(prefix=b"a/")) == pairs[1:3]
        assert list(store.scan(b"\xff")) == pairs[6:]
        assert list(store.scan(b"a", keys_only=True)) == KEYS[:3]
        assert list(store.scan(start=b"a/2", stop=b"c")) == pairs[2:5]
        assert list(store.scan(start=b"a/2", stop=b"c", reverse=True)) == pairs[2:5][::-1]
        assert list(store.scan(start=b"a/11", stop=b"b/0")) == pairs[2:4]
        assert list(store.scan(start=b"c")) == pairs[5:]
        assert list(store.scan(stop=b"a/1")) == pairs[:1]
        assert list(store.scan(start=b"c", stop=b"a")) == []
        assert list(store.scan(start=b"c", stop=b"c")) == []
        assert list(store.scan(stop=b"")) == []
        for limit in range(len(KEYS) + 2):
            assert list(store.scan(limit=limit)) == pairs[:limit]
            assert list(store.scan(limit=limit, reverse=True)) == pairs[::-1][:limit]
        bad: Any
        for bad in (-1, 1.5, "1"):
            with pytest.raises(ValueError, match="limit"):
                store.scan(limit=bad)
        assert store.count() == len(KEYS)
        assert store.count(b"a") == 3
        assert store.count(start=b"b", stop=b"c") == 2
        assert store.count(start=b"c", stop=b"a") == 0


def test_scans_over_many_blocks_chunks_and_sources(tmp_path: Path) -> None:
    model: dict[bytes, bytes] = {}
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:
        for part in range(3):
            for number in range(part, 3000, part + 1):
                key = b"%05d" % number
                model[key] = b"%d.%d" % (part, number) * (number % 7)
                store.put(key, model[key])
            store.delete_range(start=b"%05d" % (part * 500), stop=b"%05d" % (part * 500 + 100))
            for number in range(part * 500, part * 500 + 100):
                model.pop(b"%05d" % number, None)
            if part == 0:
                store.compact()
        expected = sorted(model.items())
        assert list(store.scan()) == expected
        assert list(store.scan(reverse=True)) == expected[::-1]
        for start, stop in ((b"00000", b"00300"), (b"00555", b"00556"), (b"01234", b"02777")):
            part_of = [pair for pair in expected if start <= pair[0] < stop]
            assert list(store.scan(start=start, stop=stop)) == part_of
            assert list(store.scan(start=start, stop=stop, reverse=True)) == part_of[::-1]
            assert list(store.scan(start=start, stop=stop, limit=7)) == part_of[:7]
            assert store.count(start=start, stop=stop) == len(part_of)
        store.compact()
        assert list(store.scan()) == expected
        assert all(store.get(key) == value for key, value in expected)


def test_a_scan_is_as_of_its_call(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        before = [(key, b"v" + key) for key in KEYS]
        never_begun = store.scan()
        begun = store.scan()
        assert next(begun) == before[0]
        for key in KEYS:
            store.put(key, b"new")
        store.put(b"zz", b"new")
        store.delete_range(b"b")
        store.compact()
        assert list(begun) == before[1:]
        assert list(never_begun) == before


def test_delete_range_bounds(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        store.compact()
        store.put(b"a/3", b"unsettled")
        store.delete_range(b"a/")
        assert list(store.scan(keys_only=True)) == [b"a", *KEYS[3:]]
        store.put(b"a/2", b"again")
        assert store.get(b"a/2") == b"again"
        store.delete_range(start=b"b/", stop=b"c")
        store.delete_range(start=b"z", stop=b"a")
        assert list(store.scan(keys_only=True)) == [b"a", b"a/2", b"b", b"c", b"\xff", b"\xff\xff"]
        store.delete_range(b"\xff")
        assert list(store.scan(keys_only=True)) == [b"a", b"a/2", b"b", b"c"]
        store.delete_range(stop=b"b")
        store.delete_range(start=b"c")
        assert list(store.scan(keys_only=True)) == [b"b"]
        store.delete_range(b"")
        assert list(store.scan()) == []
    with walkv.open(tmp_path / "s") as store:
        assert list(store.scan()) == []


@places
def test_everything_is_there_after_reopening(tmp_path: Path, settle: Settle) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        settle(store)
        store.delete(b"c")
        store.delete_range(b"a/")
        versions = [store.get_versioned(key) for key in KEYS]
    with walkv.open(tmp_path / "s") as store:
        assert store.recovery_report.clean
        assert list(store.scan(keys_only=True)) == [b"a", b"b", b"b/1", b"\xff", b"\xff\xff"]
        assert [store.get_versioned(key) for key in KEYS] == versions
        last = store.stats().last_sequence
        assert store.put(b"new", b"") > last - 1


def test_memtable_budget_is_kept_by_flushing(tmp_path: Path) -> None:
    budget = limits.MIN_MEMTABLE_BYTES
    with walkv.open(tmp_path / "s", memtable_bytes=budget, sync=walkv.WriteBack()) as store:
        model = {}
        for number in range(4000):
            key, value = b"%04d" % (number * 7 % 2000), b"x" * (number % 50)
            model[key] = value
            store.put(key, value)
            if number % 100 == 0:
                assert store.stats().memtable_bytes <= budget + 1000
        store.compact()
        stats = store.stats()
        assert stats.flush_count > 3
        assert stats.snapshot_count == 1
        assert stats.snapshot_entries == 2000
        assert dict(store.scan()) == model


# -- versions and compare-and-set ----------------------------------------------------------------


@places
def test_versions_and_compare_and_set(tmp_path: Path, settle: Settle) -> None:
    with walkv.open(tmp_path / "s") as store:
        assert store.get_versioned(b"k") == (None, None)
        first = store.put(b"k", b"1", expected=None)
        settle(store)
        assert store.get_versioned(b"k") == (b"1", first)
        with pytest.raises(walkv.ConflictError) as caught:
            store.put(b"k", b"x", expected=None)
        assert caught.value.key == b"k"
        assert caught.value.expected_version is None
        assert caught.value.actual_version == first
        second = store.put(b"k", b"2", expected=first)
        assert second > first
        with pytest.raises(walkv.ConflictError) as caught:
            store.delete(b"k", expected=first)
        assert (caught.value.expected_version, caught.value.actual_version) == (first, second)
        assert store.get_versioned(b"k") == (b"2", second)
        store.delete(b"k", expected=second)
        settle(store)
        assert store.get_versioned(b"k") == (None, None)
        with pytest.raises(walkv.ConflictError) as caught:
            store.put(b"k", b"x", expected=second)
        assert caught.value.actual_version is None
        store.delete(b"k", expected=None)
        third = store.put(b"k", b"3", expected=None, ttl_seconds=100)
        assert third > second
        assert store.get_versioned(b"k") == (b"3", third)


def test_a_refused_compare_and_set_writes_nothing(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"1")
        before = store.stats()
        with pytest.raises(walkv.ConflictError):
            store.put(b"k", b"2", expected=None)
        after = store.stats()
        assert (after.last_sequence, after.log_bytes) == (before.last_sequence, before.log_bytes)


def test_compare_and_set_counts_every_increment_of_threads(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:

        def increment() -> None:
            for _ in range(50):
                while True:
                    value, version = store.get_versioned(b"n")
                    try:
                        store.put(b"n", b"%d" % (int(value or 0) + 1), expected=version)
                        break
                    except walkv.ConflictError:
                        continue

        threads = [threading.Thread(target=increment) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store[b"n"] == b"200"


# -- time to live --------------------------------------------------------------------------------


@pytest.mark.parametrize("settle", [as_it_is, compacted])
def test_entries_expire_by_the_clock(tmp_path: Path, settle: Settle) -> None:
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        store.put(b"always", b"1")
        store.put(b"short", b"2", ttl_seconds=10)
        with store.batch() as batch:
            batch.put(b"long", b"3", ttl_seconds=20.5)
        settle(store)
        for _ in range(3):
            assert store.get(b"short") == b"2"
        fs.advance(9.999)
        assert list(store.scan(keys_only=True)) == [b"always", b"long", b"short"]
        version = store.get_versioned(b"short")[1]
        with store.view() as view:
            fs.advance(0.001)
            assert view.get(b"short") is None
        assert store.get(b"short") is None
        assert store.get_versioned(b"short") == (None, None)
        assert store.get_many([b"short", b"long"]) == [None, b"3"]
        assert b"short" not in store
        assert list(store.scan(reverse=True)) == [(b"long", b"3"), (b"always", b"1")]
        assert store.count() == 2
        with pytest.raises(walkv.ConflictError):
            store.put(b"short", b"x", expected=version)
        store.put(b"short", b"again", expected=None)
        assert store.get(b"short") == b"again"
        fs.advance(1000)
        assert list(store.scan()) == [(b"always", b"1"), (b"short", b"again")]
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        assert list(store.scan()) == [(b"always", b"1"), (b"short", b"again")]


def test_compaction_drops_what_expired_and_a_plain_put_ends_the_expiry(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        store.put(b"a", b"1", ttl_seconds=5)
        store.put(b"b", b"1", ttl_seconds=5)
        store.put(b"b", b"2")
        store.compact()
        assert store.stats().snapshot_entries == 2
        fs.advance(6)
        store.compact()
        assert store.stats().snapshot_entries == 1
        assert list(store.scan()) == [(b"b", b"2")]


def test_a_clock_that_goes_back_brings_an_entry_back_but_not_out_of_order(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        store.put(b"k", b"1", ttl_seconds=10)
        fs.advance(20)
        assert store.get(b"k") is None
        fs.advance(-15)
        assert store.get(b"k") == b"1"
        fs.advance(-1_000_000)
        second = store.put(b"k", b"2")
        assert store.get_versioned(b"k") == (b"2", second)


# -- batches -------------------------------------------------------------------------------------


def test_batch_is_atomic_ordered_and_done_after_its_commit(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"d1", b"old")
        batch = store.batch()
        batch.put(b"a", b"1")
        batch.put(b"a", b"2")
        batch.put(b"d2", b"gone")
        batch.delete_range(b"d")
        batch.put(b"d3", b"kept")
        batch.delete(b"b")
        assert len(batch) == 6
        assert list(store.scan()) == [(b"d1", b"old")]
        sequence = batch.commit()
        assert sequence == store.stats().last_sequence
        assert list(store.scan()) == [(b"a", b"2"), (b"d3", b"kept")]
        for call in (
            batch.commit,
            lambda: batch.put(b"x", b""),
            lambda: batch.put(b"x", b"", ttl_seconds=1),
            lambda: batch.delete(b"x"),
            lambda: batch.delete_range(b"x"),
        ):
            with pytest.raises(walkv.ClosedError):
                call()
        assert store.count() == 2
        store.compact()
        assert list(store.scan()) == [(b"a", b"2"), (b"d3", b"kept")]


def test_batch_as_a_context_manager(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        with store.batch() as batch:
            batch.put(b"a", b"1")
        with pytest.raises(ZeroDivisionError), store.batch() as batch:  # noqa: PT012  # its block
            batch.put(b"b", b"1")
            raise ZeroDivisionError
        with store.batch() as batch:
            batch.put(b"c", b"1")
            batch.commit()
        with store.batch() as batch:
            batch.put(b"d", b"1")
            batch.discard()
        assert store.batch().commit() is None
        with store.batch():
            pass
        assert list(store.scan(keys_only=True)) == [b"a", b"c"]


# -- views ---------------------------------------------------------------------------------------


def test_a_view_stays_through_writes_flush_and_compaction(tmp_path: Path) -> None:
    model: dict[bytes, bytes] = {}
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:
        for number in range(2000):
            model[b"%04d" % number] = b"%d" % number
            store.put(b"%04d" % number, b"%d" % number)
            if number == 1000:
                store.compact()
        store.delete_range(b"00")
        for number in range(100):
            del model[b"%04d" % number]
        expected = sorted(model.items())
        versions = [store.get_versioned(key) for key, _ in expected]

        def check(view: walkv.View) -> None:
            assert list(view.scan()) == expected
            assert list(view.scan(reverse=True, limit=5)) == expected[::-1][:5]
            assert view.count() == len(expected)
            assert view.get_many([b"0100", b"0099", b"new"]) == [b"100", None, None]
            assert [view.get_versioned(key) for key, _ in expected] == versions
            assert view[b"1500"] == b"1500"
            assert b"0000" not in view
            assert view.get(b"0001", b"-") == b"-"
            with pytest.raises(KeyError):
                view[b"new"]

        with store.view() as view:
            assert view.sequence == store.stats().last_sequence
            check(view)
            for number in range(0, 2000, 3):
                store.put(b"%04d" % number, b"changed")
                if number % 2:
                    store.delete(b"%04d" % number)
                    store.put(b"%04d" % number, b"changed twice")
            store.put(b"new", b"1")
            check(view)
            store.delete_range(start=b"1200", stop=b"1300")
            check(view)
            store.compact()
            check(view)
            with store.view() as second:
                store.delete_range(b"")
                store.compact()
                assert second.get(b"new") == b"1"
                assert second.count() == store.count() + second.count()
            check(view)
        assert list(store.scan()) == []


def test_views_at_several_moments_each_keep_theirs(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        views = []
        for number in range(10):
            store.put(b"k", b"%d" % number)
            store.put(b"k", b"%d" % number)
            views.append(store.view())
        order = [3, 9, 0, 5, 1, 8, 2, 7, 4, 6]
        for position, closing in enumerate(order):
            for number in order[position:]:
                assert views[number].get(b"k") == b"%d" % number
                assert list(views[number].scan()) == [(b"k", b"%d" % number)]
            views[closing].close()
            store.put(b"k", b"later")
            with pytest.raises(walkv.ClosedError):
                views[closing].get(b"k")
            views[closing].close()


# -- transactions --------------------------------------------------------------------------------


def test_transaction_sees_its_own_writes_and_nobody_else_does(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        store.compact()
        with store.transaction() as tx:
            tx.put(b"a/3", b"new")
            tx.put(b"b", b"changed")
            tx.delete(b"c")
            tx.delete_range(b"\xff")
            tx.put(b"\xff\x01", b"after the range")
            expected = [b"a", b"a/1", b"a/2", b"a/3", b"b", b"b/1", b"\xff\x01"]
            assert list(tx.scan(keys_only=True)) == expected
            assert list(tx.scan(reverse=True, keys_only=True)) == expected[::-1]
            assert list(tx.scan(b"b")) == [(b"b", b"changed"), (b"b/1", b"vb/1")]
            assert list(tx.scan(limit=4, keys_only=True)) == expected[:4]
            assert tx.count(start=b"b") == 3
            assert tx.get(b"b") == b"changed"
            assert tx[b"b"] == b"changed"
            assert tx.get(b"c", b"-") == b"-"
            assert tx.get(b"\xff") is None
            assert b"\xff\xff" not in tx
            assert tx.get_versioned(b"b") == (b"changed", 0)
            assert tx.get_many([b"a", b"c", b"a/3"]) == [b"va", None, b"new"]
            with pytest.raises(KeyError):
                tx[b"c"]
            assert list(store.scan(keys_only=True)) == KEYS
        assert list(store.scan(keys_only=True)) == expected


def reads_key(tx: walkv.Transaction) -> None:
    tx.get(b"b")


def reads_absent(tx: walkv.Transaction) -> None:
    assert tx.get(b"bb") is None


def reads_many(tx: walkv.Transaction) -> None:
    tx.get_many([b"a", b"b"])


def reads_prefix(tx: walkv.Transaction) -> None:
    list(tx.scan(b"b"))


def counts(tx: walkv.Transaction) -> None:
    tx.count(b"b")


def reads_first(tx: walkv.Transaction) -> None:
    list(tx.scan(start=b"b", limit=1))


def reads_last(tx: walkv.Transaction) -> None:
    list(tx.scan(stop=b"c", limit=1, reverse=True))


def reads_one_and_stops(tx: walkv.Transaction) -> None:
    for _ in tx.scan(b"b"):
        break


def put_b(store: walkv.Store) -> None:
    store.put(b"b", b"other")


def put_bb(store: walkv.Store) -> None:
    store.put(b"bb", b"phantom")


def delete_b(store: walkv.Store) -> None:
    store.delete(b"b")


def delete_b_range(store: walkv.Store) -> None:
    store.delete_range(b"b")


def put_far(store: walkv.Store) -> None:
    store.put(b"zzz", b"elsewhere")


def put_c(store: walkv.Store) -> None:
    store.put(b"c", b"elsewhere")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("read", "write", "conflicts"),
    [
        (reads_key, put_b, True),
        (reads_key, delete_b, True),
        (reads_key, delete_b_range, True),
        (reads_key, put_bb, False),
        (reads_key, put_far, False),
        (reads_absent, put_bb, True),
        (reads_absent, put_b, False),
        (reads_many, put_b, True),
        (reads_many, put_c, False),
        (reads_prefix, put_b, True),
        (reads_prefix, put_bb, True),
        (reads_prefix, delete_b, True),
        (reads_prefix, delete_b_range, True),
        (reads_prefix, put_c, False),
        (counts, put_bb, True),
        (counts, put_far, False),
        (reads_first, put_b, True),
        (reads_first, put_bb, False),
        (reads_first, delete_b_range, True),
        (reads_last, put_bb, True),
        (reads_last, put_c, False),
        (reads_one_and_stops, put_b, True),
        (reads_one_and_stops, put_c, False),
    ],
)
def test_transaction_conflicts(
    tmp_path: Path,
    read: Callable[[walkv.Transaction], None],
    write: Settle,
    conflicts: bool,
    frozen: bool,
) -> None:
    with walkv.open(tmp_path / "s") as store:
        for key in (b"a", b"b", b"c"):
            store.put(key, b"1")
        tx = store.transaction()
        read(tx)
        tx.put(b"result", b"1")
        write(store)
        if frozen:  # the memtable that the transaction read is gone when it commits
            store.compact()
        if conflicts:
            with pytest.raises(walkv.ConflictError):
                tx.commit()
            assert b"result" not in store
        else:
            tx.commit()
            assert store[b"result"] == b"1"


def test_what_a_transaction_wrote_before_reading_it_is_no_read(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"1")
        tx = store.transaction()
        tx.put(b"k", b"mine")
        assert tx.get(b"k") == b"mine"
        store.put(b"k", b"theirs")
        tx.commit()
        assert store[b"k"] == b"mine"


def test_a_scan_that_is_still_open_counts_as_read(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"a1", b"1")
        store.put(b"a2", b"1")
        tx = store.transaction()
        entries = tx.scan(b"a")
        assert next(entries) == (b"a1", b"1")
        store.put(b"a1", b"2")
        tx.put(b"z", b"made from a1 = 1")
        with pytest.raises(walkv.ConflictError):
            tx.commit()
        del entries


def test_transactions_that_write_nothing_or_are_discarded(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"1")
        tx = store.transaction()
        assert tx.get(b"k") == b"1"
        store.put(b"k", b"2")
        assert tx.get(b"k") == b"1"
        assert tx.commit() is None
        with pytest.raises(walkv.ClosedError):
            tx.get(b"k")
        with pytest.raises(walkv.ClosedError):
            tx.commit()
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:  # noqa: PT012  # likewise
            tx.put(b"k", b"3")
            raise ZeroDivisionError
        with store.transaction() as tx:
            tx.put(b"k", b"4")
            tx.discard()
        with store.transaction() as tx:
            tx.put(b"l", b"5")
            assert tx.commit() == store.stats().last_sequence
        assert list(store.scan()) == [(b"k", b"2"), (b"l", b"5")]


def test_write_skew_is_a_conflict(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        one, two = store.transaction(), store.transaction()
        assert one.count(b"on-call/") == two.count(b"on-call/") == 0
        one.put(b"on-call/ada", b"")
        two.put(b"on-call/bob", b"")
        one.commit()
        with pytest.raises(walkv.ConflictError):
            two.commit()
        assert store.count() == 1


def test_transact_retries_until_there_is_no_conflict(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"n", b"0")
        runs = 0

        def increment(tx: walkv.Transaction) -> int:
            nonlocal runs
            runs += 1
            number = int(tx[b"n"]) + 1
            if runs < 3:
                store.put(b"n", b"%d" % (10 * runs))
            tx.put(b"n", b"%d" % number)
            return number

        assert store.transact(increment) == 21
        assert runs == 3
        assert store[b"n"] == b"21"

        def always(tx: walkv.Transaction) -> None:
            nonlocal runs
            runs += 1
            tx.get(b"n")
            store.put(b"n", b"other")
            tx.put(b"n", b"mine")

        runs = 0
        with pytest.raises(walkv.ConflictError):
            store.transact(always, retries=2)
        assert runs == 3
        assert store[b"n"] == b"other"
        with pytest.raises(ValueError, match="retries"):
            store.transact(always, retries=-1)
        with pytest.raises(ZeroDivisionError):
            store.transact(lambda tx: 1 // 0)


def test_transact_from_threads_loses_no_increment(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:
        store.put(b"n", b"0")

        def work() -> None:
            for _ in range(25):
                store.transact(lambda tx: tx.put(b"n", b"%d" % (int(tx[b"n"]) + 1)), retries=1000)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store[b"n"] == b"100"


# -- the end, and failures -----------------------------------------------------------------------


def test_a_closed_store_says_so_everywhere(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s")
    fill(store)
    view, tx, scan = store.view(), store.transaction(), store.scan()
    batch = store.batch()
    batch.put(b"x", b"1")
    tx.put(b"x", b"1")
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.get(b"a"),
        lambda: store[b"a"],
        lambda: b"a" in store,
        lambda: store.get_many([b"a"]),
        lambda: store.get_versioned(b"a"),
        lambda: list(store.scan()),
        store.count,
        store.view,
        lambda: store.put(b"a", b"1"),
        lambda: store.put(b"a", b"1", expected=None),
        lambda: store.delete(b"a"),
        lambda: store.delete_range(b"a"),
        store.transaction,
        lambda: store.transact(lambda tx: tx.get(b"a")),
        store.sync,
        store.compact,
        store.verify,
        store.stats,
        lambda: view.get(b"a"),
        lambda: next(scan),
        batch.commit,
        tx.commit,
    ]
    for call in calls:
        with pytest.raises(walkv.ClosedError):
            call()
    view.close()


def test_failed_write_is_undone_and_the_store_goes_on(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        store.put(b"a", b"1")
        fs.hook = fail("write", ".wal", errno.ENOSPC, times=2)
        with pytest.raises(OSError, match="No space") as caught:
            store.put(b"b", b"2")
        assert caught.value.errno == errno.ENOSPC
        assert b"b" not in store
        store.put(b"c", b"3")
    with walkv.open(tmp_path / "s") as store:
        assert list(store.scan()) == [(b"a", b"1"), (b"c", b"3")]
        assert store.recovery_report.clean


def test_failed_sync_stops_the_store_for_good(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    store = walkv.open(tmp_path / "s", filesystem=fs)
    store.put(b"a", b"1")
    fs.hook = fail("sync_data", ".wal", errno.EIO)
    with pytest.raises(walkv.StoreFailedError) as caught:
        store.put(b"b", b"2")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EIO
    syncs = fs.calls.count(("sync_data", os.path.join(store.path, "log", "0" * 19 + "1.wal")))
    for call in (
        lambda: store.put(b"c", b"3"),
        lambda: store.delete(b"a"),
        store.sync,
        store.compact,
        lambda: store.get(b"a"),
    ):
        with pytest.raises(walkv.StoreFailedError) as caught:
            call()
        assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(walkv.StoreFailedError):
        store.close()
    store.close()
    assert store.closed
    after = fs.calls.count(("sync_data", os.path.join(store.path, "log", "0" * 19 + "1.wal")))
    assert after == syncs
    with walkv.open(tmp_path / "s") as store:
        assert store[b"a"] == b"1"
        assert b"c" not in store


def test_failed_rotation_leaves_every_later_commit_recoverable(tmp_path: Path) -> None:
    for number, (operation, suffix) in enumerate(
        [
            ("create", ".wal"),
            ("truncate", ".wal"),
            ("write", ".wal"),
            ("create", "MANIFEST.tmp"),
            ("write", "MANIFEST.tmp"),
            ("rename", "MANIFEST"),
            ("create", ".snap"),
            ("write", ".snap"),
        ]
    ):
        fs = HookedFileSystem()
        path = tmp_path / str(number)
        with walkv.open(path, filesystem=fs) as store:
            store.put(b"a", b"1")
            fs.hook = fail(operation, suffix, errno.ENOSPC)
            with pytest.raises(OSError, match="No space"):
                store.compact()
            fs.hook = None
            store.put(b"b", b"2")
            assert list(store.scan()) == [(b"a", b"1"), (b"b", b"2")], operation
            store.put(b"c", b"3")
        with walkv.open(path) as store:
            assert store.count() == 3, (operation, suffix)
            assert store.verify().ok


def test_sync_and_policies_count_syncs(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack(interval_seconds=3600)) as store:
        store.put(b"a", b"1")
        assert store.stats().sync_count == 0
        assert store.stats().unsynced_bytes > 0
        store.sync()
        assert store.stats().sync_count == 1
        assert store.stats().unsynced_bytes == 0
        store.sync()
        assert store.stats().sync_count == 1
        store.put(b"a", b"2", sync=walkv.Wal())
        assert store.stats().sync_count == 2
        store.put(b"a", b"3", sync=walkv.WriteThrough())
        assert store.stats().sync_count == 3
        store.delete(b"a", sync=walkv.Wal())
        assert store.stats().sync_count == 4
        with store.batch(sync=walkv.Wal()) as batch:
            batch.put(b"b", b"1")
        assert store.stats().sync_count == 5
        with store.transaction(sync=walkv.WriteThrough()) as tx:
            tx.put(b"b", b"2")
        assert store.stats().sync_count == 6


def test_write_back_never_leaves_more_than_max_unsynced_bytes(tmp_path: Path) -> None:
    policy = walkv.WriteBack(interval_seconds=3600, max_unsynced_bytes=10_000)
    with walkv.open(tmp_path / "s", sync=policy) as store:
        for number in range(300):
            store.put(b"%d" % number, b"x" * 500)
            assert store.stats().unsynced_bytes <= 10_000
        assert 15 <= store.stats().sync_count < 300


def test_stats_add_up(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", memtable_bytes=1 << 20, cache_bytes=1 << 20) as store:
        for number in range(100):
            store.put(b"%03d" % number, b"x" * 100, sync=walkv.WriteBack())
        store.compact()
        for number in range(0, 100, 10):
            store.delete(b"%03d" % number)
        store.get(b"005")
        stats = store.stats()
        assert stats.path == store.path
        assert not stats.read_only
        assert stats.sync_policy == "Wal()"
        assert stats.last_sequence == 110
        assert stats.memtable_entries == 10
        assert 0 < stats.memtable_bytes <= stats.memtable_budget_bytes == 1 << 20
        assert (stats.snapshot_count, stats.snapshot_entries) == (1, 100)
        assert stats.tombstone_count == 0
        snapshots = sum(p.stat().st_size for p in Path(store.path, "snapshots").iterdir())
        log = sum(p.stat().st_size for p in Path(store.path, "log").iterdir())
        assert stats.snapshot_bytes == snapshots
        assert stats.log_bytes == log
        assert stats.disk_bytes == snapshots + log
        assert stats.segment_count == len(os.listdir(os.path.join(store.path, "log")))
        assert (stats.flush_count, stats.background_error) == (1, "")
        assert 0 < stats.cache_bytes <= stats.cache_budget_bytes == 1 << 20
        assert stats.cache_pages == 2


def test_verify_reports_every_damaged_file_and_progress(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        for number in range(1000):
            store.put(b"%03d" % number, os.urandom(50), sync=walkv.WriteBack())
        store.compact()
        store.put(b"a", b"1")
        store.put(b"b", b"2")
        seen: list[tuple[int, int]] = []
        report = store.verify(lambda done, total: seen.append((done, total)))
        assert report.ok
        assert report.problems == ()
        assert report.file_count == 3
        assert seen[-1][0] == seen[-1][1]
        assert seen == sorted(seen)
        (snapshot,) = Path(store.path, "snapshots").iterdir()
        original = snapshot.read_bytes()
        size = len(original)
        for at in (0, 20, 70, size // 3, size // 2, size - 70, size - 20, size - 1):
            damaged = bytearray(original)
            damaged[at] ^= 4
            snapshot.write_bytes(damaged)
            report = store.verify()
            assert [problem.path for problem in report.problems] == [str(snapshot)], at
        snapshot.write_bytes(original)
        (segment,) = Path(store.path, "log").iterdir()
        data = bytearray(segment.read_bytes())
        data[70] ^= 1
        segment.write_bytes(data)
        report = store.verify()
        assert [problem.path for problem in report.problems] == [str(segment)]
        data[70] ^= 1
        segment.write_bytes(data)
        assert store.verify().ok
        snapshot.rename(tmp_path / "away")
        assert [problem.path for problem in store.verify().problems] == [str(snapshot)]


def test_verify_beside_a_writer_finds_no_damage(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        store.put(b"a", b"1")
        busy = False
        left = 20

        def write_meanwhile(operation: str, path: str) -> None:
            nonlocal busy, left
            if operation == "size" and path.endswith(".wal") and not busy and left:
                busy = True
                left -= 1
                for key in (b"x", b"y", b"z"):
                    store.put(key, b"1" * 100_000)
                busy = False

        fs.hook = write_meanwhile
        report = store.verify()
        fs.hook = None
        assert report.problems == ()


def test_keys_of_the_empty_string_are_never_there(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store)
        assert store.get(b"") is None
        assert b"" not in store


def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s")
    store.put(b"a", b"1")
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child's coverage is not collected
        said = b"nothing"
        try:
            store.put(b"b", b"2")
        except walkv.StoreFailedError as error:
            said = b"refused" if "fork" in str(error) else b"unclear"
        except BaseException as error:  # noqa: BLE001  # whatever it is, the parent has to see it
            said = repr(error).encode()
        store.close()
        os.write(write_end, said)
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_end, 100) == b"refused"
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(walkv.LockedError):
        walkv.open(tmp_path / "s")
    store.put(b"c", b"3")
    store.close()
    with walkv.open(tmp_path / "s") as store:
        assert list(store.scan()) == [(b"a", b"1"), (b"c", b"3")]
