"""Items of a store: values under a key in a namespace of labels, with expiry and vectors.

Layout: the namespace ``langgraph_items``, its records, indexes and keys as in ``namespaces.table``:

    labels        bytes     key: the labels, packed as in ``namespaces.keys``
    key           str       key
    value         bytes     the value, a dictionary, as in ``namespaces.codec``
    created_at    datetime
    updated_at    datetime
    ttl_minutes   float     how long after it was last put or refreshed it expires; or None
    expires_at    datetime  or None
    vector_count  int

    indexes: (labels, updated_at), (expires_at)

and in the part ``Table.other``:

    "v", labels, key        the vectors of the item, as in ``vectors``

Packed labels are bytes in a key, so a zero byte in them is followed by 0xff: the keys of a
namespace, and of all below it, begin with 0x40 and its labels in this form, and then have zero (the
namespace itself) or 0x50 (the next label).

Invariants:
    1. An item has vectors, ``vector_count`` of them, only if they are of its value: they are
       written, replaced and deleted in its commit.
    2. An item that has expired is there until it is deleted. Whoever reads decides.
    3. A refresh changes nothing but the expiry, and nothing of an item that has gone.
    4. A value is decoded only to be looked at.

Source: the expiry of the engine was rejected, since an item is to be there until it is swept, and
to come back when it is read before. Labels joined by a dot, as tables in SQL have them, were
rejected: a prefix of the text is not a prefix of the labels.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, compress, islice
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from walkv.engine.policies import SyncPolicy, WriteBack
from walkv.errors import CodecError
from walkv.integrations.langgraph import vectors
from walkv.integrations.langgraph.vectors import Query, Ranking, Scope, VectorIndex
from walkv.namespaces import codec, keys
from walkv.namespaces.access import Access
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.keyvalue import Reader, Writer
from walkv.namespaces.schema import Stored

T = TypeVar("T")
Labels = tuple[str, ...]

_CHUNK: Final = 64
"""Records that are fetched and decoded at a time."""

_MOST_MERGED: Final = 16
"""So many namespaces are gone through side by side. Each takes two seeks, of some 60 us."""

_SHARED: Final = "langgraph_items vectors"
"""What the index of vectors is known by in an opened store; no namespace is called that."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item; see the module."""

    labels: bytes
    key: str
    value: bytes
    created_at: datetime
    updated_at: datetime
    ttl_minutes: float | None = None
    expires_at: datetime | None = None
    vector_count: int = 0


class Put(NamedTuple):
    """An item to write, or to delete.

    Attributes:
        key: packed.
        value: encoded; None to delete.
        ttl_minutes: None for one that does not expire.
        vectors: packed, all of ``dims`` dimensions.
    """

    labels: bytes
    name: str
    key: bytes
    value: bytes | None
    ttl_minutes: float | None = None
    vectors: Sequence[bytes] = ()
    dims: int = 0


class Place(NamedTuple):
    """Where an item is among those that are looked through.

    Attributes:
        key: packed.
        score: how like the query it is; None where that does not matter, or is not known.
    """

    key: bytes
    score: float | None = None


class Found(NamedTuple):
    """An item, and where it was."""

    key: bytes
    score: float | None
    item: StoredItem


