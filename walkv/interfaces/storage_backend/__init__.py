"""Storage backends of agents: sessions, conversations, checkpoints and task contexts.

    backend = WalkvStorageBackend("agent.walkv")
    await backend.create_session("s1", "ada")
    await backend.add_conversation_message("s1", "user", "hello")

errors, protocols    what an application depends on
records              the dictionaries that it sees
connection           the agent below a backend
backend              ``WalkvStorageBackend``
memory, factory      the same without a disk; backends by name
adapter              two storages that act as one
sides, migrator      from one storage to another
monitor              health, latencies, a log
"""

from walkv.interfaces.storage_backend.adapter import Divergence, StorageAdapter
from walkv.interfaces.storage_backend.backend import WalkvStorageBackend
from walkv.interfaces.storage_backend.errors import (
    SessionNotFoundError,
    StorageConnectionError,
    StorageError,
)
from walkv.interfaces.storage_backend.factory import StorageFactory, StorageType
from walkv.interfaces.storage_backend.memory import MemoryStorageBackend
from walkv.interfaces.storage_backend.migrator import (
    MigratedKind,
    MigrationFailure,
    MigrationReport,
    StorageMigrator,
)
from walkv.interfaces.storage_backend.monitor import (
    StorageHealthChecker,
    StorageLogger,
    StorageMonitor,
)
from walkv.interfaces.storage_backend.protocols import (
    IBatchSessionStorage,
    ICheckpointerBackend,
    ICheckpointStorage,
    IConversationStorage,
    IListableStorage,
    ISessionStorage,
    IStorageBackend,
    ITaskContextStorage,
)

__all__ = [
    "Divergence",
    "IBatchSessionStorage",
    "ICheckpointStorage",
    "ICheckpointerBackend",
    "IConversationStorage",
    "IListableStorage",
    "ISessionStorage",
    "IStorageBackend",
    "ITaskContextStorage",
    "MemoryStorageBackend",
    "MigratedKind",
    "MigrationFailure",
    "MigrationReport",
    "SessionNotFoundError",
    "StorageAdapter",
    "StorageConnectionError",
    "StorageError",
    "StorageFactory",
    "StorageHealthChecker",
    "StorageLogger",
    "StorageMigrator",
    "StorageMonitor",
    "StorageType",
    "WalkvStorageBackend",
]
