"""What a thread of checkpoints has besides them: its pool of parts, its numbers, pending writes.

Layout, behind a prefix:

    "t", thread                                       [pool, {checkpoint namespace: next number}]
    "n"                                               next pool
    "m", pool, thread                                 empty: the thread shares the pool
    "d", pool                                         [gone, most]: checkpoints replaced or deleted
                                                      since its parts were collected, and how many
                                                      may be until they are again; else [0, 0]
    "w", thread, checkpoint namespace, checkpoint id, [channel, value, task path]: a pending write
         task id, idx

Invariants:
    1. A pool's number is given to one thread and its copies only, and never again.
    2. A pool has members as long as it has parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from walkv.errors import CodecError, CorruptionError
from walkv.namespaces import codec, keys
from walkv.namespaces.keyvalue import Reader, Writer

WRITES_IDX: Final[Mapping[str, int]] = {
    "__error__": -1,
    "__scheduled__": -2,
    "__interrupt__": -3,
    "__resume__": -4,
}
"""Channels whose pending writes have a place of their own: a later one replaces the earlier."""


class PendingWrite(NamedTuple):
    """What a task has written on top of a checkpoint, before the next one."""

    task_id: str
    channel: str
    value: Any
    idx: int
    task_path: str


class Thread(NamedTuple):
    """A thread's head.

    Attributes:
        pool: of the parts of its states.
        following: the next number, by checkpoint namespace.
    """

    pool: int
    following: dict[str, int]


def _values(data: bytes, *kinds: Any) -> list[Any]:
    """The values of an entry, of these types.

    Raises:
        CorruptionError: they are not.
    """
    try:
        values = codec.decode(data)
    except CodecError:
        values = None
    if not isinstance(values, list) or len(values) != len(kinds):
        raise _damaged()
    if not all(map(isinstance, values, kinds)):
        raise _damaged()
    return values


def _bad(field: str, why: str) -> CodecError:
    return CodecError(f"checkpoints.{field}: {why}", namespace="checkpoints", field=field)


def _damaged() -> CorruptionError:
    return CorruptionError("checkpoints: what is kept of a thread is damaged")


class Threads:
    """Heads, pools and pending writes behind a prefix.

    Args:
        prefix: of all keys.
        pack: packs a named text field as a part of a key, or refuses it.
    """

    def __init__(self, prefix: bytes, pack: Callable[[str, str], bytes]) -> None:
        self._prefix = prefix
        self._pack = pack

    def _key(self, thread_id: str) -> bytes:
        return self._prefix + b"t" + self._pack("thread_id", thread_id)

    def get(self, reader: Reader, thread_id: str) -> Thread | None:
        """The head of a thread, or None."""
        data = reader.get(self._key(thread_id))
        if data is None:
            return None
        thread = Thread(*_values(data, int, dict))
        if not all(isinstance(number, int) for number in thread.following.values()):
            raise _damaged()
        return thread

    def put(self, tx: Writer, thread_id: str, thread: Thread) -> None:
        """Write the head of a thread."""
        tx.put(self._key(thread_id), codec.encode(list(thread)))

    def number(self, reader: Reader, thread_id: str, thread: Thread, namespace: str) -> int | None:
        """The number that the next checkpoint of a namespace gets; None if it has had none."""
        return thread.following.get(namespace)

    def put_number(
        self, tx: Writer, thread_id: str, thread: Thread, namespace: str, number: int
    ) -> None:
        """Write that number, and the head of a thread that is new."""
        following = {**thread.following, namespace: number}
        self.put(tx, thread_id, Thread(thread.pool, following))

    def namespaces(self, reader: Reader, thread_id: str) -> list[str]:
        """The checkpoint namespaces of a thread."""
        thread = self.get(reader, thread_id)
        return [] if thread is None else sorted(thread.following)

    def begin(self, tx: Writer, thread_id: str) -> Thread:
        """A head for a new thread, with a pool of its own; not written yet."""
        counter = self._prefix + b"n"
        data = tx.get(counter)
        pool = 1 if data is None else codec.decode(data)
        if not isinstance(pool, int):
            raise _damaged()
        tx.put(counter, codec.encode(pool + 1))
        tx.put(self._members_key(pool) + self._pack("thread_id", thread_id), b"")
        return Thread(pool, {})

    def remove(self, tx: Writer, thread_id: str, pool: int) -> bool:
        """Delete a thread's head and pending writes; returns whether others share its pool."""
        start = self.writes_key(thread_id)
        tx.delete_range(start=start, stop=start + keys.END)
        tx.delete(self._key(thread_id))
        tx.delete(self._members_key(pool) + self._pack("thread_id", thread_id))
        if self.members(tx, pool, limit=1):
            return True
        tx.delete(self._debt_key(pool))
        return False

    def copy(self, tx: Writer, source_id: str, thread: Thread, target_id: str) -> None:
        """Write a head for a copy of a thread, which shares its pool."""
        self.put(tx, target_id, thread)
        tx.put(self._members_key(thread.pool) + self._pack("thread_id", target_id), b"")

    def ids(self, reader: Reader, limit: int | None, after: str | None) -> list[str]:
        """Threads in alphabetical order, from behind ``after`` on."""
        prefix = self._prefix + b"t"
        start = prefix if after is None else self._key(after) + keys.END
        found = reader.scan(start=start, stop=prefix + keys.END, limit=limit, keys_only=True)
        return [keys.unpack(key[len(prefix) :])[0] for key in found]

    def _members_key(self, pool: int) -> bytes:
        return self._prefix + b"m" + keys.pack_one(pool)

    def members(self, reader: Reader, pool: int, limit: int | None = None) -> list[str]:
        """The threads that share a pool."""
        start = self._members_key(pool)
        found = reader.scan(start=start, stop=start + keys.END, limit=limit, keys_only=True)
        return [keys.unpack(key[len(start) :])[0] for key in found]

    # -- what is left to collect -----------------------------------------------------------------

    def _debt_key(self, pool: int) -> bytes:
        return self._prefix + b"d" + keys.pack_one(pool)

    def debt(self, reader: Reader, pool: int) -> tuple[int, int]:
        """How many checkpoints are gone since the pool was collected, and how many may be."""
        data = reader.get(self._debt_key(pool))
        if data is None:
            return 0, 0
        gone, most = _values(data, int, int)
        return gone, most

    def settled(self, tx: Writer, pool: int, most: int) -> None:
        """Note that a pool was collected, and how many checkpoints may go until it is again."""
        if most:
            tx.put(self._debt_key(pool), codec.encode([0, most]))
        elif tx.get(self._debt_key(pool)) is not None:
            tx.delete(self._debt_key(pool))

    def let_go(self, tx: Writer, pool: int) -> bool:
        """Count a checkpoint that was replaced or deleted; False if it is time to collect."""
        gone, most = self.debt(tx, pool)
        if gone < most:
            tx.put(self._debt_key(pool), codec.encode([gone + 1, most]))
        return gone < most

    # -- pending writes --------------------------------------------------------------------------

    def writes_key(self, *parts: str) -> bytes:
        """What the keys of the pending writes of a thread, checkpoint or task begin with."""
        names = ("thread_id", "namespace", "checkpoint_id", "task_id")
        packed = [self._pack(name, part) for name, part in zip(names, parts, strict=False)]
        return self._prefix + b"w" + b"".join(packed)

    def prepare_writes(
        self,
        task: bytes,
        writes: Iterable[tuple[str, Any]],
        task_path: str,
    ) -> Callable[[Writer], None]:
        """What puts the writes of a task; see ``Checkpoints.put_writes``."""
        writes = list(writes)
        for write in writes:
            if not isinstance(write, tuple | list) or len(write) != 2:
                raise _bad("writes", "writes are pairs of a channel and a value")
        keys_of = self.write_keys(task, [channel for channel, _ in writes])
        prepared = [
            (key, channel in WRITES_IDX, self.encoded_write(channel, value, task_path))
            for key, (channel, value) in zip(keys_of, writes, strict=True)
        ]

        def run(tx: Writer) -> None:
            for key, replaces, data in prepared:
                if replaces or tx.get(key) is None:
                    tx.put(key, data)

        return run

    @staticmethod
    def write_keys(
        task: bytes, channels: Sequence[str], places: Iterable[int] | None = None
    ) -> list[bytes]:
        """The keys of the writes of a task.

        Args:
            places: of the writes, in order, where they are known.
        """
        for channel in channels:
            if type(channel) is not str:
                raise _bad("channel", "a channel is a str")
        if places is None:
            places = [WRITES_IDX.get(channel, at) for at, channel in enumerate(channels)]
        return [task + keys.pack_one(place) for place in places]

    @staticmethod
    def encoded_write(channel: str, value: Any, task_path: str) -> bytes:
        """The entry of a write."""
        if type(task_path) is not str:
            raise _bad("task_path", "a task path is a str")
        return codec.encode([channel, value, task_path])

    @staticmethod
    def written_value(data: bytes) -> Any:
        """The value in the entry of a write."""
        return _values(data, str, object, str)[1]

    def writes(self, reader: Reader, checkpoint: bytes) -> list[PendingWrite]:
        """The pending writes of a checkpoint, by task path, task and place."""
        found = []
        for key, data in reader.scan(start=checkpoint, stop=checkpoint + keys.END):
            try:
                task_id, idx = keys.unpack(key[len(checkpoint) :])
            except ValueError:
                raise _damaged() from None
            channel, value, task_path = _values(data, str, object, str)
            found.append(PendingWrite(task_id, channel, value, idx, task_path))
        return sorted(found, key=lambda write: (write.task_path, write.task_id, write.idx))

    def written(self, reader: Reader, thread_id: str) -> Iterator[Any]:
        """The values of all pending writes of a thread."""
        start = self.writes_key(thread_id)
        for _, data in reader.scan(start=start, stop=start + keys.END):
            yield self.written_value(data)

    def writes_count(self, reader: Reader, thread_id: str) -> int:
        """How many pending writes a thread has."""
        start = self.writes_key(thread_id)
        return sum(1 for _ in reader.scan(start=start, stop=start + keys.END, keys_only=True))

    def copy_writes(self, tx: Writer, source_id: str, target_id: str) -> None:
        """Copy the pending writes of a thread."""
        source, target = self.writes_key(source_id), self.writes_key(target_id)
        copied: Iterator[tuple[bytes, bytes]] = tx.scan(start=source, stop=source + keys.END)
        for key, data in list(copied):
            tx.put(target + key[len(source) :], data)


