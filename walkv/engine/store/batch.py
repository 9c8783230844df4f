"""Operations that commit together."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from walkv import limits
from walkv.engine.store.common import (
    Buffer,
    as_bytes,
    as_key,
    bad_batch,
    bad_key,
    bad_value,
    item_for,
    key_range,
)
from walkv.errors import ClosedError


class Operations:
    """Collects operations; nothing is visible or written before they are committed.

    Not thread-safe: one batch belongs to one thread or task.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._operations: list[Any] = []
        self._size_bytes = 0
        self._now_ms = now_ms
        self._done = False

    def __len__(self) -> int:
        """Operations collected."""
        return len(self._operations) // 2

    # Hot: batches are for bulk.
    def put(self, key: Buffer, value: Buffer, *, ttl_seconds: float | None = None) -> None:
        """Set a key.

        Args:
            key: 1 to 65,535 bytes.
            value: up to 1 GiB.
            ttl_seconds: from the call on; the entry is absent once it has passed.
        Raises:
            LimitError: key, value or batch too large; the batch is as before.
        """
        if type(key) is not bytes:
            key = as_bytes("key", key)
        if type(value) is not bytes:
            value = as_bytes("value", value)
        size_bytes = len(key) + len(value)
        if not 0 < len(key) <= limits.MAX_KEY_BYTES:
            raise bad_key(key)
        if len(value) > limits.MAX_VALUE_BYTES:
            raise bad_value(value)
        if ttl_seconds is not None:
            self._add(key, item_for(value, ttl_seconds, self._now_ms), size_bytes)
            return
        if self._done or self._size_bytes + size_bytes > limits.MAX_BATCH_BYTES:
            self._check(size_bytes)
        self._size_bytes += size_bytes
        self._operations += (key, value)

    def delete(self, key: Buffer) -> None:
        """Remove a key; no error if it is absent."""
        key = as_key(key)
        self._add(key, None, len(key))

    def delete_range(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> None:
        """Remove all keys with a prefix, or with ``start <= key < stop``.

        Cost: one small operation, however many keys there are.
        """
        if prefix is None and start is None and stop is None:
            raise TypeError(
                "delete_range() needs a prefix, or start or stop; to delete everything say "
                "delete_range(prefix=b'')"
            )
        low, high = key_range(prefix, start, stop)
        for bound in (low, high or b""):
            if len(bound) > limits.MAX_KEY_BYTES:
                raise bad_key(bound)
        if high is None or low < high:
            self._add([low, high], None, len(low) + len(high or b""))

    def _add(self, subject: Any, item: Any, size_bytes: int) -> None:
        self._check(size_bytes)
        self._size_bytes += size_bytes
        self._operations += (subject, item)

    def _check(self, size_bytes: int) -> None:
        if self._done:
            raise ClosedError("this was committed or discarded; begin a new one")
        total = self._size_bytes + size_bytes
        if total > limits.MAX_BATCH_BYTES:
            raise bad_batch("MAX_BATCH_BYTES", limits.MAX_BATCH_BYTES, total)

    def _take(self) -> list[Any]:
        """The operations, once; afterwards this object is done."""
        if self._done:
            raise ClosedError("this was committed or discarded; begin a new one")
        if len(self) > limits.MAX_BATCH_OPERATIONS:
            raise bad_batch("MAX_BATCH_OPERATIONS", limits.MAX_BATCH_OPERATIONS, len(self))
        self._done = True
        return self._operations

    @property
    def done(self) -> bool:
        """Whether this was committed or discarded."""
        return self._done

    def discard(self) -> None:
        """Forget the operations; nothing is written."""
        self._done = True
        self._operations = []


class Batch(Operations):
    """An atomic batch: on disk and to every reader, all of it or nothing.

    As a context manager it commits on leaving, and writes nothing if the block raised.
    """

    def __init__(
        self, now_ms: Callable[[], int], commit: Callable[[list[Any]], int | None]
    ) -> None:
        super().__init__(now_ms)
        self._commit = commit

    def commit(self) -> int | None:
        """Commit now; returns the sequence of the last operation, None for an empty batch.

        Durability: as the batch's sync policy, or the store's, says.
        """
        operations = self._take()
        return self._commit(operations) if operations else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        elif not self._done:
            self.commit()
