"""What is kept of each session's messages: first and next number, and how many there are.

A next number that is too low would be given out twice, and a message written over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from walkv.errors import CodecError
from walkv.namespaces import codec, keys
from walkv.namespaces.keyvalue import Reader
from walkv.ops.indexes.mends import Mend
from walkv.ops.indexes.tables import Table

NAMESPACE: Final = "messages"


def mends(table: Table, reader: Reader) -> Iterator[Mend]:
    """Heads of sessions that do not say what is there. Cost: reads the keys."""
    start = len(table.records)
    found = (keys.unpack(key[start:]) for key in reader.scan(table.records, keys_only=True))
    for session_id, group in groupby(found, lambda key: key[0]):
        numbers = [number for _, number in group]
        yield from _mend(table, reader, session_id, numbers)
    for key, data in reader.scan(table.other):
        session = key[len(table.other) :]
        records = table.records + session
        if next(reader.scan(records, limit=1, keys_only=True), None) is None:
            (session_id,) = keys.unpack(session)
            head = _head(data)
            if head is None or head[2]:
                following = 1 if head is None else head[1]
                line = f"messages: the session {session_id!r} has no messages left"
                yield Mend(line, key, codec.encode([following, following, 0]))


def _mend(table: Table, reader: Reader, session_id: Any, numbers: list[int]) -> Iterator[Mend]:
    key = table.other + keys.pack_one(session_id)
    data = reader.get(key)
    head = None if data is None else _head(data)
    first, following, total = head or (numbers[0], 0, -1)
    if total == len(numbers) and following > numbers[-1] and first <= numbers[0]:
        return
    wanted = [min(first, numbers[0]), max(following, numbers[-1] + 1), len(numbers)]
    line = f"messages: the session {session_id!r} has {len(numbers)} messages, not {max(total, 0)}"
    if total == len(numbers):
        line = f"messages: the numbers of the session {session_id!r} go on at {wanted[1]}"
    yield Mend(line, key, codec.encode(wanted))


def _head(data: bytes) -> tuple[int, int, int] | None:
    try:
        first, following, total = codec.decode(data)
    except (CodecError, TypeError, ValueError):
        return None
    if not all(type(number) is int for number in (first, following, total)):
        return None
    return first, following, total
