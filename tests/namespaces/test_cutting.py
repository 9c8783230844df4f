"""Where states are cut: the same bytes alike, also when the cutting goes on from a mark."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from walkv.namespaces.checkpoints.cutting import Mark, cut

ELEMENTS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=40),
    st.binary(min_size=60, max_size=140),
    st.builds(lambda size, byte: bytes((byte,)) * size, st.integers(0, 3000), st.integers(0, 255)),
    st.lists(st.binary(min_size=200, max_size=600), max_size=40),
    st.builds(lambda n: {"role": "user", "content": f"message {n} " * 30}, st.integers(0, 99)),
    st.builds(lambda n: msgpack.ExtType(5, b"x" * n), st.integers(0, 9000)),
)


def pack(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(ELEMENTS, max_size=12), min_size=1, max_size=6))
def test_going_on_from_a_mark_cuts_as_cutting_at_once_does(rounds: list[list[Any]]) -> None:
    known: Mark | None = None
    head = []
    value: list[Any] = []
    for more in rounds:
        value = [*value, *more]
        state = pack(value)
        whole = cut(state)
        going_on = cut(state, known)
        assert (whole.resumed, going_on.mark) == (False, whole.mark)
        segments = going_on.segments
        if going_on.resumed:
            segments = [segments[0], *head, *segments[1:]]
        assert segments == whole.segments
        known = whole.mark
        if known is not None:
            head = [each for each in segments[1:] if each.end <= known.end]


@settings(max_examples=200, deadline=None)
@given(st.lists(ELEMENTS, max_size=30), st.lists(ELEMENTS, max_size=30), st.binary(max_size=300))
def test_a_mark_of_something_else_is_of_no_use(
    one: list[Any], other: list[Any], junk: bytes
) -> None:
    mark = cut(pack(one)).mark
    for state in (pack(other), pack(one)[: len(junk)], junk, pack(one) + junk, pack(one)[1:]):
        found = cut(state, mark)
        if not found.resumed:
            assert found == cut(state)
        else:
            assert mark is not None
            assert state[mark.start : mark.end] == pack(one)[mark.start : mark.end]
        ends = [each.end for each in found.segments]
        if found.resumed and mark is not None:
            ends.append(mark.end)
        assert not state or max(ends) == len(state)


def test_a_long_list_is_gone_on_from() -> None:
    value = [f"message {n} " * 40 for n in range(100)]
    first = cut(pack(value))
    assert first.mark is not None
    assert first.mark.element_count == 100
    second = cut(pack([*value, "one more " * 50]), first.mark)
    assert second.resumed
    assert len(second.segments) == 2


def test_a_short_end_is_no_place_to_go_on_from() -> None:
    """It stands alone, and is no literal, only because nothing follows."""
    resumed = 0
    for n in range(300):
        value = [b"x" * 300, b"y" * 110, b"x" * 301, b"z" * 110, b"x" * 302, b"%0110d" % n]
        mark = cut(pack(value)).mark
        longer = pack([*value, b"w" * 300])
        going_on, whole = cut(longer, mark), cut(longer)
        if going_on.resumed and mark is not None:
            resumed += 1
            head = [each for each in whole.segments[1:] if each.end <= mark.end]
            assert [whole.segments[0], *head, *going_on.segments[1:]] == whole.segments
    assert resumed
