"""walkv for LangGraph: ``pip install 'walkv[langgraph]'``.

    from walkv.integrations.langgraph import WalkvSaver

    graph = builder.compile(checkpointer=WalkvSaver("agent.walkv"))

Rooms, lowest first:

    serde          values to bytes and back, with nothing decoded that was not allowed
    encoding       lists of messages to bytes, each message once
    messages       lists of messages, decoded once and handed out as copies
    checkpoints    checkpoints on disk: differences, and channels by reference
    reading        from records to what LangGraph takes
    writing        from what LangGraph gives to what is put
    saver          ``WalkvSaver``
    filters        which items a search wants
    vectors        vectors on disk and in memory, and what is like what
    embedding      texts of items to vectors
    items          items on disk
    store          ``WalkvStore``
    cache          ``WalkvCache``
    sqlite         what LangGraph's SQLite saver has written, moved over
    importing      all that is in a SQLite file, moved over
"""

try:
    from walkv.integrations.langgraph.cache import WalkvCache
    from walkv.integrations.langgraph.importing import Imported, import_sqlite
    from walkv.integrations.langgraph.saver import WalkvSaver
    from walkv.integrations.langgraph.serde import strict_serializer
    from walkv.integrations.langgraph.store import WalkvStore
except ImportError as error:
    raise ImportError(
        "walkv.integrations.langgraph needs LangGraph 1.2 or newer: pip install 'walkv[langgraph]' "
        f"({error})"
    ) from error

__all__ = [
    "Imported",
    "WalkvCache",
    "WalkvSaver",
    "WalkvStore",
    "import_sqlite",
    "strict_serializer",
]
