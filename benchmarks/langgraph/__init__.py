"""What a LangGraph agent does to its checkpointer: walkv, the SQLite savers and memory, in turn.

Run `python -m benchmarks.langgraph`; `--quick` shows that it runs, not how fast. Every repetition
of a part on a side has a process of its own.

    options         how much is done, and the parts
    data            messages from a seed, the graph that talks, and threads put step by step
    sides           the savers, and what SQL does for those that lack a method
    timing          the clocks
    thread          one long thread: its turns, and reading it
    crowds          many conversations at once, in asyncio
    upkeep          copying threads, and what deleting them gives back
    growth          bytes on disk as a thread grows
    first           the first read of a process; run in one of its own
    worker          one part, one side, one process
    runner          interleaves the sides
    plot            a picture of the growth
"""
