"""walkv in the frameworks and monitoring systems people use: each imported by name, all optional.

Rooms, lowest first:

    connection      a store as an adapter uses it, from threads and from the tasks of any event loop
    measures        what monitoring is told of a store: one table of names
    langgraph/      checkpoint saver, store and cache for LangGraph: ``walkv[langgraph]``
    opentelemetry/  numbers and traces for OpenTelemetry: ``walkv[otel]``
    prometheus      numbers for Prometheus: ``walkv[prometheus]``
"""
