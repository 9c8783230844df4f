"""``WalkvRepository``: entities of one type, kept in a namespace of an agent."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar

from walkv.agent import AsyncAgentStore
from walkv.engine.policies import SyncPolicy
from walkv.engine.store.common import AsyncClosing
from walkv.interfaces.repository.config import StoreConfig
from walkv.interfaces.repository.connection import Connection, Source
from walkv.interfaces.repository.protocols import BaseRepository
from walkv.interfaces.repository.stored import Entities, Shape

T = TypeVar("T")


class WalkvRepository(AsyncClosing, BaseRepository[T], Generic[T]):
    """Entities of one type. Nothing is opened before the first use.

    Entities are copies: what is changed in one is kept by ``update``, which writes all of it. Two
    repositories of one type are two views of the same entities.

    Args:
        model_cls: a dataclass, frozen or not; see ``records`` for what it may say of itself, and
            ``namespaces.schema`` for what its fields may be. A field may be a ``UUID``, too.
        path: of the store, which is opened at the first use. Repositories and checkpoints of one
            process may name the same path; by default it is what ``StoreConfig.from_env()`` says.
        store: an open ``Store``, ``AsyncStore``, ``AgentStore`` or ``AsyncAgentStore`` instead;
            it is left open.
        config: how to open a store instead.
        key: the field that tells entities apart.
        namespace: of the records; by default the class's ``Meta.table``, or its name.
        indexes: fields, or tuples of fields, that ``filter`` finds entities by without reading
            all; by default the class's ``Meta.indexes``.
        sync: policy of the commits; by default that of the configuration, or the store's.
    Raises:
        TypeError: entities of this type cannot be kept.
        ConfigError: the environment does not say what it should.
    """

    def __init__(
        self,
        model_cls: type[T],
        path: Any = None,
        *,
        store: Source | None = None,
        config: StoreConfig | None = None,
        key: str = "id",
        namespace: str | None = None,
        indexes: Sequence[str | Sequence[str]] | None = None,
        sync: SyncPolicy | None = None,
    ) -> None:
        self._connection = Connection(path, store, config)
        policy = self._connection.sync if sync is None else sync
        self._shape: Shape[T] = Shape(model_cls, key, namespace, indexes, policy)
        self._made: tuple[AsyncAgentStore, Any] | None = None

    def __repr__(self) -> str:
        return f"<walkv.WalkvRepository {self._shape.name!r} in {self._connection!r}>"

    async def _entities(self) -> Any:
        """The namespace for the running event loop; its coroutines are made at run time."""
        agent = await self._connection.agent()
        if self._made is None or self._made[0] is not agent:
            self._made = (agent, await _namespace(agent, self._shape))
        return self._made[1]

    async def setup(self) -> None:
        """Open the store now, and not at the first use.

        Raises:
            What ``walkv.open`` raises.
        """
        await self._entities()

    async def close(self) -> None:
        """Let go of the store; the last one in the process that does so closes it.

        Durability: everything that was committed is durable once the store is closed.
        """
        self._made = None
        await self._connection.close()

    async def get(self, id: Any) -> T | None:
        """The entity with an id, or None. A UUID may be given as its text."""
        found = await (await self._entities()).get(self._shape.wanted(self._shape.key, id))
        return None if found is None else self._shape.load(found)

    async def list(self, limit: int | None = 100, offset: int = 0) -> builtins.list[T]:
        """Entities in the order in which they were added, if they have a time of that; else of
        their key.

        Args:
            limit: how many at most; None for all.
        Cost: limit and offset.
        """
        query = (await self._entities()).query().order_by(*self._shape.order)
        found = await query.limit(limit).offset(offset).all()
        return [self._shape.load(each) for each in found]

    async def filter(self, **kwargs: Any) -> builtins.list[T]:
        """All entities that meet conditions, in the order of ``list``.

        Args:
            kwargs: ``field=value``, or ``field__gte=value`` and other comparisons, as in
                ``Query.where``.
        Raises:
            CodecError: there is no such field or comparison.
        Cost: what was found, where an index begins with the fields given; else all entities.
        """
        query = (await self._entities()).query(**self._shape.conditions(kwargs))
        found = await query.order_by(*self._shape.order).all()
        return [self._shape.load(each) for each in found]

    async def add(self, entity: T) -> T:
        """Keep a new entity, and set the times it has for that; returns it.

        Raises:
            RecordExistsError: there is one with this id.
            RecordNotFoundError: what it belongs to is not there.
            CodecError, LimitError: a field cannot be kept. Nothing was written.
        """
        entities = await self._entities()
        values = self._shape.values(entity)
        times = self._shape.stamps(values, entities._threaded.now(), adding=True)
        await entities.add(self._shape.record(**(values | times)))
        return self._shape.stamped(entity, times)

    async def update(self, entity: T) -> T:
        """Keep an entity as it is now, and set the time of that, if it has one; returns it.

        Raises:
            RecordNotFoundError: there is none with this id, or what it belongs to is not there.
            CodecError, LimitError: a field cannot be kept. Nothing was written.
        """
        entities = await self._entities()
        values = self._shape.values(entity)
        times = self._shape.stamps(values, entities._threaded.now(), adding=False)
        changes = self._shape.changes(values, times)
        record = await entities.update(values[self._shape.key], **changes)
        return self._shape.stamped(entity, self._shape.times_of(record))

    async def delete(self, id: Any) -> bool:
        """Delete an entity, and what belongs to it, in one commit; returns whether it was there."""
        deleted = (await self._entities()).delete(self._shape.wanted(self._shape.key, id))
        return bool(await deleted)

    async def exists(self, id: Any) -> bool:
        """Whether there is an entity with an id."""
        there = (await self._entities()).exists(self._shape.wanted(self._shape.key, id))
        return bool(await there)

    async def __aenter__(self) -> Self:
        await self.setup()
        return self


async def _namespace(agent: AsyncAgentStore, shape: Shape[Any]) -> Any:
    """The namespace of a shape; the one that is there already if it is the same.

    Raises:
        TypeError: the name is taken by other records, or by the same with other indexes.
    """
    known: Any = agent.by_name.get(shape.name)
    if known is None:
        return await agent.namespace(shape.declaration, cls=Entities)
    # Two declarations of one namespace would each leave the other's indexes without entries.
    declared = getattr(known._threaded, "declared", None)
    if declared == shape.declaration:
        return known
    raise TypeError(
        f"the namespace {shape.name!r} is in use already, for other records or with another key, "
        "indexes or sync policy; say namespace= to have one of its own"
    )
