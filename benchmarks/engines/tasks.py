"""Durable puts from asyncio tasks, for every engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.engines.base import Engine
from benchmarks.engines.walkv import Walkv, sync_policy

AsyncPut = Callable[[bytes, bytes], Awaitable[object]]

GROUP_THREADS = 32
"""Threads of an executor whose commits can share a sync: asyncio's own limit for its executor."""


@asynccontextmanager
async def open_async_put(
    engine_class: type[Engine], path: Path, *, value_bytes: int, policy: str
) -> AsyncIterator[AsyncPut]:
    """Opens a durable store for asyncio tasks and yields its awaitable `put`.

    walkv has an asyncio face. The others have none that commits without a thread, so theirs is an
    executor: of many threads where an engine lets commits share a sync, of one where it does not.
    """
    if issubclass(engine_class, Walkv):
        import walkv

        async with await walkv.aopen(path, sync=sync_policy("durable", policy)) as store:
            yield store.put
        return

    run = asyncio.get_running_loop().run_in_executor
    thread_count = GROUP_THREADS if engine_class.group_commits else 1
    with ThreadPoolExecutor(thread_count) as executor:
        # Some handles may be closed only by the thread that opened them.
        engine = await run(
            executor, partial(engine_class, path, "durable", value_bytes=value_bytes)
        )
        put = engine.put
        try:
            yield lambda key, value: run(executor, put, key, value)
        finally:
            await run(executor, engine.close)
