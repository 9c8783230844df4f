"""What is kept beside checkpoints so that they are found, and new ones get places of their own.

A counter that is too low, or a head that is gone, would lead to a checkpoint or a part of a state
that is written over. What a state is made of is not looked at: reading it checks that.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from walkv.errors import CodecError
from walkv.namespaces import codec, keys
from walkv.namespaces.checkpoints.states import LANE_BITS
from walkv.namespaces.keyvalue import Reader
from walkv.ops.indexes.mends import Mend
from walkv.ops.indexes.tables import Record, Table

NAMESPACES: Final = frozenset(("checkpoints", "langgraph_checkpoints"))
_NUMBERS_APART: Final = frozenset(("langgraph_checkpoints",))
"""Namespaces that keep a thread's next numbers under keys of their own."""

_FIELDS: Final = frozenset(("thread_id", "namespace", "number", "checkpoint_id", "pool"))


def mends(table: Table, reader: Reader) -> Iterator[Mend]:
    """Heads, numbers, members and ids that do not fit the checkpoints. Cost: reads the records."""
    found = ((key, r) for key, r in table.all(reader) if r.values.keys() >= _FIELDS)
    highest_pool = 0
    for thread_id, group in groupby(found, lambda pair: pair[1].values["thread_id"]):
        following: dict[str, int] = {}
        pool = 0
        for key, record in group:
            values = record.values
            pool = values["pool"]
            following[values["namespace"]] = values["number"] + 1
            yield from _id(table, reader, key, record)
        highest_pool = max(highest_pool, pool)
        yield from _thread(table, reader, thread_id, pool, following)
    for key, packed in reader.scan(table.other + b"i"):
        if reader.get(table.records + packed) is None:
            yield Mend(f"{table.name}: the id {key!r} has no checkpoint", key)
    yield from _counter(
        reader, table, table.other + b"n", highest_pool + 1, "the next pool", packed=True
    )
    yield from _parts(table, reader)


def _id(table: Table, reader: Reader, key: bytes, record: Record) -> Iterator[Mend]:
    place = [record.values[name] for name in ("thread_id", "namespace", "checkpoint_id")]
    entry = table.other + b"i" + keys.pack(*place)
    if reader.get(entry) != key:
        yield Mend(f"{table.name}: the id {entry!r} is missing", entry, key)


def _thread(
    table: Table, reader: Reader, thread_id: str, pool: int, following: dict[str, int]
) -> Iterator[Mend]:
    packed = keys.pack_one(thread_id)
    key = table.other + b"t" + packed
    head = _decoded(reader.get(key))
    known_pool, known = head if _is_head(head) else (pool, None)
    apart = table.name in _NUMBERS_APART
    if apart:
        wanted = {} if known is None else known
        for namespace, number in following.items():
            place = table.other + b"s" + packed + keys.pack_one(namespace)
            what = f"the next number of {thread_id!r}"
            yield from _counter(reader, table, place, number, what, packed=True)
    else:
        least = known or {}
        wanted = {**least, **{ns: max(n, least.get(ns, 0)) for ns, n in following.items()}}
    if wanted != known:
        line = f"{table.name}: the head of the thread {thread_id!r} does not fit its checkpoints"
        yield Mend(line, key, codec.encode([known_pool, wanted]))
    member = table.other + b"m" + keys.pack_one(pool) + packed
    if reader.get(member) is None:
        line = f"{table.name}: the thread {thread_id!r} is not among those that share its pool"
        yield Mend(line, member, b"")


def _is_head(head: Any) -> bool:
    return (
        type(head) is list
        and [type(each) for each in head] == [int, dict]
        and all(type(number) is int for number in head[1].values())
    )


def _parts(table: Table, reader: Reader) -> Iterator[Mend]:
    """Counters of parts that are not above the parts there are."""
    pools = table.other + b"p"
    at = len(pools) + 8
    numbered = (
        (key[:at], int.from_bytes(key[at + 1 :], "big"))
        for key in reader.scan(pools, keys_only=True)
        if key[at : at + 1] == b"p" and len(key) == at + 9
    )
    for (pool, lane), group in groupby(numbered, lambda part: (part[0], part[1] - 1 >> LANE_BITS)):
        highest = max(number for _, number in group)
        counter = pool + b"n" + (lane.to_bytes(4, "big") if lane else b"")
        yield from _counter(reader, table, counter, highest + 1, "the next part", packed=False)


def _counter(
    reader: Reader, table: Table, key: bytes, least: int, what: str, *, packed: bool
) -> Iterator[Mend]:
    """A number that must not be below ``least``; as a packed value, or as 8 bytes."""
    data = reader.get(key)
    if packed:
        number = _decoded(data)
    else:
        number = None if data is None or len(data) != 8 else int.from_bytes(data, "big")
    if least > 1 and (type(number) is not int or number < least):
        value = codec.encode(least) if packed else least.to_bytes(8, "big")
        yield Mend(f"{table.name}: {what} is at least {least}, not {number}", key, value)


def _decoded(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return codec.decode(data)
    except CodecError:
        return None
