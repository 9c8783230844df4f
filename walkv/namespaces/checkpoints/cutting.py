"""Where a state is cut: along the structure of its msgpack, so that unchanged pieces stay alike.

Invariants:
    1. Segments, one after another, are the state, whatever its bytes are.
    2. The same bytes are cut alike, and a change moves no border far behind it.
    3. Time is linear in the length of the state, at the speed of C, whatever its bytes are.

Source: content-defined chunking (LBFS, restic) along borders that msgpack gives for nothing. A
rolling hash was rejected: it is too slow in Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

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

# fmt: off
_LEAF_HEADER_BYTES: Final = {
    0xC4: 2, 0xC5: 3, 0xC6: 5,  # bin
    0xC7: 3, 0xC8: 4, 0xC9: 6,  # ext
    0xD9: 2, 0xDA: 3, 0xDB: 5,  # str
}
# fmt: on


def segments(state: bytes) -> Iterator[tuple[int, int, bool]]:
    """Start, end and whether it is a literal of each segment; together they are the state."""
    borders = [0]
    # Bytes that are no msgpack, or not to their end, are cut as far as they are.
    with suppress(ValueError, msgpack.UnpackException):
        if len(state) >= OWN_BYTES:
            _cut(state, 0, len(state), MAX_CUT_DEPTH, borders)
    if borders[-1] < len(state):
        borders.append(len(state))
    start, literals_left_bytes = 0, MAX_LITERALS_BYTES
    for end in borders[1:]:
        size_bytes = end - start
        literal = False
        if size_bytes < LITERAL_BYTES:
            literal = size_bytes <= literals_left_bytes
            if literal:
                literals_left_bytes -= size_bytes
            elif end < len(state):
                continue
        yield start, end, literal
        start = end


# Hot.
def _cut(state: bytes, start: int, stop: int, depth: int, borders: list[int]) -> None:
    """Append the borders within one element, in order. Cost: O(depth * (stop - start)), in C."""
    size_bytes = stop - start
    unpacker = msgpack.Unpacker(read_size=size_bytes, max_buffer_size=size_bytes)
    unpacker.feed(memoryview(state)[start:stop])
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
    if count * MIN_AVERAGE_BYTES > size_bytes:
        return
    for _ in range(count):
        unpacker.skip()
        end = start + unpacker.tell()
        size_bytes = end - at
        if size_bytes >= OWN_BYTES:
            if borders[-1] < at:
                borders.append(at)
            if size_bytes >= MIN_CUT_BYTES and depth:
                _cut(state, at, end, depth - 1, borders)
            if borders[-1] < end:
                borders.append(end)
        # Content decides where a group ends, so that all later groups survive an insertion.
        elif xxhash.xxh3_64_intdigest(state[at:end]) % GROUP_BYTES < size_bytes:
            borders.append(end)
        at = end
    if count and borders[-1] < at:
        borders.append(at)
