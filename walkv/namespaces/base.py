"""A namespace: typed records with indexes, queries, history and expiry, over any ``KeyValue``.

    @dataclass(frozen=True, slots=True)
    class Note:
        note_id: str
        author: str
        text: str = ""

    notes = agent.namespace(Declaration("notes", Note, key="note_id", indexes=["author"]))

Invariants:
    1. Every write is one commit, with everything that belongs to it, or nothing.
    2. A method reads and writes through its access, so that it takes part in a batch and serves
       threads and tasks alike. It writes at most once, last, unless it says otherwise.

Source: the generic part of the design. An object mapper with relations was rejected: agents have
records and parents, no joins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from walkv.engine.policies import SyncPolicy, check_policy
from walkv.errors import ConflictError, FormatError, RecordExistsError, RecordNotFoundError
from walkv.namespaces import codec, keys, registry
from walkv.namespaces.access import Access
from walkv.namespaces.common import UNSET, Unset, checked_ttl
from walkv.namespaces.keyvalue import Reader, Writer
from walkv.namespaces.query import Query
from walkv.namespaces.schema import Migration, Schema, Stored
from walkv.namespaces.table import Table, check_key

R = TypeVar("R")
T = TypeVar("T")

_MOST_INDEXES: Final = 255


@dataclass(frozen=True)
class Declaration(Generic[R]):
    """All that is to be said about a namespace.

    Attributes:
        name: lower-case letters, digits and underscores.
        record: the record type, a frozen dataclass with slots; see ``schema.Schema``.
        key: the field, or fields in order, that tell records apart.
        indexes: fields, or tuples of fields, that queries find records by. Adding one to a store
            that has records builds it when the store is opened; leaving one out removes it.
        sync: the policy of its commits; the store's by default.
        ttl_seconds: records expire so long after their last write.
        history: how many old versions of a record are kept; with less than before, the oldest are
            deleted when the store is opened.
        version, migrations: of the schema; see ``schema.Schema``.
    """

    name: str
    record: type[R]
    key: str | Sequence[str]
    indexes: Sequence[str | Sequence[str]] = ()
    sync: SyncPolicy | None = None
    ttl_seconds: float | None = None
    history: int = 0
    version: int = 1
    migrations: Mapping[int, Migration] = field(default_factory=dict)


def _names(fields: str | Sequence[str]) -> tuple[str, ...]:
    return (fields,) if isinstance(fields, str) else tuple(fields)


class Versioned(NamedTuple, Generic[R]):
    """A record and its version, for ``update(expected_version=...)``."""

    record: R | None
    version: int | None


class Namespace(Generic[R]):
    """The records of one kind. Made by an ``AgentStore``.

    Attributes:
        name: of the namespace.
        sync: the policy of its commits, or None for the store's.
    """

    declaration: ClassVar[Declaration[Any]]

    def __init__(
        self,
        access: Access,
        declaration: Declaration[R] | None = None,
        sync: SyncPolicy | None = None,
    ) -> None:
        declared: Declaration[R] = declaration or self.declaration
        self.access = access
        self.name = declared.name
        schema = Schema(declared.name, declared.record, declared.version, declared.migrations)
        key = _names(declared.key)
        self._indexed = tuple(_names(fields) for fields in declared.indexes)
        for fields in (key, *self._indexed):
            check_key(schema, fields)
        if len(self._indexed) > _MOST_INDEXES:
            raise TypeError(f"{self.name}: at most {_MOST_INDEXES} indexes")
        self.table: Table[R] = Table(self.name, schema, key, declared.history)
        self.sync = declared.sync if sync is None else sync
        if self.sync is not None:
            check_policy(self.sync)
        self.ttl_seconds = checked_ttl(declared.ttl_seconds)
        self._seen: bytes | None = None

    def __repr__(self) -> str:
        return f"<walkv {type(self).__name__} {self.name!r}>"

    @property
    def agreement(self) -> tuple[Any, ...]:
        """What all who write to this namespace of an open store have to agree on."""
        table, schema = self.table, self.table.schema
        return (schema.layout, table.key_fields, self._indexed, schema.secrets, table.history)

    # -- the store's knowledge of it -------------------------------------------------------------

    def attach(self, known: dict[str, registry.Entry]) -> bool:
        """Take in what the store knows; False if the store has yet to learn of this code."""
        entry = known.get(self.name, registry.NOTHING)
        if entry.key and entry.key != self.table.key_fields:
            stored, declared = ", ".join(entry.key), ", ".join(self.table.key_fields)
            raise FormatError(
                f"namespace {self.name}: its records are stored by ({stored}), and this code "
                f"declares the key ({declared}); a key cannot change, use another namespace",
                path=self.access.kv.path,
            )
        schema = self.table.schema
        if self.access.kv.writable and entry.newest_version > schema.version:
            raise FormatError(
                f"namespace {self.name}: newer code has written records of schema version "
                f"{entry.newest_version}, and this code has version {schema.version}; open the "
                "store with the newer code, or read only",
                path=self.access.kv.path,
                found_version=entry.newest_version,
                supported=tuple(range(1, schema.version + 1)),
            )
        schema.use_layouts(entry.layouts)
        self.table.use_indexes(entry.indexes)
        names = {",".join(fields) for fields in self._indexed}
        return (
            schema.with_needed(entry.layouts) == entry.layouts
            and names == set(entry.indexes)
            and set(schema.secrets) <= set(entry.secrets)
            and entry.history == self.table.history
        )

    def register(self, tx: Writer, known: dict[str, registry.Entry]) -> None:
        """Tell the store of this code, and build and remove indexes. See ``registry``."""
        entry = known.get(self.name, registry.NOTHING)
        table, schema = self.table, self.table.schema
        if not entry.key:
            registry.refuse_records(tx, table.base, table.records, self.access.kv.path)
        layouts = schema.with_needed(entry.layouts)
        schema.use_layouts(layouts)
        wanted = {",".join(fields): fields for fields in self._indexed}
        # Migrations may change what is indexed.
        kept = set(wanted) if entry.newest_version == schema.version else set()
        for name in set(entry.indexes) - kept:
            tx.delete_range(table.index_prefix(entry.indexes[name]))
        indexes = {name: number for name, number in entry.indexes.items() if name in wanted}
        next_index = entry.next_index
        for name, fields in wanted.items():
            if name not in indexes:
                if next_index > _MOST_INDEXES:
                    raise TypeError(f"{self.name}: its indexes were changed too often")
                indexes[name] = next_index
                next_index += 1
            if name not in kept or name not in entry.indexes:
                index = table.index(fields, indexes[name])
                assert index is not None
                table.fill(tx, index)
        secrets = sorted({*entry.secrets, *schema.secrets})
        if table.history < entry.history:
            table.trim(tx)
        known[self.name] = registry.Entry(
            table.key_fields, layouts, indexes, next_index, secrets, table.history
        )

    def _learn(self, reader: Reader) -> None:
        """Take in what a writer in another process has registered since."""
        data = reader.get(registry.KEY)
        if data != self._seen:
            self.attach(registry.read(reader))
            self._seen = data

    # -- single records --------------------------------------------------------------------------

    def get(self, key: Any) -> R | None:
        """The record with a key, or None. Composite keys are tuples."""
        data = self.access.reader().get(self.table.records + self.table.packed_key(key))
        return None if data is None else self._record(data)

    def _record(self, data: bytes) -> R:
        return self._records([data])[0]

    def _records(self, values: list[bytes]) -> list[R]:
        rows = codec.decode_many(values)
        schema = self.table.schema
        if not self.access.kv.writable and not all(map(schema.knows, rows)):
            self._learn(self.access.kv)
        return schema.build_all(rows)

    def get_versioned(self, key: Any) -> Versioned[R]:
        """The record with a key, and its version; both None if there is none."""
        full_key = self.table.records + self.table.packed_key(key)
        data, version = self.access.reader().get_versioned(full_key)
        return Versioned(None if data is None else self._record(data), version)

    def get_many(self, keys: Iterable[Any]) -> list[R | None]:
        """The records in the order of the keys, None where there is none; all of one moment."""
        full = [self.table.records + self.table.packed_key(key) for key in keys]
        data = self.access.reader().get_many(full)
        records = iter(self._records([each for each in data if each is not None]))
        return [None if each is None else next(records) for each in data]

    def exists(self, key: Any) -> bool:
        """Whether there is a record with a key."""
        full_key = self.table.records + self.table.packed_key(key)
        return self.access.reader().get(full_key) is not None

    def put(
        self, record: R, *, sync: SyncPolicy | None = None, ttl_seconds: float | None = None
    ) -> None:
        """Write a record, whether it is there or not.

        Args:
            record: of the namespace's record type.
            sync: a policy for this commit; the namespace's by default.
            ttl_seconds: the record expires so long after this write; the namespace's by default.
        Raises:
            CodecError, LimitError: a field cannot be stored; nothing was written.
        Cost: one commit.
        """
        self.put_many([record], sync=sync, ttl_seconds=ttl_seconds)

    def put_many(
        self,
        records: Iterable[R],
        *,
        sync: SyncPolicy | None = None,
        ttl_seconds: float | None = None,
    ) -> None:
        """Write records in one commit: all of them or none."""
        self._put_all(records, sync, ttl_seconds, self._replace)

    def add(
        self, record: R, *, sync: SyncPolicy | None = None, ttl_seconds: float | None = None
    ) -> R:
        """Write a new record, and return it.

        Raises:
            RecordExistsError: there is one with this key; nothing was written.
        """
        self._put_all([record], sync, ttl_seconds, self._insert)
        return record

    def _put_all(
        self,
        records: Iterable[R],
        sync: SyncPolicy | None,
        ttl_seconds: float | None,
        write: Callable[[Writer, bytes, list[Any], float | None], None],
    ) -> None:
        table, schema = self.table, self.table.schema
        prepared = []
        for record in records:
            values = schema.values(record)
            prepared.append((table.key_of(values), values))
        lifetime = self.ttl_seconds if ttl_seconds is None else checked_ttl(ttl_seconds)

        def run(tx: Writer) -> None:
            for key, values in prepared:
                write(tx, key, values, lifetime)

        self._write(run, sync)

    def _write(self, function: Callable[[Writer], T], sync: SyncPolicy | None) -> T:
        return self.access.write(function, self.sync if sync is None else sync)

    def _write_each(
        self, keys: list[bytes], function: Callable[[Writer, bytes], bool], sync: SyncPolicy | None
    ) -> int:
        return self.access.write_each(keys, function, self.sync if sync is None else sync)

    def read_at_once(self, function: Callable[[Reader], T]) -> T:
        """Call a function with the store at one moment."""
        with self.moment() as reader:
            return function(reader)

    @contextmanager
    def moment(self) -> Iterator[Reader]:
        """Reads of the store at one moment, or in the caller's batch."""
        batch = self.access.batch()
        with self.access.kv.view() if batch is None else nullcontext(batch.transaction) as reader:
            if batch is None and not self.access.kv.writable:
                self._learn(reader)  # an index that the writer has removed must not be walked
            yield reader

    def _replace(
        self, tx: Writer, key: bytes, values: list[Any], ttl_seconds: float | None
    ) -> None:
        self.write_in(tx, key, values, tx.get(self.table.records + key), ttl_seconds)

    def _insert(self, tx: Writer, key: bytes, values: list[Any], ttl_seconds: float | None) -> None:
        if tx.get(self.table.records + key) is not None:
            raise RecordExistsError(
                f"{self.name}: there is a record with the key {self._shown(key)} already; update() "
                "changes it, put() replaces it"
            )
        self.write_in(tx, key, values, None, ttl_seconds)

    def write_in(
        self,
        tx: Writer,
        key: bytes,
        values: list[Any],
        old: bytes | None,
        ttl_seconds: float | None,
        *,
        keep_expiry: bool = False,
        before: Stored | None = None,
    ) -> None:
        """Every write of a record comes through here; see ``Table.write``."""
        now_ms = 0
        if ttl_seconds is not None or (before is not None and before.expiry_ms):
            now_ms = self.access.kv.wall_time_ns() // 1_000_000
        self.table.write(
            tx, key, values, old, now_ms, ttl_seconds, keep_expiry=keep_expiry, before=before
        )

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Every deletion of a record comes through here."""
        self.table.remove(tx, key, old)

    def _shown(self, key: bytes) -> str:
        return ", ".join(map(repr, keys.unpack(key)))[:200]

    def update(
        self,
        key: Any,
        /,
        *,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> R:
        """Change fields of a record, atomically; returns it as it is now.

        Args:
            key: the record's.
            expected_version: change it only if this is its version, see ``get_versioned``.
            changes: new values of fields; those of the key cannot change.
        Raises:
            RecordNotFoundError: there is none with this key.
            ConflictError: its version is another one; nothing was written.
            CodecError, LimitError: a field cannot be stored; nothing was written.
        """
        return self._modify(key, lambda _: changes, sync, expected_version)

    def _modify(
        self,
        key: Any,
        change: Callable[[R], Mapping[str, Any]],
        sync: SyncPolicy | None,
        expected_version: int | Unset | None = UNSET,
        also: Callable[[Writer, R, R], None] | None = None,
    ) -> R:
        """Change a record by what ``change`` makes of it, in one instant.

        Args:
            change: gives the fields to change; empty for none.
            also: writes what belongs to it, given the record before and after.
        """
        packed = self.table.packed_key(key)

        def run(tx: Writer) -> R:
            return self.modify_in(tx, packed, change, expected_version, also)

        return self._write(run, sync)

    def modify_in(
        self,
        tx: Writer,
        packed: bytes,
        change: Callable[[R], Mapping[str, Any]],
        expected_version: int | Unset | None = UNSET,
        also: Callable[[Writer, R, R], None] | None = None,
    ) -> R:
        """As ``_modify``, as a part of a larger write."""
        table, schema = self.table, self.table.schema
        full_key = table.records + packed
        if isinstance(expected_version, Unset):
            old = tx.get(full_key)
        else:
            old, version = tx.get_versioned(full_key)
            if version != expected_version:
                raise ConflictError(
                    f"{self.name}: the record {self._shown(packed)} has changed: version "
                    f"{expected_version} was expected, and it is {version}; read it again",
                    key=full_key,
                    expected_version=expected_version,
                    actual_version=version,
                )
        if old is None:
            raise self.not_found(packed)
        stored = schema.decode(old)
        before = schema.build(stored.values)
        changes = change(before)
        if not changes:
            return before
        values = schema.changed(stored.values, changes)
        if any(name in changes for name in table.key_fields) and table.key_of(values) != packed:
            raise schema.bad(
                table.key_fields[0], "the key of a record cannot change; delete it and add another"
            )
        self.write_in(tx, packed, values, old, self.ttl_seconds, keep_expiry=True, before=stored)
        after = schema.build(values)
        if also is not None:
            also(tx, before, after)
        return after

    def not_found(self, packed: bytes) -> RecordNotFoundError:
        """The error for a key without a record."""
        return RecordNotFoundError(
            f"{self.name}: there is no record with the key {self._shown(packed)}; add it first"
        )

    def delete(self, key: Any, *, sync: SyncPolicy | None = None) -> bool:
        """Delete a record, with its old versions; returns whether it was there."""
        packed = self.table.packed_key(key)
        return self._write(lambda tx: self.delete_in(tx, packed), sync)

    def delete_in(self, tx: Writer, packed: bytes) -> bool:
        """As ``delete``, as a part of a larger write."""
        old = tx.get(self.table.records + packed)
        if old is None:
            return False
        self.remove_in(tx, packed, old)
        return True

    # -- many records ----------------------------------------------------------------------------

    def query(self, **equals: Any) -> Query[R]:
        """Records whose fields have these values; see ``query.Query`` for what can follow."""
        return Query(self).where(**equals)

    def scan(self, prefix: Any = (), *, reverse: bool = False, limit: int | None = None) -> list[R]:
        """Records in the order of their keys, those that begin with a prefix of the key fields."""
        table = self.table
        start = table.records
        if prefix != ():
            start += table.packed_key(prefix, partial=True)
        stop = start + keys.END
        found = self.access.reader().scan(start=start, stop=stop, reverse=reverse, limit=limit)
        return self._records([value for _, value in found])

    def count(self, **equals: Any) -> int:
        """How many records there are, all or those with these values. Cost: O(count)."""
        return self.query(**equals).count()

    def history(self, key: Any, limit: int | None = None) -> list[R]:
        """What a record was before its last changes, newest first; see ``Declaration.history``."""
        packed = self.table.packed_key(key)
        found = self.table.old_versions(self.access.reader(), packed, limit)
        return self._records(found)

    def delete_found(self, query: Query[R], sync: SyncPolicy | None) -> int:
        """Delete what a query finds; see ``Query.delete``."""

        def remove(tx: Writer, key: bytes) -> bool:
            old = tx.get(self.table.records + key)
            if old is None or not query.matches(self._record(old)):
                return False
            self.remove_in(tx, key, old)
            return True

        return self._write_each(query.packed_keys(), remove, sync)

    def verify(self) -> list[str]:
        """What is wrong between records and indexes, a line each; nothing, if all is well.

        Cost: reads the namespace.
        """
        with self.access.kv.view() as view:
            return list(self.table.disagreements(view))

    def now(self) -> datetime:
        """The time by the engine's clock, in UTC."""
        return self.access.now()
