"""Contexts: what a role of a workflow knows, and what a session's task works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from walkv.engine.policies import SyncPolicy, Wal
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import UNSET, Unset, new_id
from walkv.namespaces.keyvalue import Reader, Writer

ContextType = Literal["isolated", "compressed", "handoff"]


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a role in a workflow.

    Attributes:
        sections: its parts, by name.
        compressed_content, compression_ratio: set by ``save_compressed``.
        last_updated: of the last change of this record.
    """

    context_id: str
    workflow_id: str
    role: str
    context_type: ContextType
    sections: dict[str, Any]
    created_at: datetime
    last_updated: datetime
    compressed_content: str | None = None
    compression_ratio: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Contexts(Namespace[Context]):
    """The contexts of all workflows; ten old versions of each are kept. Default: ``Wal()``."""

    declaration = Declaration(
        "contexts",
        Context,
        key="context_id",
        indexes=["workflow_id", ("role", "last_updated"), "last_updated"],
        sync=Wal(),
        history=10,
    )

    def create(
        self,
        workflow_id: str,
        role: str,
        sections: dict[str, Any] | None = None,
        *,
        context_id: str | None = None,
        context_type: ContextType = "isolated",
        metadata: dict[str, Any] | None = None,
        sync: SyncPolicy | None = None,
    ) -> Context:
        """Begin a context.

        Raises:
            RecordExistsError: there is one with this id.
        """
        now = self.now()
        context = Context(
            context_id or new_id(),
            workflow_id,
            role,
            context_type,
            sections or {},
            now,
            now,
            metadata=metadata or {},
        )
        self.add(context, sync=sync)
        return context

    def update(
        self,
        key: Any,
        /,
        *,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> Context:
        """Change a context; its ``last_updated`` moves, and its old version is kept."""
        now = self.now()
        return self._modify(key, lambda _: {"last_updated": now, **changes}, sync, expected_version)

    def save_compressed(
        self, context_id: str, content: str, ratio: float, *, sync: SyncPolicy | None = None
    ) -> Context:
        """Keep the compressed form of a context.

        Args:
            ratio: size after compression by size before.
        """
        return self.update(
            context_id,
            compressed_content=content,
            compression_ratio=ratio,
            context_type="compressed",
            sync=sync,
        )

    def list_by_workflow(self, workflow_id: str, limit: int | None = None) -> list[Context]:
        """The contexts of a workflow."""
        return self.query(workflow_id=workflow_id).limit(limit).all()

    def list_by_role(self, role: str, limit: int | None = 100) -> list[Context]:
        """The contexts of a role, last updated first."""
        return self.query(role=role).order_by("-last_updated").limit(limit).all()

    def cleanup_expired(self, expiry_hours: float = 24, *, sync: SyncPolicy | None = None) -> int:
        """Delete contexts that have not changed for so long; returns how many.

        In commits as those of ``Query.delete``.
        """
        limit = self.now() - timedelta(hours=expiry_hours)
        return self.query().where(last_updated__lt=limit).delete(sync=sync)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a session's task works with.

    Attributes:
        version: how often it was stored.
    """

    session_id: str
    context: Any
    version: int
    updated_at: datetime


class TaskContexts(Namespace[TaskContext]):
    """The task context of each session; ten old versions are kept. Default: ``Wal()``."""

    declaration = Declaration(
        "task_contexts", TaskContext, key="session_id", sync=Wal(), history=10
    )

    def store(
        self, session_id: str, context: Any, *, sync: SyncPolicy | None = None
    ) -> TaskContext:
        """Replace the context of a session; its ``version`` goes up by one."""
        table, now = self.table, self.now()
        key = table.packed_key(session_id)

        def run(tx: Writer) -> TaskContext:
            old = tx.get(table.records + key)
            version = 1 if old is None else self._record(old).version + 1
            values = table.schema.checked([session_id, context, version, now])
            self.write_in(tx, key, values, old, None)
            return table.schema.build(values)

        return self._write(run, sync)

    def forget_session(self, tx: Writer, session_id: str) -> None:
        """Delete the context of a session, as a part of a larger write."""
        self.delete_in(tx, self.table.packed_key(session_id))

    def last_activity(self, reader: Reader, session_id: str) -> datetime | None:
        """When the context of a session was stored."""
        data = reader.get(self.table.records + self.table.packed_key(session_id))
        return None if data is None else self._record(data).updated_at
