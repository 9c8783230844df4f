"""What an agent does to its store, on walkv and on SQLite with JSON columns, side by side.

Run `python -m benchmarks.agent`; `--quick` shows that it runs, not how fast.

    data            the sessions, messages, states and executions, made from a seed
    walkv_side      the work on an `AgentStore`
    sqlite_side     the same work on `sqlite3`: WAL, proper indexes, JSON columns
    rows            what is measured, one side and the other in turn
    growth          the cost of a page at growing sizes of the store
"""
