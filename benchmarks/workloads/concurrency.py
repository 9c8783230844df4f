"""Durable commits of many writers at once.

Every writer has keys of its own. How threads and tasks reach an engine is in its configuration
and in `engines.tasks`.
"""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from time import perf_counter_ns

from benchmarks.engines import AsyncPut, Writer
from benchmarks.workloads.base import (
    Context,
    Figures,
    Metric,
    Options,
    Step,
    Workload,
    WrongAnswerError,
)

THREAD_COUNTS = (1, 4, 16, 64, 256)
TASK_COUNTS = (1, 16, 64, 256, 1_024)
WARMING_ROUND, FIRST_ROUND, SECOND_ROUND = "0", "a", "b"
"""Prefixes of keys. Each writer first commits once, untimed: then its thread runs and its handle is
open. Commits that were over at once are measured again with more of them."""
MAXIMUM_COMMIT_GROWTH = 100
BARRIER_SECONDS = 120.0


def _threads_step(writers: int) -> Step:
    def run(context: Context) -> Figures:
        value = context.dataset().value(0)
        engine = context.open("durable")
        with ThreadPoolExecutor(writers) as pool:
            handles = [engine.for_thread() for _ in range(writers)]

            async def commit_all(keys_by_writer: list[list[bytes]]) -> int:
                return _time_threads(pool, handles, keys_by_writer, value)

            rate = asyncio.run(_commits_per_second(commit_all, writers, context.options))
        engine.close()
        _check_commits(context, writers, value)
        return {f"commit-threads-{writers}": rate}

    run.__name__ = f"commit_threads_{writers}"
    return run


def _tasks_step(writers: int) -> Step:
    def run(context: Context) -> Figures:
        value = context.dataset().value(0)

        async def measure() -> float:
            async with context.open_for_tasks() as put:

                async def commit_all(keys_by_writer: list[list[bytes]]) -> int:
                    return await _time_tasks(put, keys_by_writer, value)

                return await _commits_per_second(commit_all, writers, context.options)

        rate = asyncio.run(measure())
        _check_commits(context, writers, value)
        return {f"commit-tasks-{writers}": rate}

    run.__name__ = f"commit_tasks_{writers}"
    return run


def _time_threads(
    pool: ThreadPoolExecutor,
    handles: Sequence[Writer],
    keys_by_writer: list[list[bytes]],
    value: bytes,
) -> int:
    starts_ns: list[int] = []
    # The last thread to arrive reads the clock, before any thread is let go.
    barrier = threading.Barrier(
        len(handles), action=lambda: starts_ns.append(perf_counter_ns()), timeout=BARRIER_SECONDS
    )

    def commit(handle: Writer, keys: list[bytes]) -> int:
        put = handle.put
        barrier.wait()
        for key in keys:
            put(key, value)
        return perf_counter_ns()

    gc.collect()
    end_ns = max(pool.map(commit, handles, keys_by_writer))
    return end_ns - starts_ns[0]


async def _time_tasks(put: AsyncPut, keys_by_writer: list[list[bytes]], value: bytes) -> int:
    async def commit(keys: list[bytes]) -> None:
        for key in keys:
            await put(key, value)

    gc.collect()
    start_ns = perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for keys in keys_by_writer:
            group.create_task(commit(keys))
    return perf_counter_ns() - start_ns


async def _commits_per_second(
    commit_all: Callable[[list[list[bytes]]], Awaitable[int]], writers: int, options: Options
) -> float:
    """Times `options.commits` commits, and again with more of them if that was over at once."""
    await commit_all(_keys_by_writer(writers, 1, WARMING_ROUND))
    per_writer = -(-options.commits // writers)
    elapsed_ns = await commit_all(_keys_by_writer(writers, per_writer, FIRST_ROUND))
    growth = min(-(-options.minimum_commit_ms * 1_000_000 // elapsed_ns), MAXIMUM_COMMIT_GROWTH)
    if growth > 1:
        per_writer *= growth
        elapsed_ns = await commit_all(_keys_by_writer(writers, per_writer, SECOND_ROUND))
    return per_writer * writers / elapsed_ns * 1e9


def _keys_by_writer(writers: int, per_writer: int, prefix: str) -> list[list[bytes]]:
    return [
        [f"{prefix}{writer:05d}{number:010d}".encode() for number in range(per_writer)]
        for writer in range(writers)
    ]


def _check_commits(context: Context, writers: int, value: bytes) -> None:
    """Opens the store again and gets the first commits of every writer."""
    per_writer = -(-context.options.commits // writers)
    engine = context.open_at_once("durable")
    for key in chain.from_iterable(_keys_by_writer(writers, per_writer, FIRST_ROUND)):
        if engine.get(key) != value:
            raise WrongAnswerError(f"get({key!r}) did not return what was committed")
    engine.close()


def _workload(name: str, step: Step, writers: int, description: str) -> Workload:
    metric = Metric(
        f"{name}-{writers}",
        "commits/s",
        "durable",
        f"put from {writers:,} {description}",
        "higher",
        series=name,
        x=writers,
    )
    return Workload(metric.name, (step,), (metric,), writers=writers)


WORKLOADS = (
    *(_workload("commit-threads", _threads_step(n), n, "threads") for n in THREAD_COUNTS),
    *(_workload("commit-tasks", _tasks_step(n), n, "asyncio tasks") for n in TASK_COUNTS),
)
