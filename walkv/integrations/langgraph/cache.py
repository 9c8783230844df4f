"""LangGraph's cache of what nodes have written, kept in a store.

Layout: the namespace ``langgraph_cache``, its records and keys as in ``namespaces.table``:

    namespace  str    key: the labels, a JSON array of strings
    name       str    key: LangGraph's key within its namespace, a JSON string
    kind       str    what the serializer calls the type of the value
    data       bytes  what it has made of the value

Invariants:
    1. Different namespaces never share an entry, whatever their labels hold.
    2. What has expired is not found. The engine sees to it, and gives its room back.
    3. An entry that cannot be decoded is a miss and a warning: the node runs again, and what it
       writes takes the entry's place.

Source: LangGraph's own cache in a file joins labels with commas, so that ``("a,b",)`` and
``("a", "b")`` answer for each other, and deletes what has expired only when somebody asks for it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from langgraph.cache.base import BaseCache, FullKey, ValueT
from langgraph.cache.base import Namespace as Labels
from langgraph.checkpoint.serde.base import SerializerProtocol

from walkv.agent import AgentStore
from walkv.engine.policies import SyncPolicy, WriteBack
from walkv.engine.store import Store
from walkv.integrations.connection import Adapter, Connection, Faces
from walkv.integrations.langgraph.serde import Allowed, chosen, dump, load
from walkv.namespaces import keys
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import checked_ttl
from walkv.namespaces.keyvalue import Writer

log: Final = logging.getLogger("walkv")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What a node has written; see the module."""

    namespace: str
    name: str
    kind: str
    data: bytes


class _Kept(NamedTuple):
    """An entry to write, and how long it lasts: until it is cleared if ``ttl_seconds`` is None."""

    entry: CacheEntry
    ttl_seconds: float | None


class CacheEntries(Namespace[CacheEntry]):
    """The namespace; see the module."""

    declaration: ClassVar[Declaration[CacheEntry]] = Declaration(
        "langgraph_cache", CacheEntry, key=("namespace", "name")
    )

    def find(self, wanted: Sequence[FullKey]) -> list[bytes | None]:
        """What is stored under these keys, None where nothing is."""
        table = self.table
        full = [
            table.records + table.packed_key((_namespace(labels), _name(key)))
            for labels, key in wanted
        ]
        return self.access.reader().get_many(full)

    def decode(self, data: bytes) -> CacheEntry:
        """An entry that ``find`` has found."""
        return self._record(data)

    def keep(self, entries: Sequence[_Kept]) -> None:
        """Write entries in one commit; one that is to last no time at all is deleted."""
        table = self.table
        prepared = []
        for entry, ttl_seconds in entries:
            values = table.schema.values(entry)
            ends = ttl_seconds is not None and ttl_seconds <= 0
            lifetime = None if ends else checked_ttl(ttl_seconds)
            prepared.append((table.key_of(values), values, lifetime, ends))

        def run(tx: Writer) -> None:
            for key, values, lifetime, ends in prepared:
                if ends:
                    tx.delete(table.records + key)
                else:
                    # The old entry is not looked at: it may be one that cannot be read.
                    self.write_in(tx, key, values, None, lifetime)

        self._write(run, None)

    def clear(self, namespaces: Sequence[Labels] | None) -> None:
        """Delete the entries of namespaces, or all, in one commit. Cost: a range for each."""
        prefixes = [self.table.records]
        if namespaces is not None:
            packed = self.table.packed_key
            prefixes = [
                self.table.records + packed(_namespace(labels), partial=True)
                for labels in namespaces
            ]

        def run(tx: Writer) -> None:
            for prefix in prefixes:
                tx.delete_range(start=prefix, stop=prefix + keys.END)

        self._write(run, None)


def _namespace(labels: Labels) -> str:
    if isinstance(labels, str):
        raise TypeError(f"a namespace of the cache is a tuple of labels, not {labels!r}")
    return json.dumps(list(labels))


def _name(key: str) -> str:
    return json.dumps(key)


class WalkvCache(Adapter, BaseCache[ValueT]):
    """A cache for ``graph.compile(cache=...)`` that a restart does not empty.

    One object serves threads and the tasks of any event loop.

    Args:
        store: a path, or an open ``Store`` or ``AgentStore``, which is then left open. Savers,
            stores and caches of one process may share a path.
        serde: a serializer; by default LangGraph's, for the types that it calls safe.
        allow: more types for the default one: classes, or modules and names.
        sync: policy of its commits. What a crash takes from a cache is computed again.
    Raises:
        TypeError: both ``serde`` and ``allow`` are given.
        What ``walkv.open`` raises.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | AgentStore,
        *,
        serde: SerializerProtocol | None = None,
        allow: Allowed = (),
        sync: SyncPolicy = WriteBack(),  # noqa: B008  # immutable
    ) -> None:
        BaseCache.__init__(self, serde=chosen(serde, allow))
        self._connection = Connection(store)
        try:
            self._faces = Faces(self._connection, lambda access: CacheEntries(access, sync=sync))
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"<walkv.WalkvCache {self.agent.path!r} {'closed' if self.closed else 'open'}>"

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """The values that are there, by key.

        Raises:
            CorruptionError: the store is damaged where they are, below what a cache knows of.
        Cost: a look-up for each key.
        """
        return self._get(self._faces.threads, keys)

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """As ``get``, in another thread."""
        return await self._faces.in_thread(lambda entries: self._get(entries, keys))

    def _get(self, entries: CacheEntries, wanted: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        values = {}
        for key, data in zip(wanted, entries.find(wanted), strict=True):
            if data is None:
                continue
            try:
                entry = entries.decode(data)
                values[key] = load(self.serde, entry.kind, entry.data, _what(key))
            except Exception as error:  # a cipher of the caller's may raise anything
                log.warning("%s; this is a miss", error, exc_info=True)
        return values

    def set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """Keep values, each so many seconds or until it is cleared.

        Raises:
            CodecError: a value cannot be serialized; nothing was written.
            LimitError: a namespace or key is longer than 4 KiB; nothing was written.
        Cost: one commit.
        Durability: all of them or none; as the sync policy says, on return.
        """
        self._set(self._faces.threads, pairs)

    async def aset(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """As ``set``, in another thread."""
        await self._faces.in_thread(lambda entries: self._set(entries, pairs))

    def _set(
        self, entries: CacheEntries, pairs: Mapping[FullKey, tuple[ValueT, int | None]]
    ) -> None:
        kept = []
        for key, (value, ttl_seconds) in pairs.items():
            labels, name = key
            kind, data = dump(self.serde, value, _what(key))
            entry = CacheEntry(_namespace(labels), _name(name), kind, data)
            kept.append(_Kept(entry, ttl_seconds))
        entries.keep(kept)

    def clear(self, namespaces: Sequence[Labels] | None = None) -> None:
        """Delete the values of exactly these namespaces, or all.

        Cost: one commit, whatever the number of values.
        """
        self._faces.threads.clear(namespaces)

    async def aclear(self, namespaces: Sequence[Labels] | None = None) -> None:
        """As ``clear``, in another thread."""
        await self._faces.in_thread(lambda entries: entries.clear(namespaces))


def _what(key: FullKey) -> str:
    return f"cache entry {key!r}"
