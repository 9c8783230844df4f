"""How namespaces read and write: alone or in a batch, waiting for acknowledgement or leaving it.

Every face of an agent has an ``Access``. Threads wait for a commit in ``write``; tasks do the same
work without waiting, and their face awaits the tickets that ``Deferred`` collects.

Invariants:
    1. Inside ``with agent.batch()`` everything that its owner, a thread or a task, reads and writes
       goes through one transaction; others, also tasks and threads begun inside, go their own way.
    2. A batch commits under the strongest sync policy of what is in it, unless it was given one.
    3. A write that fails inside a batch leaves nothing in it, or the batch cannot be committed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from walkv.engine.policies import SyncPolicy, Wal, WriteBack, WriteThrough, check_policy
from walkv.errors import ClosedError, WalkvError
from walkv.namespaces.keyvalue import KeyValue, OpenTransaction, Reader, Ticket, Writer

S = TypeVar("S")
T = TypeVar("T")

_STRENGTH: Final[dict[type, int]] = {WriteBack: 0, Wal: 1, WriteThrough: 2}
ITEMS_AT_ONCE: Final = 1000
"""Who writes to more records in one call does so in several commits; see ``Access.write_each``."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Access:
    """Reads and writes of a face whose callers may wait.

    Args:
        kv: the engine.
        home: stands for the agent: batches of one agent are not those of another.
    """

    def __init__(self, kv: KeyValue, home: object) -> None:
        self.kv = kv
        self.home = home

    def now(self) -> datetime:
        """The time by the engine's clock, in UTC."""
        return _EPOCH + timedelta(microseconds=self.kv.wall_time_ns() // 1000)

    def batch(self) -> Batch | None:
        """The caller's open batch."""
        entered = _innermost.get()
        if entered is None:
            return None
        caller = current_owner()
        while entered is not None:
            if entered.owner == caller and entered.batch.is_open(self.home):
                return entered.batch
            entered = entered.outer
        return None

    def reader(self) -> Reader:
        """Where the caller reads: in its batch, or in the store as it is now."""
        batch = self.batch()
        return self.kv if batch is None else batch.transaction

    # Hot.
    def write(self, function: Callable[[Writer], T], sync: SyncPolicy | None) -> T:
        """Commit what ``function`` writes; see ``KeyValue.transact``.

        Durability: as the sync policy says, on return; in a batch, with the batch.
        """
        batch = self.batch()
        if batch is not None:
            return batch.run(function, sync)
        result, ticket = self.kv.transact(function, sync)
        if ticket is not None:
            self.settle(ticket)
        return result

    def write_each(
        self, items: Sequence[S], function: Callable[[Writer, S], bool], sync: SyncPolicy | None
    ) -> int:
        """Do with each item what ``function`` does, so that others can write in between.

        One commit for each ``ITEMS_AT_ONCE``, or a part of the batch. Returns for how many the
        function said that it did something.
        """
        step = ITEMS_AT_ONCE if self.batch() is None else max(len(items), 1)

        def write(part: Sequence[S]) -> int:
            return self.write(lambda tx: sum(function(tx, item) for item in part), sync)

        return sum(write(items[at : at + step]) for at in range(0, len(items), step))

    def settle(self, ticket: Ticket) -> None:
        """See to it that a commit is acknowledged before the caller goes on."""
        ticket.wait()


class _Tickets(threading.local):
    def __init__(self) -> None:
        self.waiting: list[Ticket] = []


_tickets: Final = _Tickets()


class Deferred(Access):
    """Leaves the waiting to who called: the tickets are kept for ``take_tickets``."""

    def settle(self, ticket: Ticket) -> None:
        _tickets.waiting.append(ticket)


def take_tickets() -> list[Ticket]:
    """What the commits of this thread since the last call have to wait for."""
    waiting, _tickets.waiting = _tickets.waiting, []
    return waiting


def current_owner() -> object:
    """Who is calling: the running task, or else the thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop in this thread
        task = None
    return threading.get_ident() if task is None else task


class _Entered(NamedTuple):
    """A batch, and who is in it: who opened it, or works for who did.

    Attributes:
        outer: what is around it.
    """

    batch: Batch
    owner: object
    outer: _Entered | None


_innermost: ContextVar[_Entered | None] = ContextVar("walkv_batch", default=None)


class Batch:
    """Writes to any number of namespaces that commit together; see ``AgentStore.batch``.

    Not to be shared: it belongs to the thread or task that opened it.
    """

    def __init__(self, access: Access, sync: SyncPolicy | None) -> None:
        check_policy(sync)
        self._access = access
        self._sync = sync
        self._strongest: SyncPolicy | None = None
        self._broken = False
        self._transaction: OpenTransaction | None = None

    @property
    def transaction(self) -> OpenTransaction:
        """What is read and written through, while the batch is open."""
        if self._transaction is None:
            raise ClosedError("this batch was committed or discarded; begin a new one")
        return self._transaction

    def open(self) -> None:
        """Begin its transaction."""
        self._transaction = self._access.kv.transaction()

    def is_open(self, home: object) -> bool:
        """Whether it is of an agent, and neither committed nor discarded."""
        return self._access.home is home and self._transaction is not None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it: what the calling thread or task reads and writes goes through it."""
        token = _innermost.set(_Entered(self, current_owner(), _innermost.get()))
        try:
            yield
        finally:
            _innermost.reset(token)

    @contextmanager
    def block(self) -> Iterator[None]:
        """Open it and be in it; commit on leaving, or discard it if the block raises."""
        self.open()
        try:
            with self.entered():
                yield
        except BaseException:
            self.discard()
            raise
        ticket = self.finish()
        if ticket is not None:
            self._access.settle(ticket)

    @contextmanager
    def part(self, sync: SyncPolicy | None) -> Iterator[None]:
        """A batch inside this one: if it fails after it wrote something, so does this one.

        The policy that it asks for, the whole batch gets.
        """
        check_policy(sync)
        if sync is not None:
            if self._sync is not None:
                self._sync = _both(self._sync, sync)
            self._strongest = sync if self._strongest is None else _both(self._strongest, sync)
        before = len(self.transaction)
        try:
            yield
        except BaseException:
            if self._transaction is not None and len(self._transaction) != before:
                self._broken = True
            raise

    def run(self, function: Callable[[Writer], T], sync: SyncPolicy | None) -> T:
        """Do what ``Access.write`` does, as a part of this batch."""
        check_policy(sync)
        transaction = self.transaction
        before = len(transaction)
        try:
            result = function(transaction)
        except BaseException:
            if len(transaction) != before:
                self._broken = True
            raise
        if len(transaction) != before:
            sync = self._access.kv.policy if sync is None else sync
            if self._strongest is None:
                self._strongest = sync
            elif sync is not self._strongest:
                self._strongest = _both(self._strongest, sync)
        return result

    def finish(self) -> Ticket | None:
        """Commit.

        Raises:
            ConflictError: something that was read inside has changed; nothing was written.
            WalkvError: a write inside failed half way; nothing was written.
        """
        transaction = self.transaction
        self._transaction = None
        if self._broken:
            transaction.discard()
            raise WalkvError(
                "a write inside this batch failed half way, so the batch was not committed; begin "
                "it again"
            )
        return transaction.commit_ticket(self._sync or self._strongest)

    def discard(self) -> None:
        """Forget everything; nothing is written."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.discard()


def _both(one: SyncPolicy, other: SyncPolicy) -> SyncPolicy:
    """A policy that keeps what two policies promise."""
    if isinstance(one, WriteBack) and isinstance(other, WriteBack):
        return WriteBack(
            min(one.interval_seconds, other.interval_seconds),
            min(one.max_unsynced_bytes, other.max_unsynced_bytes),
        )
    return max(one, other, key=lambda policy: _STRENGTH[type(policy)])


def in_batch(batch: Batch, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in this thread for the owner of a batch, who waits for it."""
    with batch.entered():
        return function(*arguments)
