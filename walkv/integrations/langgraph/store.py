"""The long-term memory of graphs: ``graph = builder.compile(store=WalkvStore("agent.walkv"))``.

Invariants:
    1. All puts and deletes of one ``batch`` are one commit. What it reads is from before them.
    2. Nothing is embedded while a lock is held, and nothing is written unless all was embedded.
    3. What is handed out is made anew: changing it changes nothing that is stored.
    4. A read that refreshes a TTL brings nothing back that was deleted, and takes nothing from a
       put that came between.
    5. The sweeper's thread holds neither the store nor the process.

Source: the stores of LangGraph, whose interface this is. Two of their ways were rejected: updates
that forget when an item was created, and those that leave vectors of the old value behind.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from walkv import limits
from walkv.agent import AgentStore
from walkv.engine.policies import SyncPolicy
from walkv.engine.store import Store
from walkv.errors import ClosedError, ReadOnlyError, StoreFailedError
from walkv.integrations.connection import Adapter, Connection, Faces
from walkv.integrations.langgraph import filters
from walkv.integrations.langgraph.embedding import Index
from walkv.integrations.langgraph.items import Found, Items, Labels, Place, Put, has_expired
from walkv.integrations.langgraph.vectors import Query, Ranking
from walkv.namespaces.keyvalue import Reader

log: Final = logging.getLogger("walkv")

_INLINE_BYTES: Final = 1 * limits.MIB
"""Of values put by a task: more is written in another thread."""

_SWEEP_MINUTES: Final = 5.0


class WalkvStore(Adapter, BaseStore):
    """Keeps what graphs remember across threads in a walkv store.

    For threads and for the tasks of any event loop. Nothing has to be set up. In a block of
    ``store.agent.batch()`` the calls of its thread are a part of that batch.

    Values are dictionaries with text as keys, of whatever walkv can store: what JSON knows, and
    tuples, bytes, times with a zone, decimals and sets, each of which comes back as what it was.

    Args:
        store: a path, or an open ``walkv.Store`` or ``walkv.AgentStore``, which is then left open.
            Savers, stores and caches at one path share it.
        index: for search by meaning: ``dims``, ``embed``, ``fields``, and ``distance_type``, which
            is "cosine", "l2" or "inner_product". The greater a score, the more alike; with "l2" it
            is the distance, below zero. Vectors that were searched are kept in memory, up to 1 GiB
            for an opened store. Vectors of other ``dims`` in the store are not looked at.
        ttl: as LangGraph says, in minutes. What has expired is found until it is swept, unless
            ``omit_expired`` is set; and it is swept once ``start_ttl_sweeper`` was called.
        sync: what an acknowledged put survives; see ``docs/durability.md``. The store's by default.
        options: for a path, as for ``AgentStore``.
    Raises:
        ValueError: ``index`` lacks ``dims`` or ``embed``, or has an unknown distance.
        What ``walkv.open`` raises.
    """

    supports_ttl = True

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | AgentStore,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        sync: SyncPolicy | None = None,
        **options: Any,
    ) -> None:
        self.index_config = index
        self.ttl_config = ttl
        self._index = None if index is None else Index(index)
        self._omit_expired = bool(ttl and ttl.get("omit_expired"))
        self._sweeper: _Sweeper | None = None
        self._sweeping = threading.Lock()
        self._connection = Connection(store, **options)
        try:
            self._faces = Faces(self._connection, lambda access: Items(access, sync=sync))
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"<walkv.WalkvStore {self.agent.path!r} {'closed' if self.closed else 'open'}>"

    # -- batches ---------------------------------------------------------------------------------

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations: what reads, and then the puts, in one commit. The last put of a key wins.

        Raises:
            InvalidNamespaceError: a label is empty, or has a dot or NUL in it.
            ValueError: there is no such operation, or a filter has no such operator.
            CodecError: something cannot be stored or embedded, or what is stored is damaged.
            LimitError: labels, or a key, are longer than 4 KiB.
            ReadOnlyError: something is put, and the store was opened read only.
            In all these cases nothing was put.
        Cost: see ``Items``; one call to embed all texts, and one for each query.
        Durability: as the store's ``sync`` says, on return. A refreshed TTL may be lost in a crash.
        """
        self._connection.check_open()
        work = self._plan(list(ops))
        embedded: Sequence[Any] = ()
        if self._index is not None:
            embeddings = self._index.embeddings
            for text in {text for _, _, text in work.searches}:
                work.queries[text] = self._index.query(embeddings.embed_query(text))
            if work.texts:
                embedded = embeddings.embed_documents(list(work.texts))
        if work.reads or work.searches:
            self._read(work, self._faces.threads)
        if work.puts:
            self._put(work, embedded, self._faces.threads)
        return work.results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As ``batch``, for a task: nothing blocks the event loop."""
        self._connection.check_open()
        work = self._plan(list(ops))
        embedded: Sequence[Any] = ()
        if self._index is not None:
            embeddings = self._index.embeddings
            for text in {text for _, _, text in work.searches}:
                work.queries[text] = self._index.query(await embeddings.aembed_query(text))
            if work.texts:
                embedded = await embeddings.aembed_documents(list(work.texts))
        if work.reads or work.searches:
            read = self._faces.call if work.looks_up else self._faces.in_thread
            await read(partial(self._read, work))
        if work.puts:
            put = partial(self._put, work, embedded)
            await self._faces.in_turn(put, small=work.is_small)
        return work.results

    def _plan(self, ops: Sequence[Op]) -> _Work:
        work = _Work(len(ops))
        puts: dict[bytes, PutOp] = {}
        for at, op in enumerate(ops):
            validate_op_namespace(op)
            if isinstance(op, PutOp):
                puts[self._faces.threads.item_key(op.namespace, op.key)] = op
            elif isinstance(op, GetOp | SearchOp | ListNamespacesOp):
                _check(op)
                if isinstance(op, SearchOp) and op.query and self._index is not None:
                    work.searches.append((at, op, op.query))
                else:
                    work.reads.append((at, op))
            else:
                raise ValueError(  # noqa: TRY004  # as other stores do
                    f"there is no operation {op!r} of a store"
                )
        for key, op in puts.items():
            self._plan_put(work, key, op)
        return work

    def _plan_put(self, work: _Work, key: bytes, op: PutOp) -> None:
        items = self._faces.threads
        encoded, texts, ttl = None, [], None
        if op.value is not None:
            encoded, ttl = items.encoded(op.key, op.value), op.ttl
            if self._index is not None and op.index is not False:
                texts = self._index.texts(dict(op.value), op.index)
        labels = items.packed_labels(op.namespace)
        work.puts.append(Put(labels, op.key, key, encoded, ttl))
        work.texts_of.append([work.texts.setdefault(text, len(work.texts)) for text in texts])

    def _put(self, work: _Work, embedded: Sequence[Any], items: Items) -> None:
        puts = work.puts
        if self._index is not None:
            packed, dims = self._index.packed(embedded, len(work.texts)), self._index.dims
            puts = [
                put._replace(vectors=[packed[number] for number in texts], dims=dims)
                for put, texts in zip(puts, work.texts_of, strict=True)
            ]
        items.put_items(puts)

    def _read(self, work: _Work, items: Items) -> None:
        reading = _Reading(items, self._omit_expired)
        for at, op, text in work.searches:
            search = partial(reading.search, op)
            work.results[at] = items.nearest(op.namespace_prefix, work.queries[text], search)

        def answer(reader: Reader) -> None:
            for at, op in work.reads:
                work.results[at] = reading.answer(op, reader)

        if work.looks_up and len(work.reads) == 1:
            answer(items.access.reader())
        elif work.reads:
            items.read_at_once(answer)
        if reading.to_refresh and items.access.kv.writable:
            items.refresh(reading.to_refresh, revive=not self._omit_expired)

    # -- expiry ----------------------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """Delete what has expired.

        Returns:
            How many items that were.
        Cost: an index leads to them; a commit for each 1000, so that others write in between.
        """
        return self._faces.threads.sweep()

    async def asweep_ttl(self) -> int:
        """As ``sweep_ttl``, in another thread."""
        return await self._faces.in_turn(Items.sweep, small=False)

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Have a thread sweep from time to time, until ``stop_ttl_sweeper`` or ``close``.

        Args:
            sweep_interval_minutes: by default that of the TTL configuration, or else 5.
        Returns:
            Done when the thread is; cancelling it stops the thread. If one is running already, it
            is that one's.
        """
        self._connection.check_open()
        configured = (self.ttl_config or {}).get("sweep_interval_minutes")
        interval = float(sweep_interval_minutes or configured or _SWEEP_MINUTES)
        if not interval > 0:
            raise ValueError(f"an interval between sweeps is above 0 minutes, not {interval}")
        with self._sweeping:
            if self._sweeper is None or self._sweeper.stopped.is_set():
                self._sweeper = _Sweeper(self, interval * 60)
            return self._sweeper.future

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the sweeper's thread, and wait for it.

        Args:
            timeout: seconds to wait at most.
        Returns:
            Whether there is none any more.
        """
        return self._sweeper is None or self._sweeper.stop(timeout)

    def close(self) -> None:
        """Stop sweeping, and let go of the store; see ``Adapter.close``."""
        try:
            self.stop_ttl_sweeper()
        finally:
            super().close()


class _Work:
    """What a batch is to do.

    Attributes:
        results: in the order of the operations.
        searches: by likeness, each with its place among the results and its text.
        queries: what these texts stand for, once they are embedded.
        reads: the other ones, with their places.
        puts: one for each key.
        texts: to embed, with their numbers.
        texts_of: numbers of the texts of each put.
    """

    def __init__(self, count: int) -> None:
        self.results: list[Result] = [None] * count
        self.searches: list[tuple[int, SearchOp, str]] = []
        self.queries: dict[str, Query] = {}
        self.reads: list[tuple[int, GetOp | SearchOp | ListNamespacesOp]] = []
        self.puts: list[Put] = []
        self.texts: dict[str, int] = {}
        self.texts_of: list[list[int]] = []

    @property
    def is_small(self) -> bool:
        """Whether the puts take no time, but for the disk."""
        return not self.texts and sum(len(put.value or b"") for put in self.puts) <= _INLINE_BYTES

    @property
    def looks_up(self) -> bool:
        """Whether nothing has to be searched for."""
        return not self.searches and all(isinstance(op, GetOp) for _, op in self.reads)


def _check(op: GetOp | SearchOp | ListNamespacesOp) -> None:
    """See whether a read can be done, before any is."""
    if isinstance(op, GetOp):
        return
    for name in ("limit", "offset", "max_depth"):
        number = getattr(op, name, None)
        if number is not None and number < 0:
            raise ValueError(f"{name} is 0 or more, not {number}")
    if isinstance(op, SearchOp):
        filters.check(op.filter or {})
        return
    for condition in op.match_conditions or ():
        if condition.match_type not in ("prefix", "suffix"):
            raise ValueError(f'a match is a "prefix" or "suffix", not {condition.match_type!r}')


class _Reading:
    """The reads of a batch.

    Attributes:
        to_refresh: keys of items whose TTL begins anew.
    """

    def __init__(self, items: Items, omit_expired: bool) -> None:
        self.to_refresh: list[bytes] = []
        self._items = items
        self._moment = items.now() if omit_expired else None

    def answer(self, op: GetOp | SearchOp | ListNamespacesOp, reader: Reader) -> Result:
        if isinstance(op, GetOp):
            return self._get(op, reader)
        if isinstance(op, SearchOp):
            return self.search(op, reader)
        return self._namespaces(op, reader)

    def _get(self, op: GetOp, reader: Reader) -> Item | None:
        key = self._items.item_key(op.namespace, op.key)
        item = self._items.find(reader, key)
        if item is None or self._is_omitted(Found(key, None, item)):
            return None
        self._note(op, key, item.ttl_minutes)
        return Item(
            value=self._items.value_of(item),
            key=item.key,
            namespace=self._items.labels_of(item.labels),
            created_at=item.created_at,
            updated_at=item.updated_at,
        )

    def search(
        self, op: SearchOp, reader: Reader, ranking: Ranking | None = None
    ) -> list[SearchItem]:
        """A page of items, best first, or else last updated first."""
        places = self._places(op, reader, ranking)
        start, stop = op.offset, op.offset + op.limit
        if not op.filter and self._moment is None:
            found = self._items.fetch(reader, islice(places, start, stop))
            return [self._search_item(op, each) for each in found]
        found = self._items.fetch(reader, places)
        wanted = (each for each in found if self._is_wanted(op, each))
        return [self._search_item(op, each) for each in islice(wanted, start, stop)]

    def _places(self, op: SearchOp, reader: Reader, ranking: Ranking | None) -> Iterator[Place]:
        newest = self._items.newest(reader, op.namespace_prefix)
        if ranking is None:
            return map(Place, newest)
        return chain(
            (Place(key, score) for key, score in ranking.items()), _unranked(newest, ranking)
        )

    def _is_omitted(self, found: Found) -> bool:
        return self._moment is not None and has_expired(found.item, self._moment)

    def _is_wanted(self, op: SearchOp, found: Found) -> bool:
        if self._is_omitted(found):
            return False
        return not op.filter or filters.matches(self._items.value_of(found.item), op.filter)

    def _search_item(self, op: SearchOp, found: Found) -> SearchItem:
        item = found.item
        self._note(op, found.key, item.ttl_minutes)
        return SearchItem(
            value=self._items.value_of(item),
            key=item.key,
            namespace=self._items.labels_of(item.labels),
            created_at=item.created_at,
            updated_at=item.updated_at,
            score=found.score,
        )

    def _note(self, op: GetOp | SearchOp, key: bytes, ttl_minutes: float | None) -> None:
        if op.refresh_ttl and ttl_minutes is not None:
            self.to_refresh.append(key)

    def _namespaces(self, op: ListNamespacesOp, reader: Reader) -> list[Labels]:
        conditions = op.match_conditions or ()

        def shown(labels: Labels) -> Labels | None:
            return labels[: op.max_depth] if all(_matches(c, labels) for c in conditions) else None

        prefixes = [_literal(c.path) for c in conditions if c.match_type == "prefix"]
        prefix = max(prefixes, key=len, default=())
        found = self._items.namespaces(reader, prefix, shown, self._moment)
        return list(islice(found, op.offset, op.offset + op.limit))


def _unranked(keys: Iterator[bytes], ranking: Ranking) -> Iterator[Place]:
    ranked = set(ranking.rows)
    return (Place(key) for key in keys if key not in ranked)


def _literal(path: Labels) -> Labels:
    """A path up to its first wildcard."""
    return path[: path.index("*")] if "*" in path else path


def _matches(condition: MatchCondition, labels: Labels) -> bool:
    path = condition.path
    if len(labels) < len(path):
        return False
    part = labels[: len(path)] if condition.match_type == "prefix" else labels[-len(path) :]
    return not path or all(map(lambda one, other: other in (one, "*"), part, path))


class _Sweeper:
    """A thread that sweeps a store.

    Attributes:
        stopped: set to have it end.
        future: done when it has ended.
    """

    def __init__(self, store: WalkvStore, interval_seconds: float) -> None:
        self.stopped = threading.Event()
        self.future: Future[None] = Future()
        stop = self.stopped.set
        self.future.add_done_callback(lambda _: stop())
        weakref.finalize(store, stop)
        self._thread = threading.Thread(
            target=_keep_sweeping,
            args=(weakref.ref(store), self.stopped, self.future, interval_seconds),
            name="walkv-sweeper",
            daemon=True,
        )
        self._thread.start()

    def stop(self, timeout: float | None) -> bool:
        self.stopped.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()


def _keep_sweeping(
    reference: weakref.ref[WalkvStore],
    stopped: threading.Event,
    future: Future[None],
    interval_seconds: float,
) -> None:
    while not stopped.wait(interval_seconds) and _sweep(reference):
        pass
    if future.set_running_or_notify_cancel():
        future.set_result(None)


def _sweep(reference: weakref.ref[WalkvStore]) -> bool:
    """Sweep once; False if there is nothing to sweep any more."""
    store = reference()
    if store is None:
        return False
    try:
        store.sweep_ttl()
    except (ClosedError, ReadOnlyError, StoreFailedError):
        return False
    except Exception:
        log.warning("%r: a sweep has failed, and is tried again", store, exc_info=True)
    return True