class ManyNamespaces(Threads):
    """As ``Threads``, for threads that get a new checkpoint namespace again and again.

    Layout: heads are [pool, {}], and the numbers have keys of their own:

        "s", thread, checkpoint namespace    next number

    So what a checkpoint costs does not grow with the namespaces.
    """

    def _number_key(self, thread_id: str, namespace: str) -> bytes:
        thread = self._pack("thread_id", thread_id)
        return self._prefix + b"s" + thread + self._pack("namespace", namespace)

    def number(self, reader: Reader, thread_id: str, thread: Thread, namespace: str) -> int | None:
        """The number that the next checkpoint of a namespace gets; None if it has had none."""
        data = reader.get(self._number_key(thread_id, namespace))
        number = None if data is None else codec.decode(data)
        if not isinstance(number, int | None):
            raise _damaged()
        return number

    def put_number(
        self, tx: Writer, thread_id: str, thread: Thread, namespace: str, number: int
    ) -> None:
        """Write that number, and the head of a thread that is new."""
        if tx.get(self._key(thread_id)) is None:
            self.put(tx, thread_id, thread)
        tx.put(self._number_key(thread_id, namespace), codec.encode(number))

    def namespaces(self, reader: Reader, thread_id: str) -> list[str]:
        """The checkpoint namespaces of a thread. Cost: a scan of as many keys."""
        return [name for name, _, _ in self._numbers(reader, thread_id)]

    def _numbers(self, reader: Reader, thread_id: str) -> Iterator[tuple[str, bytes, bytes]]:
        start = self._prefix + b"s" + self._pack("thread_id", thread_id)
        for key, data in reader.scan(start=start, stop=start + keys.END):
            yield keys.unpack(key[len(start) :])[0], key, data

    def remove(self, tx: Writer, thread_id: str, pool: int) -> bool:
        """Delete what there is of a thread here; returns whether others share its pool."""
        start = self._prefix + b"s" + self._pack("thread_id", thread_id)
        tx.delete_range(start=start, stop=start + keys.END)
        return super().remove(tx, thread_id, pool)

    def copy(self, tx: Writer, source_id: str, thread: Thread, target_id: str) -> None:
        """Write a head for a copy of a thread, which shares its pool."""
        super().copy(tx, source_id, thread, target_id)
        for name, _, data in list(self._numbers(tx, source_id)):
            tx.put(self._number_key(target_id, name), data)
