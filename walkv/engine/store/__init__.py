"""The public key-value API: two faces of one engine, and what they hand out."""

from walkv.engine.store.aio import AsyncStore
from walkv.engine.store.async_parts import AsyncBatch, AsyncTransaction, AsyncView
from walkv.engine.store.batch import Batch
from walkv.engine.store.exclusive import CommitTicket, ExclusiveStore
from walkv.engine.store.opening import aopen, open
from walkv.engine.store.sync import Store
from walkv.engine.store.transaction import Transaction
from walkv.engine.store.view import View

__all__ = [
    "AsyncBatch",
    "AsyncStore",
    "AsyncTransaction",
    "AsyncView",
    "Batch",
    "CommitTicket",
    "ExclusiveStore",
    "Store",
    "Transaction",
    "View",
    "aopen",
    "open",
]
