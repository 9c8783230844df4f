"""Executions: what roles and tools did, how long it took, and how it ended."""

from __future__ import annotations

import builtins
import heapq
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

from walkv.engine.policies import SyncPolicy, WriteBack
from walkv.errors import CodecError
from walkv.namespaces import codec
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import new_id, spread
from walkv.namespaces.keyvalue import Writer
from walkv.namespaces.query import Query

log = logging.getLogger("walkv")

STEP_PREFIX: Final = "step/"
"""How the ids of steps begin, and of nothing else."""

ActionType = Literal["role_execution", "tool_call", "handoff", "error", "step"]
ExecutionStatus = Literal["running", "success", "failed", "cancelled"]

_STATUSES: Final[tuple[ExecutionStatus, ...]] = ("running", "success", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Execution:
    """One thing that was done.

    Attributes:
        execution_time_seconds: by a clock that does not jump, where the same process began and
            ended it; else the difference of the two times.
        error_message: how it failed.
    """

    execution_id: str
    workflow_id: str | None
    task_id: str | None
    role: str
    tool_name: str | None
    action_type: ActionType
    input_data: Any
    output_data: Any
    status: ExecutionStatus
    started_at: datetime
    completed_at: datetime | None = None
    execution_time_seconds: float | None = None
    error_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Recording:
    """An execution under way, in ``with agent.executions.record(...)``.

    Attributes:
        execution: as it was begun.
        output: set it to what is to be kept as ``output_data``; what cannot be stored is only
            described.
    """

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.output: Any = None
        self._began = time.perf_counter()

    def elapsed_seconds(self) -> float:
        """Since the begin, by a clock that does not jump."""
        return time.perf_counter() - self._began


class ExecutionLog(Namespace[Execution]):
    """All executions. Default sync policy: ``WriteBack()``."""

    declaration = Declaration(
        "executions",
        Execution,
        key="execution_id",
        indexes=[
            ("workflow_id", "started_at"),
            ("role", "status", "started_at"),
            ("tool_name", "started_at"),
            ("task_id", "started_at"),
            "started_at",
        ],
        sync=WriteBack(),
    )

    def start(
        self,
        *,
        role: str = "",
        tool_name: str | None = None,
        action_type: ActionType | None = None,
        input_data: Any = None,
        workflow_id: str | None = None,
        task_id: str | None = None,
        execution_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        sync: SyncPolicy | None = None,
    ) -> Execution:
        """Note that something begins; ``finish`` notes how it ended.

        Args:
            action_type: a tool call if there is a ``tool_name``, else a role's execution.
        """
        execution = Execution(
            execution_id or new_id(),
            workflow_id,
            task_id,
            role,
            tool_name,
            action_type or ("tool_call" if tool_name else "role_execution"),
            input_data,
            None,
            "running",
            self.now(),
            metadata=metadata or {},
        )
        return self.add(execution, sync=sync)

    def finish(
        self,
        execution_id: str,
        output_data: Any = None,
        *,
        status: ExecutionStatus = "success",
        error_message: str | None = None,
        execution_time_seconds: float | None = None,
        sync: SyncPolicy | None = None,
    ) -> Execution:
        """Note how something ended.

        Raises:
            RecordNotFoundError: it was not begun.
        """
        now = self.now()

        def change(execution: Execution) -> dict[str, Any]:
            seconds = execution_time_seconds
            if seconds is None:
                seconds = max((now - execution.started_at).total_seconds(), 0.0)
            return {
                "output_data": output_data,
                "status": status,
                "error_message": error_message,
                "completed_at": now,
                "execution_time_seconds": seconds,
            }

        return self._modify(execution_id, change, sync)

    @contextmanager
    def record(self, *, sync: SyncPolicy | None = None, **details: Any) -> Iterator[Recording]:
        """Note the block as an execution: timed, and failed if it raises.

        Args:
            details: arguments of ``start``.
        """
        recording = Recording(self.start(sync=sync, **details))
        try:
            yield recording
        except BaseException as error:
            with noting(error, f"execution {recording.execution.execution_id!r}"):
                self.finish(**ending(recording, error), sync=sync)
            raise
        self.finish(**ending(recording, None), sync=sync)

    def log(
        self,
        *,
        tool_name: str,
        input_data: Any = None,
        output_data: Any = None,
        execution_time_seconds: float = 0.0,
        status: ExecutionStatus = "success",
        error_message: str | None = None,
        role: str = "",
        workflow_id: str | None = None,
        task_id: str | None = None,
        execution_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        sync: SyncPolicy | None = None,
    ) -> Execution:
        """Note a tool call that is over, in one commit."""
        now = self.now()
        execution = Execution(
            execution_id or new_id(),
            workflow_id,
            task_id,
            role,
            tool_name,
            "tool_call",
            input_data,
            output_data,
            status,
            now - timedelta(seconds=execution_time_seconds),
            now,
            execution_time_seconds,
            error_message,
            metadata or {},
        )
        return self.add(execution, sync=sync)

    def _put_all(
        self,
        records: Iterable[Execution],
        sync: SyncPolicy | None,
        ttl_seconds: float | None,
        write: Callable[[Writer, bytes, builtins.list[Any], float | None], None],
    ) -> None:
        records = [*records]
        for record in records:
            execution_id = getattr(record, "execution_id", None)
            if isinstance(execution_id, str) and execution_id.startswith(STEP_PREFIX):
                raise self.table.schema.bad(
                    "execution_id", f"{execution_id!r} is the id of a step, and once() notes those"
                )
        super()._put_all(records, sync, ttl_seconds, write)

    # -- finding them ----------------------------------------------------------------------------

    def list(
        self,
        *,
        workflow_id: str | None = None,
        role: str | None = None,
        status: ExecutionStatus | None = None,
        tool_name: str | None = None,
        task_id: str | None = None,
        limit: int | None = 100,
    ) -> builtins.list[Execution]:
        """Executions that meet what is given, last begun first. Cost: proportional to limit."""
        # There is an index by role and status: without a status, one walk for each.
        statuses = _STATUSES if role is not None and status is None else (status,)
        queries = [
            self._newest(workflow_id, role, each, tool_name, task_id).limit(limit)
            for each in statuses
        ]
        found = self.read_at_once(lambda reader: [query.read(reader) for query in queries])
        merged = heapq.merge(*found, key=_begin, reverse=True)
        return [*islice(merged, limit)]

    def _newest(
        self,
        workflow_id: str | None,
        role: str | None,
        status: ExecutionStatus | None,
        tool_name: str | None,
        task_id: str | None,
    ) -> Query[Execution]:
        given = {
            "workflow_id": workflow_id,
            "role": role,
            "status": status,
            "tool_name": tool_name,
            "task_id": task_id,
        }
        wanted = {name: value for name, value in given.items() if value is not None}
        return self.query(**wanted).order_by("-started_at")

    def list_by_workflow(
        self, workflow_id: str, limit: int | None = 100
    ) -> builtins.list[Execution]:
        """Executions of a workflow, last begun first."""
        return self.list(workflow_id=workflow_id, limit=limit)

    def list_by_role(
        self, role: str, status: ExecutionStatus | None = None, limit: int | None = 100
    ) -> builtins.list[Execution]:
        """Executions of a role, last begun first."""
        return self.list(role=role, status=status, limit=limit)

    def statistics(
        self,
        role: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        tool_name: str | None = None,
    ) -> dict[str, Any]:
        """Counts and times of what was begun from ``start`` up to ``end``.

        Returns:
            ``count``, ``by_status``, ``success_rate`` (of what is over), and
            ``execution_time_seconds`` with ``mean``, ``min``, ``max``, ``p50`` and ``p95``.
        Cost: reads the executions it counts.
        """
        given = {"role": role, "tool_name": tool_name}
        query = self.query(**{name: value for name, value in given.items() if value is not None})
        if start is not None:
            query = query.where(started_at__gte=start)
        if end is not None:
            query = query.where(started_at__lt=end)
        return self.read_at_once(lambda reader: _statistics(query.walk(reader)))

    def cleanup_old(self, retention_days: float = 30, *, sync: SyncPolicy | None = None) -> int:
        """Delete executions begun before so many days; returns how many.

        In commits as those of ``Query.delete``. Steps (``once``) stay: a step that is forgotten
        would be run again.
        """
        limit = self.now() - timedelta(days=retention_days)
        query = self.query().where(started_at__lt=limit, action_type__ne="step")
        return query.delete(sync=sync)


def _begin(execution: Execution) -> tuple[datetime, str]:
    return execution.started_at, execution.execution_id


def told(error: BaseException) -> str:
    """What an exception says, as text that can be stored: the names of files may not be."""
    return _text(str, error)


def storable(value: Any) -> Any:
    """A value for a record of what was done; one that cannot be stored is only described."""
    try:
        codec.encode(value)
    except CodecError:
        return _text(repr, value)[:1000]
    return value


def _text(make: Callable[[Any], str], value: Any) -> str:
    # The code of others: it may do anything.
    try:
        text = make(value)
    except Exception as error:  # noqa: BLE001  # what it cannot say is left out
        kind = type(value).__name__
        text = f"<{kind}: its {make.__name__}() raised {type(error).__name__}>"
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def noting(error: BaseException, what: str) -> Iterator[None]:
    """A block that notes an error, which is then raised: what fails in it only leaves a word."""
    try:
        yield
    except Exception as second:
        about = f"walkv: {what}: how it ended could not be noted: {type(second).__name__}"
        log.exception("%s: %s", about, told(second), exc_info=second)
        error.add_note(f"{about}: {told(second)}")


def ending(recording: Recording, error: BaseException | None) -> dict[str, Any]:
    """Arguments of ``finish`` for a recording."""
    status: ExecutionStatus = "success"
    message = None
    if error is not None:
        status = "failed" if isinstance(error, Exception) else "cancelled"
        message = f"{type(error).__name__}: {told(error)}"
    return {
        "execution_id": recording.execution.execution_id,
        "output_data": storable(recording.output),
        "status": status,
        "error_message": message,
        "execution_time_seconds": recording.elapsed_seconds(),
    }


def _statistics(executions: Iterator[Execution]) -> dict[str, Any]:
    by_status: dict[str, int] = {}
    times = []
    for execution in executions:
        by_status[execution.status] = by_status.get(execution.status, 0) + 1
        if execution.execution_time_seconds is not None:
            times.append(execution.execution_time_seconds)
    count = sum(by_status.values())
    over = count - by_status.get("running", 0)
    return {
        "count": count,
        "by_status": by_status,
        "success_rate": by_status.get("success", 0) / over if over else 0.0,
        "execution_time_seconds": spread(times),
    }
