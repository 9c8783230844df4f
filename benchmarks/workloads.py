"""What is timed: each workload, its steps, and the metrics they report.

A step runs in a process of its own, is given a directory, and returns figures by metric name. The
steps of one workload share a directory. A fixture is a step that builds, once per engine and
untimed, the store of which every repetition opens a copy.

*Invariants*

1. A timed loop holds nothing but the call under test: keys and values exist before it starts, and
   answers are checked after it ends.
2. The same loop, with the same keys in the same order, times every engine.
3. Garbage collection stays on, as users run, and starts clean; keys and values of the harness are
   frozen out of it, so that only what an engine allocates is ever traversed.
"""

import asyncio
import gc
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Literal

from benchmarks.dataset import Dataset, Item, incompressible_items
from benchmarks.engines import (
    ENGINES,
    SUBJECT,
    AsyncPut,
    Engine,
    Get,
    Guarantee,
    Walkv,
    open_async_put,
)
from benchmarks.machine import allocated_bytes, peak_memory_bytes

# A read is cold once; so few reads that most of them open a block of their own.
COLD_FRACTION = 100
# Concurrent commits that were over sooner are measured again with more of them.
MINIMUM_COMMIT_NS = 500_000_000
MAXIMUM_COMMIT_GROWTH = 100
BARRIER_SECONDS = 120.0
CHECKED_ANSWERS = 100
MIB = 1 << 20


@dataclass(frozen=True)
class Options:
    """The sizes of a run. All of them are reported with its results."""

    entries: int = 200_000
    value_bytes: int = 100
    batch_entries: int = 1_000
    durable_operations: int = 2_000
    writers: int = 64
    commits: int = 4_000
    open_entries: int = 1_000_000
    memtable_bytes: int = 8 * MIB
    cache_bytes: int = 8 * MIB
    memory_ratio: int = 20
    memory_value_bytes: int = 1_024
    seed: int = 1


QUICK = Options(
    entries=2_000,
    durable_operations=20,
    commits=128,
    open_entries=5_000,
    memtable_bytes=MIB,
    cache_bytes=MIB,
    memory_ratio=4,
)


@dataclass(frozen=True)
class Context:
    """What a step is given."""

    engine_name: str
    directory: Path
    options: Options

    @property
    def store_path(self) -> Path:
        return self.directory / "store"

    def open(self, guarantee: Guarantee) -> Engine:
        """Opens the store, with all that the harness made so far out of the collector's way."""
        gc.collect()
        gc.freeze()
        return self.open_at_once(guarantee)

    def open_at_once(self, guarantee: Guarantee) -> Engine:
        """Opens the store and does nothing else."""
        return ENGINES[self.engine_name](self.store_path, guarantee)

    def dataset(self, entries: int | None = None) -> Dataset:
        options = self.options
        return Dataset(entries or options.entries, options.value_bytes, options.seed)


@dataclass(frozen=True)
class Metric:
    """One row of the report. `guarantee` is what the peers of the row have in common."""

    name: str
    unit: str
    guarantee: str
    description: str
    better: Literal["lower", "higher"] = "lower"


Figures = dict[str, float]
Step = Callable[[Context], Figures]


@dataclass(frozen=True)
class Workload:
    """Steps that together produce some rows of the report."""

    name: str
    steps: tuple[Step, ...]
    metrics: tuple[Metric, ...]
    fixture: Step | None = None
    engines: tuple[str, ...] = tuple(ENGINES)


class WrongAnswerError(Exception):
    """An engine did not return what was stored: its speed is of no interest."""


# Timed loops


