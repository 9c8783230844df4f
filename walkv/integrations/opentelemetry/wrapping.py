"""The methods of one agent object, and of its store, put behind others that are traced.

What is wrapped are attributes of these very objects: no class, and no other store, is changed, and
a store that is not instrumented pays nothing.

Invariants:
    1. Undoing puts everything back, but for what somebody else has wrapped again since; that one
       then calls through.
    2. A wrapped method has the same arguments, results and errors.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final

from opentelemetry import context, trace

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy
from walkv.errors import WalkvError
from walkv.integrations.opentelemetry.tracing import Tracing, is_within
from walkv.namespaces.aio import AsyncQuery
from walkv.namespaces.common import INTERNAL
from walkv.namespaces.query import Query

_OF_STORES: Final = ("compact", "rekey", "sync", "verify")
"""Methods of a store that may take long."""

_OF_THEIR_OWN: Final = frozenset(("moment", "once", "query", "record"))
"""Methods of namespaces that are not one operation each."""

Enter = Callable[[], AbstractContextManager[Any]]


class Wrapping:
    """What was put in place of what, to be taken back."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._placed: list[tuple[Any, str, Any]] = []

    def undo(self) -> None:
        """Take everything back."""
        self._tracing.active = False
        for owner, name, wrapper in self._placed:
            if vars(owner).get(name) is wrapper:
                delattr(owner, name)
        self._placed = []

    def wrap_store(self, store: Any) -> None:
        """Trace what may take long of a ``Store`` or ``AsyncStore``."""
        for name in _OF_STORES:
            if hasattr(store, name):
                self._place(store, name, self._inside(self._operation(name)))

    def wrap_agent(self, agent: AgentStore | AsyncAgentStore) -> None:
        """Trace an agent's namespaces, those that it will be given too, batches and transactions.

        Raises:
            WalkvError: they are traced already.
        """
        for namespace in agent.by_name.values():
            self._wrap_namespace(namespace)
        self._place(agent, "namespace", self._declaring)
        self._place(agent, "batch", self._around(self._block("batch")))
        self._place(agent, "transact", self._inside(self._block("transact")))

    def _wrap_namespace(self, namespace: Any) -> None:
        for name, method in inspect.getmembers(type(namespace), inspect.isfunction):
            if name.startswith("_") or name in INTERNAL or name in _OF_THEIR_OWN:
                continue
            if not inspect.isgeneratorfunction(inspect.unwrap(method)):
                enter = self._operation(name, namespace.name)
                self._place(namespace, name, self._inside(enter))
        self._place(namespace, "query", functools.partial(self._querying, namespace.name))
        if hasattr(namespace, "once"):
            self._place(namespace, "record", self._around(self._block("record", namespace.name)))
            self._place(namespace, "once", self._stepping)

    def _place(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        method = getattr(owner, name)
        if hasattr(method, "_walkv_tracing"):
            raise WalkvError(
                f"{owner!r} is instrumented already; uninstrument it first, or instrument the "
                "agent alone: its store comes with it"
            )
        wrapper: Any = functools.update_wrapper(wrap(method), method)
        wrapper._walkv_tracing = self._tracing
        setattr(owner, name, wrapper)
        self._placed.append((owner, name, wrapper))

    # -- what the spans are ----------------------------------------------------------------------

    def _operation(self, name: str, collection: str = "") -> Enter:
        return functools.partial(self._tracing.operation, name, collection)

    def _block(self, name: str, subject: str = "") -> Enter:
        return functools.partial(self._tracing.block, name, subject)

    def _is_off(self) -> bool:
        return is_within() or not self._tracing.active

    # -- what methods become ---------------------------------------------------------------------

    def _inside(self, enter: Enter) -> Callable[[Any], Any]:
        """A method or coroutine method, called inside a span."""

        def wrap(method: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if self._is_off():
                    return method(*args, **kwargs)
                with enter():
                    return method(*args, **kwargs)

            async def call_and_wait(*args: Any, **kwargs: Any) -> Any:
                if self._is_off():
                    return await method(*args, **kwargs)
                with enter():
                    return await method(*args, **kwargs)

            return call_and_wait if inspect.iscoroutinefunction(method) else call

        return wrap

    def _around(self, enter: Enter) -> Callable[[Any], Any]:
        """A method that gives a context manager, whose block is then inside a span."""

        def wrap(method: Any) -> Any:
            @contextmanager
            def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
                if self._is_off():
                    with method(*args, **kwargs) as value:
                        yield value
                    return
                with enter(), method(*args, **kwargs) as value:
                    yield value

            @asynccontextmanager
            async def call_and_wait(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                if self._is_off():
                    async with method(*args, **kwargs) as value:
                        yield value
                    return
                with enter():
                    async with method(*args, **kwargs) as value:
                        yield value

            return call_and_wait if inspect.isasyncgenfunction(inspect.unwrap(method)) else call

        return wrap

    def _stepping(self, method: Any) -> Any:
        """``once``, inside a span that says whether the function was called at all."""
        awaited = inspect.iscoroutinefunction(method)

        def call(key: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self._is_off():
                return method(key, function, *args, **kwargs)
            noting = _Noting(function, coroutines=awaited)
            with self._tracing.block("step", noting.name, noting.attributes) as span:
                try:
                    return method(key, noting.function, *args, **kwargs)
                finally:
                    span.set_attribute("walkv.step.ran", noting.called)

        async def call_and_wait(key: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self._is_off():
                return await method(key, function, *args, **kwargs)
            noting = _Noting(function, coroutines=awaited)
            with self._tracing.block("step", noting.name, noting.attributes) as span:
                try:
                    return await method(key, noting.function, *args, **kwargs)
                finally:
                    span.set_attribute("walkv.step.ran", noting.called)

        return call_and_wait if awaited else call

    def _querying(self, collection: str, method: Any) -> Any:
        """``query``, whose reading and deleting are operations when they come."""

        def traced(query: Query[Any]) -> Query[Any]:
            return replace(query, source=_TracedSource(query.source, self._tracing, collection))

        def call(**equals: Any) -> Any:
            found = method(**equals)
            if self._is_off():
                return found
            if isinstance(found, AsyncQuery):
                return AsyncQuery(found._caller, traced(found._query))
            return traced(found)

        return call

    def _declaring(self, method: Any) -> Any:
        """``namespace``, which gives one that is traced."""

        def call(*args: Any, **kwargs: Any) -> Any:
            made = method(*args, **kwargs)
            if self._tracing.active:
                self._wrap_namespace(made)
            return made

        async def call_and_wait(*args: Any, **kwargs: Any) -> Any:
            made = await method(*args, **kwargs)
            if self._tracing.active:
                self._wrap_namespace(made)
            return made

        return call_and_wait if inspect.iscoroutinefunction(method) else call


class _Noting:
    """A step's function, and whether it was called.

    Args:
        coroutines: whether a coroutine function is taken; else it is left for ``once`` to refuse.

    Attributes:
        function: to be called in its place; the record of the step shows no difference.
        name: of the function in its source.
    """

    def __init__(self, function: Any, *, coroutines: bool) -> None:
        self.called = False
        self.function = function
        innermost: Any = function
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        while isinstance(innermost, functools.partial):
            args, kwargs = (*innermost.args, *args), {**innermost.keywords, **kwargs}
            innermost = innermost.func
        self.name: str = getattr(innermost, "__qualname__", type(innermost).__qualname__)
        module = getattr(innermost, "__module__", None)
        self.attributes = {"code.function.name": f"{module}.{self.name}" if module else self.name}
        if callable(innermost) and (coroutines or not inspect.iscoroutinefunction(innermost)):

            def noted(*given: Any, **named: Any) -> Any:
                self.called = True
                return innermost(*given, **named)

            noted.__qualname__ = self.name
            self.function = functools.partial(noted, *args, **kwargs)


class _TracedSource:
    """The namespace of a query. What the query does with it is done in another thread if the query
    is a task's: so the span is given its parent, which was the current one when it was asked."""

    def __init__(self, source: Any, tracing: Tracing, collection: str) -> None:
        self.access = source.access
        self._source = source
        self._tracing = tracing
        self._collection = collection
        self._asked = context.get_current()

    @property
    def table(self) -> Any:
        return self._source.table

    def read_at_once(self, function: Callable[[Any], Any]) -> Any:
        return self._run("query", self._source.read_at_once, function)

    def delete_found(self, query: Query[Any], sync: SyncPolicy | None) -> int:
        return self._run("delete", self._source.delete_found, query, sync)  # type: ignore[no-any-return]

    def _run(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        if is_within() or not self._tracing.active:
            return method(*args)
        current = trace.get_current_span().get_span_context().is_valid
        with self._tracing.operation(name, self._collection, None if current else self._asked):
            return method(*args)
