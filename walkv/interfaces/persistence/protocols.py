"""What an application may ask of a provider of persistence.

Methods return True when they did what they say, and False, None or an empty list when there is no
such record. Everything else that goes wrong is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from walkv.interfaces.persistence.records import (
    ConfigurationRecord,
    ContextRecord,
    ExecutionRecord,
    WorkflowRecord,
)


@runtime_checkable
class WorkflowPersistence(Protocol):
    """Workflows, and how far each has come."""

    async def save_workflow(self, workflow: WorkflowRecord) -> bool:
        """Write a workflow, whether it is there or not."""
        ...

    async def update_workflow(self, workflow_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of a workflow; False if there is none."""
        ...

    async def get_workflow(self, workflow_id: str) -> WorkflowRecord | None:
        """A workflow, or None."""
        ...

    async def list_workflows(
        self,
        status: str | None = None,
        created_by: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[WorkflowRecord]:
        """Workflows that meet what is given, newest first."""
        ...

    async def delete_workflow(self, workflow_id: str) -> bool:
        """Delete a workflow; False if there is none."""
        ...

    async def get_active_workflows(self) -> list[WorkflowRecord]:
        """Workflows that are not over, newest first."""
        ...

    async def update_workflow_status(
        self, workflow_id: str, status: str, error_info: str | None = None
    ) -> bool:
        """Set the status of a workflow; False if there is none."""
        ...

    async def update_role_status(
        self, workflow_id: str, role: str, status: str, result: Any | None = None
    ) -> bool:
        """Set the status of a role, and its result; False if there is no such workflow."""
        ...

    async def get_workflow_statistics(
        self, start_date: datetime | None = None, end_date: datetime | None = None
    ) -> dict[str, Any]:
        """Counts and durations of the workflows created from the one up to the other."""
        ...


@runtime_checkable
class ContextPersistence(Protocol):
    """Contexts of roles, and what they were before."""

    async def save_context(self, context: ContextRecord) -> bool:
        """Write a context, whether it is there or not."""
        ...

    async def update_context(self, context_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of a context; False if there is none."""
        ...

    async def get_context(self, context_id: str) -> ContextRecord | None:
        """A context, or None."""
        ...

    async def list_contexts_by_workflow(self, workflow_id: str) -> list[ContextRecord]:
        """The contexts of a workflow, last updated first."""
        ...

    async def list_contexts_by_role(self, role: str, limit: int = 100) -> list[ContextRecord]:
        """The contexts of a role, last updated first."""
        ...

    async def delete_context(self, context_id: str) -> bool:
        """Delete a context and its history; False if there is none."""
        ...

    async def cleanup_expired_contexts(self, expiry_hours: int = 24) -> int:
        """Delete contexts that were not updated for so long; how many there were."""
        ...

    async def save_compressed_context(
        self, context_id: str, compressed_content: str, compression_ratio: float
    ) -> bool:
        """Keep the compressed form of a context; False if there is none."""
        ...

    async def get_context_history(self, context_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """What a context was before its last changes, newest first."""
        ...


@runtime_checkable
class ExecutionPersistence(Protocol):
    """What roles and tools did."""

    async def save_execution(self, execution: ExecutionRecord) -> bool:
        """Write an execution, whether it is there or not."""
        ...

    async def update_execution(self, execution_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of an execution; False if there is none."""
        ...

    async def get_execution(self, execution_id: str) -> ExecutionRecord | None:
        """An execution, or None."""
        ...

    async def list_executions_by_workflow(
        self, workflow_id: str, limit: int = 100
    ) -> list[ExecutionRecord]:
        """Executions of a workflow, last begun first."""
        ...

    async def list_executions_by_role(
        self, role: str, status: str | None = None, limit: int = 100
    ) -> list[ExecutionRecord]:
        """Executions of a role, last begun first."""
        ...

    async def get_execution_statistics(
        self,
        role: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> dict[str, Any]:
        """Counts and times of the executions begun from the one up to the other."""
        ...

    async def cleanup_old_executions(self, retention_days: int = 30) -> int:
        """Delete executions begun before so many days; how many there were."""
        ...


@runtime_checkable
class ConfigurationPersistence(Protocol):
    """Versions of configurations, one of each type and name in force."""

    async def save_configuration(self, config: ConfigurationRecord) -> bool:
        """Write a version, whether it is there or not."""
        ...

    async def update_configuration(self, config_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of a version; False if there is none."""
        ...

    async def get_configuration(self, config_id: str) -> ConfigurationRecord | None:
        """A version, or None."""
        ...

    async def list_configurations(
        self, config_type: str | None = None, is_active: bool = True
    ) -> list[ConfigurationRecord]:
        """Versions that are in force, or those that are not, newest first."""
        ...

    async def delete_configuration(self, config_id: str) -> bool:
        """Delete a version; False if there is none."""
        ...

    async def get_active_configuration(
        self, config_type: str, name: str
    ) -> ConfigurationRecord | None:
        """The version in force, or None."""
        ...


@runtime_checkable
class BasePersistenceProvider(Protocol):
    """What all providers have in common."""

    async def connect(self) -> bool:
        """Open the storage."""
        ...

    async def disconnect(self) -> bool:
        """Close the storage."""
        ...

    async def health_check(self) -> bool:
        """Whether records can be read and written now."""
        ...

    async def execute_transaction(self, operations: Sequence[Mapping[str, Any]]) -> bool:
        """Do all operations or none; False for none, because one of them found no record."""
        ...

    async def initialize_schema(self) -> bool:
        """Make the storage ready for the records."""
        ...
