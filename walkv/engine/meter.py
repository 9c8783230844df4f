"""Times and sizes of what a store does, counted in buckets: cheap to fill, enough for percentiles.

Buckets grow with the value: eight to each power of two, so that a percentile is at most an eighth
above the value it stands for.

Source: HdrHistogram's buckets. Keeping the last so many values was rejected: the rare slow one,
which is what one looks for, is the first to be forgotten.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

_BUCKETS_A_DOUBLING: Final = 8


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values were distributed.

    Attributes:
        count: values.
        total: their sum.
        largest: the largest of them; 0.0 if there are none.
        buckets: (upper bound, values up to it and above the bound before), ascending; only those
            that hold any.
    """

    count: int = 0
    total: float = 0.0
    largest: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()

    @property
    def mean(self) -> float:
        """The average; 0.0 if there are no values."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The value that ``percent`` of all values do not pass, up to an eighth too high.

        Args:
            percent: 0 to 100.
        Returns:
            0.0 if there are no values.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent is between 0 and 100, not {percent}")
        wanted = self.count * percent / 100
        passed = 0
        for bound, count in self.buckets:
            passed += count
            if passed >= wanted:
                return min(bound, self.largest)
        return self.largest

    def since(self, older: Histogram) -> Histogram:
        """The values added after ``older``, an earlier state of the same histogram.

        ``largest`` is then the bound of the highest bucket, unless it is new.
        """
        before = dict(older.buckets)
        added = [(bound, count - before.get(bound, 0)) for bound, count in self.buckets]
        buckets = tuple((bound, count) for bound, count in added if count > 0)
        largest = min(buckets[-1][0], self.largest) if buckets else 0.0
        return Histogram(self.count - older.count, self.total - older.total, largest, buckets)


class Recorder:
    """Collects values for a ``Histogram``. One thread at a time records; any may read."""

    __slots__ = ("_buckets", "_largest", "_total")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._total = 0.0
        self._largest = 0.0

    def record(self, value: float) -> None:
        """Add a value, 0 or more. Cost: O(1), about half a microsecond."""
        mantissa, exponent = math.frexp(value)
        # Ascending within a doubling, the bound itself included.
        step = math.ceil((mantissa - 0.5) * 2 * _BUCKETS_A_DOUBLING)
        self._buckets[exponent * _BUCKETS_A_DOUBLING + step if value > 0 else _ZERO] += 1
        self._total += value
        self._largest = max(self._largest, value)

    def histogram(self) -> Histogram:
        """What was recorded so far."""
        counted = sorted(self._buckets.copy().items())
        buckets = tuple((_bound(number), count) for number, count in counted)
        return Histogram(sum(count for _, count in counted), self._total, self._largest, buckets)


_ZERO: Final = -(1 << 20)
"""The bucket of 0, below those of all other numbers."""


def _bound(number: int) -> float:
    if number == _ZERO:
        return 0.0
    exponent, step = divmod(number, _BUCKETS_A_DOUBLING)
    return math.ldexp(0.5 + step / (2 * _BUCKETS_A_DOUBLING), exponent)
