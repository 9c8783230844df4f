"""Checkpoints of graphs, read: from records to the tuples that LangGraph takes.

Invariant: what is read together is read from one moment, through the reader that is given.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from walkv.errors import CorruptionError
from walkv.integrations.langgraph import serde
from walkv.integrations.langgraph.checkpoints import (
    Channel,
    GraphCheckpoints,
    State,
    Typed,
    state_of,
)
from walkv.integrations.langgraph.messages import MessageLists
from walkv.namespaces.checkpoints.records import CheckpointRecord
from walkv.namespaces.keyvalue import Reader


class Reading(NamedTuple):
    """How a saver reads.

    Attributes:
        read_plaintext: also behind a serializer that encrypts.
        messages: lists of messages that were decoded lately.
        again: whether what is read now is likely to be read again, or gone on from.
    """

    serializer: SerializerProtocol
    read_plaintext: bool
    messages: MessageLists
    again: bool = False

    def load(self, typed: Typed, what: str) -> Any:
        """The value of a type and bytes; see ``serde.load``."""
        kind, data = typed
        return serde.load(self.serializer, kind, data, what, read_plaintext=self.read_plaintext)

    def fields(self, typed: Typed, what: str) -> dict[str, Any]:
        """As ``load``, for a checkpoint or its metadata.

        Raises:
            CorruptionError: it is something else.
        """
        value = self.load(typed, what)
        if not isinstance(value, dict):
            raise CorruptionError(f"langgraph {what}: a {type(value).__name__} is stored for it")
        return value

    def channel(
        self, checkpoints: GraphCheckpoints, reader: Reader, pool: int, name: str, channel: Channel
    ) -> Any:
        """The value of a channel."""
        _, kind, recipe = channel
        known = None if kind != "msgpack" else self.messages.get(self.serializer, pool, recipe)
        if known is not None:
            return known
        data = checkpoints.value(reader, pool, recipe)
        value = self.load((kind, data), f"channel {name!r}")
        return self.messages.loaded(pool, recipe, kind, data, value) if self.again else value

    def writes(
        self, checkpoints: GraphCheckpoints, reader: Reader, record: CheckpointRecord
    ) -> list[PendingWrite]:
        """The pending writes of a checkpoint, in the order in which they are applied."""
        return [
            (task_id, name, self.load((kind, data), f"write to {name!r}"))
            for task_id, name, kind, data in checkpoints.writes_of(reader, record)
        ]

    def tuple(
        self,
        checkpoints: GraphCheckpoints,
        reader: Reader,
        record: CheckpointRecord,
        thread_id: Any,
        metadata: Any = None,
    ) -> CheckpointTuple:
        """A checkpoint with all that belongs to it.

        Args:
            thread_id: as the caller gave it.
            metadata: if it was loaded already.
        """
        state = state_of(record)
        checkpoint = cast(Checkpoint, self.fields(state.checkpoint, "checkpoint"))
        checkpoint["channel_values"] = {
            name: self.channel(checkpoints, reader, record.pool, name, channel)
            for name, channel in state.channels.items()
        }
        if metadata is None:
            metadata = self.fields(state.metadata, "metadata")
        parent_id = record.parent_id
        return CheckpointTuple(
            config_of(thread_id, record.namespace, record.checkpoint_id),
            checkpoint,
            metadata,
            config_of(thread_id, record.namespace, parent_id) if parent_id else None,
            self.writes(checkpoints, reader, record),
        )

    def listed(
        self,
        checkpoints: GraphCheckpoints,
        reader: Reader,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints that match, newest first; see ``WalkvSaver.list``."""
        place: Mapping[str, Any] = {} if config is None else config["configurable"]
        until = None if before is None else before["configurable"].get("checkpoint_id")
        only = place.get("checkpoint_id")
        # Only no config at all means all threads: an id that got lost must not.
        thread_id = None if config is None else str(place["thread_id"])
        namespace = place.get("checkpoint_ns")
        found = self._records(checkpoints, reader, thread_id, namespace, until, only)
        for record in found:
            metadata = self.fields(state_of(record).metadata, "metadata")
            if wanted and not all(metadata.get(key) == value for key, value in wanted.items()):
                continue
            given = place.get("thread_id", record.thread_id)
            yield self.tuple(checkpoints, reader, record, given, metadata)

    def _records(
        self,
        checkpoints: GraphCheckpoints,
        reader: Reader,
        thread_id: str | None,
        namespace: str | None,
        before: str | None,
        only: str | None,
    ) -> Iterator[CheckpointRecord]:
        threads = checkpoints.thread_ids(reader) if thread_id is None else [thread_id]
        found = [
            checkpoints.records(reader, each, ns, before, only)
            for each in threads
            for ns in (
                checkpoints.namespaces_of(reader, each) if namespace is None else [namespace]
            )
        ]
        if len(found) == 1:
            return found[0]
        return heapq.merge(*found, key=lambda record: record.checkpoint_id, reverse=True)

    def history(
        self,
        checkpoints: GraphCheckpoints,
        reader: Reader,
        record: CheckpointRecord,
        channels: Sequence[str],
    ) -> dict[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint contributed to channels, in one walk for all."""
        writes: dict[str, list[PendingWrite]] = {name: [] for name in channels}
        seeds: dict[str, Any] = {}
        missing = set(channels)
        walked = {record.checkpoint_id}
        while missing and record.parent_id is not None and record.parent_id not in walked:
            walked.add(record.parent_id)
            parent = checkpoints.record_at(
                reader, record.thread_id, record.namespace, record.parent_id
            )
            if parent is None:
                break
            record = parent
            found = [
                (task_id, name, (kind, data))
                for task_id, name, kind, data in checkpoints.writes_of(reader, record)
                if name in missing
            ]
            for task_id, name, typed in reversed(found):
                writes[name].append((task_id, name, self.load(typed, f"write to {name!r}")))
            state: State = state_of(record)
            for name in missing & set(state.channels):
                seeds[name] = self.channel(
                    checkpoints, reader, record.pool, name, state.channels[name]
                )
            missing -= set(seeds)
        return {
            name: cast(
                DeltaChannelHistory,
                {"writes": writes[name][::-1], **({"seed": seeds[name]} if name in seeds else {})},
            )
            for name in channels
        }


def config_of(thread_id: Any, namespace: str, checkpoint_id: str | None) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def named(config: RunnableConfig) -> tuple[Any, str, str | None]:
    """Thread, namespace and id of the checkpoint that a config names; no id for the latest."""
    place = config["configurable"]
    return place["thread_id"], place.get("checkpoint_ns", ""), place.get("checkpoint_id") or None
