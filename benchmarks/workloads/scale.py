"""The same work on ten, a hundred, a thousand times the entries: does its cost grow with them?

One workload for each size, so that the runner may leave out a size that would take too long.
"""

import random
from time import perf_counter_ns

from benchmarks.engines.base import MIB
from benchmarks.machine import allocated_bytes, peak_memory_bytes
from benchmarks.workloads.base import (
    READS,
    Context,
    Figures,
    Metric,
    Workload,
)
from benchmarks.workloads.opening import open_and_get_ms
from benchmarks.workloads.streams import fill_ns
from benchmarks.workloads.timing import (
    check_answers,
    check_scan,
    per_operation_us,
    time_gets,
    time_scan,
)

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
MILLION = 1_000_000
MOST_REPETITIONS = 3
MILLIONS_REPETITIONS = 1
WARMING_READS = 10
"""One in so many of the timed gets is made before them: a short pass, that opens what is lazy."""

ROWS = (
    ("scale-fill", "us", "process", "put in atomic batches, per entry"),
    ("scale-close", "ms", "process", "close after that fill"),
    ("scale-fill-memory", "MiB", "process", "peak growth of the resident size during that fill"),
    ("scale-disk", "B", "process", "on disk after that fill, closed, per entry"),
    ("scale-open", "ms", READS, "open the closed store"),
    ("scale-first-get", "ms", READS, "open it and get one key"),
    ("scale-get", "us", READS, "get of random keys, after a short warm pass"),
    ("scale-scan", "us", READS, "full scan, per entry"),
    (
        "scale-read-memory",
        "MiB",
        READS,
        "peak growth of the resident size in those gets and the scan, mapped files included",
    ),
)


def scale_fill(context: Context) -> Figures:
    """Writes every entry in batches; leaves the store for the steps that read it."""
    data = context.dataset()
    baseline_bytes = peak_memory_bytes()
    engine = context.open("process")
    elapsed_ns = fill_ns(engine.write_batch, data, context.options.batch_entries)
    grown_bytes = peak_memory_bytes() - baseline_bytes
    check_answers(engine.get, data)
    start_ns = perf_counter_ns()
    engine.close()
    close_ns = perf_counter_ns() - start_ns
    return {
        "scale-fill": per_operation_us(elapsed_ns, data.entries),
        "scale-close": close_ns / 1e6,
        "scale-fill-memory": grown_bytes / MIB,
        "scale-disk": allocated_bytes(context.store_path) / data.entries,
    }


def scale_open(context: Context) -> Figures:
    """Opens the store, and gets one key."""
    open_ms, first_get_ms = open_and_get_ms(context, context.dataset())
    return {"scale-open": open_ms, "scale-first-get": first_get_ms}


def scale_read(context: Context) -> Figures:
    """Gets random keys, then scans everything."""
    data = context.dataset()
    generator = random.Random(data.seed)
    reads = context.options.scale_reads
    warm, timed = (
        [data.key(generator.randrange(data.entries)) for _ in range(count)]
        for count in (-(-reads // WARMING_READS), reads)
    )
    baseline_bytes = peak_memory_bytes()
    engine = context.open("process")
    time_gets(engine.get, warm)
    get_ns = time_gets(engine.get, timed)
    scan_ns = time_scan(engine.scan())
    grown_bytes = peak_memory_bytes() - baseline_bytes
    check_answers(engine.get, data)
    check_scan(engine.scan(), data, reverse=False)
    engine.close()
    return {
        "scale-get": per_operation_us(get_ns, reads),
        "scale-scan": per_operation_us(scan_ns, data.entries),
        "scale-read-memory": grown_bytes / MIB,
    }


def _workload(size: int) -> Workload:
    tenth = size // 10
    return Workload(
        f"scale-{size}",
        (scale_fill, scale_open, scale_read),
        tuple(
            Metric(
                f"{name}-{size}",
                unit,
                guarantee,
                f"{description}; {size:,} entries",
                series=name,
                x=size,
            )
            for name, unit, guarantee, description in ROWS
        ),
        overrides={"entries": size},
        suffix=f"-{size}",
        most_repetitions=MILLIONS_REPETITIONS if size >= MILLION else MOST_REPETITIONS,
        needs=("millions",) if size >= MILLION else (),
        scale=size,
        tenth=f"scale-{tenth}" if tenth in SIZES else None,
    )


WORKLOADS = tuple(_workload(size) for size in SIZES)
