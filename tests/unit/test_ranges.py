"""Range sets against the set of keys they stand for."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from walkv.engine.ranges import NO_RANGES, RangeSet, prefix_stop

ALPHABET = [bytes((a,)) for a in b"abcdef"]
POINTS = [b"", *ALPHABET, *(a + b for a in ALPHABET for b in (b"\0", b"m"))]
INTERVAL = st.tuples(st.sampled_from(POINTS), st.one_of(st.none(), st.sampled_from(POINTS))).filter(
    lambda pair: pair[1] is None or pair[0] < pair[1]
)
INTERVALS = st.lists(INTERVAL, max_size=12)
Pairs = list[tuple[bytes, bytes | None]]


def made(intervals: Pairs) -> RangeSet:
    ranges = NO_RANGES
    for start, stop in intervals:
        ranges = ranges.adding(start, stop)
    return ranges


def inside(intervals: Pairs, key: bytes) -> bool:
    return any(start <= key and (stop is None or key < stop) for start, stop in intervals)


def check_form(ranges: RangeSet) -> None:
    pairs = list(ranges)
    assert len(pairs) == len(ranges)
    assert bool(ranges) == bool(pairs)
    for start, stop in pairs:
        assert stop is None or start < stop
    for (_, stop), (start, _) in pairwise(pairs):
        assert stop is not None
        assert stop < start  # disjoint, and not touching


@given(INTERVALS)
def test_adding_and_covers(intervals: Pairs) -> None:
    ranges = made(intervals)
    check_form(ranges)
    for key in [*POINTS, b"zz", b"a\0\0"]:
        assert ranges.covers(key) == inside(intervals, key)


@given(INTERVALS, INTERVAL)
def test_adding_leaves_the_old_set_alone(
    intervals: Pairs, more: tuple[bytes, bytes | None]
) -> None:
    ranges = made(intervals)
    before = list(ranges)
    ranges.adding(*more)
    assert list(ranges) == before


@given(INTERVALS, INTERVALS)
def test_union(one: Pairs, other: Pairs) -> None:
    union = made(one).union(made(other))
    check_form(union)
    assert list(union) == list(made(one + other)) == list(made(other).union(made(one)))


@given(INTERVALS, st.sampled_from(POINTS), st.sampled_from(POINTS))
def test_touches_and_encloses(intervals: Pairs, one: bytes, other: bytes) -> None:
    first, last = sorted((one, other))
    ranges = made(intervals)
    # All keys that could tell the ends of the intervals apart.
    keys = [key for point in POINTS for key in (point, point + b"\0") if first <= key <= last]
    assert ranges.touches(first, last) == any(inside(intervals, key) for key in keys)
    assert ranges.encloses(first, last) == all(inside(intervals, key) for key in keys)


@given(st.binary(max_size=4), st.binary(max_size=6))
def test_prefix_stop(prefix: bytes, key: bytes) -> None:
    stop = prefix_stop(prefix)
    assert key.startswith(prefix) == (prefix <= key and (stop is None or key < stop))
