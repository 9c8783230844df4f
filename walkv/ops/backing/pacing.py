"""Progress of long work, its rate, and how it is given up.

Invariants:
    1. ``progress`` is called at least once for each ``CHUNK_BYTES`` that pass, and while waiting:
       whatever it raises ends the work, with nothing half-made left under a name that counts.
"""

from __future__ import annotations

import time
from typing import Final

from walkv import limits
from walkv.engine.inspect import Progress

CHUNK_BYTES: Final = 1 * limits.MIB
"""How much is read and written at once."""

_NAP_SECONDS: Final = 0.1


class Pace:
    """Counts the bytes that pass, tells ``progress``, and waits where a rate is set.

    Args:
        max_bytes_per_second: most bytes a second; None for as fast as it goes.
    """

    def __init__(
        self, progress: Progress | None = None, max_bytes_per_second: float | None = None
    ) -> None:
        if max_bytes_per_second is not None and not max_bytes_per_second > 0:
            raise ValueError(f"max_bytes_per_second is above 0, not {max_bytes_per_second!r}")
        self.total_bytes = 0
        self.done_bytes = 0
        self._progress = progress
        self._rate = max_bytes_per_second
        self._due = time.monotonic()

    def expect(self, size_bytes: int) -> None:
        """So many bytes more are to come."""
        self.total_bytes += size_bytes

    def done(self, size_bytes: int) -> None:
        """So many bytes are done."""
        self.done_bytes += size_bytes
        self.passed(size_bytes)

    def passed(self, size_bytes: int) -> None:
        """So many bytes were read, which count for the rate and not as done."""
        self.proceed()
        if self._rate is not None:
            self._due = max(self._due, time.monotonic()) + size_bytes / self._rate
            while (wait_seconds := self._due - time.monotonic()) > 0:
                self.nap(wait_seconds)

    def nap(self, seconds: float = _NAP_SECONDS) -> None:
        """Wait a moment, if nobody gives up."""
        self.proceed()
        time.sleep(min(seconds, _NAP_SECONDS))

    def proceed(self) -> None:
        """Nothing more is done; ``progress`` may give up."""
        if self._progress is not None:
            self._progress(min(self.done_bytes, self.total_bytes), self.total_bytes)
