"""What a store should hold: a dict with its history, and the rule that a crash must obey.

For one writer at a time: ``begin`` is called in the order of the commits. With several threads give
each its own keys and a model of its own.

Commits B1 to Bn in order; A of them acknowledged as durable, I begun. What a crash leaves is
exactly the state after B1 to Bj with ``A <= j <= I``. A commit is begun *before* it is handed to
the store: noted after it, a commit that reached the medium would look like invented data.

    >>> model = ModelStore()
    >>> model.begin([("put", b"k", b"1", None)], now_ms=0)
    1
    >>> model.check({}, now_ms=0), model.check({b"k": b"1"}, now_ms=0)
    (0, 1)
    >>> model.acknowledge(1)
    >>> model.check({}, now_ms=0)
    Traceback (most recent call last):
        ...
    walkv.testing.model.LostError: acknowledged and not there: [b'k'] (A=1, I=1)

The wall clock may be set back. An entry that had expired by the latest time told to the model may
then be there again, or may be gone for good, dropped by a compaction; ``returning`` names these.

    >>> model = ModelStore()
    >>> number = model.begin([("put", b"k", b"1", 1.0)], now_ms=0)
    >>> model.live(now_ms=1000), model.live(now_ms=999), model.returning(now_ms=999)
    ({}, {b'k': b'1'}, {b'k'})
    >>> model.check({}, now_ms=999), model.check({b"k": b"1"}, now_ms=999)
    (1, 1)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Operation = tuple[Any, ...]
"""``("put", key, value, ttl_seconds or None)``, ``("delete", key)`` or
``("delete_range", start or None, stop or None)``."""

Entry = tuple[bytes, int | None]
"""Value, and the ms since 1970 from which on it is absent."""


class LostError(AssertionError):
    """What was recovered is not the state after any number of commits from A to I."""


class ModelStore:
    """See the module. Not made for size: it keeps the state after every commit.

    Attributes:
        acknowledged: A, the number of commits known to be durable.
        begun: I, the number of commits begun.
    """

    def __init__(self) -> None:
        self._states: list[dict[bytes, Entry]] = [{}]
        self._latest_ms = 0
        self.acknowledged = 0

    def copy(self) -> ModelStore:
        """The model as it is now, to be held against a crash at this moment."""
        twin = ModelStore()
        twin._states = list(self._states)
        twin._latest_ms = self._latest_ms
        twin.acknowledged = self.acknowledged
        return twin

    @property
    def begun(self) -> int:
        return len(self._states) - 1

    def begin(self, operations: Iterable[Operation], *, now_ms: int) -> int:
        """Note a commit that is about to be made; returns its number, the first being 1."""
        self._told(now_ms)
        entries = dict(self._states[-1])
        for operation in operations:
            _apply(entries, operation, now_ms)
        self._states.append(entries)
        return self.begun

    def refuse(self, number: int) -> None:
        """Forget the last commit begun: the store said that it was not made."""
        if number != self.begun or number <= self.acknowledged:
            raise ValueError(f"commit {number} is not the last one begun, or was acknowledged")
        self._states.pop()

    def acknowledge(self, number: int) -> None:
        """Commits up to ``number`` are durable, as far as the store has promised: under ``Wal`` and
        ``WriteThrough`` when the call has returned, under ``WriteBack`` after a ``sync()``."""
        self.acknowledged = max(self.acknowledged, number)

    def live(self, *, now_ms: int, number: int | None = None) -> dict[bytes, bytes]:
        """Keys and values in key order, after ``number`` commits or after all."""
        self._told(now_ms)
        entries = self._states[-1 if number is None else number]
        return {
            key: value
            for key, (value, expiry_ms) in sorted(entries.items())
            if expiry_ms is None or expiry_ms > now_ms
        }

    def returning(self, *, now_ms: int, number: int | None = None) -> set[bytes]:
        """Keys in ``live`` that had expired before the clock was set back: they may be absent."""
        self._told(now_ms)
        entries = self._states[-1 if number is None else number]
        return {
            key
            for key, (_, expiry_ms) in entries.items()
            if expiry_ms is not None and now_ms < expiry_ms <= self._latest_ms
        }

    def doubtful(
        self, found: dict[bytes, bytes], *, now_ms: int, at_least: int | None = None
    ) -> set[bytes]:
        """Keys of which ``found`` does not tell what time will bring: it is the state after several
        numbers of commits, and their expiries differ. Arguments as for ``check``."""
        least = self.acknowledged if at_least is None else at_least
        numbers = range(least, self.begun + 1)
        states = [self._states[n] for n in numbers if self._is_state(found, now_ms, n)]
        keys = {key for entries in states for key in entries}
        return {key for key in keys if len({entries.get(key) for entries in states}) > 1}

    def _told(self, now_ms: int) -> None:
        self._latest_ms = max(self._latest_ms, now_ms)

    def check(self, found: dict[bytes, bytes], *, now_ms: int, at_least: int | None = None) -> int:
        """The number j of commits after which the store held ``found``; the highest such.

        Args:
            found: everything that was recovered.
            at_least: in place of A. After ``kill -9`` without a power failure this is the number
                of commits that have returned, whatever their policy.
        Raises:
            LostError: there is none from A to I.
        """
        least = self.acknowledged if at_least is None else at_least
        for number in range(self.begun, least - 1, -1):
            if self._is_state(found, now_ms, number):
                return number
        raise LostError(self._explain(found, least, now_ms))

    def _is_state(self, found: dict[bytes, bytes], now_ms: int, number: int) -> bool:
        if len(self._states[number]) < len(found):
            return False
        live = self.live(now_ms=now_ms, number=number)
        if live == found:
            return True
        may_lack = self.returning(now_ms=now_ms, number=number) - found.keys()
        return bool(may_lack) and found == {k: v for k, v in live.items() if k not in may_lack}

    def recovered(self, number: int) -> None:
        """Go on from the state after ``number`` commits: those after it are lost for good, and
        those up to it durable, since recovery makes durable what it serves."""
        del self._states[number + 1 :]
        self.acknowledged = number

    def _explain(self, found: dict[bytes, bytes], least: int, now_ms: int) -> str:
        bounds = f"(A={least}, I={self.begun})"
        for number in range(least - 1, -1, -1):
            if self._is_state(found, now_ms, number):
                known = self.live(now_ms=now_ms, number=least)
                changed = sorted(k for k in {*known, *found} if known.get(k) != found.get(k))
                return f"acknowledged and not there: {changed} {bounds}"
        known = self.live(now_ms=now_ms, number=least)
        return (
            f"no prefix of the commits {bounds}; against the acknowledged state, missing: "
            f"{sorted(known.keys() - found.keys())}, not acknowledged: "
            f"{sorted(found.keys() - known.keys())}, other values: "
            f"{sorted(k for k in known.keys() & found.keys() if known[k] != found[k])}"
        )


def _apply(entries: dict[bytes, Entry], operation: Operation, now_ms: int) -> None:
    kind, *arguments = operation
    if kind == "put":
        key, value, ttl_seconds = arguments
        expiry_ms = None if ttl_seconds is None else now_ms + max(1, round(ttl_seconds * 1000))
        entries[key] = (value, expiry_ms)
    elif kind == "delete":
        entries.pop(arguments[0], None)
    elif kind == "delete_range":
        start, stop = arguments
        for key in [k for k in entries if _within(k, start, stop)]:
            del entries[key]
    else:
        raise ValueError(f"unknown operation {kind!r}")


def _within(key: bytes, start: bytes | None, stop: bytes | None) -> bool:
    return (start is None or key >= start) and (stop is None or key < stop)
