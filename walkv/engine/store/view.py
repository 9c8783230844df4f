"""A view: the store as it was at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, Self, overload

from walkv.engine.catalog import ReadPoint
from walkv.engine.reads import ReadSide
from walkv.engine.store.common import Buffer, as_key, check_limit, key_range
from walkv.errors import ClosedError


class View:
    """Point-in-time reads that never block, and are never blocked by, writers or compaction.

    A view keeps the memory and files of its moment: close it, or use it as a context manager.
    Thread-safe.

    Attributes:
        sequence: the last operation it sees.
    """

    def __init__(self, engine: ReadSide) -> None:
        self._engine = engine
        self._point: ReadPoint | None = engine.pin()
        self.sequence = self._point.sequence

    def _pinned(self) -> ReadPoint:
        self._engine.check()
        point = self._point
        if point is None:
            raise ClosedError("this view was closed; open a new one with store.view()")
        return point

    def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        (value,) = self._engine.get_at(self._pinned(), (as_key(key),))
        return default if value is None else value

    def get_versioned(self, key: Buffer) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key, or ``(None, None)``."""
        found = self._engine.live(self._pinned().entry(as_key(key)))
        return (None, None) if found is None else (found[1], found[0])  # type: ignore[return-value]

    def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Values in the order of the keys, None for those that are absent."""
        return self._engine.get_at(self._pinned(), [as_key(key) for key in keys])

    def __getitem__(self, key: Buffer) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value  # type: ignore[no-any-return]  # live values are bytes

    def __contains__(self, key: Buffer) -> bool:
        return self.get(key) is not None

    @overload
    def scan(
        self,
        prefix: Buffer | None = ...,
        *,
        start: Buffer | None = ...,
        stop: Buffer | None = ...,
        reverse: bool = ...,
        limit: int | None = ...,
        keys_only: Literal[False] = ...,
    ) -> Iterator[tuple[bytes, bytes]]: ...

    @overload
    def scan(
        self,
        prefix: Buffer | None = ...,
        *,
        start: Buffer | None = ...,
        stop: Buffer | None = ...,
        reverse: bool = ...,
        limit: int | None = ...,
        keys_only: Literal[True],
    ) -> Iterator[bytes]: ...

    def scan(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
    ) -> Iterator[Any]:
        """Entries in key order; see ``Store.scan``."""
        low, high = key_range(prefix, start, stop)
        check_limit(limit)
        return self._engine.scan(
            self._pinned(), low, high, reverse=reverse, limit=limit, keys_only=keys_only
        )

    def count(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> int:
        """How many keys there are in a range. Cost: O(keys in the range)."""
        low, high = key_range(prefix, start, stop)
        return self._engine.count(self._pinned(), low, high)

    def close(self) -> None:
        """Let go of the moment. Closing twice is allowed."""
        point, self._point = self._point, None
        if point is not None:
            point.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
