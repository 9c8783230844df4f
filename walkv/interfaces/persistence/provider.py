"""walkv as a provider of persistence: the interfaces, served by the namespaces of an agent.

Invariants:
    1. Every call that writes is one commit, or a part of the transaction that its task is in.
    2. False, None and an empty list mean that there is no such record; all else is raised:
       ``CodecError`` and ``LimitError`` for what cannot be stored, ``ClosedError`` without a
       connection, ``ConflictError`` from transactions, what the store raises.
    3. A call takes the field names of the interface only, and what a record has beyond them (the
       task of an execution) outlives its being saved.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, TypeVar

from walkv.errors import CodecError, RecordExistsError, RecordNotFoundError
from walkv.interfaces.persistence.connection import Provider
from walkv.interfaces.persistence.monitor import recorded
from walkv.interfaces.persistence.protocols import (
    ConfigurationPersistence,
    ContextPersistence,
    ExecutionPersistence,
    WorkflowPersistence,
)
from walkv.interfaces.persistence.records import (
    ConfigurationRecord,
    ContextRecord,
    ExecutionRecord,
    Record,
    WorkflowRecord,
    in_utc,
)

K = TypeVar("K", bound=Record[Any])


class WalkvPersistence(
    Provider,
    WorkflowPersistence,
    ContextPersistence,
    ExecutionPersistence,
    ConfigurationPersistence,
):
    """All interfaces over one store. For the tasks of one event loop.

    An async context manager that connects on entering and disconnects on leaving.

    Args:
        connection_config: a mapping with the ``path`` of a store and, if wanted, other arguments of
            ``AgentStore``; or an open store or agent's store, which is then left open.
        monitor: is told of every call.
    Raises:
        TypeError, ValueError: it is none of these; the mapping has no path, or something that is no
            argument of ``AgentStore``.

    Attributes:
        connection_config: as given.
        monitor: as given.
        transaction_manager: a ``TransactionManager`` of this provider.
    """

    # -- workflows -------------------------------------------------------------------------------

    @recorded
    async def save_workflow(self, workflow: WorkflowRecord) -> bool:
        """Write a workflow, whether it is there or not; True."""
        await self._open().workflows.put(_stored(WorkflowRecord, workflow))
        return True

    @recorded
    async def update_workflow(self, workflow_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of a workflow; False if there is none."""
        changes = WorkflowRecord.changes(updates)
        return await _found(self._open().workflows.update(workflow_id, **changes))

    @recorded
    async def get_workflow(self, workflow_id: str) -> WorkflowRecord | None:
        """A workflow, or None."""
        return _record(WorkflowRecord, await self._open().workflows.get(workflow_id))

    @recorded
    async def list_workflows(
        self,
        status: str | None = None,
        created_by: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[WorkflowRecord]:
        """Workflows that meet what is given, newest first. Cost: that of limit and offset."""
        found = await self._open().workflows.list(_word(status), created_by, limit, offset)
        return _records(WorkflowRecord, found)

    @recorded
    async def delete_workflow(self, workflow_id: str) -> bool:
        """Delete a workflow; False if there is none. Its contexts and executions stay."""
        return await self._open().workflows.delete(workflow_id)

    @recorded
    async def get_active_workflows(self) -> list[WorkflowRecord]:
        """Workflows that are pending, running or paused, newest first."""
        return _records(WorkflowRecord, await self._open().workflows.active())

    @recorded
    async def update_workflow_status(
        self, workflow_id: str, status: str, error_info: str | None = None
    ) -> bool:
        """Set the status of a workflow, and when it started or ended with it; False if there is
        none. Without ``error_info`` the one that is there stays."""
        return await _found(
            self._open().workflows.update_status(workflow_id, _word(status), error_info)
        )

    @recorded
    async def update_role_status(
        self, workflow_id: str, role: str, status: str, result: Any | None = None
    ) -> bool:
        """Set the status of a role, and its result; False if there is no such workflow.

        Exact when roles report at the same time. ``current_role_index`` moves along.
        """
        workflows = self._open().workflows
        return await _found(workflows.update_role_status(workflow_id, role, status, result))

    @recorded
    async def get_workflow_statistics(
        self, start_date: datetime | None = None, end_date: datetime | None = None
    ) -> dict[str, Any]:
        """Counts and durations of the workflows created from ``start_date`` up to ``end_date``.

        Returns:
            ``count``, ``by_status``, ``success_rate`` (of what is over), and ``duration_seconds``
            with ``mean``, ``min``, ``max``, ``p50`` and ``p95``.
        Cost: reads the workflows it counts.
        """
        start, end = (
            None if each is None else in_utc(each, "workflows", "created_at")
            for each in (start_date, end_date)
        )
        return await self._open().workflows.statistics(start, end)

    # -- contexts --------------------------------------------------------------------------------

    @recorded
    async def save_context(self, context: ContextRecord) -> bool:
        """Write a context, whether it is there or not; True. What it was before is kept."""
        await self._open().contexts.put(_stored(ContextRecord, context))
        return True

    @recorded
    async def update_context(self, context_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of a context; False if there is none. Its ``last_updated`` moves."""
        changes = ContextRecord.changes(updates)
        return await _found(self._open().contexts.update(context_id, **changes))

    @recorded
    async def get_context(self, context_id: str) -> ContextRecord | None:
        """A context, or None."""
        return _record(ContextRecord, await self._open().contexts.get(context_id))

    @recorded
    async def list_contexts_by_workflow(self, workflow_id: str) -> list[ContextRecord]:
        """The contexts of a workflow, last updated first. Cost: reads and sorts them all."""
        query = self.query("contexts", workflow_id=workflow_id).order_by("-last_updated")
        return _records(ContextRecord, await query.all())

    @recorded
    async def list_contexts_by_role(self, role: str, limit: int = 100) -> list[ContextRecord]:
        """The contexts of a role, last updated first. Cost: proportional to limit."""
        return _records(ContextRecord, await self._open().contexts.list_by_role(role, limit))

    @recorded
    async def delete_context(self, context_id: str) -> bool:
        """Delete a context and its history; False if there is none."""
        return await self._open().contexts.delete(context_id)

    @recorded
    async def cleanup_expired_contexts(self, expiry_hours: int = 24) -> int:
        """Delete contexts that were not updated for so long, in one commit; how many there were."""
        return await self._open().contexts.cleanup_expired(expiry_hours)

    @recorded
    async def save_compressed_context(
        self, context_id: str, compressed_content: str, compression_ratio: float
    ) -> bool:
        """Keep the compressed form of a context; False if there is none.

        Its type is ``compressed`` from then on.
        """
        contexts = self._open().contexts
        saving = contexts.save_compressed(context_id, compressed_content, compression_ratio)
        return await _found(saving)

    @recorded
    async def get_context_history(self, context_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """What a context was before its last changes, newest first; the last ten are kept.

        Returns:
            The fields of a ``ContextRecord`` each.
        """
        found = await self._open().contexts.history(context_id, limit)
        return [vars(ContextRecord.from_stored(each)) for each in found]

    # -- executions ------------------------------------------------------------------------------

    @recorded
    async def save_execution(self, execution: ExecutionRecord) -> bool:
        """Write an execution, whether it is there or not; True."""
        stored = _stored(ExecutionRecord, execution)
        executions = self._open().executions
        while True:
            try:
                await executions.add(stored)
            except RecordExistsError:
                update = executions.update(execution.execution_id, **execution.stored_values())
                if not await _found(update):
                    continue  # deleted in between
            return True

    @recorded
    async def update_execution(self, execution_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of an execution; False if there is none."""
        changes = ExecutionRecord.changes(updates)
        return await _found(self._open().executions.update(execution_id, **changes))

    @recorded
    async def get_execution(self, execution_id: str) -> ExecutionRecord | None:
        """An execution, or None."""
        return _record(ExecutionRecord, await self._open().executions.get(execution_id))

    @recorded
    async def list_executions_by_workflow(
        self, workflow_id: str, limit: int = 100
    ) -> list[ExecutionRecord]:
        """Executions of a workflow, last begun first. Cost: proportional to limit."""
        found = await self._open().executions.list_by_workflow(workflow_id, limit)
        return _records(ExecutionRecord, found)

    @recorded
    async def list_executions_by_role(
        self, role: str, status: str | None = None, limit: int = 100
    ) -> list[ExecutionRecord]:
        """Executions of a role, last begun first. Cost: proportional to limit."""
        found = await self._open().executions.list_by_role(role, _word(status), limit)
        return _records(ExecutionRecord, found)

    @recorded
    async def get_execution_statistics(
        self,
        role: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> dict[str, Any]:
        """Counts and times of the executions begun from ``start_date`` up to ``end_date``.

        Returns:
            See ``Executions.statistics``.
        """
        start, end = (
            None if each is None else in_utc(each, "executions", "started_at")
            for each in (start_date, end_date)
        )
        return await self._open().executions.statistics(role, start, end)

    @recorded
    async def cleanup_old_executions(self, retention_days: int = 30) -> int:
        """Delete executions begun before so many days, in one commit; how many there were.

        Steps that run once stay: a step that is forgotten would be run again.
        """
        return await self._open().executions.cleanup_old(retention_days)

    # -- configurations --------------------------------------------------------------------------

    @recorded
    async def save_configuration(self, config: ConfigurationRecord) -> bool:
        """Write a version, whether it is there or not; True.

        If it is active, the one of its type and name that was so no longer is, in the same commit.
        """
        await self._open().configurations.put(_stored(ConfigurationRecord, config))
        return True

    @recorded
    async def update_configuration(self, config_id: str, updates: dict[str, Any]) -> bool:
        """Change fields of a version; False if there is none.

        Its ``updated_at`` moves. ``{"is_active": True}`` puts it in force, and the one before out
        of it, in one commit.
        """
        changes = ConfigurationRecord.changes(updates)
        return await _found(self._open().configurations.update(config_id, **changes))

    @recorded
    async def get_configuration(self, config_id: str) -> ConfigurationRecord | None:
        """A version, or None."""
        return _record(ConfigurationRecord, await self._open().configurations.get(config_id))

    @recorded
    async def list_configurations(
        self, config_type: str | None = None, is_active: bool | None = True
    ) -> list[ConfigurationRecord]:
        """Versions that are in force, those that are not, or (None) both, newest first."""
        found = await self._open().configurations.list(_word(config_type), is_active)
        found.sort(key=lambda each: each.created_at, reverse=True)
        return _records(ConfigurationRecord, found)

    @recorded
    async def delete_configuration(self, config_id: str) -> bool:
        """Delete a version; False if there is none. No other one takes its place."""
        return await self._open().configurations.delete(config_id)

    @recorded
    async def get_active_configuration(
        self, config_type: str, name: str
    ) -> ConfigurationRecord | None:
        """The version in force, or None."""
        found = await self._open().configurations.get_active(_word(config_type), name)
        return _record(ConfigurationRecord, found)


def _word(text: str | None) -> Any:
    """A word for a field that has a set of them: the namespace is who checks it."""
    return text


async def _found(change: Awaitable[object]) -> bool:
    """Await a change; whether there was something to change."""
    try:
        await change
    except RecordNotFoundError:
        return False
    return True


def _stored(kind: type[Record[Any]], record: object) -> Any:
    if not isinstance(record, kind):
        raise CodecError(
            f"{kind.namespace}: a record here is a {kind.__name__}, not a {type(record).__name__}",
            namespace=kind.namespace,
        )
    return record.to_stored()


def _record(kind: type[K], stored: Any) -> K | None:
    return None if stored is None else kind.from_stored(stored)


def _records(kind: type[K], stored: list[Any]) -> list[K]:
    return [kind.from_stored(each) for each in stored]
