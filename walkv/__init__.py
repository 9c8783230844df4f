"""walkv: a crash-safe, embedded key-value engine for Python agents.

    import walkv

    with walkv.open("agent.walkv") as store:
        store.put(b"user/1", b"Ada")

    with walkv.AgentStore("agent.walkv") as agent:
        agent.messages.append("s1", role="user", content="hello")

The tower; each floor imports only from those above it:

    errors, limits     every error and every bound
    engine/            bytes in, bytes out: log, memtable, snapshots, recovery, compaction
      engine/store/    the key-value API
    namespaces/        typed records: sessions, messages, checkpoints and more
    ops/               check, repair, back up, move, prune
    agent              all of them behind one object
    interfaces/        the storage interfaces of existing agent designs
    integrations/      adapters for agent frameworks, each an optional extra
    this face
    cli/, testing/     the walkv command; fakes for tests
"""

import logging as _logging

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.changes import Change, Delete, DeleteRange, Put
from walkv.engine.inspect import VerifyReport
from walkv.engine.keep import KeepLog
from walkv.engine.meter import Histogram
from walkv.engine.policies import Wal, WriteBack, WriteThrough
from walkv.engine.recovery import RecoveryReport
from walkv.engine.store import AsyncStore, Batch, Store, Transaction, View, aopen, open
from walkv.engine.watch import Health, Published, Stats
from walkv.errors import (
    ClosedError,
    CodecError,
    ConflictError,
    CorruptionError,
    DiskSpaceError,
    EncryptionError,
    FormatError,
    HistoryLostError,
    IndeterminateError,
    LimitError,
    LockedError,
    ReadOnlyError,
    RecordExistsError,
    RecordNotFoundError,
    StepFailedError,
    StoreFailedError,
    TamperedError,
    WalkvError,
)
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.query import Page, Plan, Query
from walkv.namespaces.steps import RUN_AGAIN

_logging.getLogger("walkv").addHandler(_logging.NullHandler())

__version__ = "0.1.0"

__all__ = [
    "RUN_AGAIN",
    "AgentStore",
    "AsyncAgentStore",
    "AsyncStore",
    "Batch",
    "Change",
    "ClosedError",
    "CodecError",
    "ConflictError",
    "CorruptionError",
    "Declaration",
    "Delete",
    "DeleteRange",
    "DiskSpaceError",
    "EncryptionError",
    "FormatError",
    "Health",
    "Histogram",
    "HistoryLostError",
    "IndeterminateError",
    "KeepLog",
    "LimitError",
    "LockedError",
    "Namespace",
    "Page",
    "Plan",
    "Published",
    "Put",
    "Query",
    "ReadOnlyError",
    "RecordExistsError",
    "RecordNotFoundError",
    "RecoveryReport",
    "Stats",
    "StepFailedError",
    "Store",
    "StoreFailedError",
    "TamperedError",
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
