"""What LangGraph's SQLite saver has written, moved over.

Checkpoints are taken apart as bytes: what a channel holds is neither decoded nor encoded again, so
it reads back as it did, whatever classes are in it.

Invariants:
    1. The file is read in one transaction, read only; nothing in it changes.
    2. A checkpoint's pending writes are committed before it, and checkpoints in the order of their
       ids. So an import that was stopped goes on where it was, and one that is made again adds what
       came to the file since, and nothing that was deleted here.
    3. A thread that has gone on in the store is left alone.
    4. What cannot be moved ends the import of its thread, is told, and holds up no other thread.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import msgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from walkv.agent import AgentStore
from walkv.agent.namespaces import attach
from walkv.engine.policies import WriteBack
from walkv.errors import CodecError, FormatError, LimitError
from walkv.integrations.langgraph.checkpoints import (
    Document,
    GraphCheckpoints,
    Place,
    Typed,
    Value,
)
from walkv.integrations.langgraph.encoding import MessageEncoder
from walkv.integrations.langgraph.reading import config_of
from walkv.integrations.langgraph.serde import dump, load
from walkv.integrations.langgraph.writing import noted, prepare
from walkv.namespaces.keyvalue import Reader

Tell = Callable[[int], None]
"""Called with how many more rows are done."""


class ImportedCheckpoints(NamedTuple):
    """What an import has done.

    Attributes:
        present_count: checkpoints that were there already.
        skipped_threads: threads that have gone on in the store.
        errors: what could not be moved, a line each.
    """

    thread_count: int = 0
    checkpoint_count: int = 0
    write_count: int = 0
    present_count: int = 0
    skipped_threads: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """A SQLite file, for reading, as of one moment.

    Raises:
        FileNotFoundError: there is none.
        FormatError: it is not a SQLite file, or is damaged, or its tables are not LangGraph's.
    """
    path = os.path.abspath(path)
    os.stat(path)
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        with closing(sqlite3.connect(f"file:{quoted}?mode=ro", uri=True)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            yield connection
    except sqlite3.Error as error:
        raise FormatError(f"{path}: this cannot be read with SQLite: {error}") from error


def columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """The columns of a table; none if there is no such table."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def count_checkpoints(connection: sqlite3.Connection) -> int:
    """How many checkpoints there are to import."""
    if not columns_of(connection, "checkpoints"):
        return 0
    count: int = connection.execute("SELECT count(*) FROM checkpoints").fetchone()[0]
    return count


def import_checkpoints(
    connection: sqlite3.Connection,
    agent: AgentStore,
    serializer: SerializerProtocol,
    tell: Tell = lambda _: None,
) -> ImportedCheckpoints:
    """Move over what a SqliteSaver or AsyncSqliteSaver has kept.

    Args:
        connection: from ``opened``.
        serializer: writes metadata; it reads what was encrypted, or is JSON of early versions. If
            it encrypts, it writes everything.
        tell: how far it is.
    Durability: all of it is durable on return. If it is stopped, a part of it is there, and the
        next import goes on.
    """
    # Nobody waits for single ones.
    checkpoints = GraphCheckpoints(agent.sessions.access, sync=WriteBack())
    attach(checkpoints.access.kv, [checkpoints])
    moving = _Moving(connection, checkpoints, serializer)
    threads = connection.execute("SELECT DISTINCT thread_id FROM checkpoints ORDER BY thread_id")
    done = ImportedCheckpoints()
    for (thread_id,) in threads.fetchall():
        done = _sum(done, moving.thread(thread_id, tell))
    agent.sync()
    return done


def _sum(one: ImportedCheckpoints, other: ImportedCheckpoints) -> ImportedCheckpoints:
    fields: list[Any] = list(one)
    added = [a + b for a, b in zip(fields, other, strict=True)]
    return ImportedCheckpoints(*added)


