"""What is done with checkpoints whatever their states are: finding, counting, copying, deleting."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from walkv.engine.policies import SyncPolicy
from walkv.errors import RecordExistsError, RecordNotFoundError
from walkv.namespaces import keys
from walkv.namespaces.checkpoints.base import CheckpointRecords
from walkv.namespaces.checkpoints.records import CheckpointRecord, Pruned, Usage
from walkv.namespaces.keyvalue import Reader, Writer


class CheckpointUpkeep(CheckpointRecords):
    """The part of ``Checkpoints`` that others who keep checkpoints share with it."""

    # -- finding ---------------------------------------------------------------------------------

    def threads(self, limit: int | None = None, after: str | None = None) -> builtins.list[str]:
        """Ids of threads in alphabetical order, from behind ``after`` on."""
        return self._threads.ids(self.access.reader(), limit, after)

    def namespaces(self, thread_id: str) -> builtins.list[str]:
        """The checkpoint namespaces of a thread."""
        return self._threads.namespaces(self.access.reader(), thread_id)

    def usage(self, thread_id: str | None = None) -> Usage:
        """What a thread takes, or all. Parts that threads share count once. Cost: reads them."""

        def read(reader: Reader) -> Usage:
            threads = self._threads.ids(reader, None, None) if thread_id is None else [thread_id]
            pools: dict[int, builtins.list[bytes]] = {}
            count = writes = state_bytes = 0
            for each in threads:
                for _, record in self._all(reader, each):
                    pools.setdefault(record.pool, []).extend(self._recipes(record))
                    count += 1
                    state_bytes += self._state_bytes(record)
                writes += self._threads.writes_count(reader, each)
                thread = self._threads.get(reader, each)
                if thread is not None:
                    recipes = self._recipes_of_writes(reader, each)
                    pools.setdefault(thread.pool, []).extend(recipes)
            kept = sum(self._states.size_bytes(reader, *each) for each in pools.items())
            return Usage(count, writes, state_bytes, kept)

        return self.read_at_once(read)

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
        found = []
        for records in by_namespace.values():
            most = max(len(records) - stay, 0)
            old = [older_than is None or record.created_at < older_than for _, record in records]
            kept = [record for at, (_, record) in enumerate(records) if at >= most or not old[at]]
            needed = self._needed(kept, [record for _, record in records])
            found += [
                each
                for at, each in enumerate(records[:most])
                if old[at] and each[1].number not in needed
            ]
        return found

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
            self._threads.copy(tx, source_id, thread, target_id)
            return copied

        return self._write(run, sync)

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
