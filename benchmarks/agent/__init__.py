"""What an agent does to its store: walkv against SQLite with JSON columns, and against the
packages that agents use today.

Run `python -m benchmarks.agent`; `--quick` shows that it runs, not how fast.

    options       how much is done
    data          the sessions, messages, states and executions, made from a seed
    sides         who takes part: where each is, and what it is asked to do
    walkv_side    the work on an `AgentStore`
    sqlite_side   the same work on `sqlite3`: WAL, proper indexes, JSON columns
    walkv_tasks   the work of asyncio's tasks on an `AsyncAgentStore`
    openai_side   the same on the `SQLiteSession` of the OpenAI Agents SDK
    agentfs_side  the same on AgentFS (Turso)
    timing        the timed loops
    threads       what is measured of calls
    tasks         what is measured of awaited calls
    growth        the cost of a page at growing sizes of the store
    parts         all of that, by name
    worker        one part, one side, one process
    runner        interleaves the sides
    report        what they found, in Markdown
"""
