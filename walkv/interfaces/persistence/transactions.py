"""What commits together: a block of calls, or a list of operations.

An operation is ``{"operation": name, "arguments": {...}}``: one of the methods that write, and its
arguments by name.

    [
        {"operation": "save_workflow", "arguments": {"workflow": workflow}},
        {"operation": "delete_context", "arguments": {"context_id": "c1"}},
    ]

Invariants:
    1. Operations are checked, all of them, before the first is done.
    2. What was written in a block that raised is nowhere.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from walkv.errors import WalkvError
from walkv.interfaces.persistence.protocols import BasePersistenceProvider
from walkv.namespaces.common import new_id

OPERATIONS: Final = (
    "save_workflow",
    "update_workflow",
    "delete_workflow",
    "update_workflow_status",
    "update_role_status",
    "save_context",
    "update_context",
    "delete_context",
    "save_compressed_context",
    "cleanup_expired_contexts",
    "save_execution",
    "update_execution",
    "cleanup_old_executions",
    "save_configuration",
    "update_configuration",
    "delete_configuration",
)
"""What an operation of a transaction may be: the methods that write."""


class TransactionError(WalkvError, ValueError):
    """A transaction was asked for that cannot be; nothing was written.

    Attributes:
        position: of the operation at fault in its list, from 0 on; None if there is no list.
        operation: its name, where it has one.
    """

    def __init__(self, message: str, *, position: int | None = None, operation: str = "") -> None:
        super().__init__(message)
        self.position = position
        self.operation = operation


class TransactionalProvider(BasePersistenceProvider, Protocol):
    """A provider whose calls can commit together."""

    def batch(self) -> AbstractAsyncContextManager[None]:
        """What is written inside commits on leaving; nothing of it, if the block raises."""


class TransactionManager:
    """Gives a provider's calls the block in which they commit together.

    Args:
        persistence_provider: whose calls.

    Attributes:
        active_transactions: by id, those that are open: ``started_at`` of each.
    """

    def __init__(self, persistence_provider: TransactionalProvider) -> None:
        self.provider = persistence_provider
        self.active_transactions: dict[str, Any] = {}

    @asynccontextmanager
    async def transaction(self, transaction_id: str | None = None) -> AsyncIterator[str]:
        """What this task writes inside commits on leaving; nothing of it, if the block raises.

        Reads inside see the writes inside. Tasks that are begun inside, as ``asyncio.gather``,
        ``asyncio.create_task`` and, before Python 3.12, ``asyncio.wait_for`` do, are not part of
        it: await the calls one after the other. A transaction inside a transaction is part of the
        outer one.

        Args:
            transaction_id: a name for it; by default a new one.
        Yields:
            The name.
        Raises:
            TransactionError: one of this name is open.
            ConflictError: something that was read inside has changed; nothing was written. Do it
                again.
        Durability: as the strongest sync policy of the namespaces that were written to says.
        """
        if transaction_id is None:
            transaction_id = f"txn_{new_id()}"
        if transaction_id in self.active_transactions:
            raise TransactionError(
                f"a transaction {transaction_id!r} is open already; wait for its end, or choose "
                "another id"
            )
        self.active_transactions[transaction_id] = {"started_at": datetime.now(UTC)}
        try:
            async with self.provider.batch():
                yield transaction_id
        finally:
            del self.active_transactions[transaction_id]


def prepared(
    provider: object, operations: Sequence[Mapping[str, Any]]
) -> list[Callable[[], Awaitable[Any]]]:
    """The calls of operations, each checked.

    Raises:
        TransactionError: one is not of the form above, unknown, or has the wrong arguments.
    """
    return [_prepared(provider, position, each) for position, each in enumerate(operations)]


def _prepared(
    provider: object, position: int, operation: Mapping[str, Any]
) -> Callable[[], Awaitable[Any]]:
    where = f"operation {position} of the transaction"
    if not isinstance(operation, Mapping) or not set(operation) <= {"operation", "arguments"}:
        raise TransactionError(
            f'{where} is not of the form {{"operation": name, "arguments": {{...}}}}: '
            f"{str(operation)[:200]}",
            position=position,
        )
    name = operation.get("operation")
    if name not in OPERATIONS:
        raise TransactionError(
            f"{where}: there is no operation {name!r}; there are {', '.join(OPERATIONS)}",
            position=position,
            operation=str(name),
        )
    arguments = operation.get("arguments", {})
    method = getattr(provider, name)
    try:
        inspect.signature(method).bind(**arguments)
    except TypeError as error:
        raise TransactionError(
            f"{where}: wrong arguments of {name}: {error}", position=position, operation=name
        ) from error
    return functools.partial(method, **arguments)
