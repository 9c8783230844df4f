"""``TaskHistoryManager``: what users asked for, and the steps it was cut into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from walkv.interfaces.managers.database import DatabaseManager
from walkv.interfaces.managers.records import log_row, number_of
from walkv.namespaces.tasks import Subtask, Task, TaskStatus

Row = dict[str, Any]


@dataclass
class TaskHistory:
    """A row of ``get_task_history``, as an object: ``TaskHistory(**row)``."""

    task_id: int
    session_id: str
    user_input: str
    subtasks: list[Row]
    results: Any
    status: str
    created_at: datetime
    updated_at: datetime


@dataclass
class SubTask:
    """A row of ``get_subtask_by_id``, as an object: ``SubTask(**row)``."""

    subtask_id: int
    task_id: int
    subtask_index: int
    description: str
    expected_output: str
    actual_output: str | None
    status: str
    context: Any
    validation_report: Any
    created_at: datetime
    updated_at: datetime


class TaskHistoryManager:
    """Tasks and their subtasks, numbered from 1 on."""

    def __init__(self, db_manager: DatabaseManager) -> None:
        self.db_manager = db_manager

    def create_task(
        self, session_id: str, user_input: str, subtasks: Sequence[Mapping[str, Any]]
    ) -> int:
        """Add a task and its subtasks in one commit; returns its number.

        Args:
            subtasks: mappings with ``description`` and ``expected_output``; they are also kept as
                they are, as the task's ``subtasks``.
        """
        given = [dict(each) for each in subtasks]
        task_id = self.db_manager.take_number("tasks")
        first = self.db_manager.take_number("subtasks", len(given)) if given else 0
        steps = [
            {
                "subtask_id": str(number),
                "description": each.get("description", ""),
                "expected_output": each.get("expected_output", ""),
            }
            for number, each in enumerate(given, first)
        ]
        self.db_manager.agent.tasks.create(
            session_id, user_input, steps, task_id=str(task_id), metadata={"subtasks": given}
        )
        return task_id

    def update_task_status(
        self, task_id: int, status: str, results: dict[str, Any] | None = None
    ) -> None:
        """Set the status of a task, and its results if there are any.

        Raises:
            RecordNotFoundError: there is no such task.
        """
        tasks = self.db_manager.agent.tasks
        tasks.update_status(str(task_id), cast(TaskStatus, status), results)

    def update_subtask_status(
        self,
        subtask_id: int,
        status: str,
        actual_output: str | None = None,
        context: dict[str, Any] | None = None,
        validation_report: dict[str, Any] | None = None,
    ) -> None:
        """Set the status of a subtask, and whatever else is given.

        Raises:
            RecordNotFoundError: there is no such subtask.
        """
        self.db_manager.agent.tasks.update_subtask_status(
            str(subtask_id), cast(TaskStatus, status), actual_output, context, validation_report
        )

    def get_task_history(self, session_id: str | None = None, limit: int = 50) -> list[Row]:
        """Tasks of a session, or all, newest first."""
        tasks = self.db_manager.agent.tasks.list(session_id or None, limit=limit)
        return [_task_row(task) for task in tasks]

    def get_task_details(self, task_id: int) -> Row:
        """A task with its subtasks and its tool calls, both in order; {} if there is none."""
        details = self.db_manager.agent.tasks.details(str(task_id))
        if details is None:
            return {}
        calls = [each for each in details.tool_calls if each.action_type == "tool_call"]
        return {
            "task": _task_row(details.task),
            "subtasks": [_subtask_row(each) for each in details.subtasks],
            "tool_logs": [log_row(each) for each in calls],
        }

    def get_subtask_by_id(self, subtask_id: int) -> Row:
        """A subtask, or {}."""
        found = self.db_manager.agent.tasks.subtasks.get(str(subtask_id))
        return {} if found is None else _subtask_row(found)

    def get_tasks_by_status(self, status: str, limit: int = 50) -> list[Row]:
        """Tasks of a status, newest first."""
        tasks = self.db_manager.agent.tasks.list(status=cast(TaskStatus, status), limit=limit)
        return [_task_row(task) for task in tasks]


def _task_row(task: Task) -> Row:
    return {
        "task_id": number_of(task.task_id),
        "session_id": task.session_id,
        "user_input": task.user_input,
        "subtasks": task.metadata.get("subtasks", []),
        "results": task.results,
        "status": task.status,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
    }


def _subtask_row(subtask: Subtask) -> Row:
    return {
        "subtask_id": number_of(subtask.subtask_id),
        "task_id": number_of(subtask.task_id),
        "subtask_index": subtask.subtask_index,
        "description": subtask.description,
        "expected_output": subtask.expected_output,
        "actual_output": subtask.actual_output,
        "status": subtask.status,
        "context": subtask.context,
        "validation_report": subtask.validation_report,
        "created_at": subtask.created_at,
        "updated_at": subtask.updated_at,
    }
