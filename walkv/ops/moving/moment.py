"""A store as of one moment, with the time at which each entry expires."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.store import View


class Moment(View):
    """A view that namespaces can read through as if it were a store that never changes."""

    writable = False

    def __init__(self, engine: Engine | Follower) -> None:
        super().__init__(engine)
        self.path = engine.path
        self.store_id = engine.catalog.manifest.store_id.hex()

    def view(self) -> AbstractContextManager[Self]:
        """Itself: there is no other moment."""
        return nullcontext(self)

    def wall_time_ns(self) -> int:
        """The time by the engine's clock, in nanoseconds since 1970."""
        return self._engine.fs.wall_time_ns()

    def entries(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes, int]]:
        """Keys, values, and when they expire in ms since 1970, or 0; those of now, in order.

        Cost and memory: as ``View.scan``.
        """
        now_ms = self._engine.now_ms()
        for found, items, _ in self._pinned().chunks(start, stop):
            self._engine.check()
            for key, item in zip(found, items, strict=True):
                if type(item) is bytes:
                    yield key, item, 0
                elif type(item) is list and item[0] > now_ms:
                    yield key, item[1], item[0]