class _Moving(NamedTuple):
    connection: sqlite3.Connection
    checkpoints: GraphCheckpoints
    serializer: SerializerProtocol

    def thread(self, thread_id: str, tell: Tell) -> ImportedCheckpoints:
        """Move a thread."""
        if self._has_gone_on(thread_id):
            query = "SELECT count(*) FROM checkpoints WHERE thread_id = ?"
            tell(self.connection.execute(query, (thread_id,)).fetchone()[0])
            return ImportedCheckpoints(skipped_threads=(str(thread_id),))
        moved = writes = present = 0
        errors: tuple[str, ...] = ()
        reached: dict[str, str] = {}
        rows = self.connection.execute(
            "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"
            " FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_ns, checkpoint_id",
            (thread_id,),
        )
        for namespace, checkpoint_id, parent_id, kind, blob, metadata in rows:
            what = f"checkpoint {checkpoint_id!r} of thread {thread_id!r}"
            with telling(what) as failed:
                place = Place(thread_id, namespace, checkpoint_id, parent_id or None)
                _are_text(thread_id, namespace, checkpoint_id, kind)
                if namespace not in reached:
                    reached[namespace] = self._reached(thread_id, namespace)
                is_new = checkpoint_id > reached[namespace]
                if is_new or self._find(place):
                    writes += self._writes(place)
                if is_new:
                    self._checkpoint(place, (kind, _bytes(blob)), metadata, what)
            if failed:
                errors = (failed[0],)
                break
            moved += is_new
            present += not is_new
            tell(1)
        return ImportedCheckpoints(1, moved, writes, present, (), errors)

    def _reader(self) -> Reader:
        return self.checkpoints.access.reader()

    def _find(self, place: Place) -> bool:
        return self.checkpoints.record_at(self._reader(), *place[:3]) is not None

    def _reached(self, thread_id: str, namespace: str) -> str:
        """The greatest id that is there. What is below it, and is not there, was deleted."""
        with self.checkpoints.moment() as reader:
            found = self.checkpoints.records(reader, thread_id, namespace, None)
            return max((record.checkpoint_id for record in found), default="")

    def _has_gone_on(self, thread_id: str) -> bool:
        query = (
            "SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?"
            " AND checkpoint_id = ?"
        )
        if type(thread_id) is not str:
            return False
        for namespace in self.checkpoints.namespaces_of(self._reader(), thread_id):
            latest = self.checkpoints.record_at(self._reader(), thread_id, namespace, None)
            if latest is not None:
                place = (thread_id, namespace, latest.checkpoint_id)
                if self.connection.execute(query, place).fetchone() is None:
                    return True
        return False

    def _writes(self, place: Place) -> int:
        columns = columns_of(self.connection, "writes")
        if not columns:
            return 0
        path = "task_path" if "task_path" in columns else "''"
        rows = self.connection.execute(
            f"SELECT task_id, {path}, idx, channel, type, value FROM writes"
            " WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
            " ORDER BY task_id, 2, idx",
            place[:3],
        )
        there = self.checkpoints.write_places(self._reader(), place)
        count = 0
        for (task_id, task_path), found in groupby(rows, key=lambda row: (row[0], row[1])):
            _are_text(task_id, task_path)
            places, writes = [], []
            for _, _, idx, channel, kind, data in found:
                if (task_id, idx) in there:
                    continue
                _are_text(channel, kind)
                typed = self._moved((kind, _bytes(data)), f"write to {channel!r}")
                places.append(idx)
                writes.append((channel, typed))
            if writes:
                self.checkpoints.put_task_writes(place, task_id, writes, task_path, places)
            count += len(writes)
        return count

    def _moved(self, typed: Typed, what: str) -> Typed:
        """A value as it is to be stored: as it is, unless it is to be encrypted first."""
        if not isinstance(self.serializer, EncryptedSerializer) or "+" in typed[0]:
            return typed
        return dump(self.serializer, load(self.serializer.serde, *typed, what), what)

    def _checkpoint(self, place: Place, typed: Typed, metadata: Any, what: str) -> None:
        described: Any = {} if metadata is None else json.loads(metadata)
        encrypts = isinstance(self.serializer, EncryptedSerializer)
        split = split_msgpack(typed[1]) if typed[0] == "msgpack" and not encrypts else None
        if split is None:
            self._whole(place, typed, described, what)
            return
        fields, channels = split
        known = msgpack.unpackb(fields, ext_hook=lambda *_: None, strict_map_key=False)
        document = Document(
            place,
            ("msgpack", fields),
            dump(self.serializer, described, what),
            *noted(known, channels, described),
        )
        versions = known.get("channel_versions") or {}
        values = {
            name: Value(versions.get(name, 0), True, partial(_msgpack, data))
            for name, data in channels.items()
        }
        self.checkpoints.put_state(document, values)

    def _whole(self, place: Place, typed: Typed, described: Any, what: str) -> None:
        """Move a checkpoint that has to be decoded."""
        reads = self.serializer
        if isinstance(reads, EncryptedSerializer) and "+" not in typed[0]:
            reads = reads.serde
        checkpoint = load(reads, *typed, what)
        config = config_of(place.thread_id, place.namespace, place.parent_id)
        versions = checkpoint["channel_versions"]
        prepared = prepare(
            self.serializer, MessageEncoder(0), config, checkpoint, described, versions
        )
        self.checkpoints.put_state(prepared.document, prepared.values)


@contextmanager
def telling(what: str) -> Iterator[list[str]]:
    """Gives a list that holds a line if the block could not do it."""
    failed: list[str] = []
    try:
        yield failed
    except (CodecError, LimitError) as error:
        failed.append(f"{what}: {error}")
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        failed.append(f"{what} is not as LangGraph writes it: {type(error).__name__}: {error}")


def _are_text(*values: Any) -> None:
    for value in values:
        if type(value) is not str:
            raise TypeError(f"text is missing, there is {type(value).__name__}")


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise TypeError(f"a value is bytes, not {type(value).__name__}")
    return value


def _msgpack(data: bytes) -> Typed:
    return "msgpack", data


def split_msgpack(data: bytes) -> tuple[bytes, dict[str, bytes]] | None:
    """A checkpoint without its channel values, and those; None if it does not look like one.

    All of it is msgpack, cut and not decoded.
    """
    unpacker = msgpack.Unpacker(
        read_size=max(len(data), 1), max_buffer_size=max(len(data), 1), strict_map_key=False
    )
    unpacker.feed(data)
    channels: dict[str, bytes] = {}
    packer = msgpack.Packer()
    try:
        count = unpacker.read_map_header()
        kept = [packer.pack_map_header(count - 1)]
        for _ in range(count):
            start = unpacker.tell()
            if unpacker.unpack() != "channel_values":
                unpacker.skip()
                kept.append(data[start : unpacker.tell()])
                continue
            for _ in range(unpacker.read_map_header()):
                name = unpacker.unpack()
                start = unpacker.tell()
                unpacker.skip()
                if type(name) is not str or name in channels:
                    return None
                channels[name] = data[start : unpacker.tell()]
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return (b"".join(kept), channels) if len(kept) == count else None
