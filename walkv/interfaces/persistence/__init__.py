"""Persistence of workflows, contexts, executions and configurations, as agent platforms ask for it.

    from walkv.interfaces.persistence import WalkvPersistence

    persistence = WalkvPersistence({"path": "agent.walkv"})
    await persistence.connect()
    await persistence.save_workflow(workflow)
    async with persistence.transaction_manager.transaction():
        await persistence.update_role_status("w1", "planner", "completed", {"plan": [...]})
        await persistence.save_context(context)

``records`` holds the four records, ``protocols`` what an application may ask of any provider,
``connection`` and ``provider`` walkv's own, ``transactions`` what commits together, ``monitor`` how
long it takes.

There is no SQL: ``WalkvPersistence.query("workflows", status="running")`` gives a query of the
namespace, to be narrowed, ordered, paged and explained.

Source: the persistence interfaces of UAgent, whose names, arguments, defaults and results these
are. Its builder and optimizer of SQL are ``Query`` and ``Query.explain``; its pool of connections
and its two levels of cache have no counterpart, since the engine is in the process and its memory
is the cache.
"""

from walkv.interfaces.persistence.monitor import PerformanceMonitor
from walkv.interfaces.persistence.protocols import (
    BasePersistenceProvider,
    ConfigurationPersistence,
    ContextPersistence,
    ExecutionPersistence,
    WorkflowPersistence,
)
from walkv.interfaces.persistence.provider import WalkvPersistence
from walkv.interfaces.persistence.records import (
    ConfigurationRecord,
    ContextRecord,
    ExecutionRecord,
    WorkflowRecord,
)
from walkv.interfaces.persistence.transactions import (
    TransactionalProvider,
    TransactionError,
    TransactionManager,
)

__all__ = [
    "BasePersistenceProvider",
    "ConfigurationPersistence",
    "ConfigurationRecord",
    "ContextPersistence",
    "ContextRecord",
    "ExecutionPersistence",
    "ExecutionRecord",
    "PerformanceMonitor",
    "TransactionError",
    "TransactionManager",
    "TransactionalProvider",
    "WalkvPersistence",
    "WorkflowPersistence",
    "WorkflowRecord",
]
