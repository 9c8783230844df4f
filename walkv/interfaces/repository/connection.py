"""How repositories come by their store: opened at first use, and shared by all of a process.

Invariants:
    1. A path is opened once in a process, however many repositories name it, since a store has one
       writer; it is closed when the last of them lets go of it.
    2. What was given open is left open.
    3. The event loop never waits for a store to be opened or closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy
from walkv.engine.store import AsyncStore, Store, open
from walkv.errors import ClosedError
from walkv.interfaces.repository.config import StoreConfig

Source = Store | AsyncStore | AgentStore | AsyncAgentStore
"""What is open already."""


class Opened:
    """A store that repositories of this process share."""

    def __init__(self, key: str, store: Store) -> None:
        self.key = key
        self.store = store
        self.user_count = 0


_opened: Final[dict[str, Opened]] = {}
_opened_lock = threading.Lock()


def _acquire(config: StoreConfig) -> Opened:
    key = os.path.realpath(config.path)
    with _opened_lock:
        opened = _opened.get(key)
        if opened is None or opened.store.closed:
            store = open(
                config.path,
                sync=config.sync,
                memtable_bytes=config.memtable_bytes,
                cache_bytes=config.cache_bytes,
                key=config.key,
            )
            opened = _opened[key] = Opened(key, store)
        opened.user_count += 1
        return opened


def _release(opened: Opened) -> None:
    with _opened_lock:
        opened.user_count -= 1
        if opened.user_count:
            return
        if _opened.get(opened.key) is opened:
            del _opened[opened.key]
        opened.store.close()


_Faces = dict[asyncio.AbstractEventLoop, asyncio.Task[AsyncAgentStore]]

_faces: Final[WeakKeyDictionary[Any, _Faces]] = WeakKeyDictionary()
"""The async face of each store and agent for each event loop."""

_faces_lock = threading.Lock()


async def _face_of(
    source: Store | AgentStore, store: Store, policies: Mapping[str, SyncPolicy]
) -> AsyncAgentStore:
    loop = asyncio.get_running_loop()
    with _faces_lock:
        faces = _faces.setdefault(source, {})
        for other in [each for each in faces if each.is_closed()]:
            _let_go(faces.pop(other))
        making = faces.get(loop)
        if making is None:
            # Made of an AsyncStore: of ``source`` it would keep the weak key alive.
            agent = AsyncAgentStore.open(AsyncStore.of(store), policies=policies)
            making = faces[loop] = loop.create_task(agent)
    try:
        # Shielded: who gives up waiting must not take it from the others.
        return await asyncio.shield(making)
    except Exception:
        with _faces_lock:
            if faces.get(loop) is making:
                del faces[loop]
        raise


def _let_go(making: asyncio.Task[AsyncAgentStore]) -> None:
    if making.done() and not making.cancelled() and making.exception() is None:
        with suppress(RuntimeError):  # who still waits belongs to a loop that is closed
            making.result().store.detach()


class Connection:
    """The store of one repository.

    Args:
        path: of a store, to be opened at first use with the defaults of ``StoreConfig``.
        store: an open one.
        config: how to open one.
    Raises:
        TypeError: more than one of them was given, or it is of another type.
        ConfigError: none was, and the environment does not say what it should.
    """

    def __init__(self, path: Any, store: Source | None, config: StoreConfig | None) -> None:
        if sum(each is not None for each in (path, store, config)) > 1:
            raise TypeError("give one of path, store and config")
        if store is not None and not isinstance(store, Source):
            raise TypeError(
                "store is an open Store, AsyncStore, AgentStore or AsyncAgentStore, not a "
                f"{type(store).__name__}; a path is given as path="
            )
        self._source = store
        self._config = None if store is not None else config
        if path is not None:
            self._config = StoreConfig(os.fspath(path))
        elif store is None and config is None:
            self._config = StoreConfig.from_env()
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._agent: AsyncAgentStore | None = None

    def __repr__(self) -> str:
        if self._config is not None:
            return repr(self._config.path)
        return repr(self._source)

    @property
    def sync(self) -> SyncPolicy | None:
        """The policy that the configuration asks for, if there is one."""
        return None if self._config is None else self._config.sync

    async def agent(self) -> AsyncAgentStore:
        """The store's face for the running event loop.

        Raises:
            ClosedError: the store that was given is not open.
            What ``walkv.open`` raises.
        """
        source = self._source
        if isinstance(source, AsyncAgentStore):
            if not source.by_name:
                raise ClosedError(f"{source!r}: enter it, or await AsyncAgentStore.open(), first")
            return source
        if isinstance(source, AsyncStore):
            if self._agent is None:
                self._agent = await AsyncAgentStore.open(source)
            return self._agent
        if isinstance(source, AgentStore):
            return await _face_of(source, source.store, source.policies)
        if isinstance(source, Store):
            return await _face_of(source, source, {})
        opened = self._opened
        if opened is None or opened.store.closed:
            opened = await asyncio.to_thread(self._open)
        return await _face_of(opened.store, opened.store, {})

    def _open(self) -> Opened:
        with self._lock:
            if self._opened is not None and self._opened.store.closed:
                _release(self._opened)
                self._opened = None
            if self._opened is None:
                assert self._config is not None
                self._opened = _acquire(self._config)
            return self._opened

    async def close(self) -> None:
        """Let go of the store, which is closed if nobody else has it; the next use opens it again.

        Durability: everything that was committed is durable, if this was the last one.
        """
        opened = await asyncio.to_thread(self._close)
        if opened is not None and opened.store.closed:
            with _faces_lock:
                making = _faces.get(opened.store, {}).pop(asyncio.get_running_loop(), None)
            if making is not None:
                _let_go(making)

    def _close(self) -> Opened | None:
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                _release(opened)
            return opened
