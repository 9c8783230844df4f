"""Messages: the conversation of a session, in order.

Layout, in the part ``Table.other`` of the namespace's keys:

    head    session_id    [first seq, next seq, count]

Invariants:
    1. ``seq`` grows along a conversation, and a number is never given out twice, so a message is
       found where it was also when others before it are gone.
    2. The head is written with every message: ``count`` costs one look-up, and nothing is counted.

Source: a number per session instead of a time as the order: clocks jump, and two messages may have
one time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from walkv.engine.policies import SyncPolicy, Wal
from walkv.errors import CodecError, RecordExistsError
from walkv.namespaces import codec, keys
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import new_id
from walkv.namespaces.keyvalue import Reader, Writer
from walkv.namespaces.schema import Stored


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        seq: its place in the session, from 1 on.
        content: text, or structured parts.
    """

    session_id: str
    seq: int
    message_id: str
    role: str
    content: Any
    metadata: dict[str, Any]
    created_at: datetime = field(compare=False)


_NEEDED: Final = frozenset(("role", "content"))
_GIVEN: Final = _NEEDED | {"metadata", "message_id", "created_at"}


class _Head(NamedTuple):
    first: int
    next: int
    total: int


_NEW = _Head(1, 1, 0)


class Messages(Namespace[Message]):
    """The messages of all sessions. Default sync policy: ``Wal()``."""

    declaration = Declaration(
        "messages", Message, key=("session_id", "seq"), indexes=["message_id"], sync=Wal()
    )

    def append(
        self,
        session_id: str,
        *,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        message_id: str | None = None,
        max_messages: int | None = None,
        sync: SyncPolicy | None = None,
    ) -> Message:
        """Add a message at the end of a session.

        Args:
            content: text, or structured parts of whatever ``codec`` knows.
            message_id: made up if there is none.
            max_messages: delete the oldest ones until no more than these are left.
        Returns:
            The message, with its number.
        Raises:
            RecordExistsError: the session has a message with this id.
        Cost: one commit of three small entries, whatever the length of the conversation.
        """
        message = {
            "role": role,
            "content": content,
            "metadata": metadata,
            "message_id": message_id,
        }
        return self._append(session_id, [message], max_messages, sync)[0]

    def append_many(
        self,
        session_id: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        max_messages: int | None = None,
        sync: SyncPolicy | None = None,
    ) -> list[Message]:
        """Add messages at the end of a session: all of them or none.

        Args:
            messages: mappings with ``role``, ``content`` and, if wanted, ``metadata``,
                ``message_id`` and ``created_at``.
        """
        return self._append(session_id, list(messages), max_messages, sync)

    def _append(
        self,
        session_id: str,
        messages: Sequence[Mapping[str, Any]],
        max_messages: int | None,
        sync: SyncPolicy | None,
    ) -> list[Message]:
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is at least 1, not {max_messages}")
        rows = [self._row(session_id, message) for message in messages]
        named = self._named(session_id, messages)
        session = self.table.pack("session_id", session_id)

        def run(tx: Writer) -> list[Message]:
            if named:
                self._refuse_known(tx, session_id, named)
            head = self._head(tx, session)
            made = []
            for seq, row in enumerate(rows, head.next):
                row[1] = seq
                self.table.write(tx, session + keys.pack_one(seq), row, None, 0, None)
                made.append(self.table.schema.build(row))
            head = _Head(head.first, head.next + len(rows), head.total + len(rows))
            if max_messages is not None:
                head = self._trim(tx, session, head, max_messages)
            tx.put(self.table.other + session, codec.encode(list(head)))
            return made

        return self._write(run, sync) if rows else []

    def _row(self, session_id: str, message: Mapping[str, Any]) -> list[Any]:
        if not isinstance(message, Mapping) or not _NEEDED <= message.keys() <= _GIVEN:
            raise self._bad_message(message)
        return self.table.schema.checked(
            [
                session_id,
                0,
                message.get("message_id") or new_id(),
                message["role"],
                message["content"],
                message.get("metadata") or {},
                message.get("created_at") or self.now(),
            ]
        )

    def _bad_message(self, message: Any) -> CodecError:
        schema = self.table.schema
        if not isinstance(message, Mapping):
            return schema.bad(
                "content",
                'messages are mappings like {"role": ..., "content": ...}, and this is a '
                f"{type(message).__name__}",
            )
        for name in sorted(_NEEDED - message.keys()):
            return schema.bad(name, "a message has one, and this one has none")
        other = min(map(str, message.keys() - _GIVEN))
        return schema.bad(
            other,
            f"a message has {', '.join(sorted(_GIVEN))}; put anything else into its metadata or "
            "its content",
        )

    def _named(self, session_id: str, messages: Sequence[Mapping[str, Any]]) -> set[str]:
        """The ids that callers gave to new messages, each at most once."""
        named: set[str] = set()
        for message in messages:
            message_id = message.get("message_id")
            if message_id in named:
                raise self._known(session_id, message_id)
            if message_id:
                named.add(message_id)
        return named

    def _refuse_known(self, tx: Writer, session_id: str, message_ids: Iterable[str]) -> None:
        index = self.table.index_of("message_id")
        session = self.table.pack("session_id", session_id)
        for message_id in message_ids:
            start = index.prefix + self.table.pack("message_id", message_id) + session
            found = tx.scan(start=start, stop=start + keys.END, limit=1, keys_only=True)
            if next(found, None) is not None:
                raise self._known(session_id, message_id)

    def _known(self, session_id: str, message_id: str) -> RecordExistsError:
        return RecordExistsError(
            f"{self.name}: session {session_id!r} has a message {message_id!r} already"
        )

    def _head(self, reader: Reader, session: bytes) -> _Head:
        data = reader.get(self.table.other + session)
        return _NEW if data is None else _Head(*codec.decode(data))

    def _trim(self, tx: Writer, session: bytes, head: _Head, most: int) -> _Head:
        records = self.table.records
        first, count = head.first, head.total
        while count > most:
            key = session + keys.pack_one(first)
            old = tx.get(records + key)
            if old is None:  # some are missing from here on: where is the next one?
                stop = records + session + keys.END
                full_key, old = next(tx.scan(start=records + key, stop=stop, limit=1))
                key = full_key[len(records) :]
                first = keys.unpack(key)[-1]
            self.table.remove(tx, key, old)
            first += 1
            count -= 1
        return _Head(first, head.next, count)

    # -- reading ---------------------------------------------------------------------------------

    def history(
        self, session_id: str, limit: int | None = 50, before: int | None = None
    ) -> list[Message]:
        """The newest messages of a session, oldest first.

        Args:
            limit: how many at most; None for all.
            before: only messages with a lower ``seq``: what was the first of the last page.
        Cost: proportional to the messages returned, whatever the size of session and store.
        """
        table = self.table
        start = table.records + table.pack("session_id", session_id)
        if before is None:
            stop = start + keys.END
        else:
            stop = table.records + table.packed_key((session_id, before))
        scan = self.access.reader().scan(start=start, stop=stop, reverse=True, limit=limit)
        values = [value for _, value in scan]
        values.reverse()
        return self._records(values)

    def count(self, session_id: str | None = None, **equals: Any) -> int:
        """How many messages a session has (one look-up), or how many meet conditions."""
        if session_id is None:
            return super().count(**equals)
        if equals:
            return super().count(session_id=session_id, **equals)
        return self._head(self.access.reader(), self.table.pack("session_id", session_id)).total

    # -- taking away -----------------------------------------------------------------------------

    def pop(self, session_id: str, *, sync: SyncPolicy | None = None) -> Message | None:
        """Take the last message away and return it; None if there is none."""
        session = self.table.pack("session_id", session_id)

        def run(tx: Writer) -> Message | None:
            start = self.table.records + session
            for key, old in tx.scan(start=start, stop=start + keys.END, reverse=True, limit=1):
                self.remove_in(tx, key[len(self.table.records) :], old)
                return self._record(old)
            return None

        return self._write(run, sync)

    def clear(self, session_id: str, *, sync: SyncPolicy | None = None) -> int:
        """Delete all messages of a session; returns how many there were."""

        def run(tx: Writer) -> int:
            count = self._head(tx, self.table.pack("session_id", session_id)).total
            self.forget_session(tx, session_id)
            return count

        return self._write(run, sync)

    def splice(
        self,
        session_id: str,
        start: int,
        stop: int,
        messages: Iterable[Mapping[str, Any]] = (),
        *,
        sync: SyncPolicy | None = None,
    ) -> list[Message]:
        """Put messages in the place of those with ``start <= seq < stop``, in one commit.

        Numbers behind them change only if there are more new messages than room. Returns the new
        ones.

        Raises:
            RecordExistsError: a message that stays has the id of a new one.
        """
        messages = list(messages)
        rows = [self._row(session_id, message) for message in messages]
        named = self._named(session_id, messages)
        session = self.table.pack("session_id", session_id)
        records = self.table.records + session

        def run(tx: Writer) -> list[Message]:
            begin, end = max(start, 1), max(stop, start, 1)
            shift = max(0, begin + len(rows) - end)
            moved, gone = [], set()
            last = records + (keys.END if shift else keys.pack_one(end))
            found = list(tx.scan(start=records + keys.pack_one(begin), stop=last))
            for _, old in found:
                values = self.table.schema.decode(old).values
                if values[1] >= end:
                    values[1] += shift
                    moved.append(values)
                else:
                    gone.add(values[2])
            self._refuse_known(tx, session_id, named - gone)
            for key, old in found:
                self.remove_in(tx, key[len(self.table.records) :], old)
            for seq, row in enumerate(rows, begin):
                row[1] = seq
            for row in [*rows, *moved]:
                self.write_in(tx, session + keys.pack_one(row[1]), row, None, None)
            return [self.table.schema.build(row) for row in rows]

        return self._write(run, sync)

    # -- the head follows every write ------------------------------------------------------------

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
        """Write one message wherever it belongs; the head counts it."""
        if ttl_seconds is not None:
            raise ValueError("messages do not expire one by one; use max_messages, or clear()")
        super().write_in(tx, key, values, old, ttl_seconds, keep_expiry=keep_expiry, before=before)
        if old is None:
            session, seq = self.table.pack("session_id", values[0]), values[1]
            head = self._head(tx, session)
            first = seq if not head.total else min(head.first, seq)
            head = _Head(first, max(head.next, seq + 1), head.total + 1)
            tx.put(self.table.other + session, codec.encode(list(head)))

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete one message; the head counts it."""
        super().remove_in(tx, key, old)
        session = self.table.pack("session_id", self._record(old).session_id)
        head = self._head(tx, session)
        head = head._replace(total=head.total - 1)
        tx.put(self.table.other + session, codec.encode(list(head)))

    def forget_session(self, tx: Writer, session_id: str) -> None:
        """Delete all messages of a session, as a part of a larger write.

        The numbers go on where they were, see invariant 1 of the module.
        """
        session = self.table.pack("session_id", session_id)
        records = self.table.records + session
        for key, old in tx.scan(start=records, stop=records + keys.END):
            values = self.table.schema.decode(old).values
            for entry in self.table.entries(values, key[len(self.table.records) :]):
                tx.delete(entry)
        tx.delete_range(start=records, stop=records + keys.END)
        head = self._head(tx, session)
        if head is not _NEW:
            emptied = _Head(head.next, head.next, 0)
            tx.put(self.table.other + session, codec.encode(list(emptied)))

    def last_activity(self, reader: Reader, session_id: str) -> datetime | None:
        """When the last message of a session was written."""
        records = self.table.records + self.table.pack("session_id", session_id)
        scan = reader.scan(start=records, stop=records + keys.END, reverse=True, limit=1)
        return next((self._record(value).created_at for _, value in scan), None)
