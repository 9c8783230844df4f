"""Checkpoints: the states of a thread of work, each at the price of its difference.

Invariants:
    1. The order of checkpoints is the order in which they were put, by a number per thread and
       namespace. Putting one again keeps its number.
    2. A checkpoint and the parts of its state are written in one commit, and parts go in a commit
       after which no checkpoint needs them: no state is ever incomplete, whenever the process ends.
       A pool is collected once a quarter as many checkpoints were replaced or deleted as it keeps,
       which a key of the pool counts in the same commits; and by ``prune`` and
       ``delete_thread`` at once. With the last checkpoint of a thread all of it goes.
    3. A copy of a thread shares the pool of its source, so states are copied by reference. The pool
       goes with the last thread that shares it.

Source: the checkpointers of agent frameworks, which write the whole state at each step; see
``states`` for what is done instead.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from walkv.engine.wal import SyncPolicy
from walkv.errors import CorruptionError, RecordExistsError, RecordNotFoundError
from walkv.namespaces import codec, keys
from walkv.namespaces.checkpoints.base import CheckpointRecords
from walkv.namespaces.checkpoints.records import Checkpoint, CheckpointRecord, Pruned, Usage
from walkv.namespaces.checkpoints.threads import PendingWrite, Thread
from walkv.namespaces.keyvalue import Reader, Writer

_PREPARE_TRIES: Final = 3


class Checkpoints(CheckpointRecords):
    """The checkpoints of all threads. Default sync policy: ``Wal()``."""

    # -- putting ---------------------------------------------------------------------------------

    def put(  # type: ignore[override]  # a checkpoint by its parts, not as a record
        self,
        thread_id: str,
        checkpoint_id: str,
        data: Any,
        *,
        parent_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        namespace: str = "",
        run_id: str | None = None,
        created_at: datetime | None = None,
        sync: SyncPolicy | None = None,
    ) -> Checkpoint:
        """Keep a state.

        Args:
            data: whatever ``codec`` knows.
            parent_id: the checkpoint that this one follows; its state is what the new one is
                stored as the difference to. Without one, the latest of the thread is.
            run_id: for finding the checkpoints of a run.
        Returns:
            The checkpoint. One that was there with this id is replaced, in its place.
        Raises:
            CodecError: the state or metadata cannot be stored; nothing was written.
        Cost: encodes the state and writes what differs, in one commit.
        """
        state = codec.encode(data)
        checkpoint = Checkpoint(
            thread_id,
            namespace,
            checkpoint_id,
            parent_id,
            data,
            metadata or {},
            created_at or self.now(),
            run_id,
            len(state),
        )
        self.put_state(checkpoint, state, sync=sync)
        return checkpoint

    def put_state(
        self, checkpoint: Checkpoint, state: bytes, *, sync: SyncPolicy | None = None
    ) -> None:
        """As ``put``, for a state that is encoded already."""
        row = [
            checkpoint.thread_id,
            checkpoint.namespace,
            0,
            checkpoint.checkpoint_id,
            checkpoint.parent_id,
            checkpoint.run_id,
            0,
            b"",
            len(state),
            checkpoint.metadata,
            checkpoint.created_at,
        ]
        values = self.table.schema.checked(row)
        self.table.schema.encode(values)  # whatever cannot be stored is refused before the work
        for _ in range(_PREPARE_TRIES):
            base_key, base = self._base(self.access.reader(), checkpoint)
            prepared = self._prepare(self.access.reader(), state, base)

            def run(tx: Writer, key: Any = base_key, old: Any = base, made: Any = prepared) -> bool:
                if key is not None and tx.get(key) != old:
                    return False  # what it builds on has gone meanwhile
                self._put_in(tx, values, made)
                return True

            if self._write(run, sync):
                return

        def run_whole(tx: Writer) -> None:
            _, base = self._base(tx, checkpoint)
            self._put_in(tx, values, self._prepare(tx, state, base))

        self._write(run_whole, sync)

    def _base(self, reader: Reader, checkpoint: Checkpoint) -> tuple[bytes | None, bytes | None]:
        """Key and bytes of the checkpoint whose state the new one is stored against."""
        thread_id, namespace = checkpoint.thread_id, checkpoint.namespace
        key = None
        if checkpoint.parent_id is not None:
            key = self._find(reader, thread_id, namespace, checkpoint.parent_id)
        if key is None:
            thread = self._threads.get(reader, thread_id)
            if thread is not None and namespace in thread.following:
                latest = thread.following[namespace] - 1
                key = self.table.records + self.table.packed_key((thread_id, namespace, latest))
        return key, None if key is None else reader.get(key)

    def _prepare(self, reader: Reader, state: bytes, base: bytes | None) -> Any:
        if base is None:
            return self._states.prepare(reader, 0, state, None)
        record = self._record(base)
        return self._states.prepare(reader, record.pool, state, record.recipe)

    def _put_in(self, tx: Writer, values: builtins.list[Any], prepared: Any) -> None:
        thread_id, namespace, checkpoint_id = values[0], values[1], values[3]
        thread = self._threads.get(tx, thread_id)
        if thread is None:
            thread = self._threads.begin(tx, thread_id)
        number = thread.following.get(namespace, 1)
        old = None
        key = self._find(tx, thread_id, namespace, checkpoint_id)
        if key is not None:
            old = tx.get(key)
        if old is not None:
            number = self._record(old).number
        recipe = self._states.write(tx, thread.pool, prepared)
        row = [*values[:2], number, *values[3:6], thread.pool, recipe, *values[8:]]
        packed = self.table.key_of(row)
        self.write_in(tx, packed, row, old, None)
        if number >= thread.following.get(namespace, 1):
            following = {**thread.following, namespace: number + 1}
            self._threads.put(tx, thread_id, Thread(thread.pool, following))
        if old is not None:
            self._let_go(tx, thread.pool)

    # -- finding ---------------------------------------------------------------------------------

    def get(  # type: ignore[override]  # by thread and id, not by the record's key
        self, thread_id: str, checkpoint_id: str | None = None, *, namespace: str = ""
    ) -> Checkpoint | None:
        """A checkpoint with its state, the latest if no id is given; None if there is none.

        Cost: reads the state's parts, however old it is.
        """

        def read(reader: Reader) -> Checkpoint | None:
            record = self._get_record(reader, thread_id, checkpoint_id, namespace)
            return None if record is None else self._checkpoint(record, self._state(reader, record))

        try:
            return read(self.access.reader())
        except CorruptionError:
            # Parts may just have been deleted with the checkpoint: look at one moment.
            return self.read_at_once(read)

    def get_record(
        self, thread_id: str, checkpoint_id: str | None = None, *, namespace: str = ""
    ) -> CheckpointRecord | None:
        """As ``get``, without the state."""
        reader = self.access.reader()
        return self._get_record(reader, thread_id, checkpoint_id, namespace)

    def list(
        self,
        thread_id: str,
        limit: int | None = 10,
        before: str | None = None,
        *,
        namespace: str = "",
        with_data: bool = True,
    ) -> builtins.list[Checkpoint]:
        """Checkpoints of a thread, newest first.

        Args:
            before: only what was put before the checkpoint with this id.
            with_data: False to leave the states out.
        Cost: proportional to the checkpoints returned, at any length of the thread.
        """

        def read(reader: Reader) -> builtins.list[Checkpoint]:
            return [
                self._checkpoint(record, self._state(reader, record) if with_data else None)
                for record in self._newest(reader, thread_id, namespace, before, limit)
            ]

        return self.read_at_once(read)

    def threads(self, limit: int | None = None, after: str | None = None) -> builtins.list[str]:
        """Ids of threads in alphabetical order, from behind ``after`` on."""
        return self._threads.ids(self.access.reader(), limit, after)

    def namespaces(self, thread_id: str) -> builtins.list[str]:
        """The checkpoint namespaces of a thread."""
        thread = self._threads.get(self.access.reader(), thread_id)
        return [] if thread is None else sorted(thread.following)

    def usage(self, thread_id: str | None = None) -> Usage:
        """What a thread takes, or all. Parts that threads share count once. Cost: reads them."""

        def read(reader: Reader) -> Usage:
            threads = self._threads.ids(reader, None, None) if thread_id is None else [thread_id]
            pools: dict[int, builtins.list[bytes]] = {}
            count = writes = state_bytes = 0
            for each in threads:
                for _, record in self._all(reader, each):
                    pools.setdefault(record.pool, []).append(record.recipe)
                    count += 1
                    state_bytes += record.state_bytes
                writes += self._threads.writes_count(reader, each)
            kept = sum(self._states.size_bytes(reader, *each) for each in pools.items())
            return Usage(count, writes, state_bytes, kept)

        return self.read_at_once(read)

    # -- pending writes --------------------------------------------------------------------------

    def put_writes(
        self,
        thread_id: str,
        checkpoint_id: str,
        task_id: str,
        writes: Iterable[tuple[str, Any]],
        *,
        task_path: str = "",
        namespace: str = "",
        sync: SyncPolicy | None = None,
    ) -> None:
        """Keep what a task has written, before the next checkpoint takes it in.

        Args:
            writes: channels and values, in order. If every channel is one of ``WRITES_IDX``, they
                replace what is there; else what is there stays, and only the rest is added.
        """
        task = self._threads.writes_key(thread_id, namespace, checkpoint_id, task_id)
        self._write(self._threads.prepare_writes(task, writes, task_path), sync)

    def get_writes(
        self, thread_id: str, checkpoint_id: str, *, namespace: str = ""
    ) -> builtins.list[PendingWrite]:
        """The pending writes of a checkpoint, by task path, task and place."""
        checkpoint = self._threads.writes_key(thread_id, namespace, checkpoint_id)
        return self._threads.writes(self.access.reader(), checkpoint)

    # -- what records have, and checkpoints have not ----------------------------------------------

    def put_many(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: a checkpoint is put with its state, by ``put``."""
        raise TypeError("checkpoints are put one by one, with put(thread_id, checkpoint_id, data)")

    def add(self, *args: Any, **kwargs: Any) -> CheckpointRecord:
        """Not offered: a checkpoint is put with its state, by ``put``."""
        raise TypeError("checkpoints are put with put(thread_id, checkpoint_id, data)")

    def update(self, *args: Any, **kwargs: Any) -> CheckpointRecord:
        """Not offered: a checkpoint does not change; putting it again replaces it."""
        raise TypeError("a checkpoint does not change; put() it again to replace it")

    def exists(
        self, thread_id: str, checkpoint_id: str | None = None, *, namespace: str = ""
    ) -> bool:
        """Whether there is a checkpoint with this id, or any, if none is given."""
        return self.get_record(thread_id, checkpoint_id, namespace=namespace) is not None

    # -- taking away -----------------------------------------------------------------------------

    def delete(  # type: ignore[override]  # by thread and id, not by the record's key
        self,
        thread_id: str,
        checkpoint_id: str,
        *,
        namespace: str = "",
        sync: SyncPolicy | None = None,
    ) -> bool:
        """Delete one checkpoint; returns whether it was there."""

        def run(tx: Writer) -> bool:
            full_key = self._find(tx, thread_id, namespace, checkpoint_id)
            old = None if full_key is None else tx.get(full_key)
            if full_key is None or old is None:
                return False
            self.remove_in(tx, full_key[len(self.table.records) :], old)
            return True

        return self._write(run, sync)

    def delete_thread(self, thread_id: str, *, sync: SyncPolicy | None = None) -> int:
        """Delete a thread with all that is its own; returns how many checkpoints it had."""

        def run(tx: Writer) -> int:
            thread = self._threads.get(tx, thread_id)
            if thread is None:
                start = self._threads.writes_key(thread_id)
                tx.delete_range(start=start, stop=start + keys.END)
                return 0
            deleted = 0
            for full_key, record in builtins.list(self._all(tx, thread_id)):
                key = full_key[len(self.table.records) :]
                for entry in self.table.entries(self.table.schema.values(record), key):
                    tx.delete(entry)
                deleted += 1
            packed = self.table.pack("thread_id", thread_id)
            for prefix in (self.table.records, self.table.other + b"i"):
                tx.delete_range(start=prefix + packed, stop=prefix + packed + keys.END)
            if self._threads.remove(tx, thread_id, thread.pool):
                self._collect(tx, thread.pool)
            else:
                self._states.drop(tx, thread.pool)
            return deleted

        return self._write(run, sync)

    def delete_for_runs(self, run_ids: Iterable[str], *, sync: SyncPolicy | None = None) -> int:
        """Delete the checkpoints of runs; returns how many. In commits as of ``Query.delete``."""
        return sum(self.query(run_id=run_id).delete(sync=sync) for run_id in run_ids)

    def prune(
        self,
        thread_id: str | None = None,
        *,
        keep_last: int | None = None,
        older_than: datetime | None = None,
        dry_run: bool = False,
        sync: SyncPolicy | None = None,
    ) -> Pruned:
        """Delete old checkpoints of a thread, or of all; the parts of their states go with them.

        Args:
            keep_last: the newest so many of each thread and namespace stay.
            older_than: only what was put before this time; the newest of each stays even so,
                unless ``keep_last=0``.
            dry_run: only count.
        Cost: one commit a thread.
        """
        if keep_last is None and older_than is None:
            raise TypeError("prune() needs keep_last or older_than")
        stay = 1 if keep_last is None else keep_last
        if stay < 0:
            raise ValueError(f"keep_last is 0 or more, not {keep_last}")
        if older_than is not None:
            schema = self.table.schema
            older_than = schema.check(schema.columns[schema.position["created_at"]], older_than)
        done = []
        for each in self.threads() if thread_id is None else [thread_id]:
            look = partial(self._old, each, stay, older_than)
            count = len(self.read_at_once(look))
            if dry_run:
                done.append(Pruned(count, 0))
            elif count or self._owes(each):
                done.append(self._write(partial(self._prune, each, look), sync))
        return Pruned(
            sum(each.checkpoint_count for each in done), sum(each.freed_bytes for each in done)
        )

    def _owes(self, thread_id: str) -> bool:
        """Whether parts may be left of what was replaced or deleted."""
        reader = self.access.reader()
        thread = self._threads.get(reader, thread_id)
        return thread is not None and self._threads.debt(reader, thread.pool)[0] > 0

    def _prune(
        self,
        thread_id: str,
        look: Callable[[Reader], builtins.list[tuple[bytes, CheckpointRecord]]],
        tx: Writer,
    ) -> Pruned:
        thread = self._threads.get(tx, thread_id)
        if thread is None:
            return Pruned(0, 0)
        # Looked for here, under the lock: what was put or deleted just now counts.
        found = look(tx)
        for full_key, record in found:
            old = tx.get(full_key)
            assert old is not None
            self._erase(tx, full_key[len(self.table.records) :], old, record)
        freed_bytes = self._collect(tx, thread.pool)
        self._forget_if_empty(tx, thread_id, thread.pool)
        return Pruned(len(found), freed_bytes)

    def _old(
        self, thread_id: str, stay: int, older_than: datetime | None, reader: Reader
    ) -> builtins.list[tuple[bytes, CheckpointRecord]]:
        by_namespace: dict[str, builtins.list[tuple[bytes, CheckpointRecord]]] = {}
        for key, record in self._all(reader, thread_id):
            by_namespace.setdefault(record.namespace, []).append((key, record))
        return [
            (key, record)
            for records in by_namespace.values()
            for key, record in records[: max(len(records) - stay, 0)]
            if older_than is None or record.created_at < older_than
        ]

    def copy_thread(self, source_id: str, target_id: str, *, sync: SyncPolicy | None = None) -> int:
        """Make a new thread with the checkpoints and pending writes of another one.

        States are copied by reference: the copy costs a small record a checkpoint. Returns how many
        there are.

        Raises:
            RecordNotFoundError: there is no such thread.
            RecordExistsError: there is a thread with the new id.
        """

        def run(tx: Writer) -> int:
            thread = self._threads.get(tx, source_id)
            if thread is None:
                raise RecordNotFoundError(f"checkpoints: there is no thread {source_id!r}")
            if self._threads.get(tx, target_id) is not None:
                raise RecordExistsError(f"checkpoints: there is a thread {target_id!r} already")
            copied = 0
            for _, record in builtins.list(self._all(tx, source_id)):
                values = self.table.schema.values(replace(record, thread_id=target_id))
                self.write_in(tx, self.table.key_of(values), values, None, None)
                copied += 1
            self._threads.copy_writes(tx, source_id, target_id)
            self._threads.copy(tx, thread, target_id)
            return copied

        return self._write(run, sync)