def _time_puts(put: Callable[[bytes, bytes], object], items: Iterable[Item]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for key, value in items:
        put(key, value)
    return perf_counter_ns() - start_ns


def _time_batches(write: Callable[[Sequence[Item]], None], batches: Sequence[list[Item]]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for batch in batches:
        write(batch)
    return perf_counter_ns() - start_ns


def _time_gets(get: Get, keys: Sequence[bytes]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for key in keys:
        get(key)
    return perf_counter_ns() - start_ns


def _time_scan(entries: Iterator[Item]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for _key, _value in entries:
        pass
    return perf_counter_ns() - start_ns


def _per_operation_us(elapsed_ns: int, operation_count: int) -> float:
    return elapsed_ns / operation_count / 1_000


def _check_answers(get: Get, data: Dataset) -> None:
    for index in range(0, data.entries, max(1, data.entries // CHECKED_ANSWERS)):
        if get(data.key(index)) != data.value(index):
            raise WrongAnswerError(f"get({data.key(index)!r}) did not return its value")
        if get(data.missing_key(index)) is not None:
            raise WrongAnswerError(f"get({data.missing_key(index)!r}) returned a value")


def _check_scan(entries: Iterator[Item], data: Dataset, *, reverse: bool) -> None:
    indexes = reversed(range(data.entries)) if reverse else range(data.entries)
    expected = ((data.key(index), data.value(index)) for index in indexes)
    for actual, wanted in itertools.zip_longest(entries, expected):
        if actual != wanted:
            raise WrongAnswerError(f"a scan returned {actual} instead of {wanted}")


# Fills


def fill_process(context: Context) -> Figures:
    """Puts every entry by itself, reads them back, closes, and measures what is on disk."""
    data = context.dataset()
    order = data.random_order("fill")
    keys, values = [data.key(i) for i in order], [data.value(i) for i in order]
    read_keys = [data.key(i) for i in data.random_order("read")]

    engine = context.open("process")
    fill_ns = _time_puts(engine.put, zip(keys, values, strict=True))
    read_ns = _time_gets(engine.get, read_keys)
    _check_answers(engine.get, data)
    start_ns = perf_counter_ns()
    engine.close()
    close_ns = perf_counter_ns() - start_ns
    closed_bytes = allocated_bytes(context.store_path)

    engine = context.open("process")
    engine.compact()
    engine.close()
    return {
        "fill-process": _per_operation_us(fill_ns, data.entries),
        "read-after-fill": _per_operation_us(read_ns, data.entries),
        "close-after-fill": close_ns / 1e6,
        "disk-closed": closed_bytes / MIB,
        "disk-compacted": allocated_bytes(context.store_path) / MIB,
    }


def fill_durable(context: Context) -> Figures:
    """Puts entries by themselves, each on the medium before the next."""
    data = context.dataset()
    order = data.random_order("fill")[: context.options.durable_operations]
    items = [(data.key(i), data.value(i)) for i in order]
    engine = context.open("durable")
    elapsed_ns = _time_puts(engine.put, items)
    engine.close()
    return {"fill-durable": _per_operation_us(elapsed_ns, len(items))}


def fill_batch(context: Context) -> Figures:
    """Writes every entry in atomic batches."""
    data = context.dataset()
    batches = list(data.batches(data.random_order("fill"), context.options.batch_entries))
    engine = context.open("process")
    elapsed_ns = _time_batches(engine.write_batch, batches)
    _check_answers(engine.get, data)
    engine.close()
    return {"fill-batch": _per_operation_us(elapsed_ns, data.entries)}


# Reads, of a settled store


def settled_store(context: Context) -> Figures:
    """Fixture: a store with every entry, compacted and closed."""
    data = context.dataset()
    engine = context.open("process")
    for batch in data.batches(data.random_order("fill"), context.options.batch_entries):
        engine.write_batch(batch)
    engine.compact()
    engine.close()
    return {}


def read_random(context: Context) -> Figures:
    """Gets keys in random order: first cold, then cached, then inside one transaction."""
    data = context.dataset()
    cold, warm, cached, inside = (
        [data.key(i) for i in data.random_order(purpose)]
        for purpose in ("cold", "warm", "cached", "inside")
    )
    del cold[max(1, data.entries // COLD_FRACTION) :]
    engine = context.open("process")
    cold_ns = _time_gets(engine.get, cold)
    _time_gets(engine.get, warm)
    cached_ns = _time_gets(engine.get, cached)
    with engine.reading() as get:
        inside_ns = _time_gets(get, inside)
    _check_answers(engine.get, data)
    engine.close()
    return {
        "read-random-cold": _per_operation_us(cold_ns, len(cold)),
        "read-random": _per_operation_us(cached_ns, data.entries),
        "read-in-transaction": _per_operation_us(inside_ns, data.entries),
    }


def read_missing(context: Context) -> Figures:
    """Gets keys that are not there, after a pass over others of the kind."""
    data = context.dataset()
    warm, timed = (
        [data.missing_key(i) for i in data.random_order(purpose)] for purpose in ("warm", "timed")
    )
    engine = context.open("process")
    _time_gets(engine.get, warm)
    elapsed_ns = _time_gets(engine.get, timed)
    _check_answers(engine.get, data)
    engine.close()
    return {"read-missing": _per_operation_us(elapsed_ns, data.entries)}


def scan_forward(context: Context) -> Figures:
    """Scans the whole store in key order, twice."""
    cold_us, warm_us = _scan_twice(context, reverse=False)
    return {"scan-cold": cold_us, "scan": warm_us}


def scan_reverse(context: Context) -> Figures:
    """Scans the whole store against key order, twice."""
    cold_us, warm_us = _scan_twice(context, reverse=True)
    return {"scan-reverse-cold": cold_us, "scan-reverse": warm_us}


def _scan_twice(context: Context, *, reverse: bool) -> tuple[float, float]:
    data = context.dataset()
    engine = context.open("process")
    cold_ns = _time_scan(engine.scan(reverse=reverse))
    warm_ns = _time_scan(engine.scan(reverse=reverse))
    _check_scan(engine.scan(reverse=reverse), data, reverse=reverse)
    engine.close()
    return _per_operation_us(cold_ns, data.entries), _per_operation_us(warm_ns, data.entries)


# Concurrent durable commits


def commit_threads(context: Context) -> Figures:
    """Commits from many threads at once, each with keys of its own."""
    value = context.dataset().value(0)
    writers = context.options.writers
    engine = context.open("durable")
    with ThreadPoolExecutor(writers) as pool:
        handles = list(pool.map(lambda _: engine.for_thread(), range(writers)))

        async def commit_all(keys_by_writer: list[list[bytes]]) -> int:
            return _time_threads(pool, handles, keys_by_writer, value)

        rate = asyncio.run(_commits_per_second(commit_all, context.options))
    for handle in handles:
        if handle is not engine:
            handle.close()
    engine.close()
    return {"commit-threads": rate}


def commit_tasks(context: Context) -> Figures:
    """Commits from many asyncio tasks at once, each with keys of its own."""
    value = context.dataset().value(0)

    async def measure() -> float:
        async with open_async_put(context.engine_name, context.store_path) as put:

            async def commit_all(keys_by_writer: list[list[bytes]]) -> int:
                return await _time_tasks(put, keys_by_writer, value)

            return await _commits_per_second(commit_all, context.options)

    return {"commit-tasks": asyncio.run(measure())}


def _time_threads(
    pool: ThreadPoolExecutor,
    handles: Sequence[Engine],
    keys_by_writer: list[list[bytes]],
    value: bytes,
) -> int:
    starts_ns: list[int] = []
    # The last thread to arrive reads the clock, before any thread is let go.
    barrier = threading.Barrier(
        len(handles), action=lambda: starts_ns.append(perf_counter_ns()), timeout=BARRIER_SECONDS
    )

    def commit(handle: Engine, keys: list[bytes]) -> int:
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
    commit_all: Callable[[list[list[bytes]]], Awaitable[int]], options: Options
) -> float:
    """Times `options.commits` commits, and again with more of them if that was over at once."""
    per_writer = -(-options.commits // options.writers)
    elapsed_ns = await commit_all(_keys_by_writer(options.writers, per_writer, "a"))
    growth = min(-(-MINIMUM_COMMIT_NS // elapsed_ns), MAXIMUM_COMMIT_GROWTH)
    if growth > 1:
        per_writer *= growth
        elapsed_ns = await commit_all(_keys_by_writer(options.writers, per_writer, "b"))
    return per_writer * options.writers / elapsed_ns * 1e9


def _keys_by_writer(writers: int, per_writer: int, prefix: str) -> list[list[bytes]]:
    return [
        [f"{prefix}{writer:05d}{number:010d}".encode() for number in range(per_writer)]
        for writer in range(writers)
    ]


# Opening


def closed_store(context: Context) -> Figures:
    """Fixture: a large store as a fill leaves it, closed but not compacted."""
    data = context.dataset(context.options.open_entries)
    engine = context.open("process")
    for batch in data.batches(data.random_order("fill"), context.options.batch_entries):
        engine.write_batch(batch)
    engine.close()
    return {}


def open_store(context: Context) -> Figures:
    """Opens the store, and gets one key from its middle: a lazy open is paid for there."""
    data = context.dataset(context.options.open_entries)
    key = data.key(data.entries // 2)
    gc.collect()
    start_ns = perf_counter_ns()
    engine = context.open_at_once("process")
    opened_ns = perf_counter_ns()
    value = engine.get(key)
    read_ns = perf_counter_ns()
    engine.close()
    if value != data.value(data.entries // 2):
        raise WrongAnswerError(f"get({key!r}) did not return its value")
    return {"open": (opened_ns - start_ns) / 1e6, "open-first-get": (read_ns - start_ns) / 1e6}


# Memory


def memory_fill(context: Context) -> Figures:
    """Puts many times the budgets; the growth of the resident size at its peak."""
    options = context.options
    baseline_bytes = peak_memory_bytes()
    store = _open_with_budgets(context)
    entries, put = _memory_entries(options), store.put
    for key, value in incompressible_items(entries, options.memory_value_bytes, options.seed):
        put(key, value)
    grown_bytes = peak_memory_bytes() - baseline_bytes
    store.close()
    return {"memory-fill": grown_bytes / MIB}


def memory_scan(context: Context) -> Figures:
    """Scans what `memory_fill` left, in a new process."""
    options = context.options
    baseline_bytes = peak_memory_bytes()
    store = _open_with_budgets(context)
    scanned_entries = sum(1 for _ in store.scan())
    grown_bytes = peak_memory_bytes() - baseline_bytes
    store.close()
    if scanned_entries != _memory_entries(options):
        raise WrongAnswerError(f"a scan returned {scanned_entries} entries")
    return {"memory-scan": grown_bytes / MIB}


def _open_with_budgets(context: Context) -> Walkv:
    options = context.options
    return Walkv(
        context.store_path,
        "process",
        memtable_bytes=options.memtable_bytes,
        cache_bytes=options.cache_bytes,
    )


def _memory_entries(options: Options) -> int:
    budget_bytes = options.memtable_bytes + options.cache_bytes
    return options.memory_ratio * budget_bytes // options.memory_value_bytes


_READS = "process"

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "fill-process",
            (fill_process,),
            (
                Metric("fill-process", "us", "process", "put one by one, random order"),
                Metric("read-after-fill", "us", _READS, "get, right after the fill, not reopened"),
                Metric("close-after-fill", "ms", "process", "close after that fill, not reopened"),
                Metric("disk-closed", "MiB", "process", "on disk after that fill, closed"),
                Metric("disk-compacted", "MiB", "process", "the same, compacted"),
            ),
        ),
        Workload(
            "fill-durable",
            (fill_durable,),
            (Metric("fill-durable", "us", "durable", "put one by one, random order"),),
        ),
        Workload(
            "fill-batch",
            (fill_batch,),
            (Metric("fill-batch", "us", "process", "put in atomic batches, per entry"),),
        ),
        Workload(
            "read-random",
            (read_random,),
            (
                Metric("read-random-cold", "us", _READS, "get, reopened, nothing cached"),
                Metric("read-random", "us", _READS, "get, reopened, after a warm pass"),
                Metric(
                    "read-in-transaction",
                    "us",
                    _READS,
                    "the same inside one transaction, where an engine has one",
                ),
            ),
            fixture=settled_store,
        ),
        Workload(
            "read-missing",
            (read_missing,),
            (Metric("read-missing", "us", _READS, "get of absent keys, after a warm pass"),),
            fixture=settled_store,
        ),
        Workload(
            "scan",
            (scan_forward,),
            (
                Metric("scan-cold", "us", _READS, "full scan, reopened, per entry"),
                Metric("scan", "us", _READS, "full scan again, per entry"),
            ),
            fixture=settled_store,
        ),
        Workload(
            "scan-reverse",
            (scan_reverse,),
            (
                Metric("scan-reverse-cold", "us", _READS, "full scan backwards, reopened"),
                Metric("scan-reverse", "us", _READS, "full scan backwards again"),
            ),
            fixture=settled_store,
        ),
        Workload(
            "commit-threads",
            (commit_threads,),
            (Metric("commit-threads", "commits/s", "durable", "put from threads", "higher"),),
        ),
        Workload(
            "commit-tasks",
            (commit_tasks,),
            (Metric("commit-tasks", "commits/s", "durable", "put from asyncio tasks", "higher"),),
        ),
        Workload(
            "open",
            (open_store,),
            (
                Metric("open", "ms", _READS, "open a cleanly closed store"),
                Metric("open-first-get", "ms", _READS, "open it and get one key"),
            ),
            fixture=closed_store,
        ),
        Workload(
            "memory",
            (memory_fill, memory_scan),
            (
                Metric("memory-fill", "MiB", "process", "peak growth while filling"),
                Metric("memory-scan", "MiB", "process", "peak growth while scanning, reopened"),
            ),
            engines=(SUBJECT,),
        ),
    )
}

STEPS: dict[str, Step] = {
    step.__name__: step
    for step in itertools.chain.from_iterable(
        (*workload.steps, *([workload.fixture] if workload.fixture else ()))
        for workload in WORKLOADS.values()
    )
}
