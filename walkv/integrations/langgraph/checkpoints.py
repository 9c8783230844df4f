"""The checkpoints of graphs on disk: what changes from step to step, and channels by reference.

Layout: a namespace as ``walkv.namespaces.checkpoints`` keeps it, heads, pools, ids and all, but
the field ``recipe`` of a record is msgpack:

    [1, kind, bytes, kind, bytes, [[channel, version, kind, recipe], ...]]

first the checkpoint without its channel values and then its metadata, both as the serializer wrote
them; then the channels that have a value: the version that it was written at, the serializer's name
for its form, and the recipe of its bytes among the parts of the thread's pool. The field
``metadata`` holds under "without_value" the delta channels whose value is in the writes since an
older checkpoint. The value of a pending write is

    [kind, bytes, false]  or, if it is large,  [kind, recipe, true]

Parts are numbered in lanes: 1 is for pending writes, each channel has one by its name.

Invariants:
    1. A channel that the caller says is unchanged, and that the parent checkpoint has at the same
       version, is kept by the parent's recipe: its value is neither serialized nor read.
    2. A recipe counts as live as long as a checkpoint or a pending write of the pool holds it.
    3. Pruning keeps the ancestors that the delta channels of what stays are rebuilt from.

Source: the PostgreSQL saver keeps blobs by channel and version; by reference along the parents they
need no versions that are unique across forks. SQLite's saver keeps everything at every step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import msgpack
import xxhash

from walkv import limits
from walkv.engine.policies import SyncPolicy
from walkv.errors import CodecError, CorruptionError, FormatError, WouldBlockError
from walkv.namespaces.access import Access
from walkv.namespaces.base import Declaration
from walkv.namespaces.checkpoints.deltas import MSGPACK_ERRORS
from walkv.namespaces.checkpoints.recipes import decoded
from walkv.namespaces.checkpoints.records import CheckpointRecord
from walkv.namespaces.checkpoints.states import MAX_LANE
from walkv.namespaces.checkpoints.threads import WRITES_IDX, ManyNamespaces
from walkv.namespaces.checkpoints.upkeep import CheckpointUpkeep
from walkv.namespaces.keyvalue import Reader, Writer

T = TypeVar("T")

LARGE_WRITE_BYTES: Final = 16 * limits.KIB
"""Pending writes from this size on are kept as parts, so that copies of a thread share them."""

_REMEMBERED_BYTES: Final = 16 * limits.KIB
"""What is larger is unpacked each time."""

_RUN_ID: Final = re.compile(r":[^|]*")
_VERSION: Final = 1
_WRITES_LANE: Final = 1

Version = str | int | float
Typed = tuple[str, bytes]
"""What a serializer made: its name for the form, and the bytes."""


class Channel(NamedTuple):
    """A channel's value, as a checkpoint refers to it."""

    version: Version
    kind: str
    recipe: bytes


class State(NamedTuple):
    """What a checkpoint's record holds besides its place."""

    checkpoint: Typed
    metadata: Typed
    channels: dict[str, Channel]


