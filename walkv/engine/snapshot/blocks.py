"""What is in a snapshot's pages: data block, index of a partition with its filter, root.

Layout (msgpack arrays; one C call decodes each):

    data   [keys, items, sequences]
             keys       n bins, ascending
             items      n items as in ``batch``
             sequences  bin: u64 base, u8 width (0, 1, 2, 4 or 8), n differences of that width
    index  [first_keys, starts, filter]
             first_keys n bins: the first key of each data page
             starts     n + 1 uints: where each page starts, from the start of the partition
             filter     bin: u32 buckets, (buckets + 1) u32 starts, one fingerprint byte a key
    root   [first_keys, last_keys, offsets, data_lengths, index_lengths, entry_counts, flags,
            range_starts, range_stops]
             one element a partition in each of the first seven; flags bit 0: all items are plain
             range_*    deleted ranges that hide entries of older snapshots; a stop may be nil

    A filter's bucket is (hash >> 32) * buckets >> 32, a fingerprint hash & 255, both of the key's
    unseeded xxh3-64. Fingerprints are grouped by bucket, about 8 in each: 1.5 bytes a key, and 3 %
    of absent keys pass.

Source: a Bloom filter was rejected: in Python its probes cost more than one bisection and one
``bytes.find``, and building it costs a bit operation per probe and key.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final

import msgpack
from xxhash import xxh3_64_intdigest

from walkv.engine.batch import is_expiring
from walkv.engine.ranges import RangeSet

_KEYS_PER_BUCKET: Final = 8
_SEQUENCE_HEAD: Final = struct.Struct("<QB")
_WIDTH_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_WIDTHS: Final = frozenset((0, *_WIDTH_CODES))
_BYTES: Final = {bytes}
_OBJECT_BYTES: Final = 136
"""Memory an entry of a decoded block takes beyond its bytes: two objects, two list slots, and a
place in its reader's ``hot``."""
_BLOCK_BYTES: Final = 400


class RawBlock:
    """A data page that was decompressed and checked, its entries not decoded: what is cached of a
    block that was read once, or only scanned.

    It takes half the memory of a decoded one and is made faster: to decode it again costs less than
    the memory did.

    Attributes:
        payload: the page's.
        plain: every item is ``bytes``.
        cost_bytes: what it takes in the cache.
        hot: never, so that what was not looked up again is the first to go.
    """

    __slots__ = ("cost_bytes", "payload", "plain")

    hot: ClassVar = False

    def __init__(self, payload: bytes, plain: bool) -> None:
        self.payload = payload
        self.plain = plain
        self.cost_bytes = len(payload) + _BLOCK_BYTES


class Block:
    """A decoded data page.

    Attributes:
        keys: ascending.
        items: one a key, as in ``batch``.
        plain: every item is ``bytes``.
        cost_bytes: what it takes in the cache.
        hot: was used since the cache last looked, and its items are in its reader's ``hot``.
    """

    __slots__ = ("_sequences", "cost_bytes", "hot", "items", "keys", "plain")

    def __init__(
        self,
        keys: Sequence[bytes],
        items: Sequence[Any],
        sequences: bytes,
        plain: bool,
        raw_bytes: int,
    ) -> None:
        self.keys = keys
        self.items = items
        self._sequences = sequences
        self.plain = plain
        self.cost_bytes = raw_bytes + len(keys) * _OBJECT_BYTES + _BLOCK_BYTES
        self.hot = False

    def sequence_at(self, index: int) -> int:
        base, width = _SEQUENCE_HEAD.unpack_from(self._sequences)
        at = _SEQUENCE_HEAD.size + index * width
        return int(base + int.from_bytes(self._sequences[at : at + width], "little"))

    def sequences(self) -> list[int]:
        base, width = _SEQUENCE_HEAD.unpack_from(self._sequences)
        if width == 0:
            return [base] * len(self.keys)
        code = f"<{len(self.keys)}{_WIDTH_CODES[width]}"
        return [base + more for more in struct.unpack_from(code, self._sequences, 9)]


