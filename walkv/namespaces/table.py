"""Where a namespace keeps its entries: records, their indexes, and their old versions.

Layout: all keys begin with a zero byte, the namespace's name and a zero byte; then, with elements
as in ``keys``:

    what         key                                                 value
    -----------  --------------------------------------------------  ------------------------------
    record       "r", key fields                                     the record, as in ``schema``
    index        "i", number (1 byte), indexed fields, key fields    length of the key fields (2
                                                                     bytes, big endian)
    old version  "h", key fields, 0xff, count (8 bytes, big endian)  the record as it was
    other        "x", ...                                            what the namespace wants

Invariants:
    1. Records and their index entries are written in one commit: an index never disagrees with its
       records. Of a record that expires, its index entries expire with it.
    2. Index entries of one record differ: the key fields are part of them.
    3. A record whose first indexed field is None is not in that index.

Source: as SQLite keeps indexes, with the key behind the indexed fields. Copies of records in their
indexes were rejected: they cost a copy for each write, and a look-up is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from walkv import limits
from walkv.errors import CodecError, LimitError
from walkv.namespaces import keys
from walkv.namespaces.keyvalue import Reader, Writer
from walkv.namespaces.schema import Schema, Stored

R = TypeVar("R")

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_COUNT_BYTES: Final = 8
_SCANNED: Final = 64


class Index(NamedTuple):
    """A secondary index that the store has.

    Attributes:
        fields: indexed, in order.
        positions: of these among a record's values.
        prefix: what its keys begin with.
    """

    fields: tuple[str, ...]
    positions: tuple[int, ...]
    prefix: bytes

    @property
    def name(self) -> str:
        """Its fields, joined by commas."""
        return ",".join(self.fields)


def check_key(schema: Schema[Any], fields: tuple[str, ...]) -> None:
    """See whether fields can be those of a key or an index.

    Raises:
        TypeError: they cannot.
    """
    namespace = schema.namespace
    if not fields:
        raise TypeError(f"{namespace}: its key, and each index, has at least one field")
    for name in fields:
        if name not in schema.position:
            raise TypeError(f"{namespace}: there is no field {name} for its key or an index")
        column = schema.columns[schema.position[name]]
        if column.secret:
            raise TypeError(f"{namespace}.{name}: a secret cannot be in a key or an index")
        if not column.ordered:
            raise TypeError(
                f"{namespace}.{name}: what is in a key or an index is a str, int, float, bool, "
                "bytes, datetime or Literal, and of one of these types only"
            )


class Table(Generic[R]):
    """The entries of one namespace.

    Args:
        name: of the namespace.
        schema: of its records.
        key: names of the key fields.
        history: how many old versions of a record are kept.
    """

    def __init__(self, name: str, schema: Schema[R], key: tuple[str, ...], history: int) -> None:
        if not NAME.fullmatch(name):
            raise TypeError(
                f"a namespace's name has lower-case letters, digits and underscores: {name!r}"
            )
        self.name = name
        self.schema = schema
        self.key_fields = key
        self.history = history
        base = b"\0" + name.encode() + b"\0"
        self.base = base
        self.records = base + b"r"
        self.versions = base + b"h"
        self.other = base + b"x"
        self.indexes: tuple[Index, ...] = ()
        self.chosen: dict[tuple[Any, ...], Index | None] = {}
        """Which index serves queries of a shape, None for the records themselves; see ``query``."""
        self._key_positions = tuple(schema.position[field] for field in key)

    def use_indexes(self, numbers: dict[str, int]) -> None:
        """Take in what the store has, by name."""
        made = [self.index(tuple(name.split(",")), number) for name, number in numbers.items()]
        self.indexes = tuple(index for index in made if index is not None)
        self.chosen = {}  # after them: who has the new one chooses among the new ones

    def index(self, fields: tuple[str, ...], number: int) -> Index | None:
        """An index, or None if there is no such field any more."""
        position = self.schema.position
        if not set(fields) <= set(position):
            return None
        prefix = self.index_prefix(number)
        return Index(fields, tuple(position[field] for field in fields), prefix)

    def index_of(self, *fields: str) -> Index:
        """The index over these fields, which the code that asks has declared."""
        return next(index for index in self.indexes if index.fields == fields)

    def index_prefix(self, number: int) -> bytes:
        """What the keys of an index begin with."""
        return self.base + b"i" + bytes((number,))

    # -- keys ------------------------------------------------------------------------------------

    def pack(self, name: str, value: Any) -> bytes:
        """One field as a part of a key.

        Raises:
            CodecError: it cannot be part of a key.
            LimitError: it is too long for one.
        """
        packed = self.packed(name, value)
        if len(packed) > limits.MAX_KEY_FIELD_BYTES:
            raise LimitError(
                f"{self.name}.{name}: a field that is part of a key or an index has at most "
                f"{limits.MAX_KEY_FIELD_BYTES} bytes, and this one has {len(packed)}",
                name="MAX_KEY_FIELD_BYTES",
                limit=limits.MAX_KEY_FIELD_BYTES,
                actual=len(packed),
                namespace=self.name,
                field=name,
            )
        return packed

    def packed(self, name: str, value: Any) -> bytes:
        """As ``pack``, of any length."""
        try:
            return keys.pack_one(value)
        except (TypeError, ValueError) as error:
            raise self.schema.bad(name, str(error)) from None

    # Hot.
    def key_of(self, values: list[Any]) -> bytes:
        """The packed key fields of a record's values."""
        if len(self.key_fields) == 1:
            return self.pack(self.key_fields[0], values[self._key_positions[0]])
        return b"".join(
            [
                self.pack(name, values[at])
                for name, at in zip(self.key_fields, self._key_positions, strict=True)
            ]
        )

    def key_of_record(self, record: R) -> bytes:
        """The packed key fields of a record that was read."""
        return b"".join([self.pack(name, getattr(record, name)) for name in self.key_fields])

    def packed_key(self, key: Any, *, partial: bool = False) -> bytes:
        """The packed form of a key as callers give it: a value, or a tuple for several fields.

        Raises:
            CodecError: wrong number of fields, or of the wrong type.
        """
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self.key_fields) and not (
            partial and len(parts) < len(self.key_fields)
        ):
            wanted = ", ".join(self.key_fields)
            raise CodecError(
                f"{self.name}: a key here is ({wanted}), and this one has {len(parts)} parts",
                namespace=self.name,
            )
        schema = self.schema
        packed = []
        for name, part in zip(self.key_fields, parts, strict=False):
            column = schema.columns[schema.position[name]]
            if type(part) is not column.kind:
                part = schema.check(column, part)
            packed.append(self.pack(name, part))
        return packed[0] if len(packed) == 1 else b"".join(packed)

    # Hot.
    def entry(self, index: Index, values: list[Any], key: bytes) -> bytes | None:
        """The key of a record's entry in an index; None if it has none."""
        fields, positions, made = index
        if values[positions[0]] is None:
            return None
        try:
            for at in positions:
                packed = keys.pack_one(values[at])
                if len(packed) > limits.MAX_KEY_FIELD_BYTES:
                    raise ValueError("too long")
                made += packed
        except (TypeError, ValueError):
            for name, at in zip(fields, positions, strict=True):
                self.pack(name, values[at])  # says which field, and why
            raise
        return made + key

    def entries(self, values: list[Any], key: bytes) -> list[bytes]:
        """The keys of all index entries of a record."""
        made = [self.entry(index, values, key) for index in self.indexes]
        return [entry for entry in made if entry is not None]

    # -- writes ----------------------------------------------------------------------------------

    # Hot.
    def write(
        self,
        tx: Writer,
        key: bytes,
        values: list[Any],
        old: bytes | None,
        now_ms: int,
        ttl_seconds: float | None,
        *,
        keep_expiry: bool = False,
        before: Stored | None = None,
    ) -> None:
        """Write a record and its index entries.

        Args:
            values: checked.
            old: what is stored under the key now.
            now_ms: the time, which matters with a TTL only.
            ttl_seconds: the record, its index entries and the old version that it leaves expire so
                long after ``now_ms``.
            keep_expiry: without a TTL the record expires when the old one would have.
            before: ``old``, decoded, if the caller has it.
        """
        schema = self.schema
        expiry_ms = 0 if ttl_seconds is None else now_ms + max(1, round(ttl_seconds * 1000))
        length = len(key).to_bytes(2, "big")
        if old is None:
            data = schema.encode(values, expiry_ms)
            entries = self.entries(values, key)
            put = _putting(tx, expiry_ms)
            put(self.records + key, data)
            for entry in entries:
                put(entry, length)
            return
        if before is None:
            before = schema.decode(old)
        if ttl_seconds is None and keep_expiry:
            expiry_ms = before.expiry_ms
        data = schema.encode(values, expiry_ms, before.unknown)
        changed = []
        rewritten = expiry_ms or before.expiry_ms
        for index in self.indexes:
            same = all(values[at] == before.values[at] for at in index.positions)
            if not same or rewritten:
                gone = None if same else self.entry(index, before.values, key)
                changed.append((gone, self.entry(index, values, key)))
        put = _putting(tx, expiry_ms)
        if self.history:
            self._keep(tx, key, old, put)
        put(self.records + key, data)
        for gone, new in changed:
            if gone is not None:
                tx.delete(gone)
            if new is not None:
                put(new, length)

    def remove(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete a record, its index entries and its old versions."""
        tx.delete(self.records + key)
        for entry in self.entries(self.schema.decode(old).values, key):
            tx.delete(entry)
        if self.history:
            # One by one: they are few, and a range in a transaction makes its reads slower.
            start, stop = self._versions(key)
            for version in list(tx.scan(start=start, stop=stop, keys_only=True)):
                tx.delete(version)

    def _versions(self, key: bytes) -> tuple[bytes, bytes]:
        """From where on, and up to where, the old versions of a record are."""
        versions = self.versions + key + keys.END
        # Not all that begins with it: so does the key of a text that goes on behind a zero byte,
        # but never with two zero bytes, and counts stay below 2**48.
        return versions + b"\0\0", versions + b"\0\1"

    def _keep(self, tx: Writer, key: bytes, old: bytes, put: _Put) -> None:
        start, stop = self._versions(key)
        newest = tx.scan(start=start, stop=stop, reverse=True, limit=self.history, keys_only=True)
        kept = list(newest)
        count = int.from_bytes(kept[0][-_COUNT_BYTES:], "big") + 1 if kept else 1
        version = self.versions + key + keys.END + count.to_bytes(_COUNT_BYTES, "big")
        put(version, old)
        if len(kept) == self.history:
            tx.delete(kept[-1])

    def trim(self, tx: Writer) -> None:
        """Delete old versions of which there are more than ``history``. Cost: reads their keys."""
        if not self.history:
            tx.delete_range(self.versions)
            return
        record, count = b"", 0
        for version in _scanned(tx, self.versions, reverse=True, keys_only=True):
            count = count + 1 if version[:-_COUNT_BYTES] == record else 1
            record = version[:-_COUNT_BYTES]
            if count > self.history:
                tx.delete(version)

    # -- reads -----------------------------------------------------------------------------------

    def old_versions(self, reader: Reader, key: bytes, limit: int | None) -> list[bytes]:
        """Old versions of a record, newest first."""
        start, stop = self._versions(key)
        found = reader.scan(start=start, stop=stop, reverse=True, limit=limit)
        return [value for _, value in found]

    def record_keys(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
        """The keys of the records that index entries stand for."""
        for entry, length in found:
            yield self.records + entry[-int.from_bytes(length, "big") :]

    # -- indexes as a whole ----------------------------------------------------------------------

    def fill(self, tx: Writer, index: Index) -> None:
        """Write the entries of a new index for all records there are. Cost: O(records).

        A record that has an indexed field by default only is written with it: the default may be
        another one the next time.

        Raises:
            CodecError, LimitError: a record cannot be read, or be in this index.
        """
        start = len(self.records)
        for full_key, data in _scanned(tx, self.records):
            values, unknown, expiry_ms, by_default = self.schema.decode(data)
            key = full_key[start:]
            put = _putting(tx, expiry_ms)
            if by_default & set(index.fields):
                put(full_key, self.schema.encode(values, expiry_ms, unknown))
            if self.key_of(values) != key:
                raise self.schema.bad(self.key_fields[0], "a migration cannot change the key")
            entry = self.entry(index, values, key)
            if entry is not None:
                put(entry, len(key).to_bytes(2, "big"))

    def disagreements(self, reader: Reader) -> Iterator[str]:
        """What is wrong between records and indexes, a line each. Cost: reads the namespace."""
        wanted: dict[bytes, bytes] = {}
        start = len(self.records)
        for full_key, data in reader.scan(self.records):
            key = full_key[start:]
            try:
                values = self.schema.decode(data).values
                if self.key_of(values) != key:
                    yield f"{self.name}: the record under {key!r} has another key in it"
                for entry in self.entries(values, key):
                    wanted[entry] = key
            except (CodecError, LimitError) as error:
                yield f"{self.name}: the record under {key!r} cannot be read: {error}"
        for entry, length in reader.scan(self.base + b"i"):
            key = entry[-int.from_bytes(length, "big") :]
            if wanted.pop(entry, None) != key:
                yield f"{self.name}: the index entry {entry!r} has no record"
        for entry, key in wanted.items():
            if reader.get(self.records + key) is not None:  # else it has just expired, with both
                yield f"{self.name}: the index entry {entry!r} is missing"


def _scanned(
    tx: Writer, prefix: bytes, *, reverse: bool = False, keys_only: bool = False
) -> Iterator[Any]:
    """Entries with a prefix; those that were given may be written to. Some are held at a time."""
    start, stop = prefix, prefix + keys.END
    while found := list(
        tx.scan(start=start, stop=stop, reverse=reverse, limit=_SCANNED, keys_only=keys_only)
    ):
        yield from found
        last = found[-1] if keys_only else found[-1][0]
        start, stop = (start, last) if reverse else (last + b"\0", stop)


_Put = Callable[[bytes, bytes], None]


def _putting(tx: Writer, expiry_ms: int) -> _Put:
    """What puts entries that expire together, if they do."""
    if not expiry_ms:
        return tx.put
    return lambda key, value: tx.put_until(key, value, expiry_ms)
