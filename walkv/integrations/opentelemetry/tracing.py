"""One span for an operation, named as the conventions for databases say, and its duration.

Invariants:
    1. No key, value, argument, result or message of an error is recorded: only names that stand in
       a program's source, the store's path, and the class of an error.
    2. What an operation calls of walkv by itself is part of it, and has no span of its own.

Source: OpenTelemetry's semantic conventions for database client spans and metrics. The events and
descriptions that they allow for errors are left out, for these may quote what was stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Final

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from walkv.integrations.opentelemetry.meters import Attributes

_within: Final[ContextVar[bool]] = ContextVar("walkv_traced", default=False)


def is_within() -> bool:
    """Whether the caller is walkv itself, inside an operation that has its span."""
    return _within.get()


class Tracing:
    """Makes the spans of one store.

    Args:
        attributes: of every span and duration.

    Attributes:
        active: whether there are any; False once the store is no longer instrumented.
    """

    def __init__(self, tracer: Tracer, durations: Histogram, attributes: Attributes) -> None:
        self._tracer = tracer
        self._durations = durations
        self._attributes = attributes
        self.active = True

    @contextmanager
    def operation(
        self, name: str, collection: str = "", parent: Context | None = None
    ) -> Iterator[None]:
        """A call to the database, as the conventions mean it.

        Args:
            collection: the namespace.
            parent: of the span, if not the current one.
        """
        attributes = {**self._attributes, "db.operation.name": name}
        if collection:
            attributes["db.collection.name"] = collection
        began = perf_counter()
        try:
            with self._span(f"{name} {collection}".rstrip(), SpanKind.CLIENT, attributes, parent):
                token = _within.set(True)
                try:
                    yield
                finally:
                    _within.reset(token)
        except BaseException as error:
            attributes["error.type"] = error_type(error)
            raise
        finally:
            self._durations.record(perf_counter() - began, attributes)

    @contextmanager
    def block(
        self, name: str, subject: str = "", attributes: Attributes | None = None
    ) -> Iterator[Span]:
        """Work of the program's own that the store is a part of: its operations are children."""
        attributes = {**self._attributes, "db.operation.name": name, **(attributes or {})}
        with self._span(f"{name} {subject}".rstrip(), SpanKind.INTERNAL, attributes) as span:
            yield span

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Attributes, parent: Context | None = None
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            parent,
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", error_type(error))
                span.set_status(Status(StatusCode.ERROR))
                raise


def error_type(error: BaseException) -> str:
    """The full name of an error's class."""
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
