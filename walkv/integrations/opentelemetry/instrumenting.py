"""``instrument``: a store's numbers and an agent's operations, until it is taken back."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.integrations.measures import Source, store_of
from walkv.integrations.opentelemetry.meters import SCOPE, Board, Watched, board_of
from walkv.integrations.opentelemetry.tracing import Tracing
from walkv.integrations.opentelemetry.wrapping import Wrapping


class Instrumentation:
    """What ``instrument`` has set up. A context manager that takes it back on leaving."""

    def __init__(self, board: Board, watched: Watched, wrapping: Wrapping) -> None:
        self._board = board
        self._watched = watched
        self._wrapping = wrapping

    def uninstrument(self) -> None:
        """Trace and tell no more. Calling it twice is allowed."""
        self._board.remove(self._watched)
        self._wrapping.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.uninstrument()


def instrument(
    source: Source,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Instrumentation:
    """Tell OpenTelemetry of an open store, or of an agent with all that it does.

    Of a store: its numbers, and spans for ``compact``, ``verify``, ``sync`` and ``rekey``. Of an
    agent in addition: a span and a duration for each call of its namespaces, and spans for batches,
    transactions, recordings and steps. Only this object is changed; another object for the same
    store is not traced.

    Args:
        source: a ``Store``, ``AsyncStore``, ``AgentStore`` or ``AsyncAgentStore``, open.
        meter_provider, tracer_provider: by default the global ones; set those up before.
    Raises:
        TypeError: something else than a store or an agent.
        ClosedError: an ``AsyncAgentStore`` that is not open yet.
        WalkvError: it is instrumented already.
    Cost: about ten microseconds a call, and more for what the SDK does with its span. Nothing for
        other objects.
    """
    store = store_of(source)
    attributes = {"db.system.name": "walkv", "db.namespace": store.path}
    board = board_of(meter_provider or metrics.get_meter_provider())
    tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer(SCOPE)
    wrapping = Wrapping(Tracing(tracer, board.durations, attributes))
    try:
        if isinstance(source, AgentStore | AsyncAgentStore):
            wrapping.wrap_agent(source)
            wrapping.wrap_store(source.store)
        else:
            wrapping.wrap_store(source)
    except BaseException:
        wrapping.undo()
        raise
    watched = Watched(store, attributes)
    board.add(watched)
    return Instrumentation(board, watched, wrapping)
