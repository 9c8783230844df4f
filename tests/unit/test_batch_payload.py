"""Payloads: what goes in comes out, and what is no payload is a ValueError."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkv import limits
from walkv.engine import batch

KEYS = st.binary(min_size=1, max_size=40)
ITEMS = st.one_of(
    st.binary(max_size=60),
    st.none(),
    st.tuples(st.integers(0, (1 << 63) - 1), st.binary(max_size=60)).map(list),
)
RANGES: Any = (
    st.tuples(st.binary(max_size=9), st.one_of(st.none(), st.binary(max_size=9)))
    .filter(lambda bounds: bounds[1] is None or bounds[0] < bounds[1])
    .map(list)
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(KEYS, ITEMS),
        st.tuples(RANGES, st.none()),
    ),
    min_size=1,
    max_size=20,
).map(lambda pairs: [part for pair in pairs for part in pair])


@given(OPERATIONS)
def test_round_trip(operations: list[Any]) -> None:
    payload = batch.encode(operations)
    assert batch.decode(payload) == operations
    assert batch.make_packer()(operations) == payload
    assert batch.make_packer()(tuple(operations)) == payload


@given(st.binary(max_size=60))
def test_anything_else_is_a_value_error(payload: bytes) -> None:
    try:
        operations = batch.decode(payload)
    except ValueError:
        return
    assert batch.decode(batch.encode(operations)) == operations


@pytest.mark.parametrize(
    "operations",
    [
        [],
        [b"key"],
        [b"key", b"value", b"key"],
        [b"", b"value"],
        [b"k" * (limits.MAX_KEY_BYTES + 1), b"value"],
        ["key", b"value"],
        [b"key", "value"],
        [b"key", 7],
        [b"key", True],
        [b"key", {}],
        [b"key", [1]],
        [b"key", [1, b"v", 2]],
        [b"key", [-1, b"v"]],
        [b"key", [1 << 63, b"v"]],
        [b"key", ["1", b"v"]],
        [b"key", [True, b"v"]],
        [b"key", [1, None]],
        [b"key", [1, "v"]],
        [None, b"value"],
        [[b"a"], None],
        [[b"a", b"b", b"c"], None],
        [["a", b"b"], None],
        [[b"a", "b"], None],
        [[b"a", b"b"], b"value"],
        [[b"a", None], [1, b"v"]],
        {"key": b"value"},
        b"bytes",
        7,
        None,
    ],
)
def test_wrong_operations_are_value_errors(operations: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        batch.decode(msgpack.packb(operations))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x92\xc4\x01k",
        msgpack.packb([b"k", b"v"]) + b"\0",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x82\x90\x90\x90\x90",
        b"\xa2\xff\xfe",
        b"\x92\xc4\x01k\xd6\xff\0\0\0\0",
        b"\x92\xc4\x01k\xc7\x00\x05",
    ],
)
def test_broken_msgpack_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        batch.decode(payload)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    for bounds in ([b"b", b"a"], [b"a", b"a"]):
        with pytest.raises(ValueError, match="range"):
            batch.decode(msgpack.packb([bounds, None]))


def test_is_expiring() -> None:
    assert batch.is_expiring([0, b""])
    for item in (None, b"", [1], [1, None], (1, b""), [1.0, b""]):
        assert not batch.is_expiring(item)


def test_heads_of_a_small_put_are_what_the_packer_writes() -> None:
    for key_bytes in (1, 2, 31, 32, 255):
        for value_bytes in (0, 1, 31, 32, 255):
            key, value = b"k" * key_bytes, b"v" * value_bytes
            by_heads = batch.KEY_HEADS[key_bytes] + key + batch.VALUE_HEADS[value_bytes] + value
            assert by_heads == batch.encode([key, value])