class Place(NamedTuple):
    """Which checkpoint."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str | None = None


class Document(NamedTuple):
    """A checkpoint without its channels.

    Attributes:
        run_id: of the run that made it.
        without_value: delta channels without a value in it.
        created_at: None for now.
    """

    place: Place
    checkpoint: Typed
    metadata: Typed
    run_id: str | None
    without_value: list[str]
    created_at: datetime | None


class Value(NamedTuple):
    """A channel's value that is to be put.

    Attributes:
        changed: since the parent checkpoint.
        dump: serializes it.
    """

    version: Version
    changed: bool
    dump: Callable[[], Typed]


class PutValue(NamedTuple):
    """A channel's value that was put.

    Attributes:
        previous: recipe that the channel had before.
    """

    pool: int
    recipe: bytes
    kind: str
    data: bytes
    previous: bytes | None


class PendingWrite(NamedTuple):
    """A write of a task, read back."""

    task_id: str
    channel: str
    kind: str
    data: bytes


class GraphCheckpoints(CheckpointUpkeep):
    """The checkpoints of all threads of graphs."""

    _threads_kind = ManyNamespaces
    declaration = Declaration(
        "langgraph_checkpoints",
        CheckpointRecord,
        key=("thread_id", "namespace", "number"),
        indexes=[("run_id", "thread_id")],
    )

    @classmethod
    def sharing(cls, sync: SyncPolicy | None) -> Callable[[Access], GraphCheckpoints]:
        """What makes instances that share what they remember of states."""
        made: list[GraphCheckpoints] = []

        def make(access: Access) -> GraphCheckpoints:
            new = cls(access, sync=sync)
            if made:
                new._states = made[0]._states
            made.append(new)
            return new

        return make

    # -- putting ---------------------------------------------------------------------------------

    def put(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: a checkpoint of a graph is put by a saver."""
        raise TypeError("checkpoints of graphs are put by a WalkvSaver")

    def put_state(self, document: Document, values: Mapping[str, Value]) -> list[PutValue]:
        """Keep a checkpoint; returns which values were not there by reference.

        Args:
            values: of all channels that have one.
        Cost: serializes the values that changed and writes what differs, in one commit.
        """
        place, checkpoint, metadata, run_id, without_value, created_at = document
        size_bytes = len(checkpoint[1]) + len(metadata[1])
        put: list[PutValue] = []

        def prepare(reader: Reader, base: CheckpointRecord | None) -> dict[str, Any]:
            old = {} if base is None else state_of(base).channels
            # Versions tell values apart along one line of descent only.
            is_parent = base is not None and base.checkpoint_id == place.parent_id
            pool = 0 if base is None else base.pool
            made: dict[str, Any] = {}
            for name, (version, changed, dump) in values.items():
                before = old.get(name)
                if before is not None and is_parent and not changed and before.version == version:
                    made[name] = before
                    continue
                if not changed and not self.access.kv.may_wait:
                    raise WouldBlockError  # it may be large, and nobody has looked
                kind, data = dump()
                previous = before.recipe if before is not None and before.kind == kind else None
                prepared = self._states.prepare(reader, pool, data, previous)
                made[name] = (version, (kind, data), prepared, previous)
            return made

        def write(tx: Writer, pool: int, made: dict[str, Any]) -> bytes:
            put.clear()
            channels = []
            for name, each in made.items():
                if isinstance(each, Channel):
                    channels.append([name, *each])
                    continue
                version, (kind, data), prepared, previous = each
                recipe = self._states.write(tx, pool, prepared, lane_of(place.namespace, name))
                channels.append([name, version, kind, recipe])
                put.append(PutValue(pool, recipe, kind, data, previous))
            return _packed([_VERSION, *checkpoint, *metadata, channels])

        row = [
            place.thread_id,
            place.namespace,
            0,
            place.checkpoint_id,
            place.parent_id,
            run_id,
            0,
            b"",
            size_bytes,
            {"without_value": without_value} if without_value else {},
            created_at or self.now(),
        ]
        self._keep(row, prepare, write, None)
        return put

    def put_task_writes(
        self,
        place: Place,
        task_id: str,
        writes: list[tuple[str, Typed]],
        task_path: str,
        places: list[int] | None = None,
    ) -> None:
        """Keep what a task has written; see ``put_writes`` for what replaces what.

        Args:
            places: of the writes, where they are known.
        Raises:
            CodecError, LimitError: a name or path cannot be stored; nothing was written.
        """
        threads = self._threads
        task = threads.writes_key(*place[:3], task_id)
        channels = [channel for channel, _ in writes]
        keys_of = threads.write_keys(task, channels, places)
        large = {
            at: self._states.prepare(self.access.reader(), 0, data)
            for at, (_, (_, data)) in enumerate(writes)
            if len(data) >= LARGE_WRITE_BYTES
        }
        may_free = not WRITES_IDX.keys().isdisjoint(channels)
        whole = [
            threads.encoded_write(channel, [kind, b"" if at in large else data, False], task_path)
            for at, (channel, (kind, data)) in enumerate(writes)
        ]

        def run(tx: Writer) -> None:
            thread = threads.get(tx, place.thread_id) if large or may_free else None
            freed = False
            for at, (channel, (kind, data)) in enumerate(writes):
                old = tx.get(keys_of[at])
                if old is not None and channel not in WRITES_IDX:
                    continue
                freed = freed or (old is not None and _write_fields(threads.written_value(old))[2])
                entry = whole[at]
                if at in large:
                    # Without a thread there is no pool yet: what comes before its first checkpoint
                    # is kept whole.
                    value: list[Any] = [kind, data, False]
                    if thread is not None:
                        recipe = self._states.write(tx, thread.pool, large[at], _WRITES_LANE)
                        value = [kind, recipe, True]
                    entry = threads.encoded_write(channel, value, task_path)
                tx.put(keys_of[at], entry)
            if freed and thread is not None:
                self._let_go(tx, thread.pool)

        self._write(run, None)

    # -- finding ---------------------------------------------------------------------------------

    def find(
        self,
        thread_id: str,
        namespace: str,
        checkpoint_id: str | None,
        build: Callable[[Reader, CheckpointRecord], T],
    ) -> T | None:
        """What ``build`` makes of a checkpoint, the latest if no id is given; None without one."""
        with self.moment() as reader:
            record = self._get_record(reader, thread_id, checkpoint_id, namespace)
            return None if record is None else build(reader, record)

    def record_at(
        self, reader: Reader, thread_id: str, namespace: str, checkpoint_id: str | None
    ) -> CheckpointRecord | None:
        """The record of a checkpoint; the latest if no id is given."""
        return self._get_record(reader, thread_id, checkpoint_id, namespace)

    def records(
        self,
        reader: Reader,
        thread_id: str,
        namespace: str,
        before: str | None,
        only: str | None = None,
    ) -> Iterator[CheckpointRecord]:
        """Records of a thread and namespace, newest first.

        Args:
            before: only what was put before the checkpoint with this id; of one that is not there,
                only ids below it.
            only: the one with this id.
        """
        last = None if before is None else self.record_at(reader, thread_id, namespace, before)
        found: Iterable[CheckpointRecord | None]
        if only:
            found = [self.record_at(reader, thread_id, namespace, only)]
        else:
            known = None if last is None else before
            found = self._newest(reader, thread_id, namespace, known, None)
        for record in found:
            if record is None:
                continue
            if before is None or (
                record.number < last.number if last is not None else record.checkpoint_id < before
            ):
                yield record

    def namespaces_of(self, reader: Reader, thread_id: str) -> list[str]:
        """The checkpoint namespaces of a thread."""
        return self._threads.namespaces(reader, thread_id)

    def thread_ids(self, reader: Reader) -> list[str]:
        """All threads."""
        return self._threads.ids(reader, None, None)

    def value(self, reader: Reader, pool: int, recipe: bytes) -> bytes:
        """The bytes of a channel's value."""
        return self._states.read(reader, pool, recipe)

    def writes_of(self, reader: Reader, record: CheckpointRecord) -> list[PendingWrite]:
        """The pending writes of a checkpoint, by task path, task and place."""
        key = self._threads.writes_key(record.thread_id, record.namespace, record.checkpoint_id)
        found = []
        for task_id, channel, value, _, _ in self._threads.writes(reader, key):
            kind, data, is_recipe = _write_fields(value)
            if is_recipe:
                data = self._states.read(reader, record.pool, data)
            found.append(PendingWrite(task_id, channel, kind, data))
        return found

    def write_places(self, reader: Reader, place: Place) -> set[tuple[str, int]]:
        """Tasks and places of the pending writes of a checkpoint."""
        key = self._threads.writes_key(*place[:3])
        return {(write.task_id, write.idx) for write in self._threads.writes(reader, key)}

    def _records(self, values: list[bytes]) -> list[CheckpointRecord]:
        records = super()._records(values)
        for record in records:
            self.table.schema.values(record)  # the bytes may be damaged
        return records

    # -- what a state is -------------------------------------------------------------------------

    def _recipes(self, record: CheckpointRecord) -> list[bytes]:
        return [channel.recipe for channel in state_of(record).channels.values()]

    def _state_bytes(self, record: CheckpointRecord) -> int:
        return record.state_bytes + sum(
            decoded(record.pool, recipe)[1] for recipe in self._recipes(record)
        )

    def _recipes_of_writes(self, reader: Reader, thread_id: str) -> list[bytes]:
        fields = map(_write_fields, self._threads.written(reader, thread_id))
        return [data for _, data, is_recipe in fields if is_recipe]

    def _needed(
        self, kept: list[CheckpointRecord], records: list[CheckpointRecord]
    ) -> Collection[int]:
        by_id = {record.checkpoint_id: record for record in records}
        needed: set[int] = set()
        for record in kept:
            without_value = set(record.metadata.get("without_value", ()))
            seen: set[int] = set()
            parent = by_id.get(record.parent_id or "")
            while without_value and parent is not None and parent.number not in seen:
                seen.add(parent.number)
                without_value.difference_update(state_of(parent).channels)
                parent = by_id.get(parent.parent_id or "")
            needed |= seen
        return needed


