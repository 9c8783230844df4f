"""A store as an adapter for a framework uses it: from threads, and from tasks of any event loop.

Frameworks call one object from wherever they are. So an adapter has one implementation, a
namespace, and a ``Faces`` of it: ``threads`` for calls that may wait, and coroutines for calls that
may not. Whatever event loop is running gets its own acknowledgements.

Invariants:
    1. Adapters that are given the same path in one process share one opened store, and the last
       one that is closed closes it. One that was given an open store leaves it open.
    2. Writes of one adapter, made with ``in_turn`` from the tasks of one loop, commit in the order
       of the calls.

Source: a connection per adapter was rejected: a store has one writer, and a saver and a store at
one path would lock each other out.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, Final, Generic, Self, TypeVar

from walkv.agent import AgentStore
from walkv.agent.namespaces import attach, key_value, refuse_options
from walkv.engine.store import AsyncStore, Store
from walkv.errors import ClosedError, StoreFailedError
from walkv.namespaces import registry
from walkv.namespaces.access import Access, Deferred
from walkv.namespaces.aio import Caller, Turns, see_through
from walkv.namespaces.base import Namespace

A = TypeVar("A", bound="Adapter")
N = TypeVar("N", bound=Namespace[Any])
T = TypeVar("T")


class _Opened:
    """A store that was opened for adapters.

    Attributes:
        users: how many connections it has.
        options: it was opened with.
    """

    def __init__(self, agent: AgentStore, options: dict[str, Any]) -> None:
        self.agent = agent
        self.options = options
        self.users = 0
        self._pid = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether it is open, and of this process and not of one that this was forked from."""
        return self._pid == os.getpid() and not self.agent.closed


_opened: Final[dict[str, _Opened]] = {}
_opening: Final = threading.Lock()


class _Side:
    """What the tasks of one event loop need.

    Attributes:
        turns: in which writes commit.
    """

    def __init__(self, store: Store) -> None:
        self.face = AsyncStore.of(store)
        self.caller = Caller(self.face)
        self.turns = Turns()

    def let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Detach its face, from any thread."""
        if loop.is_running() and loop is not _running_loop():
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(self.face.detach)
                return
        self.face.detach()


def _shown(options: dict[str, Any]) -> str:
    """Options for a message, but for what nobody is to read there."""
    masked = {name: "..." if name == "key" else value for name, value in options.items()}
    return str(masked) if masked else "no options"


def _path(store: Any) -> str:
    try:
        path = os.fspath(store)
    except TypeError:
        raise TypeError(
            f"a store is a path, a walkv.Store or a walkv.AgentStore, not {type(store).__name__}"
        ) from None
    if path == ":memory:":
        raise ValueError(
            "walkv keeps a store in a directory; for one in memory use the framework's own"
        )
    return os.path.realpath(os.fsdecode(path))


class Connection:
    """An adapter's hold on a store.

    Args:
        store: a path, or an open ``Store`` or ``AgentStore``.
        options: as for ``AgentStore``, for a path.
    Raises:
        TypeError: options for a store that is open already, or other ones than it was opened with.
        ValueError: ":memory:".
        What ``walkv.open`` raises.
    Cost: opening recovers; whoever opens or closes an adapter in this process waits meanwhile.

    Attributes:
        agent: the store.
    """

    def __init__(self, store: str | os.PathLike[str] | Store | AgentStore, **options: Any) -> None:
        self._path: str | None = None
        self._lock = threading.Lock()
        self._sides: dict[asyncio.AbstractEventLoop, _Side] = {}
        self._closed = False
        if isinstance(store, AgentStore | Store):
            refuse_options(options)
            self.agent = store if isinstance(store, AgentStore) else AgentStore(store)
        else:
            self.agent = self._share(_path(store), options)

    def _share(self, path: str, options: dict[str, Any]) -> AgentStore:
        with _opening:
            opened = _opened.get(path)
            if opened is None or not opened.usable:
                opened = _opened[path] = _Opened(AgentStore(path, **options), options)
            elif options and options != opened.options:
                raise TypeError(
                    f"{path}: this store is open already, with {_shown(opened.options)}; "
                    "give the same ones here, or none"
                )
            opened.users += 1
            self._path = path
            return opened.agent

    @property
    def closed(self) -> bool:
        """Whether this connection or its store was closed."""
        return self._closed or self.agent.closed

    def check_open(self) -> None:
        """Raise ``ClosedError`` if it was closed."""
        if self._closed:
            raise ClosedError(
                f"{self.agent.path}: this was closed, as it is when the block that opened it is "
                "left; use it inside, or construct it without a block and close() it yourself"
            )

    def side(self) -> _Side:
        """What the tasks of the running event loop need."""
        loop = asyncio.get_running_loop()
        side = self._sides.get(loop)
        if side is None:
            with self._lock:
                self.check_open()
                for old in [each for each in self._sides if each.is_closed()]:
                    self._sides.pop(old).let_go(old)
                side = self._sides[loop] = _Side(self.agent.store)
        return side

    def close(self) -> None:
        """Let go of the store, and close it if nobody else uses it. Closing twice is allowed.

        Raises:
            StoreFailedError: the last sync failed.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            sides, self._sides = self._sides, {}
        for loop, side in sides.items():
            side.let_go(loop)
        if self._path is None:
            return
        with _opening:
            opened = _opened.get(self._path)
            if opened is None or opened.agent is not self.agent:
                return
            opened.users -= 1
            if opened.users == 0:
                del _opened[self._path]
                self.agent.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


