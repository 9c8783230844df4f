"""What a service depends on, whatever keeps its entities and states."""

from __future__ import annotations

import builtins
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class BaseRepository(Protocol[T]):
    """Entities of one type, found by their id."""

    async def get(self, id: Any) -> T | None:
        """The entity with an id, or None."""

    async def list(self, limit: int = 100, offset: int = 0) -> builtins.list[T]:
        """Entities in a fixed order, a page at a time."""

    async def filter(self, **kwargs: Any) -> builtins.list[T]:
        """All entities whose fields have these values."""

    async def add(self, entity: T) -> T:
        """Keep a new entity; returns it as it was kept."""

    async def update(self, entity: T) -> T:
        """Keep what was changed of an entity; returns it as it was kept."""

    async def delete(self, id: Any) -> bool:
        """Delete an entity; returns whether it was there."""

    async def exists(self, id: Any) -> bool:
        """Whether there is an entity with an id."""


@runtime_checkable
class BaseCheckpoint(Protocol):
    """States of an agent's work, each key with its latest one."""

    async def get(self, key: str) -> Any:
        """The latest state of a key, or None."""

    async def put(self, key: str, checkpoint: Any) -> None:
        """Keep a state as the latest of a key."""

    async def list(self, limit: int = 100) -> builtins.list[str]:
        """The keys that have a state."""

    async def setup(self) -> None:
        """Make ready; called once, when the application starts."""

    async def cleanup(self) -> None:
        """Let go of everything; called once, when the application ends."""
