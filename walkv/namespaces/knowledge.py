"""Knowledge sources: where an agent may look things up."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from walkv.engine.policies import SyncPolicy, Wal
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import UNSET, Unset, new_id
from walkv.namespaces.keyvalue import Writer
from walkv.namespaces.query import Query

SourceStatus = Literal["active", "deleted"]


@dataclass(frozen=True, slots=True)
class KnowledgeSource:
    """One source."""

    source_id: str
    name: str
    path: str
    source_type: str
    status: SourceStatus
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict)


class KnowledgeSources(Namespace[KnowledgeSource]):
    """All knowledge sources. Default sync policy: ``Wal()``."""

    declaration = Declaration(
        "knowledge_sources",
        KnowledgeSource,
        key="source_id",
        indexes=[("status", "created_at"), "source_type"],
        sync=Wal(),
    )

    def add(
        self,
        record: KnowledgeSource | str,
        path: str = "",
        source_type: str = "",
        metadata: dict[str, Any] | None = None,
        *,
        source_id: str | None = None,
        sync: SyncPolicy | None = None,
        ttl_seconds: float | None = None,
    ) -> KnowledgeSource:
        """Add a source, given as a record or by its name, path and type.

        Raises:
            RecordExistsError: there is one with this id.
        """
        if isinstance(record, str):
            now = self.now()
            record = KnowledgeSource(
                source_id or new_id(), record, path, source_type, "active", now, now, metadata or {}
            )
        return super().add(record, sync=sync, ttl_seconds=ttl_seconds)

    def update(
        self,
        key: Any,
        /,
        *,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> KnowledgeSource:
        """Change a source; its ``updated_at`` moves."""
        now = self.now()
        return self._modify(key, lambda _: {"updated_at": now, **changes}, sync, expected_version)

    def list(
        self, status: SourceStatus | None = "active", limit: int | None = None
    ) -> builtins.list[KnowledgeSource]:
        """Sources of a status, or all, newest first."""
        query = self.query() if status is None else self.query(status=status)
        return query.order_by("-created_at").limit(limit).all()

    def delete(self, key: Any, *, sync: SyncPolicy | None = None) -> bool:
        """Mark a source as deleted; returns whether it was active. ``purge`` removes it."""
        packed, now = self.table.packed_key(key), self.now()
        return self._write(lambda tx: self._mark(tx, packed, now), sync)

    def purge(self, source_id: str, *, sync: SyncPolicy | None = None) -> bool:
        """Remove a source for good; returns whether it was there."""
        return super().delete(source_id, sync=sync)

    def delete_found(self, query: Query[KnowledgeSource], sync: SyncPolicy | None) -> int:
        """Mark what a query finds as deleted, in one commit; returns how many were not yet."""
        table, now = self.table, self.now()
        found = [table.key_of_record(source) for source in query.all()]

        def run(tx: Writer) -> int:
            return sum(self._mark(tx, packed, now, query) for packed in found)

        return self._write(run, sync) if found else 0

    def _mark(
        self, tx: Writer, packed: bytes, now: datetime, query: Query[KnowledgeSource] | None = None
    ) -> bool:
        old = tx.get(self.table.records + packed)
        source = None if old is None else self._record(old)
        if source is None or source.status == "deleted":
            return False
        if query is not None and not query.matches(source):
            return False
        self.modify_in(tx, packed, lambda _: {"status": "deleted", "updated_at": now})
        return True
