"""A provider's connection to a store, and what it can do without knowing any record.

Invariants:
    1. A store that was given open is left open.
    2. A provider makes no connection by itself: ``ClosedError`` without one.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy
from walkv.engine.store import AsyncStore, Store
from walkv.errors import ClosedError, CodecError, StoreFailedError
from walkv.interfaces.persistence.monitor import PerformanceMonitor, recorded
from walkv.interfaces.persistence.protocols import BasePersistenceProvider
from walkv.interfaces.persistence.transactions import TransactionManager, prepared
from walkv.namespaces.aio import AsyncQuery

OpenStore = Store | AsyncStore | AgentStore | AsyncAgentStore
Connection = Mapping[str, Any] | OpenStore
"""What a provider can be made of."""

_OPTIONS: Final = frozenset(inspect.signature(AgentStore).parameters) - {"store"}


class _NoSuchRecordError(Exception):
    """Takes a transaction back whose operation found no record."""


class Provider(BasePersistenceProvider):
    """The part of ``WalkvPersistence`` that is the same for all records; see there."""

    def __init__(
        self, connection_config: Connection, *, monitor: PerformanceMonitor | None = None
    ) -> None:
        if isinstance(connection_config, Mapping):
            _check_config(connection_config)
        elif not isinstance(connection_config, OpenStore):
            raise TypeError(
                'connection_config is {"path": ...} or an open Store, AsyncStore, AgentStore or '
                f"AsyncAgentStore, not a {type(connection_config).__name__}"
            )
        self.connection_config = connection_config
        self.monitor = monitor
        self.transaction_manager = TransactionManager(self)
        self._agent: AsyncAgentStore | None = None
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<walkv.{type(self).__name__} {state}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is an open store."""
        return self._agent is not None and not self._agent.closed

    async def connect(self) -> bool:
        """Open the store; True. Connected already, there is nothing to do.

        Raises:
            What ``walkv.open`` raises.
            ClosedError: what should have been given open is not.
        """
        async with self._connecting:
            if not self.is_connected:
                self._agent = await _agent_of(self.connection_config).__aenter__()
        return True

    async def disconnect(self) -> bool:
        """Close the store, unless it was given open; True. Disconnecting twice is allowed.

        Durability: everything that was written is durable.
        """
        async with self._connecting:
            agent, self._agent = self._agent, None
            if agent is not None and isinstance(self.connection_config, Mapping):
                await agent.close()
        return True

    @recorded
    async def health_check(self) -> bool:
        """Whether the store is there, answers, and has not failed.

        Cost: one look-up.
        """
        try:
            await self._open().workflows.exists("")
        except (ClosedError, StoreFailedError):
            return False
        return True

    async def initialize_schema(self) -> bool:
        """True: namespaces register themselves and build their indexes when a store is opened."""
        return True

    @recorded
    async def execute_transaction(self, operations: Sequence[Mapping[str, Any]]) -> bool:
        """Do all operations in one commit, or none of them; see ``transactions``.

        Inside a transaction they are part of it: if then one finds no record after others have
        written, that transaction cannot commit.

        Returns:
            True if all were done; False, and nothing was written, if one found no record to change
            or to delete.
        Raises:
            TransactionError: one is unknown, or has the wrong arguments; nothing was written.
            ConflictError: others changed the same records each of 21 times.
        """
        calls = prepared(self, operations)

        async def run() -> None:
            for call in calls:
                if await call() is False:
                    raise _NoSuchRecordError

        try:
            await self._open().transact(run)
        except _NoSuchRecordError:
            return False
        return True

    def batch(self, sync: SyncPolicy | None = None) -> AbstractAsyncContextManager[None]:
        """What this task writes inside commits together; see ``AsyncAgentStore.batch``."""
        return self._open().batch(sync)

    def query(self, namespace: str, /, **equals: Any) -> AsyncQuery[Any]:
        """Records of a namespace whose fields have these values, in the namespace's own terms.

            page = await persistence.query("executions", role="planner")
                .where(started_at__gte=yesterday).order_by("-started_at").limit(20).page()

        Raises:
            CodecError: there is no such namespace or field.
        """
        found = self._open().by_name.get(namespace)
        if found is None:
            known = ", ".join(self._open().by_name)
            raise CodecError(
                f"{namespace}: there is no such namespace; there are {known}", namespace=namespace
            )
        return found.query(**equals)

    def _open(self) -> AsyncAgentStore:
        if self._agent is None:
            raise ClosedError("there is no connection to a store: await connect() first")
        return self._agent

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.disconnect()
        except StoreFailedError:
            if error is None:
                raise


def _check_config(config: Mapping[str, Any]) -> None:
    wanted = f"a mapping with the path of a store and, if wanted, {', '.join(sorted(_OPTIONS))}"
    unknown = set(config) - _OPTIONS - {"path"}
    if unknown:
        raise ValueError(f"connection_config: {wanted}; there is no option {min(unknown)!r}")
    if "path" not in config:
        raise ValueError(f"connection_config: {wanted}; this one has no path")


def _agent_of(connection: Connection) -> AsyncAgentStore:
    if isinstance(connection, AsyncAgentStore):
        if not connection.by_name:
            # Who opens it closes it: that would be nobody, if it were opened here.
            raise ClosedError(f"{connection!r}: enter it, or await AsyncAgentStore.open(), first")
        return connection
    if isinstance(connection, Mapping):
        options = dict(connection)
        return AsyncAgentStore(options.pop("path"), **options)
    return AsyncAgentStore(connection)
