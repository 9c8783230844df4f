"""The namespaces as asyncio tasks see them: the same classes, called so that nothing blocks.

A call is first made in the event loop's own thread, over a store that refuses whatever would have
to wait (``WouldBlockError``); a small write or a look-up in memory takes microseconds there. What
was refused is made again in a thread of the store's pool, and what is large, or is code of others
(a class that is not walkv's own), is made there at once. Either way the commit is not waited for
in the call: its tickets are awaited, and one sync wakes all tasks whose commits it covers.

Invariants:
    1. A call is refused before it has written anything, so making it again is harmless.
    2. What has to be encoded in the event loop's thread, or decoded, is small.
    3. Every public method of a namespace is here under its name, with its arguments and errors.
    4. Calls with the same turns commit in the order in which they were begun: behind one that had
       to leave the event loop's thread, later ones follow it there.

Source: a second implementation of every method was rejected (two things to keep alike), and so was
a thread for every call (it costs more than a small write does).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from walkv import limits
from walkv.engine.policies import SyncPolicy
from walkv.errors import WalkvError, WouldBlockError
from walkv.namespaces.access import Batch, in_batch, take_tickets
from walkv.namespaces.base import Namespace
from walkv.namespaces.common import INTERNAL
from walkv.namespaces.executions import Recording, ending, noting
from walkv.namespaces.keyvalue import Ticket
from walkv.namespaces.query import Page, Plan, Query
from walkv.namespaces.steps import ASK, RETURNED, Call, Claim, Executions

R = TypeVar("R")
T = TypeVar("T")

_CHUNK: Final = 256
_INLINE_BYTES: Final = 64 * limits.KIB
_ELEMENT_BYTES: Final = 128
"""What an element is taken for, whatever it is: some 512 of them are too many."""

_SCALARS: Final = frozenset((int, float, bool, type(None)))


class AsyncFace(Protocol):
    """What these need of an ``AsyncStore``."""

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T: ...

    async def _acknowledge(self, position: int, policy: SyncPolicy | None) -> None: ...

    def _check_open(self) -> None: ...


class Turns:
    """Who of some calls is next, for the tasks of one event loop.

    Attributes:
        lock: held by the one whose turn it is, in another thread.
        waiting: how many calls are made there, or wait for their turn.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Caller:
    """Makes calls for tasks; see the module.

    Args:
        store: the async face of the store.
    """

    def __init__(self, store: AsyncFace) -> None:
        self._store = store

    async def call(
        self, inline: Callable[..., T], threaded: Callable[..., T], args: Any, kwargs: Any
    ) -> T:
        """Call one of two bound methods that do the same, and wait for its commits."""
        result, tickets = await self.commit(inline, threaded, args, kwargs)
        if tickets:
            await self.acknowledge(tickets)
        return result

    async def commit(
        self,
        inline: Callable[..., T],
        threaded: Callable[..., T],
        args: Any,
        kwargs: Any,
        *,
        to_its_end: bool = False,
    ) -> tuple[T, list[Ticket]]:
        """As ``call``, and leave the waiting to the caller.

        Args:
            to_its_end: who is cancelled while another thread makes the call waits for it even so.
        """
        self._store._check_open()
        if is_small(args) and (not kwargs or is_small(kwargs.values())):
            done = await self._commit_inline(inline, *args, **kwargs)
            if done is not None:
                return done
        call = self._commit_in_thread(threaded, *args, **kwargs)
        return await (see_through(call) if to_its_end else call)

    async def in_turn(
        self, turns: Turns, inline: Callable[[], T], threaded: Callable[[], T], *, small: bool
    ) -> T:
        """As ``call``, committed after the calls with the same turns that were begun before.

        Args:
            small: whether it may be made in the event loop's thread at all.
        """
        self._store._check_open()
        done = None
        if small and not turns.waiting:
            done = await self._commit_inline(inline)
        if done is None:
            turns.waiting += 1
            try:
                async with turns.lock:
                    done = await see_through(self._commit_in_thread(threaded))
            finally:
                turns.waiting -= 1
        result, tickets = done
        if tickets:
            await self.acknowledge(tickets)
        return result

    async def _commit_inline(
        self, function: Callable[..., T], *args: Any, **kwargs: Any
    ) -> tuple[T, list[Ticket]] | None:
        """Make a call here and now; None if it was refused."""
        try:
            return function(*args, **kwargs), take_tickets()
        except WouldBlockError:
            if tickets := take_tickets():
                await self.acknowledge(tickets)
                raise WalkvError(
                    "this call has written something and then had to wait, so that it cannot "
                    "be made again; what it wrote is kept"
                ) from None
            return None
        except BaseException as error:
            await self._acknowledge_failed(take_tickets(), error)
            raise

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call something that may wait, in another thread, and await its commits here."""
        result, tickets = await self._commit_in_thread(function, *args, **kwargs)
        await self.acknowledge(tickets)
        return result

    async def _commit_in_thread(
        self, function: Callable[..., T], *args: Any, **kwargs: Any
    ) -> tuple[T, list[Ticket]]:
        tickets: list[Ticket] = []

        def run() -> T:
            try:
                return function(*args, **kwargs)
            finally:
                tickets.extend(take_tickets())

        try:
            return await self._store._in_thread(run), tickets
        except Exception as error:
            await self._acknowledge_failed(tickets, error)
            raise

    async def _acknowledge_failed(self, tickets: list[Ticket], error: BaseException) -> None:
        """Wait for what a call that raised has committed all the same."""
        with noting(error, "a call that failed"):
            await self.acknowledge(tickets)

    async def in_batch(
        self, batch: Batch, function: Callable[..., T], *args: Any, **kwargs: Any
    ) -> T:
        """Call something as a part of the caller's batch.

        Who is cancelled waits for it even so: a batch is used by one at a time.
        """
        bound = functools.partial(function, *args, **kwargs)
        return await see_through(self.in_thread(in_batch, batch, bound))

    async def acknowledge(self, tickets: list[Ticket]) -> None:
        """Wait for commits."""
        for ticket in tickets:
            await self._store._acknowledge(ticket.position, ticket.policy)


# Hot.
def is_small(values: Collection[Any]) -> bool:
    """Whether arguments are encoded in no time, as far as a glance tells."""
    left_bytes = _INLINE_BYTES
    groups: list[Collection[Any]] = [values]
    for group in groups:  # grows meanwhile
        left_bytes -= _ELEMENT_BYTES * len(group)
        if left_bytes < 0:
            return False
        for value in group:
            kind = type(value)
            if kind is str or kind is bytes:
                left_bytes -= len(value)
            elif kind in _SCALARS:
                pass
            elif isinstance(value, dict):
                groups += (value.keys(), value.values())
            elif isinstance(value, list | tuple | set | frozenset):
                groups.append(value)
            elif isinstance(value, str | bytes | bytearray | memoryview):
                left_bytes -= len(value)
            elif fields := getattr(kind, "__dataclass_fields__", None):
                groups.append([getattr(value, name, None) for name in fields])
    return left_bytes >= 0


class AsyncQuery(Generic[R]):
    """A ``Query`` whose reading is awaited; ``async for`` goes through it page by page."""

    def __init__(self, caller: Caller, query: Query[R]) -> None:
        self._caller = caller
        self._query = query

    def where(self, **conditions: Any) -> AsyncQuery[R]:
        """Only records that meet these, too; see ``Query.where``."""
        return AsyncQuery(self._caller, self._query.where(**conditions))

    def order_by(self, *names: str) -> AsyncQuery[R]:
        """In the order of these fields; see ``Query.order_by``."""
        return AsyncQuery(self._caller, self._query.order_by(*names))

    def limit(self, count: int | None) -> AsyncQuery[R]:
        """At most so many records."""
        return AsyncQuery(self._caller, self._query.limit(count))

    def offset(self, count: int) -> AsyncQuery[R]:
        """Without the first so many."""
        return AsyncQuery(self._caller, self._query.offset(count))

    def after(self, cursor: str | None) -> AsyncQuery[R]:
        """From where a page of this query ended."""
        return AsyncQuery(self._caller, self._query.after(cursor))

    def explain(self) -> Plan:
        """How this query is answered."""
        return self._query.explain()

    async def _run(self, function: Callable[..., T], **kwargs: Any) -> T:
        batch = self._query.source.access.batch()
        if batch is not None:
            return await self._caller.in_batch(batch, function)
        return await self._caller.in_thread(function, **kwargs)

    async def all(self) -> list[R]:
        """All records, up to the limit."""
        return await self._run(self._query.all)

    async def first(self) -> R | None:
        """The first one, or None."""
        return await self._run(self._query.first)

    async def page(self) -> Page[R]:
        """Up to the limit, with a cursor for what follows."""
        return await self._run(self._query.page)

    async def count(self) -> int:
        """How many records match, whatever the limit."""
        return await self._run(self._query.count)

    async def delete(self, *, sync: SyncPolicy | None = None) -> int:
        """Delete the records, up to the limit; returns how many. See ``Query.delete``."""
        return await self._run(functools.partial(self._query.delete, sync=sync))

    async def __aiter__(self) -> AsyncIterator[R]:
        if self._query.most is not None or self._query.explain().sorted_in_memory:
            for record in await self.all():
                yield record
            return
        page = await self.limit(_CHUNK).page()
        while True:
            for record in page.items:
                yield record
            if page.cursor is None:
                return
            page = await self.offset(0).limit(_CHUNK).after(page.cursor).page()


class AsyncNamespace(Generic[R]):
    """The coroutines of a namespace. Made by an ``AsyncAgentStore``.

    Attributes:
        name: of the namespace.
    """

    def __init__(self, caller: Caller, inline: Namespace[R], threaded: Namespace[R]) -> None:
        self._caller = caller
        self._inline = inline
        self._threaded = threaded
        self.name = threaded.name
        # Code of others may read after it has written, and then cannot be made again.
        self._only_threaded = not type(threaded).__module__.startswith("walkv.")

    def __repr__(self) -> str:
        return f"<walkv {type(self).__name__} {self.name!r}>"

    async def _call(self, name: str, args: Any, kwargs: Any) -> Any:
        threaded = getattr(self._threaded, name)
        batch = self._threaded.access.batch()
        if batch is not None:
            return await self._caller.in_batch(batch, threaded, *args, **kwargs)
        if self._only_threaded:
            return await self._caller.in_thread(threaded, *args, **kwargs)
        # What can be gone through once only would be used up by a call that is then refused.
        args = [list(each) if isinstance(each, Iterator) else each for each in args]
        kwargs = {k: list(v) if isinstance(v, Iterator) else v for k, v in kwargs.items()}
        return await self._caller.call(getattr(self._inline, name), threaded, args, kwargs)

    def query(self, **equals: Any) -> AsyncQuery[R]:
        """Records whose fields have these values; see ``Namespace.query``."""
        return AsyncQuery(self._caller, self._threaded.query(**equals))


def _coroutine(name: str, method: Any) -> Any:
    @functools.wraps(method)
    async def call(self: AsyncNamespace[Any], *args: Any, **kwargs: Any) -> Any:
        return await self._call(name, args, kwargs)

    return call


def async_face(cls: type[Namespace[Any]], base: type[Any] = AsyncNamespace) -> type[Any]:
    """The class whose coroutines are the public methods of a namespace."""
    methods = {
        name: _coroutine(name, method)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and name not in INTERNAL and not hasattr(base, name)
    }
    body = {**methods, "__doc__": cls.__doc__, "__module__": __name__}
    return type(f"Async{cls.__name__}", (base,), body)


class AsyncExecutionsBase(AsyncNamespace[Any]):
    """What of the executions is more than one commit."""

    _inline: Executions
    _threaded: Executions

    @asynccontextmanager
    async def record(
        self, *, sync: SyncPolicy | None = None, **details: Any
    ) -> AsyncIterator[Recording]:
        """Note the block as an execution: timed, and failed if it raises."""
        recording = Recording(await self._call("start", (), {"sync": sync, **details}))
        try:
            yield recording
        except BaseException as error:
            with noting(error, f"execution {recording.execution.execution_id!r}"):
                await self._call("finish", (), {"sync": sync, **ending(recording, error)})
            raise
        await self._call("finish", (), {"sync": sync, **ending(recording, None)})

    async def once(
        self,
        key: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        on_indeterminate: Any = "raise",
        retry_failed: bool = False,
        sync: SyncPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call or await a function once, for good; see ``Executions.once``."""
        call = Call.of(key, function, args, kwargs, on_indeterminate, retry_failed, sync)
        self._threaded.steps.refuse_batch()
        opening = self._threaded.access.kv.opening
        claim = Claim(opening, call.key, asyncio.get_running_loop())
        try:
            try:
                await claim.take_in_loop()
                return await self._run_claimed(call, args, kwargs)
            finally:
                claim.release()
        finally:
            claim.release()  # what Ctrl-C may have cut off in there

    async def _run_claimed(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            found = await self._step("begin", call)
            if found.state is ASK:
                answer = await _result(call.on_indeterminate(found.execution))
                found = await self._step("decide", call, found.execution, answer)
            if found.state is RETURNED:
                return found.result
            call.begin()
            result = await _result(call.function(*args, **kwargs))
        except BaseException as error:
            with noting(error, f"step {call.key!r}"):
                await self._step("stop", call, error)
            raise
        return await self._step("end", call, result)

    async def _step(self, name: str, *args: Any) -> Any:
        inline, threaded = getattr(self._inline.steps, name), getattr(self._threaded.steps, name)
        result, tickets = await self._caller.commit(inline, threaded, args, {}, to_its_end=True)
        if tickets:
            # An intent is taken back by who is cancelled; the rest counts only when it is durable.
            waiting = self._caller.acknowledge(tickets)
            await (waiting if name == "begin" else see_through(waiting))
        return result


async def see_through(call: Coroutine[Any, Any, T]) -> T:
    """Await a call. Who is cancelled meanwhile waits until it is over, even so."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, and of no account any more
        raise


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
