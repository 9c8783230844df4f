"""walkv in the agent frameworks people use: one package for each, imported by name, all optional.

Rooms, lowest first:

    connection    a store as an adapter uses it, from threads and from the tasks of any event loop
    langgraph/    checkpoint saver, store and cache for LangGraph: ``walkv[langgraph]``
"""
