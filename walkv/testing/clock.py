"""A clock that moves when it is told to."""

from __future__ import annotations


class ManualClock:
    """Wall clock and monotonic clock of a simulation.

    Attributes:
        wall_ns: time of day; may be set backwards.
        monotonic_seconds: never goes back.
    """

    def __init__(self, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self.wall_ns = wall_ns
        self.monotonic_seconds = 1.0

    def advance(self, seconds: float) -> None:
        """Both clocks move on."""
        self.wall_ns += round(seconds * 1e9)
        self.monotonic_seconds += seconds
