"""The records of an agent, for threads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from walkv import limits
from walkv.agent.namespaces import Namespaces, attach, key_value, refuse_options
from walkv.engine.keep import KeepLog
from walkv.engine.keyring import Key
from walkv.engine.opening import DEFAULT_SLOW_SECONDS
from walkv.engine.policies import SyncPolicy, Wal
from walkv.engine.store import Store, open
from walkv.engine.store.common import Closing
from walkv.engine.store.sync import backoff_seconds
from walkv.engine.vfs import FileSystem
from walkv.errors import ConflictError
from walkv.namespaces.access import Access, Batch
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.steps import check_step, step_key

if TYPE_CHECKING:
    from walkv.ops.backing import BackupSchedule

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AgentStore(Closing, Namespaces):
    """The records of an agent. A context manager that closes on leaving; thread-safe.

    Args:
        store: a path, or an open ``Store``, which is then left open.
        sync: policy of commits to namespaces without one of their own; the store's.
        policies: policies by namespace, instead of their defaults.
        read_only, create, memtable_bytes, cache_bytes, keep_log, min_free_bytes, slow_seconds,
            filesystem, key: as in ``walkv.open``.
    Raises:
        What ``walkv.open`` raises.

    Attributes:
        store: the ``Store`` below. Keys that begin with a zero byte belong to the namespaces.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store,
        *,
        sync: SyncPolicy = Wal(),  # noqa: B008  # immutable
        policies: Mapping[str, SyncPolicy] | None = None,
        read_only: bool = False,
        create: bool = True,
        memtable_bytes: int = limits.DEFAULT_MEMTABLE_BYTES,
        cache_bytes: int = limits.DEFAULT_CACHE_BYTES,
        keep_log: KeepLog | None = None,
        min_free_bytes: int = limits.DEFAULT_MIN_FREE_BYTES,
        slow_seconds: float = DEFAULT_SLOW_SECONDS,
        filesystem: FileSystem | None = None,
        key: Key | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "sync": sync,
            "read_only": read_only,
            "create": create,
            "memtable_bytes": memtable_bytes,
            "cache_bytes": cache_bytes,
            "keep_log": keep_log,
            "min_free_bytes": min_free_bytes,
            "slow_seconds": slow_seconds,
            "filesystem": filesystem,
            "key": key,
        }
        self._owns = not isinstance(store, Store)
        if isinstance(store, Store):
            refuse_options(options)
        self.store: Store = store if isinstance(store, Store) else open(store, **options)
        self._schedules: list[BackupSchedule] = []
        try:
            self._access = Access(key_value(self.store.engine), self)
            super().__init__(self._access, policies or {})
            attach(self._access.kv, list(self.by_name.values()))
        except BaseException:
            if self._owns:
                self.store.close()
            raise

    def __repr__(self) -> str:
        return f"<walkv.AgentStore {self.store.path!r} {'closed' if self.closed else 'open'}>"

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self.store.path

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self.store.closed

    def namespace(
        self,
        declaration: Declaration[R],
        *,
        sync: SyncPolicy | None = None,
        cls: type[Namespace[Any]] = Namespace,
    ) -> Namespace[R]:
        """A namespace of your own, next to those that are there.

        Args:
            cls: a subclass of ``Namespace`` with operations of its own.
        Raises:
            TypeError: the declaration is not one that can be served.
        Cost: one look-up; one commit the first time, and a pass over the records if there are any
            and indexes have changed.
        """
        if declaration.name in CLASSES:
            raise TypeError(f"there is a namespace {declaration.name!r} already")
        made: Namespace[R] = cls(self._access, declaration, sync)
        attach(self._access.kv, [made])
        self.by_name[made.name] = made
        return made

    @contextmanager
    def batch(self, sync: SyncPolicy | None = None) -> Iterator[None]:
        """Everything that this thread writes inside commits together, or not at all.

        Reads inside see the writes inside. A batch inside a batch is a part of it. What other
        threads write, also those begun inside, is not.

        Args:
            sync: policy of the commit; by default the strongest of the namespaces written to.
        Raises:
            ConflictError: something that was read inside has changed; nothing was written. Do it
                again, or use ``transact``, which does.
        """
        outer = self._access.batch()
        if outer is None:
            with Batch(self._access, sync).block():
                yield
        else:
            with outer.part(sync):
                yield

    def transact(
        self, function: Callable[[], T], *, retries: int = 20, sync: SyncPolicy | None = None
    ) -> T:
        """Call a function inside a batch and commit, again if there was a conflict.

        Raises:
            ConflictError: every run met a conflict.
        """
        for attempt in range(retries + 1):
            try:
                with self.batch(sync):
                    return function()
            except ConflictError:
                if attempt == retries or self._access.batch() is not None:
                    raise
                self.store.engine.fs.sleep(backoff_seconds(attempt))
        raise ValueError(f"retries must be 0 or more, not {retries}")

    @overload
    def step(self, function: Callable[P, T], /) -> Callable[P, T]: ...

    @overload
    def step(
        self,
        /,
        *,
        key: str | None = ...,
        on_indeterminate: Any = ...,
        retry_failed: bool = ...,
        sync: SyncPolicy | None = ...,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]: ...

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
        """A decorator: each call is a step that runs once; see ``Executions.once``.

        Give it a ``key``. Without one the step is known by the function's module, name and
        arguments: if the function is renamed or moved, its steps are others, and are run again.

        Args:
            key: of the step, with arguments in braces: ``"charge/{order_id}"``.
            on_indeterminate, retry_failed, sync: as for ``once``.
        """
        check_step(function, key)

        def decorate(wrapped: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(wrapped)
            def call(*args: Any, **kwargs: Any) -> Any:
                name = step_key(wrapped, key, args, kwargs)
                bound = functools.partial(wrapped, *args, **kwargs)
                functools.update_wrapper(bound, wrapped)
                return self.executions.once(
                    name,
                    bound,
                    on_indeterminate=on_indeterminate,
                    retry_failed=retry_failed,
                    sync=sync,
                )

            return call

        return decorate if function is None else decorate(function)

    def verify(self) -> list[str]:
        """What is wrong between records and indexes, a line each; nothing, if all is well.

        ``store.verify()`` checks the bytes below.
        """
        return [line for each in self.by_name.values() for line in each.verify()]

    def schedule_backups(
        self,
        target: str | os.PathLike[str],
        *,
        every_seconds: float,
        keep: int | None = None,
        keep_days: float | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> BackupSchedule:
        """Make a backup every so often in a thread, until it is stopped or this is closed.

        Args:
            target: a directory, or the URL of an object store.
            every_seconds, keep, keep_days, on_error: as for ``walkv.ops.BackupSchedule``.
        Raises:
            ClosedError: the store was closed.
            ValueError, BackupError: one of these is not what it should be.
        """
        from walkv.ops.backing import BackupSchedule

        self.store.engine.check()
        schedule = BackupSchedule(
            self,
            target,
            every_seconds=every_seconds,
            keep=keep,
            keep_days=keep_days,
            on_error=on_error,
        )
        self._schedules.append(schedule)
        return schedule

    def sync(self) -> None:
        """Make every commit so far durable, whatever its policy."""
        self.store.sync()

    def close(self) -> None:
        """Close the store, unless it was given open. Closing twice is allowed."""
        try:
            for schedule in self._schedules:
                schedule.stop()
        finally:
            self._close_store()

    def _close_store(self) -> None:
        if self._owns:
            self.store.close()
