"""Where a state is cut: along the structure of its msgpack, so that unchanged pieces stay alike.

Invariants:
    1. Segments, one after another, are the state, whatever its bytes are.
    2. The same bytes are cut alike, and a change moves no border far behind it.
    3. Time is linear in the length of the state, at the speed of C, whatever its bytes are.

Source: content-defined chunking (LBFS, restic) along borders that msgpack gives for nothing. A
rolling hash was rejected: it is too slow in Python.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgpack
import xxhash

MIN_AVERAGE_BYTES: Final = 128
"""A container of smaller elements, on average, is not cut: a border costs more than it saves."""

MIN_CUT_BYTES: Final = 8192
"""A smaller container within a state is not cut; a delta says what changed in it."""

MAX_CUT_DEPTH: Final = 8
"""Containers are cut to this depth, as each level skims its bytes once more."""

OWN_BYTES: Final = 256
"""An element from this size on is a segment of its own."""

GROUP_BYTES: Final = 1024
"""Average size of a segment of small elements."""

LITERAL_BYTES: Final = 128
"""A smaller segment is a literal, ..."""

MAX_LITERALS_BYTES: Final = 256
"""... until a recipe has so many bytes of them; from then on it joins the segment after it."""

_SEED: Final = secrets.randbits(64)
"""Nobody who writes states can look for two beginnings that are taken for one."""

# fmt: off
_LEAF_HEADER_BYTES: Final = {
    0xC4: 2, 0xC5: 3, 0xC6: 5,  # bin
    0xC7: 3, 0xC8: 4, 0xC9: 6,  # ext
    0xD9: 2, 0xDA: 3, 0xDB: 5,  # str
}
# fmt: on


class Segment(NamedTuple):
    """A piece of a state, and whether it is kept as a literal."""

    start: int
    end: int
    literal: bool


class Mark(NamedTuple):
    """How far an array is cut for good, whatever is appended to it.

    Attributes:
        start: of its first element, behind the header.
        end: of the last segment before the mark.
        element_count: of those between.
        literals_left_bytes: what of ``MAX_LITERALS_BYTES`` is left for what follows.
        digest: of the bytes between.
    """

    start: int
    end: int
    element_count: int
    literals_left_bytes: int
    digest: bytes


class Cut(NamedTuple):
    """A state that is cut.

    Attributes:
        segments: one after another; if the cutting has gone on from a mark, the header and what
            comes behind the mark.
        resumed: whether it has.
        mark: from where on a longer state may be cut.
    """

    segments: list[Segment]
    resumed: bool
    mark: Mark | None


def cut(state: bytes, known: Mark | None = None) -> Cut:
    """Cut a state.

    Args:
        known: the mark of a state that this one probably begins like.
    Cost: linear in the length, at the speed of C, and 0.6 us a segment; up to the mark of a state
        that this one does begin like, that of a hash.
    """
    borders = [0]
    ends: dict[int, int] = {}
    start, count = array_header(state)
    hashed = xxhash.xxh3_128(seed=_SEED)
    resumed = known is not None and _begins_like(state, start, count, known, hashed)
    at, done, literals_left_bytes = 0, 0, MAX_LITERALS_BYTES
    # Bytes that are no msgpack, or not to their end, are cut as far as they are.
    with suppress(ValueError, msgpack.UnpackException):
        if known is not None and resumed:
            at, done, literals_left_bytes = (
                known.end,
                known.element_count,
                known.literals_left_bytes,
            )
            borders = [at]
            _cut_elements(state, at, len(state), count - done, MAX_CUT_DEPTH, borders, ends)
        elif len(state) >= OWN_BYTES:
            _cut(state, 0, len(state), MAX_CUT_DEPTH, borders, ends)
    if borders[-1] < len(state):
        borders.append(len(state))
    segments = [Segment(0, start, True)] if resumed else []
    mark_at = None
    for end in borders[1:]:
        size_bytes = end - at
        literal = False
        if size_bytes < LITERAL_BYTES:
            literal = size_bytes <= literals_left_bytes
            if literal:
                literals_left_bytes -= size_bytes
            elif end < len(state):
                continue
        segments.append(Segment(at, end, literal))
        at = end
        # One that is short and no literal ends here only because the state does.
        if end in ends and (literal or size_bytes >= LITERAL_BYTES):
            mark_at = (end, done + ends[end], literals_left_bytes)
    mark = known if resumed else None
    if mark_at is not None and start:
        hashed.update(memoryview(state)[mark.end if mark is not None else start : mark_at[0]])
        mark = Mark(start, *mark_at, hashed.digest())
    return Cut(segments, resumed, mark)


def _begins_like(state: bytes, start: int, count: int, known: Mark, hashed: Any) -> bool:
    if start != known.start or count < known.element_count:
        return False
    if len(state) < max(known.end, OWN_BYTES):
        return False
    if count * MIN_AVERAGE_BYTES > len(state):
        return False
    hashed.update(memoryview(state)[start : known.end])
    if hashed.digest() == known.digest:
        return True
    hashed.reset()
    return False


def array_header(state: bytes) -> tuple[int, int]:
    """Where the elements of an array begin, and how many there are; zeros if it is none."""
    lead = state[0] if state else 0
    if lead & 0xF0 == 0x90:
        return 1, lead & 0x0F
    size = {0xDC: 2, 0xDD: 4}.get(lead)
    if size is None:
        return 0, 0
    return 1 + size, int.from_bytes(state[1 : 1 + size], "big")


def _cut(
    state: bytes, start: int, stop: int, depth: int, borders: list[int], ends: dict[int, int]
) -> None:
    """Append the borders within one element, in order. Cost: O(depth * (stop - start)), in C.

    Args:
        ends: gets the borders behind elements that nothing appended will move, and how many
            elements there are before them.
    """
    size_bytes = stop - start
    unpacker = msgpack.Unpacker(read_size=size_bytes, max_buffer_size=size_bytes)
    unpacker.feed(memoryview(state)[start : min(stop, start + 5)])
    lead = state[start]
    count = 0
    if lead & 0xF0 == 0x90 or lead in (0xDC, 0xDD):
        count = unpacker.read_array_header()
    elif lead & 0xF0 == 0x80 or lead in (0xDE, 0xDF):
        count = 2 * unpacker.read_map_header()
    at = start + (unpacker.tell() if count else _LEAF_HEADER_BYTES.get(lead, 0))
    # A header changes with what it counts, and should not take that along.
    if borders[-1] < at < stop:
        borders.append(at)
    if count * MIN_AVERAGE_BYTES <= size_bytes:
        _cut_elements(state, at, stop, count, depth, borders, ends)


# Hot.
def _cut_elements(
    state: bytes,
    at: int,
    stop: int,
    count: int,
    depth: int,
    borders: list[int],
    ends: dict[int, int],
) -> None:
    origin = at
    unpacker = msgpack.Unpacker(read_size=max(stop - at, 1), max_buffer_size=max(stop - at, 1))
    unpacker.feed(memoryview(state)[at:stop])
    for number in range(1, count + 1):
        unpacker.skip()
        end = origin + unpacker.tell()
        size_bytes = end - at
        if size_bytes >= OWN_BYTES:
            if borders[-1] < at:
                borders.append(at)
            if size_bytes >= MIN_CUT_BYTES and depth:
                _cut(state, at, end, depth - 1, borders, {})
            if borders[-1] < end:
                borders.append(end)
            ends[end] = number
        # Content decides where a group ends, so that all later groups survive an insertion.
        elif xxhash.xxh3_64_intdigest(state[at:end]) % GROUP_BYTES < size_bytes:
            borders.append(end)
            ends[end] = number
        at = end
    if count and borders[-1] < at:
        borders.append(at)
