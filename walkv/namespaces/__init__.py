"""Typed records over any engine that satisfies the ``KeyValue`` protocol.

Each module imports only from those above it in this list; ``tests/test_layers.py`` says so:

    keyvalue              what is needed of an engine
    keys, codec           tuples <-> bytes that sort; values <-> bytes
    columns, schema       record types: fields and checks; layouts and migrations
    table                 records and index entries, and where they are
    registry              what a store knows of its namespaces
    access                how a face reads and writes; batches
    conditions, query     what is wanted; which index, which walk, which page
    common                what several namespaces use
    base                  Namespace and its Declaration
    sessions, messages    who talks to the agent, and what is said
    contexts, workflows   what roles know, and how far they are
    executions, steps     what was done; what is done once
    tasks                 what was asked for, in steps
    configurations        versions of which one is active; settings
    users, knowledge      people and sources
    checkpoints/          states at the price of their difference
    aio, faces            the same for asyncio
"""
