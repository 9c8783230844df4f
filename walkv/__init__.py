"""walkv: a crash-safe, embedded key-value engine for Python agents.

    import walkv

    with walkv.open("agent.walkv") as store:
        store.put(b"user/1", b"Ada")

The tower; each floor imports only from those above it:

    errors, limits     every error and every bound
    engine/            bytes in, bytes out: log, memtable, snapshots, recovery, compaction
      engine/store/    the key-value API
    this face
    cli/, testing/     the walkv command; fakes for tests
"""

from walkv.engine.inspect import Stats, VerifyReport
from walkv.engine.recovery import RecoveryReport
from walkv.engine.store import AsyncStore, Batch, Store, Transaction, View, aopen, open
from walkv.engine.wal import Wal, WriteBack, WriteThrough
from walkv.errors import (
    ClosedError,
    ConflictError,
    CorruptionError,
    FormatError,
    LimitError,
    LockedError,
    ReadOnlyError,
    StoreFailedError,
    WalkvError,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncStore",
    "Batch",
    "ClosedError",
    "ConflictError",
    "CorruptionError",
    "FormatError",
    "LimitError",
    "LockedError",
    "ReadOnlyError",
    "RecoveryReport",
    "Stats",
    "Store",
    "StoreFailedError",
    "Transaction",
    "VerifyReport",
    "View",
    "Wal",
    "WalkvError",
    "WriteBack",
    "WriteThrough",
    "aopen",
    "open",
]
