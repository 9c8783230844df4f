"""The checkpoint saver: ``graph = builder.compile(checkpointer=WalkvSaver("agent.walkv"))``.

Invariants:
    1. What a call has acknowledged is durable under the saver's sync policy, and with it all that
       was committed before: the log has one order. Calls of one thread, and calls begun one after
       another by the tasks of one event loop, commit in that order.
    2. The latest checkpoint is the one that was put last, whatever the clocks say.
    3. A list is read from a view of one moment. While it is paused nobody waits for it.
    4. What is decoded was allowed; see ``serde``.
"""

from __future__ import annotations

import builtins
import os
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from walkv import limits
from walkv.agent import AgentStore
from walkv.engine.policies import SyncPolicy, Wal
from walkv.engine.store import Store
from walkv.integrations.connection import Adapter, Connection, Faces
from walkv.integrations.langgraph import serde as values
from walkv.integrations.langgraph.checkpoints import GraphCheckpoints
from walkv.integrations.langgraph.encoding import MessageEncoder
from walkv.integrations.langgraph.messages import MessageLists
from walkv.integrations.langgraph.reading import Reading, named
from walkv.integrations.langgraph.writing import Prepared, prepare, prepare_writes
from walkv.namespaces.checkpoints.records import CheckpointRecord, Pruned, Usage
from walkv.namespaces.keyvalue import Reader

T = TypeVar("T")

_INLINE_BYTES: Final = 1 * limits.MIB
"""Of a checkpoint put by a task: more is cut and written in another thread."""

_ALL: Final = {"keep_last": 0, "older_than": None}

_PAGE: Final = 8
"""Checkpoints of a list that are read for a task at a time."""