class Index:
    """A decoded index page."""

    __slots__ = ("_bounds", "_buckets", "_filter", "cost_bytes", "first_keys", "hot", "starts")

    def __init__(
        self, first_keys: list[bytes], starts: list[int], filter_bytes: bytes, raw_bytes: int
    ) -> None:
        """Raises ``ValueError`` where the filter is not one."""
        self.first_keys = first_keys
        self.starts = starts
        self._filter = filter_bytes
        self._bounds = _filter_bounds(filter_bytes)
        self._buckets = len(self._bounds) - 1
        self.cost_bytes = 2 * raw_bytes + len(first_keys) * _OBJECT_BYTES + _BLOCK_BYTES
        self.hot = False

    # Hot.
    def may_contain(self, key_hash: int) -> bool:
        """False only if the partition has no key with this hash."""
        bounds = self._bounds
        bucket = (key_hash >> 32) * self._buckets >> 32
        return self._filter.find(key_hash & 255, bounds[bucket], bounds[bucket + 1]) >= 0


class Root:
    """A decoded root page: the partitions, and the deleted ranges."""

    __slots__ = (
        "data_lengths",
        "entry_counts",
        "first_keys",
        "flags",
        "index_lengths",
        "last_keys",
        "offsets",
        "ranges",
    )

    def __init__(self) -> None:
        self.first_keys: list[bytes] = []
        self.last_keys: list[bytes] = []
        self.offsets: list[int] = []
        self.data_lengths: list[int] = []
        self.index_lengths: list[int] = []
        self.entry_counts: list[int] = []
        self.flags: list[int] = []
        self.ranges = RangeSet()

    def encode(self) -> bytes:
        return bytes(
            msgpack.packb(
                [
                    self.first_keys,
                    self.last_keys,
                    self.offsets,
                    self.data_lengths,
                    self.index_lengths,
                    self.entry_counts,
                    self.flags,
                    self.ranges.starts,
                    self.ranges.stops,
                ]
            )
        )


def encode_sequences(sequences: list[int]) -> bytes:
    base = min(sequences)
    span = max(sequences) - base
    width = 0 if span == 0 else 1 if span < 1 << 8 else 2 if span < 1 << 16 else 4
    if span >= 1 << 32:
        width = 8
    head = _SEQUENCE_HEAD.pack(base, width)
    if width == 0:
        return head
    differences = [sequence - base for sequence in sequences]
    return head + struct.pack(f"<{len(differences)}{_WIDTH_CODES[width]}", *differences)


def encode_data(keys: list[bytes], items: list[Any], sequences: list[int]) -> bytes:
    return bytes(msgpack.packb([keys, items, encode_sequences(sequences)]))


# Hot: every block read from a file, and every cached one that is scanned.
def decode_data(payload: bytes, plain: bool, *, checked: bool = False) -> Block:
    """The entries of a data page.

    Columns of plain pages are tuples: once the garbage collector has seen that they hold nothing
    but bytes, it looks at them no more.

    Args:
        checked: this payload was decoded before, and found right.
    Raises:
        ValueError: the payload is not a data block.
    """
    keys, items, sequences = _unpack(payload, 3, use_list=not plain)
    if checked:
        return Block(keys, items, sequences, plain, len(payload))
    column = tuple if plain else list
    if type(sequences) is not bytes or type(keys) is not column or type(items) is not column:
        raise ValueError("a column of another type")
    count = len(keys)
    if count == 0 or len(items) != count or len(sequences) != 9 + count * sequences[8]:
        raise ValueError("keys, items and sequences do not match")
    if set(map(type, keys)) != _BYTES or sequences[8] not in _WIDTHS:
        raise ValueError("a key or a sequence of another type")
    if set(map(type, items)) != _BYTES and (plain or not all(map(_is_item, items))):
        raise ValueError("an item of another type")
    return Block(keys, items, sequences, plain, len(payload))


