"""How a storage does: health, latencies and errors of its operations, and a log of them."""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, Generic, TypeVar, cast

from walkv.interfaces.storage_backend.adapter import is_healthy
from walkv.interfaces.storage_backend.protocols import IStorageBackend

B = TypeVar("B")

log = logging.getLogger("walkv")

_UNRECORDED: Final = frozenset(("agent", "in_thread"))
"""Coroutines of a backend that are no operations of a storage."""


class StorageHealthChecker:
    """Asks a storage how it is.

    Args:
        storage_backend: any backend.
    """

    def __init__(self, storage_backend: IStorageBackend) -> None:
        self.storage = storage_backend

    async def check_health(self) -> dict[str, Any]:
        """Try the connection and the time that metrics take.

        Returns:
            ``status`` ("healthy", "unhealthy", or what the storage says of itself, like
            "degraded"), ``timestamp``, and ``checks``: ``connection`` ("ok" or "error: ...") and
            ``performance`` ("ok (0.001s)" or "error: ...").
        """
        checks: dict[str, str] = {}
        status = "healthy"
        try:
            answer = await self.storage.health_check()
            checks["connection"] = "ok"
            if not is_healthy(answer):
                status = str(answer["status"])
                checks["connection"] = f"error: the storage is {status}"
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
            checks["connection"] = f"error: {error}"
            status = "unhealthy"
        began = time.perf_counter()
        try:
            await self.storage.get_metrics()
            checks["performance"] = f"ok ({time.perf_counter() - began:.3f}s)"
        except Exception as error:  # noqa: BLE001
            checks["performance"] = f"error: {error}"
            status = "unhealthy"
        return {"status": status, "timestamp": datetime.now(UTC).isoformat(), "checks": checks}


class _Operation:
    """What is known of one operation."""

    def __init__(self, kept: int) -> None:
        self.total = 0
        self.errors = 0
        self.sum_seconds = 0.0
        self.min_seconds = float("inf")
        self.max_seconds = 0.0
        self.last: deque[float] = deque(maxlen=kept)

    def add(self, seconds: float, success: bool) -> None:
        self.total += 1
        self.errors += not success
        self.sum_seconds += seconds
        self.min_seconds = min(self.min_seconds, seconds)
        self.max_seconds = max(self.max_seconds, seconds)
        self.last.append(seconds)

    def report(self) -> dict[str, Any]:
        ordered = sorted(self.last)
        return {
            "total_operations": self.total,
            "error_count": self.errors,
            "error_rate": self.errors / self.total,
            "avg_latency": self.sum_seconds / self.total,
            "min_latency": self.min_seconds,
            "max_latency": self.max_seconds,
            "p95_latency": ordered[-(-95 * len(ordered) // 100) - 1],
        }


class StorageMonitor(Generic[B]):
    """Counts and times the operations of a storage.

    Args:
        storage_backend: any backend.
        kept_latencies: how many latencies of each operation are kept for the 95th percentile; the
            other figures are of all of them.

    Attributes:
        storage: the backend, unrecorded.
    """

    def __init__(self, storage_backend: B, *, kept_latencies: int = 1000) -> None:
        if kept_latencies < 1:
            raise ValueError(f"kept_latencies is 1 or more, not {kept_latencies}")
        self.storage = storage_backend
        self._kept = kept_latencies
        self._operations: dict[str, _Operation] = {}

    async def record_operation(self, operation: str, latency: float, success: bool) -> None:
        """Note an operation.

        Args:
            latency: seconds.
        """
        self._record(operation, latency, success)

    def _record(self, operation: str, latency: float, success: bool) -> None:
        found = self._operations.get(operation)
        if found is None:
            found = self._operations[operation] = _Operation(self._kept)
        found.add(latency, success)

    def get_performance_report(self) -> dict[str, dict[str, Any]]:
        """By operation: ``total_operations``, ``error_count``, ``error_rate``, and ``avg_latency``,
        ``min_latency``, ``max_latency``, ``p95_latency`` in seconds."""
        return {name: each.report() for name, each in self._operations.items()}

    def wrap(self) -> B:
        """The backend, with every call of its coroutines recorded here.

        What raises is recorded as an error; what is cancelled is not recorded.
        """
        backend = self.storage
        methods = {
            name: self._recorded(name, method)
            for name, method in inspect.getmembers(backend, inspect.iscoroutinefunction)
            if not name.startswith("_") and name not in _UNRECORDED
        }
        kind = type(f"Recorded{type(backend).__name__}", (_Recorded,), methods)
        return cast(B, kind(backend))

    def _recorded(self, name: str, method: Callable[..., Any]) -> Any:
        @wraps(getattr(method, "__func__", method))  # the one with ``self``, like ``call``
        async def call(_: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                result = await method(*args, **kwargs)
            except Exception:
                self._record(name, time.perf_counter() - began, success=False)
                raise
            self._record(name, time.perf_counter() - began, success=True)
            return result

        return call


class _Recorded:
    """A backend whose coroutines are recorded; everything else is the backend's."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class StorageLogger:
    """Writes operations and states of health to the log ``walkv``, without contents of records.

    Args:
        storage_backend: any backend.
    """

    def __init__(self, storage_backend: IStorageBackend) -> None:
        self.storage = storage_backend
        self.logger = log

    async def log_operation(
        self,
        operation: str,
        session_id: str,
        success: bool,
        latency: float,
        error: str | None = None,
    ) -> None:
        """Log an operation: as information, or as an error if it failed."""
        data: dict[str, Any] = {
            "operation": operation,
            "session_id": session_id,
            "success": success,
            "latency": latency,
            "timestamp": datetime.now(UTC).isoformat(),
        }
        if error is not None:
            data["error"] = error
        if success:
            self.logger.info("Storage operation completed: %s", data)
        else:
            self.logger.error("Storage operation failed: %s", data)

    async def log_health_check(self, health_status: dict[str, Any]) -> None:
        """Log what ``check_health`` returned: as information, or a warning if it is not well."""
        self.logger.info("Storage health check: %s", health_status)
        if not is_healthy(health_status):
            self.logger.warning("Storage health issues detected: %s", health_status)