@lru_cache(maxsize=4096)
def lane_of(namespace: str, channel: str) -> int:
    """Where the parts of a channel are numbered. Two that share a lane only have longer recipes.

    Runs of one subgraph have namespaces that differ in the ids of the runs; they share lanes, so
    that there are not more and more of them.
    """
    names = _RUN_ID.sub("", namespace)
    digest = xxhash.xxh3_64_intdigest(f"{names}\0{channel}".encode(errors="surrogatepass"))
    return _WRITES_LANE + 1 + digest % (MAX_LANE - _WRITES_LANE)


def _packed(fields: list[Any]) -> bytes:
    """The bytes of a record's state.

    Raises:
        CodecError: a channel's name or version cannot be stored.
    """
    try:
        data: bytes = msgpack.packb(fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(
            f"langgraph checkpoint: a channel's name or version cannot be stored: {error}",
            namespace="langgraph",
            field="channel_versions",
        ) from error
    return data


def state_of(record: CheckpointRecord) -> State:
    """What a record holds.

    Raises:
        CorruptionError: it is damaged.
    """
    remembers = len(record.recipe) <= _REMEMBERED_BYTES
    try:
        return (_remembered_state if remembers else _state)(record.recipe)
    except MSGPACK_ERRORS as error:
        raise CorruptionError(
            f"langgraph checkpoint {record.checkpoint_id!r} of thread {record.thread_id!r} is "
            f"damaged: {error}"
        ) from None


def _state(packed_state: bytes) -> State:
    fields = msgpack.unpackb(packed_state)
    version, *typed, rows = fields
    if type(version) is int and version > _VERSION:
        raise FormatError(
            f"a checkpoint was written as version {version}, and this code reads version "
            f"{_VERSION}; use a newer walkv",
            found_version=version,
            supported=(_VERSION,),
        )
    if version != _VERSION:
        raise ValueError(f"version {version!r}")
    doc_kind, doc, meta_kind, meta = typed
    channels = {name: Channel(*rest) for name, *rest in rows}
    kinds = [doc_kind, meta_kind, *(each.kind for each in channels.values()), *channels]
    data = [doc, meta, *(each.recipe for each in channels.values())]
    if not all(type(each) is str for each in kinds):
        raise ValueError("a name is none")
    if not all(type(each) is bytes for each in data):
        raise ValueError("bytes are none")
    return State((doc_kind, doc), (meta_kind, meta), channels)


_remembered_state: Final = lru_cache(maxsize=1024)(_state)


def _write_fields(value: Any) -> tuple[str, bytes, bool]:
    if isinstance(value, list) and [type(each) for each in value] == [str, bytes, bool]:
        return value[0], value[1], value[2]
    raise CorruptionError("langgraph: a pending write is damaged")
