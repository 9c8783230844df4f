"""A store's numbers and an agent's operations for OpenTelemetry: ``walkv[otel]``.

    from walkv.integrations.opentelemetry import instrument

    with walkv.AgentStore("agent.walkv") as agent, instrument(agent):
        ...

Rooms, lowest first:

    meters         a store's numbers, read when a reader collects them
    tracing        one span for an operation, and its duration
    wrapping       the methods of one agent object, and of its store, so that they are traced
    instrumenting  ``instrument`` and ``Instrumentation``
"""

try:
    from walkv.integrations.opentelemetry.instrumenting import Instrumentation, instrument
except ImportError as error:
    raise ImportError(
        "walkv.integrations.opentelemetry needs opentelemetry-api 1.30 or newer: "
        f"pip install 'walkv[otel]' ({error})"
    ) from error

__all__ = ["Instrumentation", "instrument"]