class Faces(Generic[N]):
    """One namespace, for threads and for tasks.

    Args:
        make: makes the namespace, given an ``Access``. It is called once for each way of calling;
            what these should share, such as caches, it gives to each.
    """

    def __init__(self, connection: Connection, make: Callable[[Access], N]) -> None:
        self._connection = connection
        agent = connection.agent
        access = agent.sessions.access
        self._waiting = make(access)
        attach(access.kv, [self._waiting])
        agent.by_name.setdefault(self._waiting.name, self._waiting)
        engine = agent.store.engine
        self._threaded = make(Deferred(key_value(engine), self))
        self._inline = make(Deferred(key_value(engine, blocking=False), self))
        known = registry.read(access.kv)
        self._threaded.attach(known)
        self._inline.attach(known)

    @property
    def threads(self) -> N:
        """For calls that may wait.

        Raises:
            ClosedError: the connection was closed; others may still have the store.
        """
        self._connection.check_open()
        return self._waiting

    async def call(self, function: Callable[[N], T]) -> T:
        """Call a function of the namespace without blocking the event loop.

        It may be called twice: here, where it is refused as soon as it would have to wait, and
        then in another thread.
        """
        inline, threaded = partial(function, self._inline), partial(function, self._threaded)
        return await self._connection.side().caller.call(inline, threaded, (), {})

    async def in_thread(self, function: Callable[[N], T]) -> T:
        """As ``call``, for what takes its time: in another thread at once."""
        return await self._connection.side().caller.in_thread(partial(function, self._threaded))

    async def stream(
        self, begin: Callable[[N], Generator[T, None, None]], page_count: int
    ) -> AsyncGenerator[T, None]:
        """What a generator yields, read in another thread, so many at a time."""
        caller = self._connection.side().caller
        found = begin(self._threaded)
        try:
            while page := await see_through(
                caller.in_thread(lambda: list(islice(found, page_count)))
            ):
                for each in page:
                    yield each
        finally:
            found.close()

    async def in_turn(self, function: Callable[[N], T], *, small: bool = True) -> T:
        """As ``call``, for writes: committed after those of this loop that were begun before.

        Args:
            small: False for what takes its time, which is done in another thread.
        """
        side = self._connection.side()
        inline, threaded = partial(function, self._inline), partial(function, self._threaded)
        return await side.caller.in_turn(side.turns, inline, threaded, small=small)


class Adapter:
    """What an adapter's class has of its own hold on a store: ways to open it, and to let go.

    ``with`` and ``async with`` close it on leaving.
    """

    _connection: Connection

    @classmethod
    def from_conn_string(
        cls, conn_string: str | os.PathLike[str], **arguments: Any
    ) -> Opening[Self]:
        """``with`` or ``async with``: opened on entering, closed on leaving.

        Args:
            conn_string: the path of the store.
            arguments: as for the constructor, which does as well without a block.
        """
        make: Callable[..., Self] = cls
        return Opening(partial(make, conn_string, **arguments))

    @property
    def agent(self) -> AgentStore:
        """The store, with whatever else is in it."""
        return self._connection.agent

    @property
    def closed(self) -> bool:
        """Whether it or its store was closed."""
        return self._connection.closed

    def close(self) -> None:
        """Let go of the store; it is closed if it was opened for this and nobody else has it.

        Raises:
            StoreFailedError: the last sync failed.
        """
        self._connection.close()

    async def aclose(self) -> None:
        """As ``close``, without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with _unless_failing(error):
            self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with _unless_failing(error):
            await self.aclose()


class Opening(Generic[A]):
    """An adapter that is opened by a ``with`` or an ``async with`` block."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._make = make
        self._made: A | None = None

    def __enter__(self) -> A:
        self._made = self._make()
        return self._made

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._made is not None:
            self._made.__exit__(kind, error, trace)

    async def __aenter__(self) -> A:
        # Recovery takes its time. Who is cancelled meanwhile must not leave the store locked, and
        # the loop may end with that task: nobody else would close it.
        try:
            return await see_through(asyncio.to_thread(self.__enter__))
        except asyncio.CancelledError:
            if self._made is not None:
                await see_through(self._made.aclose())
            raise

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._made is not None:
            await self._made.__aexit__(kind, error, trace)


@contextmanager
def _unless_failing(error: BaseException | None) -> Iterator[None]:
    """If the block has raised, that is what is raised, and not that the store has failed."""
    try:
        yield
    except StoreFailedError:
        if error is None:
            raise
