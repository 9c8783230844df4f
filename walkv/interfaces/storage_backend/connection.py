"""The agent below a backend: opened when needed, closed by who opened it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy
from walkv.engine.store import AsyncStore, Store, aopen
from walkv.errors import (
    ClosedError,
    CorruptionError,
    FormatError,
    LockedError,
    StoreFailedError,
)
from walkv.interfaces.storage_backend.errors import StorageConnectionError

T = TypeVar("T")

_OPTIONS: Final = frozenset(inspect.signature(aopen).parameters) - {"path"}


class Connection:
    """An agent for the tasks of one event loop. An async context manager.

    Args:
        source: a path, or a ``Store``, ``AsyncStore``, ``AgentStore`` or ``AsyncAgentStore``. What
            is open already stays open after ``close()``.
        policies: sync policies by namespace, as for ``AgentStore``; not for an agent.
        options: as for ``walkv.open``, for a path only.
    Raises:
        TypeError: an option that is not known, or not for such a source.
    """

    def __init__(
        self,
        source: Any,
        *,
        policies: Mapping[str, SyncPolicy] | None = None,
        **options: Any,
    ) -> None:
        unknown = set(options) - _OPTIONS
        if unknown:
            raise TypeError(f"there is no option {min(unknown)!r}; {', '.join(sorted(_OPTIONS))}")
        is_agent = isinstance(source, AgentStore | AsyncAgentStore)
        if options and (is_agent or isinstance(source, Store | AsyncStore)):
            raise TypeError(f"{min(options)} is for a path, and this is a store: {source!r}")
        if policies and is_agent:
            raise TypeError("an agent has its policies already; give them to AgentStore")
        self._source = source
        self._policies = policies
        self._options = options
        self._lock = asyncio.Lock()
        self._opened: AsyncAgentStore | None = None
        self._threaded: AgentStore | None = None
        self._owns = False
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._opened is None else "open"
        return f"<walkv.{type(self).__name__} {self._source!r} {state}>"

    async def initialize(self) -> bool:
        """Open the store; True. What is open stays as it is, what was closed opens again.

        Raises:
            StorageConnectionError: the store cannot be opened; ``__cause__`` says why.
        """
        self._closed = False
        await self._open()
        return True

    async def agent(self) -> AsyncAgentStore:
        """The agent below, opened if need be: for what these interfaces do not have."""
        return await self._open()

    async def in_thread(self, function: Callable[[AgentStore], T]) -> T:
        """Call a function with the agent as threads see it, in another thread: for bulk work."""
        async with self._agent() as agent:

            def run() -> T:
                threaded = self._threaded
                if threaded is None or threaded.store is not agent.store.as_sync():
                    store = agent.store.as_sync()
                    threaded = self._threaded = AgentStore(store, policies=agent.policies)
                return function(threaded)

            return await asyncio.to_thread(run)

    @asynccontextmanager
    async def _agent(self) -> AsyncIterator[AsyncAgentStore]:
        """The agent, opened if need be; what the disk refuses is an error of the connection."""
        agent = await self._open()
        try:
            yield agent
        except (OSError, StoreFailedError) as error:
            raise StorageConnectionError(f"the storage does not work: {error}") from error

    async def _open(self) -> AsyncAgentStore:
        if self._opened is not None:
            return self._opened
        async with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r}: initialize() opens it again")
            if self._opened is None:
                agent = self._agent_of_source()
                owns = agent is not self._source or not agent.by_name
                try:
                    await agent.__aenter__()
                except (OSError, LockedError, FormatError, CorruptionError) as error:
                    raise StorageConnectionError(
                        f"the storage cannot be opened: {error}"
                    ) from error
                self._opened, self._owns = agent, owns
            return self._opened

    def _agent_of_source(self) -> AsyncAgentStore:
        source = self._source
        if isinstance(source, AsyncAgentStore):
            return source
        return AsyncAgentStore(source, policies=self._policies, **self._options)

    async def close(self) -> None:
        """Close what was opened here. Closing twice is allowed.

        Raises:
            StorageConnectionError: what was not durable yet could not be made so.
        """
        async with self._lock:
            agent, self._opened = self._opened, None
            self._closed = True
            if agent is not None and self._owns:
                try:
                    await agent.close()
                except (OSError, StoreFailedError) as error:
                    raise StorageConnectionError(f"closed, but: {error}") from error

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except StorageConnectionError:
            if error is None:
                raise
