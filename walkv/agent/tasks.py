"""The records of an agent, for the tasks of one event loop."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from walkv.agent.namespaces import Namespaces, attach, key_value, refuse_options
from walkv.agent.threads import AgentStore
from walkv.engine.policies import SyncPolicy
from walkv.engine.store import AsyncStore, Store, aopen
from walkv.engine.store.common import AsyncClosing
from walkv.engine.store.sync import backoff_seconds
from walkv.errors import ClosedError, ConflictError
from walkv.namespaces import registry
from walkv.namespaces.access import Batch, Deferred
from walkv.namespaces.aio import AsyncNamespace, Caller, async_face
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.faces import (
    ASYNC_CLASSES,
    CLASSES,
    AsyncCheckpoints,
    AsyncConfigurations,
    AsyncContexts,
    AsyncExecutions,
    AsyncGenericNamespace,
    AsyncKnowledgeSources,
    AsyncMessages,
    AsyncSessions,
    AsyncTaskContexts,
    AsyncTasks,
    AsyncUsers,
    AsyncWorkflows,
)
from walkv.namespaces.steps import check_step, step_key

if TYPE_CHECKING:
    from walkv.ops.backing import BackupSchedule

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncAgentStore(AsyncClosing):
    """The records of an agent, for the tasks of one event loop; as ``AgentStore``, awaited.

    Made by ``await AsyncAgentStore.open(path)``, or entered with ``async with
    AsyncAgentStore(path)``. It opens then, and not before. Also takes an open ``AsyncStore``,
    ``Store`` or ``AgentStore`` (with its policies), which it leaves open.

    Attributes:
        store: the ``AsyncStore`` below, once open.
    """

    store: AsyncStore
    sessions: AsyncSessions
    messages: AsyncMessages
    checkpoints: AsyncCheckpoints
    task_contexts: AsyncTaskContexts
    contexts: AsyncContexts
    workflows: AsyncWorkflows
    executions: AsyncExecutions
    configurations: AsyncConfigurations
    tasks: AsyncTasks
    users: AsyncUsers
    knowledge_sources: AsyncKnowledgeSources

    def __init__(
        self, store: Any, *, policies: Mapping[str, SyncPolicy] | None = None, **options: Any
    ) -> None:
        if isinstance(store, Store | AsyncStore | AgentStore):
            refuse_options(options)
        if isinstance(store, AgentStore):
            policies = {**store.policies, **(policies or {})}
            store = store.store
        self._source = store
        self._owns = not isinstance(store, Store | AsyncStore)
        self._made_face = isinstance(store, Store)
        self._policies = dict(policies or {})
        self._options = options
        self.by_name: dict[str, AsyncNamespace[Any]] = {}
        self._schedules: list[BackupSchedule] = []

    @classmethod
    async def open(cls, store: Any, **options: Any) -> Self:
        """Open an agent's store; arguments as for ``AgentStore``."""
        return await cls(store, **options).__aenter__()

    async def __aenter__(self) -> Self:
        if self.by_name:
            if self.closed:
                raise ClosedError(f"{self!r}: this agent's store was closed; make a new one")
            return self
        source = self._source
        if isinstance(source, AsyncStore):
            self.store = source
        elif isinstance(source, Store):
            self.store = AsyncStore.of(source)
        else:
            self.store = await aopen(source, **self._options)
        try:
            await self._begin()
        except BaseException:
            if self._owns:
                await self.store.close()
            elif self._made_face:
                self.store.detach()
            raise
        return self

    async def _begin(self) -> None:
        engine = self.store.as_sync().engine
        self._caller = Caller(self.store)
        self._access = Deferred(key_value(engine), self)
        self._inline_access = Deferred(key_value(engine, blocking=False), self)
        threaded = self._namespaces = Namespaces(self._access, self._policies)
        inline = Namespaces(self._inline_access, self._policies)
        kv = self._access.kv
        await self.store._in_thread(attach, kv, list(threaded.by_name.values()))
        known = await self.store._in_thread(registry.read, kv)
        for name, namespace in threaded.by_name.items():
            inline.by_name[name].attach(known)
            face = ASYNC_CLASSES[name](self._caller, inline.by_name[name], namespace)
            self.by_name[name] = face
            setattr(self, name, face)

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is not there: the namespaces and the store, before it is open.
        if name in type(self).__annotations__ and not self.__dict__.get("by_name"):
            raise ClosedError(
                "this agent's store is not open yet: write 'async with AsyncAgentStore(path) as "
                "agent', or 'agent = await AsyncAgentStore.open(path)'"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def policies(self) -> dict[str, SyncPolicy]:
        """The sync policy of each namespace that has one of its own, by name."""
        return self._namespaces.policies

    def __repr__(self) -> str:
        if not self.by_name:
            return f"<walkv.AsyncAgentStore {self._source!r} not open>"
        return f"<walkv.AsyncAgentStore {self.path!r} {'closed' if self.closed else 'open'}>"

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self.store.path

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self.store.closed

    async def namespace(
        self,
        declaration: Declaration[R],
        *,
        sync: SyncPolicy | None = None,
        cls: type[Namespace[Any]] = Namespace,
    ) -> Any:
        """A namespace of your own; see ``AgentStore.namespace``."""
        if declaration.name in CLASSES:
            raise TypeError(f"there is a namespace {declaration.name!r} already")
        threaded: Namespace[R] = cls(self._access, declaration, sync)
        inline: Namespace[R] = cls(self._inline_access, declaration, sync)
        await self.store._in_thread(attach, self._access.kv, [threaded])
        inline.attach(await self.store._in_thread(registry.read, self._access.kv))
        face = AsyncGenericNamespace if cls is Namespace else async_face(cls)
        made = face(self._caller, inline, threaded)
        self.by_name[made.name] = made
        return made

    @asynccontextmanager
    async def batch(self, sync: SyncPolicy | None = None) -> AsyncIterator[None]:
        """Everything that this task writes inside commits together; see ``AgentStore.batch``.

        ``asyncio.gather``, ``create_task`` and, before Python 3.12, ``wait_for`` begin tasks: what
        is written in those is not in the batch. Await the calls one after the other.
        """
        outer = self._access.batch()
        if outer is not None:
            with outer.part(sync):
                yield
            return
        batch = Batch(self._access, sync)
        await self.store._in_thread(batch.open)
        try:
            with batch.entered():
                yield
        except BaseException:
            batch.discard()
            raise
        ticket = await self.store._in_thread(batch.finish)
        if ticket is not None:
            await self._caller.acknowledge([ticket])

    async def transact(
        self, function: Callable[[], Any], *, retries: int = 20, sync: SyncPolicy | None = None
    ) -> Any:
        """Await a function inside a batch and commit, again if there was a conflict."""
        for attempt in range(retries + 1):
            try:
                async with self.batch(sync):
                    return await function()
            except ConflictError:
                if attempt == retries or self._access.batch() is not None:
                    raise
                await asyncio.sleep(backoff_seconds(attempt))
        raise ValueError(f"retries must be 0 or more, not {retries}")

    @overload
    def step(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def step(
        self,
        /,
        *,
        key: str | None = ...,
        on_indeterminate: Any = ...,
        retry_failed: bool = ...,
        sync: SyncPolicy | None = ...,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]: ...

    def step(
        self,
        function: Any = None,
        /,
        *,
        key: str | None = None,
        on_indeterminate: Any = "raise",
        retry_failed: bool = False,
        sync: SyncPolicy | None = None,
    ) -> Any:
        """A decorator for coroutine functions; see ``AgentStore.step``."""
        check_step(function, key)

        def decorate(wrapped: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(wrapped)
            async def call(*args: Any, **kwargs: Any) -> Any:
                name = step_key(wrapped, key, args, kwargs)
                bound = functools.partial(wrapped, *args, **kwargs)
                functools.update_wrapper(bound, wrapped)
                return await self.executions.once(
                    name,
                    bound,
                    on_indeterminate=on_indeterminate,
                    retry_failed=retry_failed,
                    sync=sync,
                )

            return call

        return decorate if function is None else decorate(function)

    async def verify(self) -> list[str]:
        """What is wrong between records and indexes, a line each."""
        lines = [await each.verify() for each in self.by_name.values()]  # type: ignore[attr-defined]
        return [line for part in lines for line in part]

    async def schedule_backups(
        self,
        target: str | os.PathLike[str],
        *,
        every_seconds: float,
        keep: int | None = None,
        keep_days: float | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> BackupSchedule:
        """Make a backup every so often in a thread; see ``AgentStore.schedule_backups``."""
        from walkv.ops.backing import BackupSchedule

        engine = self.store.as_sync().engine
        engine.check()

        def begin() -> BackupSchedule:
            schedule = BackupSchedule(
                self,
                target,
                every_seconds=every_seconds,
                keep=keep,
                keep_days=keep_days,
                on_error=on_error,
            )
            # Here, so that it is known also where the task that waits was cancelled.
            self._schedules.append(schedule)
            try:
                engine.check()
            except BaseException:
                schedule.stop()
                raise
            return schedule

        return await asyncio.to_thread(begin)

    async def sync(self) -> None:
        """Make every commit so far durable, whatever its policy."""
        await self.store.sync()

    async def close(self) -> None:
        """Close the store, unless it was given open."""
        try:
            for schedule in self._schedules:
                await asyncio.to_thread(schedule.stop)
        finally:
            await self._close_store()

    async def _close_store(self) -> None:
        if self.by_name:
            if self._owns:
                await self.store.close()
            elif self._made_face:
                self.store.detach()
