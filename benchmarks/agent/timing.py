"""The timed loops: microseconds a call, after as many calls that warm it up.

*Invariants*

1. Whatever the calls need is there before the clock is read: data, handles, threads.
2. Garbage collection stays on, as users run, and starts clean; the data of the harness are frozen
   out of it before a side is opened (`benchmarks.collector`).
"""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import Any

Call = Callable[[int], Any]
AsyncCall = Callable[[int], Awaitable[Any]]

BARRIER_SECONDS = 120.0


def time_calls(call: Call, calls: int) -> float:
    """Call with 0, 1, 2 and so on; the second half is timed."""
    for number in range(calls):
        call(number)
    gc.collect()
    begin_ns = perf_counter_ns()
    for number in range(calls, 2 * calls):
        call(number)
    return _each_us(perf_counter_ns() - begin_ns, calls)


async def time_awaits(call: AsyncCall, calls: int) -> float:
    """As ``time_calls``, awaited one after the other."""
    for number in range(calls):
        await call(number)
    gc.collect()
    begin_ns = perf_counter_ns()
    for number in range(calls, 2 * calls):
        await call(number)
    return _each_us(perf_counter_ns() - begin_ns, calls)


def time_threads(call_by_thread: Sequence[Call], calls: int) -> float:
    """As ``time_calls``, from a thread for each of `call_by_thread`, all at once.

    Microseconds from the release of the threads to the end of the last, divided by all calls.
    """
    starts_ns: list[int] = []
    # The last thread to arrive reads the clock, before any thread is let go.
    barrier = threading.Barrier(
        len(call_by_thread),
        action=lambda: starts_ns.append(perf_counter_ns()),
        timeout=BARRIER_SECONDS,
    )

    def warm_up(call: Call) -> None:
        for number in range(calls):
            call(number)

    def timed(call: Call) -> int:
        barrier.wait()
        for number in range(calls, 2 * calls):
            call(number)
        return perf_counter_ns()

    with ThreadPoolExecutor(len(call_by_thread)) as pool:
        list(pool.map(warm_up, call_by_thread))
        gc.collect()
        end_ns = max(pool.map(timed, call_by_thread))
    return _each_us(end_ns - starts_ns[0], len(call_by_thread) * calls)


async def time_tasks(
    task_count: int, calls: int, call: Callable[[int, int], Awaitable[Any]]
) -> float:
    """As ``time_threads``, for the tasks of one event loop, with ``call(task, number)``."""

    async def work(task: int, first: int, last: int) -> None:
        for number in range(first, last):
            await call(task, number)

    async with asyncio.TaskGroup() as group:
        for task in range(task_count):
            group.create_task(work(task, 0, calls))
    gc.collect()
    begin_ns = perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for task in range(task_count):
            group.create_task(work(task, calls, 2 * calls))
    return _each_us(perf_counter_ns() - begin_ns, task_count * calls)


def _each_us(elapsed_ns: int, calls: int) -> float:
    return elapsed_ns / calls / 1_000
