"""How long the calls of a provider take, and which were slow."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MOST_SLOW: Final = 100
_MOST_CHARACTERS: Final = 200


class PerformanceMonitor:
    """Counts calls and keeps the last hundred slow ones. For the tasks of one event loop.

    Args:
        slow_query_threshold: in seconds; what takes longer is slow.

    Attributes:
        slow_query_threshold: as given; may be changed.
        metrics: ``query_count``, ``total_query_time`` in seconds, ``slow_query_count``, and
            ``slow_queries``, oldest first: ``query``, ``execution_time`` in seconds,
            ``result_count`` and ``timestamp`` of each.
    """

    def __init__(self, slow_query_threshold: float = 1.0) -> None:
        self.slow_query_threshold = slow_query_threshold
        slow: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {
            "query_count": 0,
            "total_query_time": 0.0,
            "slow_query_count": 0,
            "slow_queries": slow,
        }

    async def record_query_execution(
        self, query: str, execution_time: float, result_count: int
    ) -> None:
        """Note a call.

        Args:
            query: what was called; its first 200 characters are kept.
            execution_time: in seconds.
            result_count: how many records it found or changed.
        """
        self.metrics["query_count"] += 1
        self.metrics["total_query_time"] += execution_time
        if execution_time <= self.slow_query_threshold:
            return
        self.metrics["slow_query_count"] += 1
        slow = self.metrics["slow_queries"]
        shortened = len(query) > _MOST_CHARACTERS
        slow.append(
            {
                "query": query[:_MOST_CHARACTERS] + "..." if shortened else query,
                "execution_time": execution_time,
                "result_count": result_count,
                "timestamp": datetime.now(UTC),
            }
        )
        del slow[:-_MOST_SLOW]

    def get_performance_report(self) -> dict[str, Any]:
        """What was noted so far.

        Returns:
            ``total_queries``, ``average_query_time`` in seconds, ``slow_query_count`` (all there
            were) and ``slow_queries`` (the last hundred of them).
        """
        count = self.metrics["query_count"]
        return {
            "total_queries": count,
            "average_query_time": self.metrics["total_query_time"] / count if count else 0.0,
            "slow_query_count": self.metrics["slow_query_count"],
            "slow_queries": list(self.metrics["slow_queries"]),
        }


class Monitored(Protocol):
    """Whose methods ``recorded`` notes."""

    monitor: PerformanceMonitor | None


S = TypeVar("S", bound=Monitored)


def recorded(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Have a coroutine method noted by the monitor of its object; also when it raises."""

    @functools.wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.monitor is None:
            return await method(self, *args, **kwargs)
        result_count = 0
        began = time.perf_counter()
        try:
            result = await method(self, *args, **kwargs)
            result_count = _count(result)
        finally:
            elapsed_seconds = time.perf_counter() - began
            await self.monitor.record_query_execution(
                method.__name__, elapsed_seconds, result_count
            )
        return result

    return call


def _count(result: Any) -> int:
    if result is None:
        return 0
    if isinstance(result, list):
        return len(result)
    # Cleanups give a number, changes give whether there was something to change.
    return int(result) if isinstance(result, int) else 1
