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
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from walkv.engine.policies import SyncPolicy
from walkv.errors import CorruptionError
from walkv.namespaces import codec
from walkv.namespaces.checkpoints.records import Checkpoint, CheckpointRecord
from walkv.namespaces.checkpoints.states import Prepared
from walkv.namespaces.checkpoints.threads import PendingWrite
from walkv.namespaces.checkpoints.upkeep import CheckpointUpkeep
from walkv.namespaces.keyvalue import Reader


class Checkpoints(CheckpointUpkeep):
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

        def prepare(reader: Reader, base: CheckpointRecord | None) -> Prepared:
            if base is None:
                return self._states.prepare(reader, 0, state, None)
            return self._states.prepare(reader, base.pool, state, base.recipe)

        self._keep(row, prepare, self._states.write, sync)

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

    def exists(
        self, thread_id: str, checkpoint_id: str | None = None, *, namespace: str = ""
    ) -> bool:
        """Whether there is a checkpoint with this id, or any, if none is given."""
        return self.get_record(thread_id, checkpoint_id, namespace=namespace) is not None

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
            writes: channels and values, in order. What a task has written before in its place
                stays, unless the channel is one of ``WRITES_IDX``: that is replaced.
        """
        task = self._threads.writes_key(thread_id, namespace, checkpoint_id, task_id)
        self._write(self._threads.prepare_writes(task, writes, task_path), sync)

    def get_writes(
        self, thread_id: str, checkpoint_id: str, *, namespace: str = ""
    ) -> builtins.list[PendingWrite]:
        """The pending writes of a checkpoint, by task path, task and place."""
        checkpoint = self._threads.writes_key(thread_id, namespace, checkpoint_id)
        return self._threads.writes(self.access.reader(), checkpoint)
