"""What is measured of calls that tasks await: walkv, and the packages that agents use today.

Every side is driven in the same way: by ``await`` in one event loop, one call after the other, or
by many tasks at once.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.agent import data
from benchmarks.agent.options import Options
from benchmarks.agent.threads import Measured
from benchmarks.agent.timing import time_awaits, time_tasks
from benchmarks.collector import freeze

_POOL = 500
_FILL_ITEMS = 500
_TOOLS = 20

TARGET_TIMES = 5.0
"""walkv is meant to be so many times as fast on the rows that begin with `TARGET_ROWS`."""
TARGET_ROWS = ("append a message", "last 50", "record a tool call")


@dataclass(frozen=True)
class AsyncWork:
    """One part to be done by one side."""

    # A class of a side; which protocol of ``sides`` it has is what its part asks for.
    make: Any
    directory: Path
    options: Options

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """A new store whose commits are durable: the one guarantee that all sides give."""
        freeze()
        side = await self.make.open(self.directory, "durable")
        try:
            yield side
        finally:
            await side.close()

    def rng(self) -> random.Random:
        return random.Random(self.options.seed)


async def conversations(work: AsyncWork) -> AsyncIterator[Measured]:
    """Appending to conversations, and reading the newest items of a long one."""
    options, rng = work.options, work.rng()
    items = [data.item(rng) for _ in range(_POOL)]
    async with work.open() as side:

        async def append(number: int) -> None:
            await side.add("s", [items[number % _POOL]])

        async def append_among_others(task: int, number: int) -> None:
            await side.add(f"session-{task}", [items[number % _POOL]])

        async def last(number: int) -> None:
            assert await side.last("long", 50) == 50

        yield "append a message", "durable", await time_awaits(append, options.calls)
        each_us = await time_tasks(options.tasks, max(options.calls // 20, 2), append_among_others)
        yield f"append a message, {options.tasks} tasks", "durable", each_us
        for begin in range(0, options.conversation, _FILL_ITEMS):
            count = min(_FILL_ITEMS, options.conversation - begin)
            await side.add("long", [items[(begin + each) % _POOL] for each in range(count)])
        name = f"last 50 of {options.conversation:,} messages"
        yield name, "read", await time_awaits(last, options.calls)


async def tool_calls(work: AsyncWork) -> AsyncIterator[Measured]:
    """Recording tool calls, and listing the newest of one tool."""
    options, rng = work.options, work.rng()
    executions = [data.execution(rng, number) for number in range(_POOL)]
    for number, execution in enumerate(executions):
        execution["tool_name"] = f"tool-{number % _TOOLS}"
    async with work.open() as side:

        async def call_tool(number: int) -> None:
            await side.call_tool(executions[number % _POOL])

        async def log_call(number: int) -> None:
            await side.log_call(executions[number % _POOL])

        listed = min(50, options.tool_calls // _TOOLS)

        async def list_calls(number: int) -> None:
            assert await side.list_calls(f"tool-{number % _TOOLS}", listed) == listed

        name = "record a tool call, start and success"
        yield name, "durable", await time_awaits(call_tool, options.calls)
        name = "record a tool call that is over"
        yield name, "durable", await time_awaits(log_call, options.calls)
        for number in range(options.tool_calls):
            await side.log_call(executions[number % _POOL])
        name = f"list {listed} tool calls of a tool by its name"
        yield name, "read", await time_awaits(list_calls, options.calls)


async def values(work: AsyncWork) -> AsyncIterator[Measured]:
    """Small values by key."""
    options = work.options
    made = [{"cursor": number, "note": f"step {number}", "done": False} for number in range(_POOL)]
    async with work.open() as side:

        async def set_value(number: int) -> None:
            await side.set_value(f"state:{number % _POOL}", made[number % _POOL])

        async def value(number: int) -> None:
            place = number % min(_POOL, 2 * options.calls)
            assert await side.value(f"state:{place}") == made[place]

        yield "set a small value", "durable", await time_awaits(set_value, options.calls)
        yield "get a small value", "read", await time_awaits(value, options.calls)
