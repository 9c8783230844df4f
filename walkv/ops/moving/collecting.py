"""A store as items, in the order of its keys, so that who was stopped can go on behind the last.

Invariant: items are of one moment, and their places, see ``items.place``, ascend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from walkv.engine.ranges import prefix_stop
from walkv.errors import CodecError, CorruptionError
from walkv.namespaces import codec, keys, registry
from walkv.namespaces.access import Access
from walkv.namespaces.checkpoints import Checkpoints
from walkv.namespaces.checkpoints.records import CheckpointRecord
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.keyvalue import KeyValue
from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import MASK
from walkv.ops.moving import items
from walkv.ops.moving.items import Item, base
from walkv.ops.moving.moment import Moment

RECORDS: Final = "records"
ENTRIES: Final = "entries"

_COUNT_BYTES: Final = 8
_KEEPS_MORE: Final = "it keeps more than records, which only an export of entries can hold"


class Selection(NamedTuple):
    """What is asked for.

    Attributes:
        kind: ``records`` or ``entries``.
        namespaces: their names; None for all, unless there is a prefix.
        prefix: of keys; None for all, unless there are namespaces.
        secrets: whether secret fields are shown.
    """

    kind: str = RECORDS
    namespaces: tuple[str, ...] | None = None
    prefix: bytes | None = None
    secrets: bool = False


class Range(NamedTuple):
    """Neighbouring keys, and what makes items of their entries."""

    start: bytes
    stop: bytes | None
    read: Callable[[bytes, bytes, int], Item]


class Collection:
    """What a selection finds in a store at one moment.

    Attributes:
        known: the namespaces of the store that are selected, as registered.
        left_out: namespaces that cannot be exported as records, and why.
    Raises:
        LookupError: a namespace that is not there is asked for.
        ValueError: one that cannot be exported like this is.
    """

    def __init__(self, moment: Moment, selection: Selection) -> None:
        self._moment = moment
        self._selection = selection
        self._all = registry.read(cast(KeyValue, moment))
        self.left_out: dict[str, str] = {}
        wanted = selection.namespaces
        if wanted is None:
            wanted = tuple(self._all) if selection.prefix is None else ()
        for name in wanted:
            if name not in self._all:
                there = ", ".join(sorted(self._all)) or "none"
                raise LookupError(f"there is no namespace {name!r}; there are {there}")
        self.known = {name: entry for name, entry in self._all.items() if name in wanted}
        if selection.kind == RECORDS:
            self._leave_out()
            self._checkpoints = self._reader_of_states()
        elif not selection.secrets:
            self._refuse_secrets()

    def _leave_out(self) -> None:
        for name in list(self.known):
            if name not in CLASSES and self._has(base(name) + b"x"):
                if self._selection.namespaces is not None:
                    raise ValueError(f"{name} cannot be exported as records: {_KEEPS_MORE}")
                self.left_out[name] = _KEEPS_MORE
                del self.known[name]

    def _refuse_secrets(self) -> None:
        secret = [
            f"{name}.{field}"
            for name, entry in self.known.items()
            if entry.secrets and self._has(base(name) + b"r")
            for field in entry.secrets
        ]
        if secret:
            raise ValueError(
                f"entries are exported as they are, and with them {', '.join(secret)}, which are "
                "secret; say that secrets are wanted, or export records, where they are masked"
            )

    def _has(self, prefix: bytes) -> bool:
        return next(self._moment.scan(prefix, limit=1, keys_only=True), None) is not None

    def _reader_of_states(self) -> Checkpoints:
        checkpoints = Checkpoints(Access(cast(KeyValue, self._moment), object()))
        checkpoints.attach(self._all)
        return checkpoints

    # -- where it is -------------------------------------------------------------------------------

    def ranges(self) -> list[Range]:
        """Where the selected entries are, in the order of their keys."""
        if self._selection.kind == ENTRIES:
            found = self._entry_ranges()
        else:
            found = self._plain_ranges()
            for name, entry in self.known.items():
                found += self._record_ranges(name, entry)
        return sorted(found, key=lambda each: each.start)

    def _entry_ranges(self) -> list[Range]:
        if self._selection.namespaces is None:
            return self._within(self._selection.prefix or b"", [_REGISTRY])
        found = [Range(base(name), prefix_stop(base(name)), _entry) for name in self.known]
        return found + ([] if self._selection.prefix is None else self._plain_ranges())

    def _plain_ranges(self) -> list[Range]:
        """Keys that are of no namespace."""
        if self._selection.namespaces is not None and self._selection.prefix is None:
            return []
        taken = [(base(name), prefix_stop(base(name))) for name in self._all]
        return self._within(self._selection.prefix or b"", [_REGISTRY, *taken])

    def _within(self, prefix: bytes, taken: list[tuple[bytes, bytes | None]]) -> list[Range]:
        """What has a prefix and is not taken."""
        found = []
        start: bytes | None = prefix
        stop = prefix_stop(prefix)
        for low, high in sorted(taken):
            if start is None or (stop is not None and low >= stop):
                break
            if start < low:
                found.append(Range(start, low, _entry))
            start = None if high is None else max(start, high)
        if start is not None and (stop is None or start < stop):
            found.append(Range(start, stop, _entry))
        return found

    def _record_ranges(self, name: str, entry: Entry) -> list[Range]:
        begin = base(name)

        def within(part: bytes, read: Callable[[bytes, bytes, int], Item]) -> Range:
            return Range(begin + part, prefix_stop(begin + part), read)

        def record(key: bytes, data: bytes, expiry_ms: int) -> Item:
            return self._record(name, entry, items.RECORD, 0, key, data, expiry_ms)

        def old(key: bytes, data: bytes, expiry_ms: int) -> Item:
            version = int.from_bytes(key[-_COUNT_BYTES:], "big")
            return self._record(name, entry, items.OLD, version, key, data, expiry_ms)

        if name == items.CHECKPOINTS:
            return [within(b"r", self._checkpoint), within(b"xw", _write)]
        found = [within(b"h", old), within(b"r", record)]
        return [*found, within(b"x", _head)] if name == items.MESSAGES else found

    def count(self, name: str | None) -> int:
        """About how many items a namespace has, or how many entries there are of none.

        Cost: reads the keys.
        """
        if name is None:
            ranges = [each for each in self.ranges() if each.read is _entry]
        else:
            ranges = [r for r in self._record_ranges(name, self.known[name]) if r.read is not _head]
        return sum(self._moment.count(start=each.start, stop=each.stop) for each in ranges)

    # -- what it says ------------------------------------------------------------------------------

    def read(self, after: bytes = b"") -> Iterator[Item]:
        """The items whose places are behind a key."""
        follows = after + b"\0" if after else b""
        for start, stop, made in self.ranges():
            if stop is not None and stop <= follows:
                continue
            for key, value, expiry_ms in self._moment.entries(max(start, follows), stop):
                yield made(key, value, expiry_ms)

    def _record(
        self,
        name: str,
        entry: Entry,
        what: str,
        version: int,
        key: bytes,
        data: bytes,
        expiry_ms: int,
    ) -> Item:
        number, fields = row_of(name, entry, key, data)
        if not self._selection.secrets:
            for secret in entry.secrets:
                if fields.get(secret):
                    fields[secret] = MASK
        return Item(name, what, fields, number, version, expiry_ms, len(key) + len(data))

    def _checkpoint(self, key: bytes, data: bytes, expiry_ms: int) -> Item:
        names = items.FIELDS[items.CHECKPOINT]
        known = self._all[items.CHECKPOINTS]
        record: Mapping[str, Any] = row_of(items.CHECKPOINTS, known, key, data)[1]
        if not set(CheckpointRecord.__dataclass_fields__) <= record.keys():
            raise CodecError(f"checkpoints: the record under {key!r} cannot be read")
        thread_id, namespace = record["thread_id"], record["namespace"]
        found = self._checkpoints.get(thread_id, record["checkpoint_id"], namespace=namespace)
        if found is None:
            raise CorruptionError(
                f"checkpoint {record['checkpoint_id']!r} of thread {thread_id!r} has a record, and "
                "is not found by its id",
                path=self._moment.path,
            )
        fields = {name: record[name] for name in names if name != "data"} | {"data": found.data}
        size_bytes = found.size_bytes + len(data)
        return Item(items.CHECKPOINTS, items.CHECKPOINT, fields, size_bytes=size_bytes)


_REGISTRY: Final = (registry.KEY, registry.KEY + b"\0")


def row_of(name: str, entry: Entry, key: bytes, data: bytes) -> tuple[int, dict[str, Any]]:
    """The layout and the fields of a stored record, told by the registry alone.

    Raises:
        CodecError: it is none.
    """
    row = codec.decode(data)
    try:
        number = row[0]
        # A record that expires has the time between layout and values; see ``schema``.
        number, values = (number, row[1:]) if number >= 0 else (-1 - number, row[2:])
        return number, dict(zip(entry.layouts[number].names, values, strict=True))
    except (TypeError, LookupError, ValueError) as error:
        raise CodecError(
            f"{name}: the record under {key!r} cannot be read", namespace=name
        ) from error


def _entry(key: bytes, value: bytes, expiry_ms: int) -> Item:
    fields = {"key": key, "value": value}
    return Item("", items.ENTRY, fields, expiry_ms=expiry_ms, size_bytes=len(key) + len(value))


def _head(key: bytes, data: bytes, _: int) -> Item:
    try:
        first, following, count = codec.decode(data)
        (session_id,) = keys.unpack(key[len(base(items.MESSAGES)) + 1 :])
    except (TypeError, ValueError) as error:
        raise CodecError(f"messages: the head under {key!r} cannot be read") from error
    names = items.FIELDS[items.HEAD]
    fields = dict(zip(names, (session_id, first, following, count), strict=True))
    return Item(items.MESSAGES, items.HEAD, fields)


def _write(key: bytes, data: bytes, _: int) -> Item:
    try:
        channel, value, task_path = codec.decode(data)
        where = keys.unpack(key[len(base(items.CHECKPOINTS)) + 2 :])
        names = items.FIELDS[items.WRITE]
        fields = dict(zip(names, (*where, channel, value, task_path), strict=True))
    except (TypeError, ValueError) as error:
        raise CodecError(f"checkpoints: the write under {key!r} cannot be read") from error
    return Item(items.CHECKPOINTS, items.WRITE, fields, size_bytes=len(key) + len(data))
