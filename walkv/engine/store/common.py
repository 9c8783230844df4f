"""What the faces of the engine share: arguments to bytes, ranges, errors, closing on leaving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from walkv import limits
from walkv.engine.policies import SyncPolicy
from walkv.engine.ranges import prefix_stop
from walkv.errors import ConflictError, LimitError, StoreFailedError

Buffer = bytes | bytearray | memoryview
"""What is accepted as a key or value: any object with the buffer protocol; kept as ``bytes``."""


class _Any:
    """The type of ``ANY``."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
"""No expectation about a key's version."""

Expected = int | None | _Any


class Closing(ABC):
    """A context manager that closes on leaving. If the block raised, that is what is raised."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StoreFailedError:
            if error is None:
                raise


class AsyncClosing(ABC):
    """As ``Closing``, for ``async with``."""

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except StoreFailedError:
            if error is None:
                raise


def as_bytes(what: str, value: Any) -> bytes:
    """``value`` as ``bytes``.

    Raises:
        TypeError: it is text, or no buffer.
    """
    if isinstance(value, str):
        raise TypeError(f"a {what} is bytes, not str; encode it: {value[:20]!r}.encode()")
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise TypeError(f"a {what} is bytes, not {type(value).__name__}") from None


def as_key(key: Any) -> bytes:
    if type(key) is not bytes:
        key = as_bytes("key", key)
    if not 0 < len(key) <= limits.MAX_KEY_BYTES:
        raise bad_key(key)
    return key  # type: ignore[no-any-return]  # bytes, by the test above


def as_value(value: Any) -> bytes:
    if type(value) is not bytes:
        value = as_bytes("value", value)
    if len(value) > limits.MAX_VALUE_BYTES:
        raise bad_value(value)
    return value  # type: ignore[no-any-return]  # bytes, by the test above


def bad_key(key: bytes) -> LimitError:
    if not key:
        text = "a key has at least 1 byte, and this one is empty"
    else:
        text = (
            f"a key has at most {limits.MAX_KEY_BYTES} bytes, and this one has {len(key)}; "
            "keep what is long in the value, and a name or hash of it in the key"
        )
    return LimitError(text, name="MAX_KEY_BYTES", limit=limits.MAX_KEY_BYTES, actual=len(key))


def bad_value(value: bytes) -> LimitError:
    return LimitError(
        f"a value has at most {limits.MAX_VALUE_BYTES} bytes, and this one has {len(value)}; "
        "split it over several keys",
        name="MAX_VALUE_BYTES",
        limit=limits.MAX_VALUE_BYTES,
        actual=len(value),
    )


def bad_batch(name: str, limit: int, actual: int) -> LimitError:
    return LimitError(
        f"this batch is too large ({actual}, and {name} is {limit}); commit it in parts",
        name=name,
        limit=limit,
        actual=actual,
    )


def item_for(value: bytes, ttl_seconds: float | None, now_ms: Callable[[], int]) -> Any:
    """The item of a put; see ``batch``."""
    if ttl_seconds is None:
        return value
    if not 0 < ttl_seconds < 1e12:
        raise ValueError(f"ttl_seconds must be above 0 and finite, not {ttl_seconds!r}")
    return [now_ms() + max(1, round(ttl_seconds * 1000)), value]


def key_range(
    prefix: Any = None, start: Any = None, stop: Any = None
) -> tuple[bytes, bytes | None]:
    """``start <= key < stop`` for a prefix or for bounds; a stop of None has no end."""
    if prefix is not None:
        if start is not None or stop is not None:
            raise TypeError("give a prefix, or start and stop, not both")
        prefix = prefix if type(prefix) is bytes else as_bytes("prefix", prefix)
        return prefix, prefix_stop(prefix)
    low = b"" if start is None else as_bytes("start", start)
    return low, None if stop is None else as_bytes("stop", stop)


def check_limit(limit: Any) -> None:
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ValueError(f"limit is a number of entries, 0 or more, not {limit!r}")


def check_expected(key: bytes, expected: Expected, actual: int | None) -> None:
    """Raise ``ConflictError`` unless a key's version is the one expected."""
    if expected == actual:
        return
    found = "the key is absent" if actual is None else f"its version is {actual}"
    wanted = "it was to be absent" if expected is None else f"version {expected} was expected"
    raise ConflictError(
        f"key {shown(key)} has changed: {found}, and {wanted}; read it again and retry",
        key=key,
        expected_version=expected if isinstance(expected, int) else None,
        actual_version=actual,
    )


def shown(key: bytes) -> str:
    """A key for a message: not too long."""
    return repr(key) if len(key) <= 64 else f"{key[:61]!r}..."


SyncChoice = SyncPolicy | None