class Items(Namespace[StoredItem]):
    """The namespace; see the module."""

    declaration: ClassVar[Declaration[StoredItem]] = Declaration(
        "langgraph_items",
        StoredItem,
        key=("labels", "key"),
        indexes=[("labels", "updated_at"), "expires_at"],
    )

    def __init__(
        self,
        access: Access,
        declaration: Declaration[StoredItem] | None = None,
        sync: SyncPolicy | None = None,
    ) -> None:
        super().__init__(access, declaration, sync)
        self._entries = self.table.other + b"v"
        self._index: VectorIndex | None = None
        if access.kv.writable:
            self._index = access.kv.shared.setdefault(_SHARED, VectorIndex())

    # -- labels, keys and values -----------------------------------------------------------------

    def packed_labels(self, labels: Labels) -> bytes:
        """Labels as the field of a record has them.

        Raises:
            CodecError: one of them is no text.
        """
        if isinstance(labels, str):
            raise self.table.schema.bad("labels", f"a tuple of labels is wanted, not {labels!r}")
        try:
            return keys.pack(*labels)
        except (TypeError, ValueError) as error:
            raise self.table.schema.bad("labels", f"{labels!r}: {error}") from None

    def prefix(self, labels: Labels) -> bytes:
        """What the keys of a namespace and of all below it begin with, and no others."""
        return keys.pack_one(self.packed_labels(labels))[:-1]

    def item_key(self, labels: Labels, name: str) -> bytes:
        """The packed key of an item.

        Raises:
            CodecError: it is no text.
            LimitError: the labels, or the key, are too long.
        """
        return self.table.packed_key((self.packed_labels(labels), name))

    def labels_of(self, packed: bytes) -> Labels:
        """The labels that a record has.

        Raises:
            CodecError: they are damaged.
        """
        try:
            labels = keys.unpack(packed)
        except ValueError as error:
            raise self.table.schema.bad("labels", f"these are damaged: {error}") from error
        if not all(type(label) is str for label in labels):
            raise self.table.schema.bad("labels", f"these are damaged: {packed[:64]!r}")
        return labels

    def encoded(self, name: str, value: Any) -> bytes:
        """The value of an item as a record has it.

        Raises:
            CodecError: it is no dictionary with text as keys, or cannot be stored.
        """
        bad = self.table.schema.bad
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise bad(
                "value", f"that of {name!r} is no dictionary with text as keys: {value!r:.80}"
            )
        try:
            return codec.encode(dict(value))
        except CodecError as error:
            raise bad("value", f"that of {name!r}: {error}") from error

    def value_of(self, item: StoredItem) -> dict[str, Any]:
        """The value, made anew.

        Raises:
            CodecError: it is damaged.
        """
        bad = self.table.schema.bad
        try:
            value = codec.decode(item.value)
        except CodecError as error:
            raise bad("value", f"that of {item.key!r} is damaged: {error}") from error
        if type(value) is not dict:
            raise bad("value", f"that of {item.key!r} is damaged: {item.value[:64]!r}")
        return value

    def _stored(self, data: bytes) -> tuple[Stored, StoredItem]:
        """An item that is about to be written over, as it is stored."""
        schema = self.table.schema
        stored = schema.decode(data)
        return stored, schema.build(schema.checked(stored.values))

    def _checked(self, data: list[bytes]) -> list[StoredItem]:
        """Items of bytes that may be damaged."""
        items = self._records(data)
        for item in items:
            if not _is_sound(item):
                self.table.schema.values(item)  # says what is wrong
        return items

    # -- writes ----------------------------------------------------------------------------------

    def put_items(self, puts: Sequence[Put]) -> None:
        """Write and delete items in one commit.

        Raises:
            CodecError: an item cannot be stored, or the one in its place is damaged; nothing was
                written.
        """

        def run(tx: Writer) -> None:
            now = self.now()
            for put in puts:
                self._put_in(tx, put, now)

        self._write(run, None)

    def _put_in(self, tx: Writer, put: Put, now: datetime) -> None:
        old = tx.get(self.table.records + put.key)
        if put.value is None:
            if old is not None:
                self.remove_in(tx, put.key, old)
            return
        before, item = (None, None) if old is None else self._stored(old)
        record = StoredItem(
            put.labels,
            put.name,
            put.value,
            now if item is None else item.created_at,
            now,
            put.ttl_minutes,
            self._expiry(now, put.ttl_minutes),
            len(put.vectors),
        )
        self.write_in(tx, put.key, self.table.schema.values(record), old, None, before=before)
        if put.vectors or (item is not None and item.vector_count):
            self._put_vectors(tx, put.key, put.vectors, put.dims)

    def _expiry(self, now: datetime, ttl_minutes: float | None) -> datetime | None:
        if ttl_minutes is None:
            return None
        try:
            return now + timedelta(minutes=ttl_minutes)
        except (OverflowError, TypeError, ValueError) as error:
            raise self.table.schema.bad(
                "ttl_minutes", f"{ttl_minutes!r} minutes lead to no date: {error}"
            ) from None

    def _put_vectors(self, tx: Writer, key: bytes, packed: Sequence[bytes], dims: int = 0) -> None:
        if self._index is not None:
            self._index.mark(tx, self._entries, key)
        if packed:
            tx.put(self._entries + key, vectors.encode(packed, dims))
        else:
            tx.delete(self._entries + key)

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete an item with its vectors."""
        if self._stored(old)[1].vector_count:
            self._put_vectors(tx, key, ())
        super().remove_in(tx, key, old)

    def refresh(self, wanted: Sequence[bytes], *, revive: bool) -> None:
        """Have items expire their TTL from now on, in one commit; those that have none do not.

        Args:
            revive: also what has expired by now.
        Durability: a crash may take it back. Whoever reads does not wait for the disk.
        """

        def run(tx: Writer) -> None:
            now = self.now()
            for key in wanted:
                self._refresh_in(tx, key, now, revive)

        self._write(run, WriteBack())

    def _refresh_in(self, tx: Writer, key: bytes, now: datetime, revive: bool) -> None:
        old = tx.get(self.table.records + key)
        if old is None:
            return
        before, item = self._stored(old)
        expires_at = self._expiry(now, item.ttl_minutes)
        if expires_at is None or item.expires_at is None or expires_at <= item.expires_at:
            return
        if item.expires_at > now or revive:
            values = self.table.schema.changed(before.values, {"expires_at": expires_at})
            self.write_in(tx, key, values, old, None, before=before)

    def sweep(self) -> int:
        """Delete what has expired; returns how many. Cost: an index leads to them."""
        return self.query().where(expires_at__lte=self.now()).delete()

    # -- reads -----------------------------------------------------------------------------------

    def find(self, reader: Reader, key: bytes) -> StoredItem | None:
        """The item with a key."""
        data = reader.get(self.table.records + key)
        return None if data is None else self._checked([data])[0]

    def fetch(self, reader: Reader, places: Iterable[Place]) -> Iterator[Found]:
        """The items of places, as far as they are there."""
        places, records = iter(places), self.table.records
        while chunk := list(islice(places, _CHUNK)):
            data = reader.get_many([records + place.key for place in chunk])
            there = [value is not None for value in data]
            items = self._checked([value for value in data if value is not None])
            for place, item in zip(compress(chunk, there), items, strict=True):
                yield Found(place.key, place.score, item)

    def newest(self, reader: Reader, labels: Labels) -> Iterator[bytes]:
        """Keys of the items in a namespace and below it, last updated first.

        Cost: that of what is taken; with many namespaces below it, the keys of all items.
        """
        if not self.table.indexes:
            return  # a read-only opener, and there has not been an item yet
        start = self.table.index_of("labels", "updated_at").prefix + self.prefix(labels)
        times = _times(reader, start)
        some = list(islice(times, _CHUNK))
        spaces = [start]
        if len(some) == _CHUNK:
            spaces = list(islice(self._spaces(reader, start), _MOST_MERGED + 1))
        if len(some) < _CHUNK or len(spaces) > _MOST_MERGED:
            yield from (key for _, key in sorted(chain(some, times), reverse=True))
        else:
            merged = heapq.merge(*(_times(reader, s, reverse=True) for s in spaces), reverse=True)
            yield from (key for _, key in merged)

    def _spaces(self, reader: Reader, start: bytes) -> Iterator[bytes]:
        """What the entries of each namespace in an index of labels and times begin with."""
        at = start
        while key := next(
            reader.scan(start=at, stop=start + keys.END, limit=1, keys_only=True), None
        ):
            end = key.find(b"\0\x30", len(start) - 1) + 1
            if not end:
                raise self.table.schema.bad("labels", f"an index is damaged: {key[:64]!r}")
            yield key[:end]
            at = key[:end] + keys.END

    def namespaces(
        self,
        reader: Reader,
        prefix: Labels,
        shown: Callable[[Labels], Labels | None],
        living_at: datetime | None,
    ) -> Iterator[Labels]:
        """Namespaces in order, each once.

        Args:
            prefix: what they begin with.
            shown: the labels to show of those of a namespace, or None to leave it out.
            living_at: leave out namespaces all of whose items have expired by then.
        Cost: a seek for each namespace, and none for those below one that is shown in part.
        """
        records = self.table.records
        at = records + self.prefix(prefix)
        stop = at + keys.END
        last = None
        while key := next(reader.scan(start=at, stop=stop, limit=1, keys_only=True), None):
            packed = self._labels_in(key[len(records) :])
            labels = self.labels_of(packed)
            own = records + keys.pack_one(packed)
            at = own + keys.END
            part = shown(labels)
            if part is None:
                continue
            if part != last and (living_at is None or self._lives(reader, own, living_at)):
                yield part
                last = part
            if part == last and len(part) < len(labels):
                at = records + self.prefix(part) + keys.END

    def _labels_in(self, key: bytes) -> bytes:
        try:
            labels, _ = keys.unpack(key)
        except ValueError as error:
            raise self.table.schema.bad("labels", f"a key is damaged: {error}") from error
        if type(labels) is not bytes:
            raise self.table.schema.bad("labels", f"a key is damaged: {key[:64]!r}")
        return labels

    def _lives(self, reader: Reader, own: bytes, moment: datetime) -> bool:
        found = reader.scan(start=own, stop=own + keys.END)
        return any(not has_expired(self._checked([data])[0], moment) for _, data in found)

    def nearest(self, labels: Labels, query: Query, function: Callable[[Reader, Ranking], T]) -> T:
        """Call a function with a moment, and the items in a namespace and below it by likeness.

        Cost: goes through the vectors of the query's dimensions there. The first time in an opening
        they are read from disk; so they are each time in a batch, or for a read-only opener.
        """
        scope = Scope(self._entries, self.prefix(labels), query.dims)
        index = self._index
        if index is None or self.access.batch() is not None:
            return self.read_at_once(
                lambda reader: function(reader, vectors.read_ranked(reader, scope, query))
            )
        with ExitStack() as stack:
            return function(*index.ranked(stack, self.access.kv, scope, query))

    def verify(self) -> list[str]:
        """What is wrong between items, indexes and vectors, a line each."""
        with self.access.kv.view() as view:
            return [*self.table.disagreements(view), *self._wrong_vectors(view)]

    def _wrong_vectors(self, reader: Reader) -> Iterator[str]:
        behind = len(self._entries)
        counts = {}
        for full_key, data in reader.scan(self._entries):
            key = full_key[behind:]
            try:
                counts[key] = len(vectors.decode(data)[1])
            except CodecError as error:
                yield f"{self.name}: the vectors under {key!r} cannot be read: {error}"
        for full_key, data in reader.scan(self.table.records):
            key = full_key[len(self.table.records) :]
            count = counts.pop(key, 0)
            try:
                wanted = self._checked([data])[0].vector_count
            except CodecError:
                continue  # what is wrong with the record is said already
            if count != wanted:
                yield f"{self.name}: the item under {key!r} is to have {wanted} vectors"
        for key in counts:
            yield f"{self.name}: the vectors under {key!r} have no item"


# Hot.
def _is_sound(item: StoredItem) -> bool:
    """Whether what is used of an item is of its type."""
    return (
        type(item.labels) is bytes
        and type(item.key) is str
        and type(item.value) is bytes
        and type(item.created_at) is type(item.updated_at) is datetime
        and (item.expires_at is None or type(item.expires_at) is datetime)
    )


def _times(reader: Reader, start: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Times, packed, and keys of items, of the entries of an index that ends with the time."""
    for entry, length in reader.scan(start=start, stop=start + keys.END, reverse=reverse):
        at = len(entry) - int.from_bytes(length, "big")
        yield entry[at - 9 : at], entry[at:]


def has_expired(item: StoredItem, moment: datetime) -> bool:
    """Whether an item has expired by a moment."""
    return item.expires_at is not None and item.expires_at <= moment
