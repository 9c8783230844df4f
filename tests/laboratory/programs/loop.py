"""An event loop without threads, waiting or chance, and the async face driven by it.

What an ``AsyncStore`` would do in another thread happens in the loop, some turns later; the seed
says how many. Where the loop would sleep, its clock moves on. So tasks meet in the same way
whenever the seed is the same, and a loop that waits for what nobody will do says so.
"""

from __future__ import annotations

import asyncio
import inspect
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from random import Random
from typing import Any, Final, TypeVar

from walkv import AsyncStore
from walkv.engine.core import Engine
from walkv.engine.store.async_parts import AsyncBatch, AsyncTransaction, AsyncView
from walkv.errors import StoreFailedError

T = TypeVar("T")

_SYNC_SECONDS: Final = 0.001
"""How long after a request the background sync happens, by the loop's clock."""


class _NoWaiting(selectors.SelectSelector):
    """Moves the loop's clock in place of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("every task waits, and nothing will wake one")
        self.now_seconds += max(timeout, 0.0)
        return []


class SteadyLoop(asyncio.SelectorEventLoop):
    """See the module.

    Attributes:
        chooser: picks how long the work of other threads takes; None for no time at all.
        busy: pieces of such work that are not done.
        problem: what a callback has raised.
    """

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)
        self.chooser: Random | None = None
        self.busy = 0
        self.problem: BaseException | None = None
        self.set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # That nobody waits any more for an error is no problem: its task was given up.
        if not str(context.get("message")).endswith("never retrieved"):
            error = context.get("exception") or AssertionError(str(context.get("message")))
            self.problem = self.problem or error

    def time(self) -> float:
        return self._clock.now_seconds

    def call_soon_threadsafe(  # type: ignore[override]  # looser, and used only by the engine
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        # There is no other thread that the loop would have to be woken for.
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # looser, and used only by the engine
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> Any:
        future: asyncio.Future[T] = self.create_future()
        self.busy += 1
        self.call_soon(self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[T], func: Callable[..., T], args: Any) -> None:
        chooser = self.chooser
        if chooser is not None and chooser.random() < 0.5:
            self.call_soon(self._work, future, func, args)
            return
        self.busy -= 1
        if future.cancelled() and (chooser is None or chooser.random() < 0.5):
            return  # given up before a thread took it
        try:
            result = func(*args)
        except BaseException as error:  # noqa: BLE001  # it is passed on, as by a thread
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    def run(self, awaitable: Awaitable[T]) -> T:
        return self.run_until_complete(awaitable)

    async def settle(self) -> None:
        """Let the work that cancelled tasks have left behind come to its end."""
        while self.busy:
            await asyncio.sleep(0)


class LoopSyncer:
    """The engine's background thread, as a callback of the loop.

    On a file system without threads every commit of a task would sync for itself; so they wait for
    each other, and can be cancelled while they do.
    """

    def __init__(self, engine: Engine, loop: SteadyLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._asked = False
        engine.syncer.request = self._request  # type: ignore[method-assign]

    def _request(self) -> bool:
        self._engine.syncer.requested = True
        if not self._asked:
            self._asked = True
            self._loop.call_later(_SYNC_SECONDS, self._run)
        return True

    def _run(self) -> None:
        self._asked = False
        syncer, log = self._engine.syncer, self._engine.write_log
        if self._engine.closed:
            return
        syncer.requested = False
        try:
            if log.durable < log.position:
                log.sync()
        except (StoreFailedError, OSError):
            pass  # whoever waits learns it from the engine
        syncer.tell()


class Driven:
    """An object whose methods are awaited, as if they were plain ones.

    One rule then serves a ``Store`` and an ``AsyncStore`` alike.
    """

    def __init__(self, loop: SteadyLoop, target: Any) -> None:
        self._loop = loop
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            return self._ended(found(*args, **options))

        return call

    def _ended(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            result = self._loop.run(result)
        if isinstance(result, AsyncIterator):
            return self._steps(result)
        if isinstance(result, (AsyncBatch, AsyncTransaction, AsyncView)):
            return Driven(self._loop, result)
        return result

    def _steps(self, entries: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    entry = self._loop.run(entries.__anext__())
                except StopAsyncIteration:
                    return
                yield entry
        finally:
            if not self._loop.is_closed():
                self._loop.run(entries.aclose())

    def __len__(self) -> int:
        return len(self._target)

    def __contains__(self, key: bytes) -> bool:
        if isinstance(self._target, AsyncStore):
            return bool(self._loop.run(self._target.contains(key)))
        return self._loop.run(self._target.get(key)) is not None

    def __enter__(self) -> Driven:
        self._loop.run(self._target.__aenter__())
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._loop.run(self._target.__aexit__(kind, error, trace))


async def either(result: Any) -> Any:
    """Await what is to be awaited: for a function that serves both faces."""
    return await result if inspect.isawaitable(result) else result


def at_once(steps: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        steps.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]  # what the coroutine returns
    steps.close()
    raise AssertionError("it waits")
