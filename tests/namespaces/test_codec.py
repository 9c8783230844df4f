"""Values and their bytes: back to the type, or refused without a trace; no bytes can do harm."""

from __future__ import annotations

import enum
import math
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walkv.errors import CodecError
from walkv.namespaces import codec

few = settings(max_examples=80, deadline=None, database=None)
SECRET = "hunter2"

hashable = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(2**62, 2**80),
        st.floats(allow_nan=False),
        st.text(max_size=8),
        st.binary(max_size=8),
        st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0)),
        st.dates(),
        st.times().map(lambda moment: moment.replace(fold=0)),
        st.timedeltas(),
        st.uuids(),
        st.decimals(allow_nan=False),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashable | st.sets(hashable, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=12,
)


def like(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(like, one, other))
    if isinstance(one, dict):
        return like(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return one == other and Counter(map(type, one)) == Counter(map(type, other))
    if isinstance(one, Decimal):
        return str(one) == str(other)
    if isinstance(one, float) and math.copysign(1, one) != math.copysign(1, other):
        return False
    return bool(one == other)


@given(values)
@example({(1, "a"): {frozenset({2})}, None: [], 2.5: b"", True: ()})
@example([-(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**100, -(10**100)])
@example([datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@example([date.min, date.max, timedelta.min, timedelta.max, time.max])
@example([Decimal("-0"), Decimal("Infinity"), Decimal("1E+999"), Decimal("0.10")])
@example([0.0, -0.0, math.inf, 5e-324])
@few
def test_what_is_encoded_comes_back_to_the_type(value: Any) -> None:
    data = codec.encode(value)
    found = codec.decode(data)
    assert like(found, value), (found, value)
    assert codec.encode(found) == data
    assert codec.decode_many([data, data]) == [found, found]


def test_not_a_number_comes_back() -> None:
    found = codec.decode(codec.encode([math.nan, Decimal("NaN"), Decimal("sNaN12")]))
    assert math.isnan(found[0])
    assert list(map(str, found[1:])) == ["NaN", "sNaN12"]


def test_times_of_other_zones_come_back_in_utc() -> None:
    moment = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    found = codec.decode(codec.encode([moment]))[0]
    assert found == moment.astimezone(UTC)
    assert found.utcoffset() == timedelta(0)
    of_day = time(12, 30, tzinfo=timezone(timedelta(hours=-3)))
    assert codec.decode(codec.encode(of_day)) == of_day


class Colour(str, enum.Enum):  # noqa: UP042  # as code from before 3.11 has it
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2**63


Point = namedtuple("Point", "x y")


class Text(str):
    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 2**63),
        (Point(1, 2), (1, 2)),
        (Text("a"), "a"),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
    ],
)
def test_subclasses_come_back_as_what_they_are_of(value: Any, expected: Any) -> None:
    for wrapped, wanted in ((value, expected), ({"k": [value]}, {"k": [expected]})):
        assert like(codec.decode(codec.encode(wrapped)), wanted)


def test_equal_sets_have_equal_bytes_in_every_process() -> None:
    program = (
        "from walkv.namespaces import codec; "
        "print(codec.encode({'a', 'b', 'c', ('d', 1), frozenset('xyz')}).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


# -- refused -------------------------------------------------------------------------------------


class Hidden:
    def __repr__(self) -> str:
        return SECRET

    __str__ = __repr__


REFUSED = [
    Hidden(),
    UserDict(a=SECRET),
    Fraction(1, 3),
    1j,
    range(3),
    {Hidden(): 1},
    (Hidden(),),
    {Hidden()},
    Hidden,
    datetime(1984, 4, 4),
    time(12, tzinfo=ZoneInfo("Europe/Berlin")),
    SECRET + "\ud800",
    {SECRET + "\udfff": 1},
    Colour,
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda each: type(each).__name__)
def test_what_cannot_be_stored_is_refused_and_not_shown(value: Any) -> None:
    for wrapped in (value, [SECRET, value], {SECRET: (1, [value])}):
        with pytest.raises(CodecError) as caught:
            codec.encode(wrapped)
        message = str(caught.value)
        assert message
        for shown in (SECRET, "1984", "ud800", "udfff", "1/3"):
            assert shown not in message


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    twisted: list[Any] = []
    twisted.append((twisted,))
    knot: dict[str, Any] = {}
    knot["k"] = {"k": [knot]}
    for value in (endless, twisted, knot):
        with pytest.raises(CodecError, match="nested too deeply"):
            codec.encode(value)


def nested(make: Any, depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


MAKERS = {
    "list": lambda value: [value],
    "dict": lambda value: {"k": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset({value}),
    "mixed": lambda value: ({"k": [value]},),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_deep_values_come_back_or_are_refused(kind: str) -> None:
    kept = 0
    for depth in (10, 50, 120, 200, 300, 500, 1000, *range(1018, 1030), 5000):
        try:
            data = codec.encode(nested(MAKERS[kind], depth))
        except CodecError:
            continue
        kept = depth
        for found in (codec.decode(data), codec.decode_many([data, data])[1]):
            levels = 0
            while found != 1:
                found = next(iter(found.values() if isinstance(found, dict) else found))
                levels += 1
            assert levels == (depth if kind != "mixed" else 3 * depth)
    assert 120 <= kept < 5000


def hostile_tuples(depth: int) -> bytes:
    data = b"\x91\xc0"
    for _ in range(depth):
        data = b"\x91" + msgpack.packb(msgpack.ExtType(1, data))
    return data


def test_deep_hostile_bytes_do_not_crash_the_process() -> None:
    # In a thread with a stack as small as some systems give by default.
    outcomes: list[str] = []

    def decode() -> None:
        for depth in (200, 1000, 3000):
            try:
                codec.decode(hostile_tuples(depth))
                outcomes.append("value")
            except CodecError:
                outcomes.append("refused")

    size_bytes = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=decode)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size_bytes)
    assert outcomes == ["value", "refused", "refused"]


def test_sets_in_sets_cost_what_they_hold() -> None:
    # Were each packed to be sorted and again to be written, this would take 2**60 steps.
    value = frozenset({0})
    for number in range(60):
        value = frozenset({value, number})
    assert codec.decode(codec.encode(value)) == value


# -- hostile bytes -------------------------------------------------------------------------------

extensions = st.builds(
    lambda code, data: b"\xc8" + len(data).to_bytes(2, "big") + bytes([code]) + data,
    st.integers(0, 12) | st.integers(0, 255),
    st.binary(max_size=12)
    | values.map(codec.encode)
    | st.sampled_from([b"1e99999999999999999", b"sNaN", b"2024-13-01", b"25:00", b"\xff" * 12]),
)


@given(
    st.binary(max_size=40)
    | extensions
    | extensions.map(lambda data: b"\x81" + data + b"\x01")
    | st.lists(extensions, max_size=3).map(lambda parts: b"\x93" + b"".join(parts))
)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xc9\xff\xff\xff\xff\x01")
@example(b"\x81\x90\x90")
@example(b"\xc7\x0c\xff" + b"\xff" * 12)
@example(b"\x01\x01")
@example(b"")
@settings(max_examples=300, deadline=None, database=None)
def test_hostile_bytes_give_a_value_or_codec_error(data: bytes) -> None:
    for decode in (codec.decode, lambda data: codec.decode_many([data, data])):
        try:
            decode(data)
        except CodecError:
            continue


@given(values, st.data())
@few
def test_bytes_with_a_byte_changed_give_a_value_or_codec_error(
    value: Any, data: st.DataObject
) -> None:
    encoded = bytearray(codec.encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    for hostile in (bytes(encoded), bytes(encoded[:at])):
        try:
            codec.decode(hostile)
        except CodecError:
            continue


# -- the packer that is kept -----------------------------------------------------------------------


class Boom(list[Any]):
    def __iter__(self) -> NoReturn:
        raise LookupError("not a codec's business")


FAILING = [
    ["x" * 1000, Hidden()],
    {"a": [1, (2, Hidden())]},
    [nested(MAKERS["list"], 2000)],
    ["\ud800"],
    [1, datetime(2024, 1, 1)],
]


@pytest.mark.parametrize("value", FAILING, ids=range(len(FAILING)))
def test_a_failed_encode_does_not_spoil_the_next(value: Any) -> None:
    good = {"k": [(1, {2}), "text"]}
    expected = codec.encode(good)
    with pytest.raises(CodecError):
        codec.encode(value)
    assert codec.encode(good) == expected
    with pytest.raises(LookupError):
        codec.encode(["before", Boom([1])])
    assert codec.encode(good) == expected


class Lazy(list[Any]):
    """Encodes something itself when it is gone through, as what reads from a store may."""

    def __iter__(self) -> Any:
        codec.encode(["inner", (1, 2), "x" * 300])
        return super().__iter__()


def test_a_value_that_encodes_while_it_is_encoded() -> None:
    value = {"before": "b" * 100, "lazy": Lazy([1, (2,)]), "after": [1, 2, 3]}
    expected = {"before": "b" * 100, "lazy": [1, (2,)], "after": [1, 2, 3]}
    for _ in range(2):
        assert codec.decode(codec.encode(value)) == expected


def test_many_threads_encode_at_once() -> None:
    begin = threading.Barrier(8)
    wrong: list[Any] = []

    def work(number: int) -> None:
        value = {(number, "k"): [{number}, Decimal(number), UUID(int=number), 2**70 + number]}
        begin.wait()
        for turn in range(300):
            if turn % 7 == number % 7:
                with pytest.raises(CodecError):
                    codec.encode([value, Hidden()])
            if codec.decode(codec.encode([turn, value])) != [turn, value]:
                wrong.append((number, turn))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_a_digest_stands_for_a_value() -> None:
    assert codec.digest({"a": (1, {2, 3})}) == codec.digest({"a": (1, {3, 2})})
    assert codec.digest([1]) != codec.digest((1,))
    assert codec.digest(1) != codec.digest(1.0)
    assert len(codec.digest(None)) == 32