class WalkvSaver(Adapter, BaseCheckpointSaver[Any]):
    """Keeps the checkpoints of graphs in a walkv store, each at the price of its difference.

    For threads and for the tasks of any event loop. Nothing has to be set up.

    Args:
        store: a path, or an open ``walkv.Store`` or ``walkv.AgentStore``, which is then left open.
            Savers, stores and caches at one path share it.
        serde: a serializer of your own, such as an ``EncryptedSerializer``. By default LangGraph's,
            strict: it decodes the types that LangGraph calls safe, those in ``allow``, and nothing
            else.
        allow: your own classes that may be in a state, or their (module, name).
        sync: what an acknowledged checkpoint survives; see ``docs/durability.md``. None for the
            store's own policy.
        read_plaintext: also with an ``EncryptedSerializer`` read what is not encrypted.
        options: for a path, as for ``AgentStore``.
    Raises:
        What ``walkv.open`` raises.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | AgentStore,
        *,
        serde: SerializerProtocol | None = None,
        allow: values.Allowed = (),
        sync: SyncPolicy | None = Wal(),  # noqa: B008  # immutable
        read_plaintext: bool = False,
        **options: Any,
    ) -> None:
        BaseCheckpointSaver.__init__(self, serde=values.chosen(serde, allow))
        self._read_plaintext = read_plaintext
        self._encoder = MessageEncoder()
        self._messages = MessageLists()
        self._connection = Connection(store, **options)
        try:
            self._faces = Faces(self._connection, GraphCheckpoints.sharing(sync))
        except BaseException:
            self._connection.close()
            raise

    # -- putting ---------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint.

        Args:
            config: its thread and namespace, and the checkpoint that it follows.
            new_versions: of the channels that have changed since.
        Returns:
            The config that names it.
        Raises:
            CodecError: something in it cannot be serialized; nothing was written.
        Cost: serializes what changed, and writes what differs.
        Durability: as the saver's ``sync`` says, on return.
        """
        prepared = prepare(self.serde, self._encoder, config, checkpoint, metadata, new_versions)
        self._put(prepared, self._faces.threads)
        return prepared.config

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As ``put``, for a task."""
        prepared = prepare(self.serde, self._encoder, config, checkpoint, metadata, new_versions)
        small = prepared.size_bytes <= _INLINE_BYTES
        await self._faces.in_turn(partial(self._put, prepared), small=small)
        return prepared.config

    def _put(self, prepared: Prepared, checkpoints: GraphCheckpoints) -> None:
        for each in checkpoints.put_state(prepared.document, prepared.values):
            self._messages.put(self.serde, *each)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a task has written on top of a checkpoint.

        What the task has written before in its place stays, unless the channel is one of
        ``WRITES_IDX_MAP``: that is replaced.

        Durability: as the saver's ``sync`` says, on return.
        """
        put = prepare_writes(self.serde, config, writes, task_id, task_path)
        self._faces.threads.put_task_writes(*put)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As ``put_writes``, for a task."""
        put = prepare_writes(self.serde, config, writes, task_id, task_path)
        small = sum(len(data) for _, (_, data) in put.writes) <= _INLINE_BYTES
        await self._faces.in_turn(
            lambda checkpoints: checkpoints.put_task_writes(*put), small=small
        )

    # -- getting ---------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint with its pending writes; the latest of the thread if no id is given.

        Raises:
            CodecError: it holds something that is not allowed, or cannot be decoded.
            CorruptionError: it is damaged.
        Cost: reads and decodes its values, however old it is; messages that were put or loaded
            lately are copied.
        """
        return self._get(config, self._faces.threads)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As ``get_tuple``, for a task."""
        return await self._faces.in_thread(partial(self._get, config))

    def _get(self, config: RunnableConfig, checkpoints: GraphCheckpoints) -> CheckpointTuple | None:
        thread_id, namespace, checkpoint_id = named(config)
        reading = self._reading._replace(again=checkpoint_id is None)

        def build(reader: Reader, record: CheckpointRecord) -> CheckpointTuple:
            return reading.tuple(checkpoints, reader, record, thread_id)

        return checkpoints.find(str(thread_id), namespace, checkpoint_id, build)

    @property
    def _reading(self) -> Reading:
        return Reading(self.serde, self._read_plaintext, self._messages)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first, of the moment in which the first one is asked for.

        Args:
            config: a thread, a namespace of it, or one checkpoint; None for all threads.
            filter: what the metadata has, key by key.
            before: only what was put before this checkpoint.
        Cost: reads what it yields, and the metadata of what the filter leaves out.
        """
        return self._list(self._faces.threads, config, filter, before, limit)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As ``list``, for a task."""
        found = self._faces.stream(
            lambda checkpoints: self._list(checkpoints, config, filter, before, limit), _PAGE
        )
        async with aclosing(found):
            async for each in found:
                yield each

    def _list(
        self,
        checkpoints: GraphCheckpoints,
        config: RunnableConfig | None,
        wanted: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Generator[CheckpointTuple, None, None]:
        with checkpoints.moment() as reader:
            found = self._reading.listed(checkpoints, reader, config, wanted, before)
            yield from islice(found, limit)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint contributed to channels: writes, and a first value.

        Cost: reads the records and writes of ancestors as far as they are needed, and of channel
            values only the first ones.
        """
        return self._history(config, channels, self._faces.threads)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As ``get_delta_channel_history``, for a task."""
        return await self._faces.in_thread(partial(self._history, config, channels))

    def _history(
        self, config: RunnableConfig, channels: Sequence[str], checkpoints: GraphCheckpoints
    ) -> Mapping[str, DeltaChannelHistory]:
        thread_id, namespace, checkpoint_id = named(config)
        with checkpoints.moment() as reader:
            record = checkpoints.record_at(reader, str(thread_id), namespace, checkpoint_id)
            if record is None:
                return {name: {"writes": []} for name in channels}
            return self._reading.history(checkpoints, reader, record, channels)

    # -- upkeep ----------------------------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread: its checkpoints, their values and writes. Copies of it stay whole."""
        self._faces.threads.delete_thread(str(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """As ``delete_thread``, for a task."""
        await self._upkeep(lambda checkpoints: checkpoints.delete_thread(str(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints and writes of runs, found by an index.

        A delta channel of a thread that goes on may have needed them; ``prune`` keeps those.
        """
        self._faces.threads.delete_for_runs(_ids("run_ids", run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As ``delete_for_runs``, for a task."""
        ids = _ids("run_ids", run_ids)
        await self._upkeep(lambda checkpoints: checkpoints.delete_for_runs(ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Make a thread with all checkpoints and writes of another one. Values are shared.

        Raises:
            RecordNotFoundError: there is no such thread.
            RecordExistsError: there is a thread with the new id.
        """
        self._faces.threads.copy_thread(str(source_thread_id), str(target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As ``copy_thread``, for a task."""
        source, target = str(source_thread_id), str(target_thread_id)
        await self._upkeep(lambda checkpoints: checkpoints.copy_thread(source, target))

    def prune(  # type: ignore[override]  # says what it did
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
        older_than: datetime | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete old checkpoints with their writes; values that nothing needs any more go too.

        Of what is to go, the checkpoints that the delta channels of the others are rebuilt from
        stay; the delta channels of these may not be read any more.

        Args:
            strategy: "keep_latest", or "delete" for all.
            keep_last: keep so many of each thread and namespace, instead of one.
            older_than: delete only what was made before this time, which has a time zone.
            dry_run: only count.
        Returns:
            How many went, and the bytes of values that went with them, 0 in a dry run. Their room
            on disk comes back with compaction: in time, or by ``saver.agent.store.compact()``.
        """
        options = _prune_options(strategy, keep_last, older_than)
        return self._prune(thread_ids, options, dry_run, self._faces.threads)

    async def aprune(  # type: ignore[override]  # says what it did
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
        older_than: datetime | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """As ``prune``, for a task."""
        options = _prune_options(strategy, keep_last, older_than)
        return await self._upkeep(partial(self._prune, thread_ids, options, dry_run))

    def _prune(
        self,
        thread_ids: Sequence[str],
        options: dict[str, Any],
        dry_run: bool,
        checkpoints: GraphCheckpoints,
    ) -> Pruned:
        done = []
        for each in _ids("thread_ids", thread_ids):
            done.append(checkpoints.prune(each, dry_run=dry_run, **options))
            if options == _ALL and not dry_run:
                checkpoints.delete_thread(each)  # with writes whose checkpoint never came
        return Pruned(sum(each[0] for each in done), sum(each[1] for each in done))

    async def _upkeep(self, function: Callable[[GraphCheckpoints], T]) -> T:
        return await self._faces.in_turn(function, small=False)

    def threads(self, limit: int | None = None, after: str | None = None) -> builtins.list[str]:
        """Ids of threads in alphabetical order, from behind ``after`` on."""
        return self._faces.threads.threads(limit, after)

    async def athreads(
        self, limit: int | None = None, after: str | None = None
    ) -> builtins.list[str]:
        """As ``threads``, for a task."""
        return await self._faces.in_thread(lambda checkpoints: checkpoints.threads(limit, after))

    def usage(self, thread_id: str | None = None) -> Usage:
        """What a thread takes, or all. Cost: reads the records, and looks through the values."""
        return self._faces.threads.usage(None if thread_id is None else str(thread_id))

    async def ausage(self, thread_id: str | None = None) -> Usage:
        """As ``usage``, for a task."""
        wanted = None if thread_id is None else str(thread_id)
        return await self._faces.in_thread(lambda checkpoints: checkpoints.usage(wanted))

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The version after ``current``: text, as other savers have it; an integer after one."""
        if isinstance(current, int | float):
            return current + 1
        number = 0 if current is None else int(current.split(".")[0])
        # Random digits tell the same step of two branches apart, for savers that need it.
        return f"{number + 1:032}.{random.random():016}"


def _ids(name: str, ids: Sequence[str]) -> builtins.list[str]:
    if isinstance(ids, str):
        raise TypeError(f"{name} is a list of ids, not text; write [{ids!r}]")
    return builtins.list(dict.fromkeys(map(str, ids)))


def _prune_options(
    strategy: str, keep_last: int | None, older_than: datetime | None
) -> dict[str, Any]:
    if isinstance(older_than, datetime) and older_than.utcoffset() is None:
        raise ValueError(f"older_than needs a time zone, as in datetime.now(UTC): {older_than!r}")
    if strategy == "delete":
        if keep_last is not None:
            raise TypeError('strategy="delete" keeps none; leave keep_last out')
        return {"keep_last": 0, "older_than": older_than}
    if strategy != "keep_latest":
        raise ValueError(f'a strategy is "keep_latest" or "delete", not {strategy!r}')
    return {"keep_last": 1 if keep_last is None else keep_last, "older_than": older_than}
