"""The memtable against a model that keeps every version it ever had."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from walkv.engine.memtable import NO_VIEW, Memtable

KEYS = st.binary(min_size=1, max_size=2).map(lambda raw: bytes(b % 5 + 97 for b in raw))
ITEM = st.one_of(
    st.binary(max_size=3),
    st.none(),
    st.tuples(st.integers(1, 99), st.binary(max_size=3)).map(list),
)
RANGE = st.tuples(KEYS, st.one_of(st.none(), KEYS)).filter(lambda r: r[1] is None or r[0] < r[1])
OPERATION = st.one_of(
    st.tuples(KEYS, ITEM), st.tuples(KEYS, ITEM), st.tuples(RANGE.map(list), st.none())
)
BATCH = st.lists(OPERATION, min_size=1, max_size=5)
# A step is a batch and whether a view is opened after it.
STEPS = st.lists(st.tuples(BATCH, st.booleans()), max_size=14)


class Model:
    """All states after each sequence, as plain dicts of key to (sequence, item)."""

    def __init__(self) -> None:
        self.state: dict[bytes, tuple[int, Any]] = {}
        self.deleted: list[tuple[int, bytes, bytes | None]] = []

    def apply(self, subject: Any, item: Any, sequence: int) -> None:
        if isinstance(subject, bytes):
            self.state[subject] = (sequence, item)
            return
        start, stop = subject
        self.deleted.append((sequence, start, stop))
        for key in self.state:
            if start <= key and (stop is None or key < stop):
                self.state[key] = (sequence, None)


def items_of(entry: Any) -> Any:
    return [entry[2], entry[1]] if entry[2] else entry[1]


def run(steps: list[tuple[list[tuple[Any, Any]], bool]]) -> tuple[Memtable, Model, dict[int, Any]]:
    memtable, model = Memtable(), Model()
    views: dict[int, Any] = {}
    sequence = 0
    for operations, viewed in steps:
        flat = [part for pair in operations for part in pair]
        memtable.prepare(flat, sequence + 1).publish(memtable)
        for subject, item in operations:
            sequence += 1
            model.apply(subject, item, sequence)
        if viewed:
            memtable.newest_view = sequence
            views[sequence] = dict(model.state)
    views[sequence] = dict(model.state)
    return memtable, model, views


@given(STEPS)
@settings(max_examples=200)
def test_versions_and_chunks_as_of_each_view(steps: Any) -> None:
    memtable, model, views = run(steps)
    assert len(memtable) == len(model.state)
    for sequence, state in views.items():
        for key in {*model.state, b"absent"}:
            entry = memtable.get(key, sequence)
            expected = state.get(key)
            assert (None if entry is None else (entry[0], items_of(entry))) == expected
        for start, stop in ((b"", None), (b"b", b"d"), (b"bb", b"c"), (b"c", b"c")):
            wanted = sorted(
                (key, item)
                for key, (_, item) in state.items()
                if start <= key and (stop is None or key < stop)
            )
            for reverse in (False, True):
                found: list[Any] = []
                for keys, items, plain in memtable.chunks(
                    start, stop, sequence=sequence, reverse=reverse
                ):
                    assert keys == sorted(keys)
                    assert plain == all(type(item) is bytes for item in items)
                    pairs = list(zip(keys, items, strict=True))
                    found += pairs[::-1] if reverse else pairs
                assert found == (wanted[::-1] if reverse else wanted)


@given(STEPS)
@settings(max_examples=100)
def test_ranges_cover_what_was_deleted_and_nothing_else(steps: Any) -> None:
    memtable, model, _ = run(steps)
    for key in (bytes((a,)) + rest for a in b"abcdef" for rest in (b"", b"a", b"c", b"zz")):
        covered = any(
            start <= key and (stop is None or key < stop) for _, start, stop in model.deleted
        )
        assert memtable.ranges.covers(key) == covered
    assert memtable.range_writes == model.deleted


@given(STEPS)
@settings(max_examples=100)
def test_changed_since(steps: Any) -> None:
    memtable, model, views = run(steps)
    last = max(views)
    for sequence in range(last + 1):
        for start, stop in ((b"", None), (b"b", b"d"), (b"bb", b"bc"), (b"a", b"a\0")):
            written = any(
                at > sequence and start <= key and (stop is None or key < stop)
                for key, (at, _) in model.state.items()
            )
            deleted = any(
                at > sequence
                and (low_stop is None or start < low_stop)
                and (stop is None or low < stop)
                for at, low, low_stop in model.deleted
            )
            changed = memtable.changed_since(start, stop, sequence)
            assert (changed is not None) == (written or deleted)
            assert changed is None or (start <= changed and (stop is None or changed < stop))


@given(STEPS)
@settings(max_examples=100)
def test_sorted_chunks(steps: Any) -> None:
    memtable, model, _ = run(steps)
    found = []
    for (keys, items, plain), sequences in memtable.sorted_chunks(lambda: None):
        assert plain == all(type(item) is bytes for item in items)
        found += list(zip(keys, sequences, items, strict=True))
    assert found == sorted((key, at, item) for key, (at, item) in model.state.items())


def filled(count: int) -> Memtable:
    memtable = Memtable()
    for number in range(count):
        key = b"%06d" % (number * 7919 % count)
        memtable.prepare([key, b"%d" % number], number + 1).publish(memtable)
    return memtable


def test_sorted_chunks_of_many_keys_pause_often() -> None:
    memtable = filled(20_000)
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    keys = [key for chunk, _ in memtable.sorted_chunks(pause) for key in chunk.keys]
    assert keys == [b"%06d" % number for number in range(20_000)]
    assert pauses >= 20_000 // 256 * 2


def test_a_scan_goes_on_while_the_table_is_written() -> None:
    memtable = filled(2000)
    memtable.newest_view = 2000
    for reverse in (False, True):
        found: list[bytes] = []
        for keys, _, _ in memtable.chunks(b"", None, sequence=2000, reverse=reverse):
            found += keys[::-1] if reverse else keys
            for number in range(50):
                at = 3000 + len(found) + number
                fresh = b"%06d" % (at * 31 % 2500) + b"+" * (number % 2)
                memtable.prepare([fresh, b"new"], at).publish(memtable)
        expected = [b"%06d" % number for number in range(2000)]
        assert found == (expected[::-1] if reverse else expected)


def test_without_views_a_key_has_one_version() -> None:
    memtable = Memtable()
    assert memtable.newest_view == NO_VIEW
    for number in range(5):
        memtable.prepare([b"k", b"%d" % number], number + 1).publish(memtable)
    assert memtable.table[b"k"] == (5, b"4", 0, None)
    memtable = filled(0)
    memtable.prepare([b"k", b"4"], 5).publish(memtable)
    memtable.newest_view = 5
    for number in range(5, 9):
        memtable.prepare([b"k", b"%d" % number], number + 1).publish(memtable)
    # One version for the view, not one for each overwrite.
    assert memtable.table[b"k"] == (9, b"8", 0, (5, b"4", 0, None))


def test_preparing_changes_nothing() -> None:
    memtable = filled(10)
    before = (dict(memtable.table), list(memtable.ranges.flat()), memtable.bytes_used)
    memtable.prepare([b"new", b"1", [b"0", None], None, b"000003", None], 11)
    assert (dict(memtable.table), list(memtable.ranges.flat()), memtable.bytes_used) == before


def test_bytes_used_counts_overwrites_too() -> None:
    memtable = Memtable()
    seen = [0]
    for operations in ([b"k", b"v" * 100], [b"k", b"v" * 100], [b"k", None], [[b"a", b"z"], None]):
        memtable.prepare(operations, len(seen)).publish(memtable)
        seen.append(memtable.bytes_used)
    assert seen == sorted(set(seen))
    assert seen[2] - seen[1] == seen[1] >= 101
