"""Packed tuples: they sort like the tuples, come back to the type; hostile bytes are refused."""

from __future__ import annotations

import enum
import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walkv.namespaces import keys

few = settings(max_examples=150, deadline=None, database=None)

ints = st.one_of(
    st.integers(-(2**64) + 1, 2**64 - 1),
    st.sampled_from([0, 1, -1, 255, 256, -255, -256, 2**63, -(2**63), 2**64 - 1, -(2**64) + 1]),
    st.builds(
        lambda bits, off: max(min(2**bits + off, 2**64 - 1), 0),
        st.integers(0, 64),
        st.integers(-2, 2),
    ),
)
floats = st.floats(allow_nan=False)
times = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.sampled_from("\0\1aZ\xff\u0100\uffff\U0010ffff"), max_size=5)
blobs = st.binary(max_size=5).map(lambda data: data.replace(b"a", b"\0").replace(b"b", b"\xff"))
KINDS = [ints, floats, times, texts, blobs, st.booleans()]


def with_none(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | kind


@st.composite
def pairs(draw: st.DrawFn) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Two tuples whose elements are of like types, place by place; often with a common start."""
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(draw(st.integers(1, 3)))]
    one = tuple(draw(with_none(kind)) for kind in kinds)
    common = draw(st.integers(0, len(kinds)))
    other = one[:common] + tuple(draw(with_none(kind)) for kind in kinds[common:])
    return one, other[: draw(st.integers(common, len(other)))]


def sorts(element: Any) -> tuple[Any, ...]:
    # None below everything, and Python has no order between None and others.
    return (0,) if element is None else (1, element)


any_tuple = st.lists(st.one_of(st.none(), *KINDS), max_size=4).map(tuple)


@given(pairs())
@example((("a",), ("a\0",)))
@example((("a", 1), ("a\0", 0)))
@example(((b"\0",), (b"\0\0",)))
@example(((-256,), (-255,)))
@few
def test_bytes_sort_like_the_tuples(pair: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    one, other = pair
    expected = [sorts(e) for e in one] < [sorts(e) for e in other]
    assert (keys.pack(*one) < keys.pack(*other)) == expected
    # Equal bytes for equal tuples only: 0.0 and -0.0 are equal.
    assert (keys.pack(*one) == keys.pack(*other)) == (one == other)


def test_integers_of_every_size_and_sign_are_in_order() -> None:
    edges = sorted(
        {sign * (2**bits + off) for bits in range(64) for off in (-1, 0, 1) for sign in (1, -1)}
        | {2**64 - 1, -(2**64) + 1}
    )
    packed = [keys.pack(number) for number in edges]
    assert packed == sorted(packed)
    assert [keys.unpack(each) for each in packed] == [(number,) for number in edges]


def test_floats_are_in_order_infinities_included() -> None:
    edges = [-math.inf, -1e308, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1e308, math.inf]
    packed = [keys.pack(number) for number in edges]
    assert packed == sorted(packed)
    assert keys.pack(-0.0) == keys.pack(0.0)
    assert math.copysign(1, keys.unpack(keys.pack(-0.0))[0]) == 1


def test_the_order_between_types() -> None:
    elements = [None, False, True, -5, 0, 7, -1.5, 2.5, datetime(1969, 1, 1, tzinfo=UTC), b"", "a"]
    packed = [keys.pack(element) for element in elements]
    assert packed == sorted(packed)


@given(any_tuple)
@few
def test_what_is_packed_is_what_is_unpacked(elements: tuple[Any, ...]) -> None:
    found = keys.unpack(keys.pack(*elements))
    assert found == elements
    assert list(map(type, found)) == list(map(type, elements))


@given(any_tuple, any_tuple, any_tuple)
@example(("a",), (), ("a\0",))
@few
def test_the_keys_that_begin_with_a_tuple_are_one_range(
    start: tuple[Any, ...], rest: tuple[Any, ...], other: tuple[Any, ...]
) -> None:
    low = keys.pack(*start)
    high = low + keys.END
    assert low <= keys.pack(*start, *rest) < high
    packed = keys.pack(*other)
    # By bytes: to Python 1, 1.0 and True are equal.
    begins = keys.pack(*other[: len(start)]) == low and len(other) >= len(start)
    assert (low <= packed < high) == begins


@given(any_tuple)
@few
def test_no_element_begins_with_the_end(elements: tuple[Any, ...]) -> None:
    assert all(keys.pack_one(element)[0] < keys.END[0] for element in elements)


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


def test_subclasses_are_packed_as_what_they_are() -> None:
    class Text(str):
        def __str__(self) -> str:
            return "something else"

    class Float(float):
        pass

    found = keys.unpack(keys.pack(Colour.RED, Number.ONE, Text("t"), Float(1.5)))
    assert found == ("red", 1, "t", 1.5)
    assert list(map(type, found)) == [str, int, str, float]
    assert keys.unpack(keys.pack(bytearray(b"a"), memoryview(b"b"))) == (b"a", b"b")


@pytest.mark.parametrize("hours", [-12, 0, 5, 14])
def test_times_of_all_zones_are_one_order(hours: int) -> None:
    moment = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=hours)))
    assert keys.pack(elsewhere) == keys.pack(moment)
    (found,) = keys.unpack(keys.pack(elsewhere))
    assert found == moment
    assert found.tzinfo is UTC


@pytest.mark.parametrize("edge", [datetime.min, datetime.max])
def test_the_first_and_the_last_time(edge: datetime) -> None:
    moment = edge.replace(tzinfo=UTC)
    assert keys.unpack(keys.pack(moment)) == (moment,)


REFUSED = [
    math.nan,
    -math.nan,
    2**64,
    -(2**64),
    10**5000,
    -(10**5000),
    datetime(2024, 1, 1),
    "\ud800",
    "a\udfffb",
]


@pytest.mark.parametrize("element", REFUSED, ids=lambda each: type(each).__name__)
def test_what_has_no_place_in_an_order_is_refused(element: Any) -> None:
    with pytest.raises(ValueError, match=r"NaN|64 bits|time zone|surrogates"):
        keys.pack("before", element)


@pytest.mark.parametrize("element", [[1], {"a": 1}, {1}, (1,), 1j, object()])
def test_what_has_no_order_is_refused_without_being_shown(element: Any) -> None:
    with pytest.raises(TypeError) as caught:
        keys.pack(element)
    assert str(caught.value) == f"a {type(element).__name__} cannot be in a key"


@given(st.binary(max_size=40) | st.lists(st.sampled_from(range(256)), max_size=12).map(bytes))
@example(b"\x30" + b"\xff" * 8)
@example(b"\x30" + b"\x00" * 8)
@example(b"\x50\xff\x00")
@example(b"\x50a")
@example(b"\x1c\x00")
@example(b"\x21\x00")
@example(b"\x00")
@example(b"\xff")
@settings(max_examples=500, deadline=None, database=None)
def test_hostile_bytes_give_a_tuple_or_value_error(data: bytes) -> None:
    try:
        elements = keys.unpack(data)
    except ValueError:
        return
    assert isinstance(elements, tuple)


@given(any_tuple, st.data())
@few
def test_bytes_cut_short_are_refused_or_a_shorter_tuple(
    elements: tuple[Any, ...], data: st.DataObject
) -> None:
    packed = keys.pack(*elements)
    cut = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        found = keys.unpack(cut)
    except ValueError:
        return
    assert keys.pack(*found) == cut


def test_a_stored_nan_is_read_though_none_is_written() -> None:
    bits = int.from_bytes(struct.pack(">d", math.nan), "big") ^ (1 << 63)
    (found,) = keys.unpack(b"\x21" + bits.to_bytes(8, "big"))
    assert math.isnan(found)
