"""The records of checkpoints: how they are found, and what is written and deleted with them.

Layout, in the part ``Table.other`` of the namespace's keys:

    "i", thread, checkpoint namespace, checkpoint id    key of the record with this id
    "p", ...                                            the parts of the states, see ``states``
    "t", "n", "m", "d", "w"                             heads, pools, writes, see ``threads``
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar, Final, TypeVar

from walkv.engine.policies import SyncPolicy, Wal
from walkv.errors import RecordNotFoundError
from walkv.namespaces import codec, keys
from walkv.namespaces.access import Access
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.checkpoints.records import Checkpoint, CheckpointRecord
from walkv.namespaces.checkpoints.states import States
from walkv.namespaces.checkpoints.threads import Threads
from walkv.namespaces.keyvalue import Reader, Writer
from walkv.namespaces.schema import Stored

P = TypeVar("P")

_PREPARE_TRIES: Final = 3

_LIVE_FOR_ONE_GONE: Final = 4
"""Parts are collected when more than one checkpoint for so many that are kept was replaced or
deleted: what is left lying is bounded, and what looking through the pool costs is shared out."""


class CheckpointRecords(Namespace[CheckpointRecord]):
    """What ``Checkpoints`` is built on."""

    _threads_kind: ClassVar[type[Threads]] = Threads
    """How numbers of checkpoints are kept."""

    declaration = Declaration(
        "checkpoints",
        CheckpointRecord,
        key=("thread_id", "namespace", "number"),
        indexes=[("run_id", "thread_id")],
        sync=Wal(),
    )

    def __init__(
        self,
        access: Access,
        declaration: Declaration[CheckpointRecord] | None = None,
        sync: SyncPolicy | None = None,
    ) -> None:
        super().__init__(access, declaration, sync)
        self._states = States(self.table.other + b"p")
        self._threads = self._threads_kind(self.table.other, self.table.pack)

    # -- what a state is, for subclasses to say otherwise ------------------------------------------

    def _recipes(self, record: CheckpointRecord) -> list[bytes]:
        """What a checkpoint needs the parts of."""
        return [record.recipe]

    def _state_bytes(self, record: CheckpointRecord) -> int:
        """The size of a checkpoint's state as one piece."""
        return record.state_bytes

    def _recipes_of_writes(self, reader: Reader, thread_id: str) -> list[bytes]:
        """What the pending writes of a thread need the parts of."""
        return []

    def _needed(
        self, kept: list[CheckpointRecord], records: list[CheckpointRecord]
    ) -> Collection[int]:
        """Numbers of those of a namespace's records that the kept ones cannot be read without."""
        return ()

    # -- keeping a checkpoint ----------------------------------------------------------------------

    def _keep(
        self,
        row: list[Any],
        prepare: Callable[[Reader, CheckpointRecord | None], P],
        write: Callable[[Writer, int, P], bytes],
        sync: SyncPolicy | None,
    ) -> tuple[int, bytes]:
        """Write a checkpoint; one that was there with its id is replaced, in its place.

        Args:
            row: the values of its record; number, pool and recipe are filled in.
            prepare: makes the state ready, given the checkpoint that it is stored against: its
                parent, or else the latest of its thread. Called where others may write meanwhile,
                and again if that checkpoint is another one by then.
            write: writes what was prepared to a pool, and gives the recipe.
        Returns:
            Pool and recipe.
        """
        values = self.table.schema.checked(row)
        self.table.schema.encode(values)  # whatever cannot be stored is refused before the work
        for _ in range(_PREPARE_TRIES):
            reader = self.access.reader()
            base_key, base = self._base(reader, values)
            prepared = prepare(reader, None if base is None else self._record(base))

            def run(
                tx: Writer, key: Any = base_key, old: Any = base, made: Any = prepared
            ) -> tuple[int, bytes] | None:
                if key is not None and tx.get(key) != old:
                    return None  # what it builds on has gone meanwhile
                return self._put_in(tx, values, made, write)

            done = self._write(run, sync)
            if done is not None:
                return done

        def run_whole(tx: Writer) -> tuple[int, bytes]:
            _, base = self._base(tx, values)
            made = prepare(tx, None if base is None else self._record(base))
            return self._put_in(tx, values, made, write)

        return self._write(run_whole, sync)

    def _base(self, reader: Reader, values: list[Any]) -> tuple[bytes | None, bytes | None]:
        """Key and bytes of the checkpoint whose state the new one is stored against."""
        thread_id, namespace, parent_id = values[0], values[1], values[4]
        key = None
        if parent_id is not None:
            key = self._find(reader, thread_id, namespace, parent_id)
        if key is None:
            thread = self._threads.get(reader, thread_id)
            number = None
            if thread is not None:
                number = self._threads.number(reader, thread_id, thread, namespace)
            if number is not None:
                latest = (thread_id, namespace, number - 1)
                key = self.table.records + self.table.packed_key(latest)
        return key, None if key is None else reader.get(key)

    def _put_in(
        self, tx: Writer, values: list[Any], prepared: P, write: Callable[[Writer, int, P], bytes]
    ) -> tuple[int, bytes]:
        thread_id, namespace, checkpoint_id = values[0], values[1], values[3]
        thread = self._threads.get(tx, thread_id)
        if thread is None:
            thread = self._threads.begin(tx, thread_id)
        following = self._threads.number(tx, thread_id, thread, namespace) or 1
        number = following
        old = None
        key = self._find(tx, thread_id, namespace, checkpoint_id)
        if key is not None:
            old = tx.get(key)
        if old is not None:
            number = self._record(old).number
        recipe = write(tx, thread.pool, prepared)
        row = [*values[:2], number, *values[3:6], thread.pool, recipe, *values[8:]]
        packed = self.table.key_of(row)
        self.write_in(tx, packed, row, old, None)
        if number >= following:
            self._threads.put_number(tx, thread_id, thread, namespace, number + 1)
        if old is not None:
            self._let_go(tx, thread.pool)
        return thread.pool, recipe

    # -- parts that are not needed any more --------------------------------------------------------

    def _collect(self, tx: Writer, pool: int) -> int:
        """Delete the parts that no checkpoint needs any more; returns their bytes."""
        members = self._threads.members(tx, pool)
        count, live = 0, []
        for member in members:
            for _, record in self._all(tx, member):
                live += self._recipes(record)
                count += 1
            live += self._recipes_of_writes(tx, member)
        freed_bytes = self._states.collect(tx, pool, live)
        self._threads.settled(tx, pool, count // _LIVE_FOR_ONE_GONE)
        return freed_bytes

    def _let_go(self, tx: Writer, pool: int) -> None:
        """Collect, if with the checkpoint that was just replaced or deleted it is worth it."""
        if not self._threads.let_go(tx, pool):
            self._collect(tx, pool)

    def _forget_if_empty(
        self, tx: Writer, thread_id: str, pool: int, namespace: str | None = None
    ) -> bool:
        """Delete what there is of a thread if it has no checkpoint any more.

        Returns whether its pool has gone with it, since no other thread shares that.

        Args:
            namespace: where it probably has one.
        Cost: three look-ups, unless the last checkpoint of the namespace is gone.
        """
        thread = self._threads.get(tx, thread_id)
        if thread is None:
            return False
        if namespace is not None and self._latest(tx, thread_id, namespace) is not None:
            return False
        if next(self._all(tx, thread_id), None) is not None:
            return False
        if self._threads.remove(tx, thread_id, pool):
            return False
        self._states.drop(tx, pool)
        return True

    # -- finding -----------------------------------------------------------------------------------

    def _find(
        self, reader: Reader, thread_id: str, namespace: str, checkpoint_id: str
    ) -> bytes | None:
        """The full key of a checkpoint's record."""
        data = reader.get(self._id_key(thread_id, namespace, checkpoint_id))
        return None if data is None else self.table.records + data

    def _id_key(self, thread_id: str, namespace: str, checkpoint_id: str) -> bytes:
        table = self.table
        return b"".join(
            [
                table.other,
                b"i",
                table.pack("thread_id", thread_id),
                table.pack("namespace", namespace),
                table.pack("checkpoint_id", checkpoint_id),
            ]
        )

    def _all(
        self, reader: Reader, thread_id: str, namespace: str | None = None
    ) -> Iterator[tuple[bytes, CheckpointRecord]]:
        """Keys and records of a thread, oldest first within a namespace."""
        start = self.table.records + self.table.pack("thread_id", thread_id)
        if namespace is not None:
            start += self.table.pack("namespace", namespace)
        for key, data in reader.scan(start=start, stop=start + keys.END):
            yield key, self._record(data)

    def _state(self, reader: Reader, record: CheckpointRecord) -> Any:
        return codec.decode(self._states.read(reader, record.pool, record.recipe))

    def _checkpoint(self, record: CheckpointRecord, data: Any) -> Checkpoint:
        return Checkpoint(
            record.thread_id,
            record.namespace,
            record.checkpoint_id,
            record.parent_id,
            data,
            record.metadata,
            record.created_at,
            record.run_id,
            record.state_bytes,
        )

    def _get_record(
        self, reader: Reader, thread_id: str, checkpoint_id: str | None, namespace: str
    ) -> CheckpointRecord | None:
        if checkpoint_id is None:
            latest = self._latest(reader, thread_id, namespace)
            if latest is not None:
                return latest
            return next(self._newest(reader, thread_id, namespace, None, 1), None)
        key = self._find(reader, thread_id, namespace, checkpoint_id)
        data = None if key is None else reader.get(key)
        return None if data is None else self._record(data)

    def _latest(self, reader: Reader, thread_id: str, namespace: str) -> CheckpointRecord | None:
        """The last checkpoint that was put, unless it was deleted. Cost: two look-ups."""
        thread = self._threads.get(reader, thread_id)
        number = None
        if thread is not None:
            number = self._threads.number(reader, thread_id, thread, namespace)
        if number is None:
            return None
        key = self.table.packed_key((thread_id, namespace, number - 1))
        data = reader.get(self.table.records + key)
        return None if data is None else self._record(data)

    def _newest(
        self,
        reader: Reader,
        thread_id: str,
        namespace: str,
        before: str | None,
        limit: int | None,
    ) -> Iterator[CheckpointRecord]:
        table = self.table
        start = table.records + table.packed_key((thread_id, namespace), partial=True)
        stop: bytes | None = start + keys.END
        if before is not None:
            stop = self._find(reader, thread_id, namespace, before)
            if stop is None:
                raise RecordNotFoundError(
                    f"checkpoints: thread {thread_id!r} has no checkpoint {before!r}"
                )
        scan = reader.scan(start=start, stop=stop, reverse=True, limit=limit)
        return (self._record(data) for _, data in scan)

    # -- a record and what belongs to it -----------------------------------------------------------

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
        """Write a checkpoint's record, and how it is found by its id."""
        super().write_in(tx, key, values, old, ttl_seconds, keep_expiry=keep_expiry, before=before)
        if old is None:
            tx.put(self._id_key(values[0], values[1], values[3]), key)

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete a checkpoint with all that is its own, and its thread with the last one."""
        record = self._record(old)
        self._erase(tx, key, old, record)
        if not self._forget_if_empty(tx, record.thread_id, record.pool, record.namespace):
            self._let_go(tx, record.pool)

    def _erase(self, tx: Writer, key: bytes, old: bytes, record: CheckpointRecord) -> None:
        """Delete a checkpoint's record and pending writes, but none of its parts."""
        super().remove_in(tx, key, old)
        place = (record.thread_id, record.namespace, record.checkpoint_id)
        tx.delete(self._id_key(*place))
        # One by one: they are few, and a range in a transaction makes its reads slower.
        start = self._threads.writes_key(*place)
        for write in list(tx.scan(start=start, stop=start + keys.END, keys_only=True)):
            tx.delete(write)
