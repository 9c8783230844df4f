"""Batch, view and transaction with awaited reads and commits: the same objects, other faces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from walkv.engine.store.batch import Operations
from walkv.engine.store.common import Buffer
from walkv.engine.store.transaction import Transaction
from walkv.engine.store.view import View

T = TypeVar("T")


class AsyncFace(Protocol):
    """What these need of an ``AsyncStore``."""

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T: ...

    def _stream(self, begin: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]: ...


class AsyncBatch(Operations):
    """An atomic batch. Collecting takes no time, so only the commit is awaited."""

    def __init__(self, now_ms: Callable[[], int], commit: Callable[[list[Any]], Any]) -> None:
        super().__init__(now_ms)
        self._commit = commit

    async def commit(self) -> int | None:
        """Commit now; returns the sequence of the last operation, None for an empty batch."""
        operations = self._take()
        if not operations:
            return None
        return await self._commit(operations)  # type: ignore[no-any-return]  # an int

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        elif not self._done:
            await self.commit()


class AsyncView:
    """A view whose reads are awaited; see ``View``."""

    def __init__(self, store: AsyncFace, view: View) -> None:
        self._store = store
        self._view = view
        self.sequence = view.sequence

    async def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        return await self._store._in_thread(self._view.get, key, default)

    async def get_versioned(self, key: Buffer) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key, or ``(None, None)``."""
        return await self._store._in_thread(self._view.get_versioned, key)

    async def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Values in the order of the keys, None where absent."""
        return await self._store._in_thread(self._view.get_many, list(keys))

    def scan(self, prefix: Buffer | None = None, **options: Any) -> AsyncIterator[Any]:
        """``async for`` over entries in key order; options as in ``Store.scan``."""
        return self._store._stream(lambda: self._view.scan(prefix, **options))

    async def count(self, prefix: Buffer | None = None, **bounds: Any) -> int:
        """How many keys there are in a range."""
        return await self._store._in_thread(lambda: self._view.count(prefix, **bounds))

    async def close(self) -> None:
        """Let go of the moment."""
        self._view.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._view.close()


class AsyncTransaction:
    """A ``Transaction`` whose reads and commit are awaited; writes only collect."""

    def __init__(self, store: AsyncFace, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction
        self.put = transaction.put
        self.delete = transaction.delete
        self.delete_range = transaction.delete_range
        self.discard = transaction.discard

    def __len__(self) -> int:
        return len(self._transaction)

    async def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        return await self._store._in_thread(self._transaction.get, key, default)

    async def get_versioned(self, key: Buffer) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key, or ``(None, None)``."""
        return await self._store._in_thread(self._transaction.get_versioned, key)

    async def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Values in the order of the keys, None where absent."""
        return await self._store._in_thread(self._transaction.get_many, list(keys))

    def scan(self, prefix: Buffer | None = None, **options: Any) -> AsyncIterator[Any]:
        """``async for`` over entries in key order; options as in ``Store.scan``."""
        return self._store._stream(lambda: self._transaction.scan(prefix, **options))

    async def count(self, prefix: Buffer | None = None, **bounds: Any) -> int:
        """How many keys there are in a range."""
        return await self._store._in_thread(lambda: self._transaction.count(prefix, **bounds))

    async def commit(self) -> int | None:
        """Check what was read, and commit; see ``Transaction.commit``."""
        return await self._store._in_thread(self._transaction.commit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        elif not self._transaction.done:
            await self.commit()
