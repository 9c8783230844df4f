"""``WalkvCheckpoint``: the latest state of each key, over the checkpoints of an agent."""

from __future__ import annotations

import builtins
from types import TracebackType
from typing import Any, Self

from walkv.engine.policies import SyncPolicy
from walkv.errors import CodecError, StoreFailedError
from walkv.interfaces.repository.config import StoreConfig
from walkv.interfaces.repository.connection import Connection, Source
from walkv.interfaces.repository.protocols import BaseCheckpoint
from walkv.namespaces.common import new_id


class WalkvCheckpoint(BaseCheckpoint):
    """States by key. A key is the id of a thread of ``agent.checkpoints``.

    Args:
        config: how to open a store. It is opened by ``setup`` or at the first use, and shared with
            whatever in this process names the same path.
        path: of a store, instead.
        store: an open ``Store``, ``AsyncStore``, ``AgentStore`` or ``AsyncAgentStore``, instead.
        sync: policy of the commits; by default that of the configuration, or ``Wal()``.
    Raises:
        ConfigError: the environment, which is asked if nothing was given, is not as it should be.
    """

    def __init__(
        self,
        config: StoreConfig | None = None,
        *,
        path: Any = None,
        store: Source | None = None,
        sync: SyncPolicy | None = None,
    ) -> None:
        self._connection = Connection(path, store, config)
        self._sync = self._connection.sync if sync is None else sync

    def __repr__(self) -> str:
        return f"<walkv.WalkvCheckpoint in {self._connection!r}>"

    async def _checkpoints(self) -> Any:
        agent: Any = await self._connection.agent()
        return agent.checkpoints

    async def setup(self) -> None:
        """Open the store now, and not at the first use."""
        await self._checkpoints()

    async def cleanup(self) -> None:
        """Let go of the store; the last one in the process that does so closes it.

        Durability: everything that was committed is durable once the store is closed.
        """
        await self._connection.close()

    async def get(self, key: str) -> Any:
        """The latest state of a key, or None."""
        found = await (await self._checkpoints()).get(key)
        return None if found is None else found.data

    async def put(self, key: str, checkpoint: Any) -> None:
        """Keep a state as the latest of a key; the ones before stay, each for its difference.

        Args:
            checkpoint: whatever ``codec`` knows, but None.
        Raises:
            CodecError: it cannot be kept; nothing was written.
        """
        if checkpoint is None:
            raise CodecError(
                "checkpoints.data: a state is not None, which stands for no state",
                namespace="checkpoints",
                field="data",
            )
        checkpoints = await self._checkpoints()
        await checkpoints.put(key, new_id(), checkpoint, sync=self._sync)

    async def list(self, limit: int | None = 100) -> builtins.list[str]:
        """Keys that have a state, in alphabetical order; None for all."""
        found: builtins.list[str] = await (await self._checkpoints()).threads(limit)
        return found

    async def __aenter__(self) -> Self:
        await self.setup()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.cleanup()
        except StoreFailedError:
            if error is None:
                raise
