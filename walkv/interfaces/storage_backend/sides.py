"""The two sides of a migration: what is read of one storage and written to the other.

What travels are walkv's own records. ``WalkvSide`` reads and writes them as they are; ``OtherSide``
makes them of what any backend shows, and hands over what the interfaces can take.

Invariants:
    1. What the target has stays as it is: only what is missing is written.
    2. On a ``WalkvSide`` each part that is written is one commit, so that whenever the process ends
       every record is there whole or not at all, and the next run writes the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from walkv.agent import AgentStore
from walkv.engine.policies import WriteBack
from walkv.interfaces.storage_backend import records
from walkv.interfaces.storage_backend.backend import WalkvStorageBackend
from walkv.interfaces.storage_backend.errors import StorageError
from walkv.namespaces.checkpoints import WRITES_IDX, Checkpoint, PendingWrite
from walkv.namespaces.common import new_id
from walkv.namespaces.contexts import TaskContext
from walkv.namespaces.messages import Message
from walkv.namespaces.sessions import Session

T = TypeVar("T")

LISTS: Final = {
    "sessions": "list_session_ids",
    "messages": "list_conversation_ids",
    "checkpoints": "list_thread_ids",
    "task_contexts": "list_task_context_ids",
}
"""How the ids are found below which the records of each kind are."""

_BULK: Final = WriteBack()
"""Parts are not waited for one by one; ``Side.settle`` waits for all."""

_ALL: Final = 2**31 - 1
"""A limit that is none, and that a database takes."""

_PAGE: Final = 1000


class Side(Protocol):
    """One side; each method is about records of one kind, below ids of ``LISTS``."""

    storage: Any

    async def sessions(self, ids: Sequence[str]) -> list[Session]: ...

    async def put_sessions(self, sessions: list[Session]) -> int:
        """Write what is missing; returns how many that were. So do the others."""

    def messages(self, session_id: str, size: int) -> AsyncIterator[list[Message]]:
        """The messages of a session, oldest first, some at a time."""

    async def put_messages(self, session_id: str, messages: list[Message], position: int) -> int:
        """Write what is missing of a stretch that begins behind so many messages."""

    def checkpoints(self, thread_id: str) -> AsyncIterator[tuple[Checkpoint, list[PendingWrite]]]:
        """The checkpoints of a thread, in the order in which they were put."""

    async def put_checkpoint(
        self, checkpoint: Checkpoint, writes: list[PendingWrite]
    ) -> tuple[int, int]:
        """Returns how many checkpoints and how many pending writes were missing."""

    async def task_contexts(self, ids: Sequence[str]) -> list[list[TaskContext]]:
        """For each id the context, with its old versions before it."""

    async def put_task_contexts(self, contexts: list[list[TaskContext]]) -> int: ...

    async def count(self, kind: str, ids: Sequence[str]) -> int:
        """How many records there are below these ids."""

    async def settle(self) -> None:
        """Make durable what was written."""


async def ids_of(storage: Any, kind: str) -> list[str]:
    """All ids below which a storage has records of a kind.

    Raises:
        StorageError: the storage cannot tell; see ``IListableStorage``.
    """
    found: list[str] = []
    after = None
    while page := await lister(storage, kind)(after, _PAGE):
        if after is not None and not page[0] > after:
            raise StorageError(f"{LISTS[kind]}({after!r}) has to go on behind that id")
        found += page
        after = page[-1]
    return found


def lister(storage: Any, kind: str) -> Callable[..., Any]:
    """The method that tells the ids."""
    method: Callable[..., Any] | None = getattr(storage, LISTS[kind], None)
    if method is None:
        raise StorageError(
            f"{type(storage).__name__} cannot tell which {kind} it has: a storage to migrate from "
            f"has {LISTS[kind]}(after=None, limit=1000), see IListableStorage"
        )
    return method


class WalkvSide:
    """A walkv storage, in bulk and in another thread."""

    def __init__(self, storage: WalkvStorageBackend) -> None:
        self.storage = storage

    async def _in_batch(self, function: Callable[[AgentStore], T]) -> T:
        """Look and write in one commit; again, if another one came between."""
        return await self.storage.in_thread(
            lambda agent: agent.transact(lambda: function(agent), sync=_BULK)
        )

    async def sessions(self, ids: Sequence[str]) -> list[Session]:
        found = await self.storage.in_thread(lambda agent: agent.sessions.get_many(ids))
        return [each for each in found if each is not None]

    async def put_sessions(self, sessions: list[Session]) -> int:
        def put(agent: AgentStore) -> int:
            there = agent.sessions.get_many([each.session_id for each in sessions])
            missing = [each for each, old in zip(sessions, there, strict=True) if old is None]
            agent.sessions.put_many(missing)
            return len(missing)

        return await self._in_batch(put)

    async def messages(self, session_id: str, size: int) -> AsyncIterator[list[Message]]:
        seq = 0
        while page := await self.storage.in_thread(partial(_after, session_id, seq, size)):
            yield page
            seq = page[-1].seq

    async def put_messages(self, session_id: str, messages: list[Message], position: int) -> int:
        def put(agent: AgentStore) -> int:
            there = agent.messages.get_many([(session_id, each.seq) for each in messages])
            missing = [each for each, old in zip(messages, there, strict=True) if old is None]
            agent.messages.put_many(missing)
            return len(missing)

        return await self._in_batch(put)

    async def checkpoints(
        self, thread_id: str
    ) -> AsyncIterator[tuple[Checkpoint, list[PendingWrite]]]:
        for each in await self.storage.in_thread(partial(_heads, thread_id)):
            found = await self.storage.in_thread(partial(_whole, each))
            if found is not None:
                yield found

    async def put_checkpoint(
        self, checkpoint: Checkpoint, writes: list[PendingWrite]
    ) -> tuple[int, int]:
        return await self._in_batch(partial(_put_checkpoint, checkpoint, writes))

    async def task_contexts(self, ids: Sequence[str]) -> list[list[TaskContext]]:
        def read(agent: AgentStore) -> list[list[TaskContext]]:
            found = [(agent.task_contexts.get(each), each) for each in ids]
            return [
                [*reversed(agent.task_contexts.history(session_id)), context]
                for context, session_id in found
                if context is not None
            ]

        return await self.storage.in_thread(read)

    async def put_task_contexts(self, contexts: list[list[TaskContext]]) -> int:
        def put(agent: AgentStore) -> int:
            missing = [
                each for each in contexts if not agent.task_contexts.exists(each[-1].session_id)
            ]
            agent.task_contexts.put_many(version for each in missing for version in each)
            return len(missing)

        return await self._in_batch(put)

    async def count(self, kind: str, ids: Sequence[str]) -> int:
        pages = [ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE)]
        return sum([await self.storage.in_thread(partial(_count, kind, page)) for page in pages])

    async def settle(self) -> None:
        await self.storage.in_thread(lambda agent: agent.sync())


def _after(session_id: str, seq: int, size: int, agent: AgentStore) -> list[Message]:
    query = agent.messages.query(session_id=session_id).where(seq__gt=seq)
    return query.order_by("seq").limit(size).all()


def _heads(thread_id: str, agent: AgentStore) -> list[Checkpoint]:
    """The checkpoints of a thread without their states, in the order in which they were put."""
    return [
        each
        for namespace in agent.checkpoints.namespaces(thread_id)
        for each in reversed(
            agent.checkpoints.list(thread_id, None, namespace=namespace, with_data=False)
        )
    ]


def _whole(head: Checkpoint, agent: AgentStore) -> tuple[Checkpoint, list[PendingWrite]] | None:
    arguments, namespace = (head.thread_id, head.checkpoint_id), head.namespace
    found = agent.checkpoints.get(*arguments, namespace=namespace)
    if found is None:
        return None
    return found, agent.checkpoints.get_writes(*arguments, namespace=namespace)


def _put_checkpoint(
    checkpoint: Checkpoint, writes: list[PendingWrite], agent: AgentStore
) -> tuple[int, int]:
    arguments, namespace = (checkpoint.thread_id, checkpoint.checkpoint_id), checkpoint.namespace
    missing = agent.checkpoints.get_record(*arguments, namespace=namespace) is None
    if missing:
        agent.checkpoints.put(
            *arguments,
            checkpoint.data,
            parent_id=checkpoint.parent_id,
            metadata=checkpoint.metadata,
            namespace=namespace,
            run_id=checkpoint.run_id,
            created_at=checkpoint.created_at,
        )
    there = agent.checkpoints.get_writes(*arguments, namespace=namespace)
    known = {(each.task_id, each.idx) for each in there}
    added = 0
    for task_id, of_task in _by_task(writes):
        new = [each for each in of_task if (task_id, each.idx) not in known]
        if new:
            # With ordinary writes among them, what is there is not replaced.
            placed = _in_place(new if all(each.idx < 0 for each in of_task) else of_task)
            path = new[0].task_path
            agent.checkpoints.put_writes(
                *arguments, task_id, placed, task_path=path, namespace=namespace
            )
            added += len(new)
    return int(missing), added


def _by_task(writes: Iterable[PendingWrite]) -> list[tuple[str, list[PendingWrite]]]:
    found: dict[str, list[PendingWrite]] = {}
    for each in writes:
        found.setdefault(each.task_id, []).append(each)
    return list(found.items())


def _in_place(writes: list[PendingWrite]) -> list[tuple[str, Any]]:
    """Writes of a task in such an order that ``put_writes`` gives each its ``idx`` again.

    An ordinary write has its place among all that were put with it as ``idx``. What is missing
    between were writes to channels of ``WRITES_IDX``, whose ``idx`` does not depend on the place.
    """
    special = [(each.channel, each.value) for each in writes if each.idx < 0]
    ordinary = {each.idx: (each.channel, each.value) for each in writes if each.idx >= 0}
    spare = iter(special)
    places = range(max(ordinary, default=-1) + 1)
    placed = [ordinary.get(place) or next(spare, special[-1]) for place in places]
    return [*placed, *spare]


def _count(kind: str, ids: Sequence[str], agent: AgentStore) -> int:
    return sum(_COUNTS[kind](agent, each) for each in ids)


def _count_writes(agent: AgentStore, thread_id: str) -> int:
    return sum(
        len(agent.checkpoints.get_writes(thread_id, each.checkpoint_id, namespace=each.namespace))
        for each in _heads(thread_id, agent)
    )


_COUNTS: Final[dict[str, Callable[[AgentStore, str], int]]] = {
    "sessions": lambda agent, session_id: int(agent.sessions.exists(session_id)),
    "messages": lambda agent, session_id: agent.messages.count(session_id),
    "checkpoints": lambda agent, thread_id: len(_heads(thread_id, agent)),
    "writes": _count_writes,
    "task_contexts": lambda agent, session_id: int(agent.task_contexts.exists(session_id)),
}


class OtherSide:
    """Any other storage, through the interfaces.

    As a target it takes what the interfaces can carry: messages and checkpoints get new times,
    checkpoints lose their parents, task contexts their old versions.
    """

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self._message_count = 0

    async def sessions(self, ids: Sequence[str]) -> list[Session]:
        found = [await self.storage.get_session(each) for each in ids]
        return [records.session_from(each) for each in found if each is not None]

    async def put_sessions(self, sessions: list[Session]) -> int:
        return sum([await self._put_session(each) for each in sessions])

    async def _put_session(self, session: Session) -> int:
        session_id, wanted = session.session_id, records.session_dict(session)
        there = await self._session(session_id)
        if there is None:
            await self.storage.create_session(session_id, session.user_id, session.metadata)
        elif not _untouched(there):
            return 0
        # One that is there and untouched may be what a run has left that was stopped here.
        if not _untouched(wanted):
            updates = {name: wanted[name] for name in _CARRIED}
            await self.storage.update_session(session_id, updates)
            taken = await self._session(session_id) or {}
            lost = [name for name in _CARRIED if taken.get(name) != wanted[name]]
            if lost:
                raise StorageError(
                    f"update_session() of the target does not take {', '.join(lost)}"
                )
        return int(there is None)

    async def _session(self, session_id: str) -> dict[str, Any] | None:
        found = await self.storage.get_session(session_id)
        return None if found is None else records.session_dict(records.session_from(found))

    async def messages(self, session_id: str, size: int) -> AsyncIterator[list[Message]]:
        found = _oldest_first(await self._history(session_id), "timestamp", newest_first=False)
        made = [
            records.message_from(session_id, seq, each.get("message_id") or new_id(), each)
            for seq, each in enumerate(found, 1)
        ]
        for start in range(0, len(made), size):
            yield made[start : start + size]

    async def _history(self, session_id: str) -> list[dict[str, Any]]:
        return list(await self.storage.get_conversation_history(session_id, _ALL))

    async def put_messages(self, session_id: str, messages: list[Message], position: int) -> int:
        if not position:
            self._message_count = len(await self._history(session_id))
        missing = messages[max(self._message_count - position, 0) :]
        for each in missing:
            await self.storage.add_conversation_message(
                session_id, each.role, each.content, each.metadata
            )
        return len(missing)

    async def checkpoints(
        self, thread_id: str
    ) -> AsyncIterator[tuple[Checkpoint, list[PendingWrite]]]:
        found = await self.storage.list_checkpoints(thread_id, _ALL)
        for each in _oldest_first(found, "created_at", newest_first=True):
            checkpoint = records.checkpoint_from(thread_id, each)
            yield checkpoint, await self._writes(thread_id, checkpoint.checkpoint_id)

    async def _writes(self, thread_id: str, checkpoint_id: str) -> list[PendingWrite]:
        get_writes = getattr(self.storage, "get_writes", None)
        if get_writes is None:
            return []
        made: list[PendingWrite] = []
        places: dict[str, int] = {}
        for task_id, channel, value in await get_writes(thread_id, checkpoint_id):
            place = places.get(task_id, 0)
            places[task_id] = place + 1
            idx = WRITES_IDX.get(channel, place)
            made.append(PendingWrite(task_id, channel, value, idx, ""))
        return made

    async def put_checkpoint(
        self, checkpoint: Checkpoint, writes: list[PendingWrite]
    ) -> tuple[int, int]:
        arguments = (checkpoint.thread_id, checkpoint.checkpoint_id)
        if checkpoint.namespace:
            raise StorageError(
                f"{arguments}: the interfaces have no place for the checkpoint namespace "
                f"{checkpoint.namespace!r}"
            )
        missing = await self.storage.get_checkpoint(*arguments) is None
        if missing:
            await self.storage.store_checkpoint(*arguments, checkpoint.data, checkpoint.metadata)
        known = {each.task_id for each in await self._writes(*arguments)} if writes else set()
        added = 0
        for task_id, of_task in _by_task(writes):
            if task_id not in known:
                await self.storage.put_writes(*arguments, task_id, _in_place(of_task))
                added += len(of_task)
        return int(missing), added

    async def task_contexts(self, ids: Sequence[str]) -> list[list[TaskContext]]:
        found = [(each, await self.storage.get_task_context(each)) for each in ids]
        now = datetime.now(UTC)
        return [
            [TaskContext(session_id, context, 1, now)]
            for session_id, context in found
            if context is not None
        ]

    async def put_task_contexts(self, contexts: list[list[TaskContext]]) -> int:
        written = 0
        for session_id, context in [(each[-1].session_id, each[-1].context) for each in contexts]:
            if await self.storage.get_task_context(session_id) is None:
                await self.storage.store_task_context(session_id, context)
                written += 1
        return written

    async def count(self, kind: str, ids: Sequence[str]) -> int:
        return sum([await self._count(kind, each) for each in ids])

    async def _count(self, kind: str, found_by: str) -> int:
        if kind == "sessions":
            return int(await self.storage.get_session(found_by) is not None)
        if kind == "messages":
            return len(await self._history(found_by))
        if kind == "task_contexts":
            return int(await self.storage.get_task_context(found_by) is not None)
        found = await self.storage.list_checkpoints(found_by, _ALL)
        if kind == "checkpoints":
            return len(found)
        return sum([len(await self._writes(found_by, each["checkpoint_id"])) for each in found])

    async def settle(self) -> None:
        """Whatever such a storage acknowledges is as durable as it makes it."""


_CARRIED: Final = ("status", "request_count", "error_count", "total_processing_time")


def _untouched(session: Mapping[str, Any]) -> bool:
    """Whether a session is as ``create_session`` made it."""
    return session["status"] == "active" and not any(session[name] for name in _CARRIED[1:])


def _oldest_first(
    found: list[dict[str, Any]], time: str, *, newest_first: bool
) -> list[dict[str, Any]]:
    """Records in the order of their times, if that tells; else in the order that is the rule."""
    ends = [records.moment(each[time], time) for each in (found[:1] + found[-1:])]
    if ends and ends[0] != ends[-1]:
        newest_first = ends[0] > ends[-1]
    return list(reversed(found)) if newest_first else list(found)