def _is_item(item: Any) -> bool:
    return type(item) is bytes or item is None or is_expiring(item)


def encode_index(first_keys: list[bytes], starts: list[int], hashes: list[int]) -> bytes:
    return bytes(msgpack.packb([first_keys, starts, encode_filter(hashes)]))


def decode_index(payload: bytes) -> Index:
    first_keys, starts, filter_bytes = _unpack(payload, 3)
    if type(first_keys) is not list or type(starts) is not list:
        raise ValueError("a column of another type")
    if len(starts) != len(first_keys) + 1 or set(map(type, first_keys)) != _BYTES:
        raise ValueError("first keys and starts do not match")
    _check_ascending(starts)
    if len(set(starts)) != len(starts):
        raise ValueError("an empty block")
    return Index(first_keys, starts, filter_bytes, len(payload))


def _check_ascending(numbers: Sequence[Any]) -> None:
    if set(map(type, numbers)) != {int} or any(a > b for a, b in pairwise(numbers)):
        raise ValueError("offsets do not ascend")


def _filter_bounds(filter_bytes: bytes) -> array[int]:
    """Where the fingerprints of each bucket begin in a filter, and where the last ones end."""
    try:
        (buckets,) = _BUCKETS.unpack_from(filter_bytes)
        starts = memoryview(filter_bytes)[4 : 8 + 4 * buckets]
        bounds = struct.unpack(f"<{buckets + 1}I", starts)
    except struct.error as error:
        raise ValueError(f"the filter is cut short: {error}") from None
    _check_ascending(bounds)
    first = 8 + 4 * buckets
    if not buckets or bounds[-1] != len(filter_bytes) - first:
        raise ValueError("the filter's buckets do not cover it")
    return array("L", [first + bound for bound in bounds])


def decode_root(payload: bytes) -> Root:
    root = Root()
    columns = _unpack(payload, 9)
    if set(map(type, columns)) != {list}:
        raise ValueError("a column of another type")
    (
        root.first_keys,
        root.last_keys,
        root.offsets,
        root.data_lengths,
        root.index_lengths,
        root.entry_counts,
        root.flags,
        starts,
        stops,
    ) = columns
    root.ranges = RangeSet(tuple(starts), tuple(stops))
    if len(set(map(len, columns[:7]))) != 1 or len(starts) != len(stops):
        raise ValueError("columns of different lengths")
    if not set(map(type, [*root.first_keys, *root.last_keys, *starts])) <= _BYTES:
        raise ValueError("a key of another type")
    if not set(map(type, stops)) <= {bytes, type(None)}:
        raise ValueError("a range with an end of another type")
    if not {type(number) for column in columns[2:7] for number in column} <= {int}:
        raise ValueError("a number of another type")
    return root


def _unpack(payload: bytes, columns: int, *, use_list: bool = True) -> Sequence[Any]:
    try:
        value = msgpack.unpackb(payload, use_list=use_list)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"not msgpack: {error}") from None
    if type(value) is not (list if use_list else tuple) or len(value) != columns:
        raise ValueError(f"not an array of {columns}")
    return value


hash_key: Callable[[bytes], int] = xxh3_64_intdigest


def encode_filter(hashes: list[int]) -> bytes:
    """The filter for keys with these hashes; see the layout."""
    hashes = sorted(hashes)
    buckets = max(1, len(hashes) // _KEYS_PER_BUCKET)
    # The smallest hash whose bucket is this one or a later one.
    bounds = [-(-(bucket << 32) // buckets) << 32 for bucket in range(buckets + 1)]
    starts = [bisect_left(hashes, bound) for bound in bounds]
    head = struct.pack(f"<I{len(starts)}I", buckets, *starts)
    return head + struct.pack(f"<{len(hashes)}Q", *hashes)[::8]


_BUCKETS: Final = struct.Struct("<I")
