"""Tasks and their subtasks: what a user asked for, and the steps it was cut into."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from walkv.engine.policies import SyncPolicy, Wal
from walkv.namespaces import keys
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import UNSET, Unset, new_id
from walkv.namespaces.executions import Execution, ExecutionLog
from walkv.namespaces.keyvalue import Reader, Writer

TaskStatus = Literal["pending", "in_progress", "completed", "failed", "cancelled"]

_GIVEN: Final = frozenset(("description", "expected_output", "subtask_id", "context", "status"))


@dataclass(frozen=True, slots=True)
class Task:
    """One task."""

    task_id: str
    session_id: str
    user_input: str
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    results: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subtask:
    """One step of a task.

    Attributes:
        subtask_index: its place in the task, from 0 on.
    """

    subtask_id: str
    task_id: str
    subtask_index: int
    description: str
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    expected_output: str = ""
    actual_output: str | None = None
    context: Any = None
    validation_report: Any = None


class TaskDetails(NamedTuple):
    """A task with all that belongs to it."""

    task: Task
    subtasks: list[Subtask]
    tool_calls: list[Execution]


class Tasks(Namespace[Task]):
    """All tasks. Default sync policy: ``Wal()``."""

    declaration = Declaration(
        "tasks",
        Task,
        key="task_id",
        indexes=[("session_id", "created_at"), ("status", "created_at"), "created_at"],
        sync=Wal(),
    )
    subtasks: Subtasks
    executions: ExecutionLog

    def create(
        self,
        session_id: str,
        user_input: str,
        subtasks: Iterable[Mapping[str, Any]] = (),
        *,
        task_id: str | None = None,
        status: TaskStatus = "in_progress",
        metadata: dict[str, Any] | None = None,
        sync: SyncPolicy | None = None,
    ) -> Task:
        """Add a task and its subtasks in one commit.

        Args:
            subtasks: mappings with ``description`` and, if wanted, ``expected_output``,
                ``subtask_id``, ``context`` and ``status``.
        Raises:
            CodecError: a subtask has anything else, or no description.
            RecordExistsError: there is a task, or a subtask, with this id; nothing was written.
        """
        now = self.now()
        task = Task(
            task_id or new_id(), session_id, user_input, status, now, now, None, metadata or {}
        )
        steps = [self._subtask(task, number, step) for number, step in enumerate(subtasks)]
        values = self.table.schema.values(task)
        prepared = [self.subtasks.table.schema.values(step) for step in steps]
        key = self.table.key_of(values)

        def run(tx: Writer) -> None:
            self._insert(tx, key, values, None)
            for row in prepared:
                self.subtasks._insert(tx, self.subtasks.table.key_of(row), row, None)

        self._write(run, sync)
        return task

    def _subtask(self, task: Task, number: int, given: Mapping[str, Any]) -> Subtask:
        schema = self.subtasks.table.schema
        if not isinstance(given, Mapping) or not {"description"} <= given.keys() <= _GIVEN:
            raise schema.bad(
                "description",
                f"a subtask is a mapping with a description and, if wanted, "
                f"{', '.join(sorted(_GIVEN - {'description'}))}; this is {given!r}"[:300],
            )
        return Subtask(
            given.get("subtask_id") or new_id(),
            task.task_id,
            number,
            given["description"],
            given.get("status", "pending"),
            task.created_at,
            task.created_at,
            given.get("expected_output", ""),
            context=given.get("context"),
        )

    def update(
        self,
        key: Any,
        /,
        *,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> Task:
        """Change a task; its ``updated_at`` moves."""
        now = self.now()
        return self._modify(key, lambda _: {"updated_at": now, **changes}, sync, expected_version)

    def update_status(
        self,
        task_id: str,
        status: TaskStatus,
        results: Any = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> Task:
        """Set the status of a task, and its results if there are any."""
        extra = {} if results is None else {"results": results}
        return self.update(task_id, status=status, sync=sync, **extra)

    def update_subtask_status(
        self,
        subtask_id: str,
        status: TaskStatus,
        actual_output: str | None = None,
        context: Any = None,
        validation_report: Any = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> Subtask:
        """Set the status of a subtask, and whatever else is given."""
        given = {
            "actual_output": actual_output,
            "context": context,
            "validation_report": validation_report,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        return self.subtasks.update(subtask_id, status=status, sync=sync, **changes)

    def details(self, task_id: str) -> TaskDetails | None:
        """A task with its subtasks in order and its tool calls in the order of their begin."""
        key = self.table.records + self.table.packed_key(task_id)
        steps = self.subtasks.query(task_id=task_id).order_by("subtask_index")
        calls = self.executions.query(task_id=task_id, action_type="tool_call").order_by(
            "started_at"
        )

        def read(reader: Reader) -> TaskDetails | None:
            data = reader.get(key)
            if data is None:
                return None
            return TaskDetails(self._record(data), steps.read(reader), calls.read(reader))

        return self.read_at_once(read)

    def list(
        self,
        session_id: str | None = None,
        status: TaskStatus | None = None,
        limit: int | None = 50,
    ) -> builtins.list[Task]:
        """Tasks of a session, of a status, or all, newest first. Cost: proportional to limit."""
        given = {"session_id": session_id, "status": status}
        wanted = {name: value for name, value in given.items() if value is not None}
        return self.query(**wanted).order_by("-created_at").limit(limit).all()

    def _learn(self, reader: Reader) -> None:
        super()._learn(reader)
        for besides in (self.subtasks, self.executions):
            besides._learn(reader)

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete a task, and its subtasks with it."""
        super().remove_in(tx, key, old)
        table = self.subtasks.table
        index = table.index_of("task_id", "subtask_index")
        prefix = index.prefix + table.pack("task_id", self._record(old).task_id)
        found = tx.scan(start=prefix, stop=prefix + keys.END)
        for full_key in list(table.record_keys(found)):
            self.subtasks.delete_in(tx, full_key[len(table.records) :])


class Subtasks(Namespace[Subtask]):
    """The subtasks of all tasks. Default sync policy: ``Wal()``."""

    declaration = Declaration(
        "subtasks",
        Subtask,
        key="subtask_id",
        indexes=[("task_id", "subtask_index"), "status"],
        sync=Wal(),
    )

    def update(
        self,
        key: Any,
        /,
        *,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> Subtask:
        """Change a subtask; its ``updated_at`` moves."""
        now = self.now()
        return self._modify(key, lambda _: {"updated_at": now, **changes}, sync, expected_version)
