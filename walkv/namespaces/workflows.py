"""Workflows: roles that work one after the other, and how far each has come."""

from __future__ import annotations

import builtins
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from walkv.engine.policies import SyncPolicy, Wal
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import new_id, spread

WorkflowStatus = Literal["pending", "running", "paused", "completed", "failed", "cancelled"]
ACTIVE: Final[tuple[WorkflowStatus, ...]] = ("pending", "running", "paused")
"""What is not over."""

_OVER: Final = ("completed", "failed", "cancelled")
_ROLE_OVER: Final = ("completed", "success", "skipped")


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow.

    Attributes:
        execution_id: of this run of it.
        current_role_index: how many of its roles, from the first on, are over.
        role_statuses, role_results: by role; statuses of roles are the caller's own words.
        error_info: why it failed.
    """

    workflow_id: str
    execution_id: str
    name: str
    status: WorkflowStatus
    roles: list[str]
    created_at: datetime
    description: str = ""
    current_role_index: int = 0
    role_statuses: dict[str, str] = field(default_factory=dict)
    role_results: dict[str, Any] = field(default_factory=dict)
    created_by: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    error_info: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


def _creation(workflow: Workflow) -> tuple[datetime, str]:
    return workflow.created_at, workflow.workflow_id


class Workflows(Namespace[Workflow]):
    """All workflows. Default sync policy: ``Wal()``."""

    declaration = Declaration(
        "workflows",
        Workflow,
        key="workflow_id",
        indexes=[("status", "created_at"), ("created_by", "created_at"), "created_at"],
        sync=Wal(),
    )

    def create(
        self,
        name: str,
        roles: Sequence[str],
        *,
        workflow_id: str | None = None,
        execution_id: str | None = None,
        description: str = "",
        created_by: str = "",
        metadata: dict[str, Any] | None = None,
        sync: SyncPolicy | None = None,
    ) -> Workflow:
        """Begin a workflow; it and its roles are pending.

        Raises:
            RecordExistsError: there is one with this id.
        """
        workflow = Workflow(
            workflow_id or new_id(),
            execution_id or new_id(),
            name,
            "pending",
            list(roles),
            self.now(),
            description=description,
            role_statuses=dict.fromkeys(roles, "pending"),
            created_by=created_by,
            metadata=metadata or {},
        )
        self.add(workflow, sync=sync)
        return workflow

    def update_status(
        self,
        workflow_id: str,
        status: WorkflowStatus,
        error_info: str | None = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> Workflow:
        """Set the status of a workflow, and when it was started or completed with it.

        One that was over and goes on is no longer completed, and has no error any more.
        """
        now = self.now()

        def change(workflow: Workflow) -> dict[str, Any]:
            made: dict[str, Any] = {"status": status}
            if status == "running" and workflow.started_at is None:
                made["started_at"] = now
            if status in _OVER:
                made["completed_at"] = now
            elif workflow.status in _OVER:
                made |= {"completed_at": None, "error_info": None}
            if error_info is not None:
                made["error_info"] = error_info
            return made

        return self._modify(workflow_id, change, sync)

    def update_role_status(
        self,
        workflow_id: str,
        role: str,
        status: str,
        result: Any = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> Workflow:
        """Set the status of a role, and its result. Exact when roles report at the same time.

        ``current_role_index`` moves behind the roles that are completed, skipped or a success.
        """

        def change(workflow: Workflow) -> dict[str, Any]:
            statuses = {**workflow.role_statuses, role: status}
            made: dict[str, Any] = {"role_statuses": statuses}
            if result is not None:
                made["role_results"] = {**workflow.role_results, role: result}
            over = 0
            for each in workflow.roles:
                if statuses.get(each) not in _ROLE_OVER:
                    break
                over += 1
            made["current_role_index"] = over
            return made

        return self._modify(workflow_id, change, sync)

    def active(self) -> builtins.list[Workflow]:
        """Workflows that are not over, newest first."""
        queries = [self.query(status=status).order_by("-created_at") for status in ACTIVE]
        found = self.read_at_once(lambda reader: [query.read(reader) for query in queries])
        return [*heapq.merge(*found, key=_creation, reverse=True)]

    def list(
        self,
        status: WorkflowStatus | None = None,
        created_by: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> builtins.list[Workflow]:
        """Workflows, newest first. Cost: proportional to limit and offset."""
        given = {"status": status, "created_by": created_by}
        wanted = {name: value for name, value in given.items() if value is not None}
        query = self.query(**wanted).order_by("-created_at")
        return query.offset(offset).limit(limit).all()

    def statistics(
        self, start: datetime | None = None, end: datetime | None = None
    ) -> dict[str, Any]:
        """Counts and durations of the workflows created from ``start`` up to ``end``.

        Returns:
            ``count``, ``by_status``, ``success_rate`` (of what is over), and ``duration_seconds``
            with ``mean``, ``min``, ``max``, ``p50`` and ``p95``.
        """
        query = self.query()
        if start is not None:
            query = query.where(created_at__gte=start)
        if end is not None:
            query = query.where(created_at__lt=end)
        by_status: dict[str, int] = {}
        durations = []
        for workflow in query:
            by_status[workflow.status] = by_status.get(workflow.status, 0) + 1
            if workflow.started_at and workflow.completed_at:
                durations.append((workflow.completed_at - workflow.started_at).total_seconds())
        over = sum(by_status.get(status, 0) for status in _OVER)
        return {
            "count": sum(by_status.values()),
            "by_status": by_status,
            "success_rate": by_status.get("completed", 0) / over if over else 0.0,
            "duration_seconds": spread(durations),
        }
