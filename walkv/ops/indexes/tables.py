"""Index entries of a namespace against its records, told from the registry alone.

A record of an older schema version is passed over: what its fields are now, only the migrations of
the code that declared it know. So is an index over a field that a record does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from walkv.errors import CodecError
from walkv.namespaces import codec, keys
from walkv.namespaces.keyvalue import Reader
from walkv.namespaces.registry import Entry
from walkv.ops.indexes.mends import Mend

_UNKNOWN: Final = object()


class Record(NamedTuple):
    """A record as it can be read without its class.

    Attributes:
        values: by field name; of the layout it was written with.
        expiry_ms: when it expires, or 0.
        current: it is of the newest schema version there is.
    """

    values: dict[str, Any]
    expiry_ms: int
    current: bool


class Table:
    """The entries of one namespace; see ``walkv.namespaces.table`` for their layout."""

    def __init__(self, name: str, entry: Entry) -> None:
        self.name = name
        base = b"\0" + name.encode() + b"\0"
        self.records = base + b"r"
        self.entries = base + b"i"
        self.other = base + b"x"
        self._entry = entry
        self._indexes = {number: tuple(of.split(",")) for of, number in entry.indexes.items()}

    def record(self, data: bytes) -> Record:
        """A record's fields.

        Raises:
            CodecError: it is none of this namespace.
        """
        row = codec.decode(data)
        try:
            number, expiry_ms, values = row[0], 0, row[1:]
            if number < 0:
                number, expiry_ms, values = -1 - number, row[1], row[2:]
            layout = self._entry.layouts[number]
            named = dict(zip(layout.names, values, strict=True))
        except (TypeError, IndexError, KeyError, ValueError) as error:
            raise CodecError(
                f"{self.name}: these bytes are no record of this namespace", namespace=self.name
            ) from error
        return Record(named, expiry_ms, layout.version == self._entry.newest_version)

    def all(self, reader: Reader) -> Iterator[tuple[bytes, Record]]:
        """Packed keys and records; those that cannot be read are left out."""
        for full_key, data in reader.scan(self.records):
            try:
                yield full_key[len(self.records) :], self.record(data)
            except CodecError:
                continue

    def mends(self, reader: Reader) -> Iterator[Mend]:
        """Disagreements between records and index entries. Cost: a look-up an index entry."""
        for full_key, data in reader.scan(self.records):
            key = full_key[len(self.records) :]
            try:
                record = self.record(data)
                if record.current and self._packed(record, self._entry.key) not in (key, _UNKNOWN):
                    yield Mend(f"{self.name}: the record under {key!r} has another key in it")
                yield from self._missing(reader, key, record)
            except (CodecError, ValueError, TypeError) as error:
                line = f"{self.name}: the record under {key!r} cannot be read: {error}"
                yield Mend(line)
        for entry, length in reader.scan(self.entries):
            if not self._stands_for_a_record(reader, entry, length):
                yield Mend(f"{self.name}: the index entry {entry!r} has no record", entry)

    def _missing(self, reader: Reader, key: bytes, record: Record) -> Iterator[Mend]:
        length = len(key).to_bytes(2, "big")
        for number in self._indexes:
            wanted = self._index_entry(number, key, record)
            if not isinstance(wanted, bytes) or reader.get(wanted) == length:
                continue
            if reader.get(self.records + key) is None:
                continue  # it has just expired, with its entries
            line = f"{self.name}: the index entry {wanted!r} is missing"
            yield Mend(line, wanted, length, record.expiry_ms)

    def _stands_for_a_record(self, reader: Reader, entry: bytes, length: bytes) -> bool:
        at = len(entry) - int.from_bytes(length, "big")
        if not len(self.entries) < at < len(entry):
            return False
        data = reader.get(self.records + entry[at:])
        if data is None:
            return False
        number = entry[len(self.entries)]
        try:
            return number in self._indexes and (
                self._index_entry(number, entry[at:], self.record(data)) in (entry, _UNKNOWN)
            )
        except (CodecError, ValueError, TypeError):
            return True  # said already, of the record

    def _index_entry(self, number: int, key: bytes, record: Record) -> Any:
        """The key of a record's entry in an index; None if it has none; or ``_UNKNOWN``."""
        fields = self._indexes[number]
        packed = self._packed(record, fields) if record.current else _UNKNOWN
        if not isinstance(packed, bytes):
            return packed
        if record.values[fields[0]] is None:
            return None
        return self.entries + bytes((number,)) + packed + key

    def _packed(self, record: Record, fields: tuple[str, ...]) -> Any:
        if not set(fields) <= record.values.keys():
            return _UNKNOWN
        return keys.pack(*(record.values[name] for name in fields))
