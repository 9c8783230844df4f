"""How long the slowest operations take, at rest and while compaction runs.

Both are timed one operation at a time, in one closed loop at the same pace: the next operation
begins when the last has returned and its key has been made. At rest, so few entries are in memory
that no engine has begun to write them out. While compaction runs: after puts that are not timed and
that fill memory, the loop goes on, with flushes and merges beside it until it ends. walkv tells how
many finished meanwhile, and if none did, its step fails: at such sizes nothing was compacted.
"""

import random
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from time import perf_counter_ns

from benchmarks.dataset import Dataset, Item
from benchmarks.engines import Engine, Get, Walkv
from benchmarks.workloads.base import (
    Context,
    Figures,
    Metric,
    Options,
    TooSmallError,
    Workload,
    WrongAnswerError,
)
from benchmarks.workloads.settling import settle
from benchmarks.workloads.streams import scattered_index, scattered_items
from benchmarks.workloads.timing import check_answers

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
CURVE_PERCENTILES = (50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99, 100)
PHASES = {"rest": "at rest", "compacting": "while compaction runs"}
WARMING_OPERATIONS = 1_000
# So many puts, in relation to those that are timed, fill memory before them.
FILLING = 0.25

Put = Callable[[bytes, bytes], object]


def latency_put(context: Context) -> Figures:
    """Times each put."""
    options = context.options
    data = _dataset(context)
    items = scattered_items(data)
    engine = _open(context)
    put = engine.put
    _put_all(put, items, WARMING_OPERATIONS)
    rest_ns = _time_puts(put, items, options.latency_rest_operations)
    _put_all(put, items, _filling(options))
    with _compacting("put", engine) as figures:
        compacting_ns = _time_puts(put, items, options.latency_operations)
    check_answers(engine.get, data)
    engine.close()
    return figures | _figures(context, "put", rest_ns, compacting_ns)


def latency_get(context: Context) -> Figures:
    """Times each get of a random entry among those written so far; after each comes a put.

    While compaction runs first, and then at rest, so that both read what is in files: settled,
    opened again, and after as many gets that are not timed.
    """
    options = context.options
    data = _dataset(context)
    engine = _open(context)
    written = WARMING_OPERATIONS + _filling(options)
    _put_all(engine.put, scattered_items(data), written)
    with _compacting("get", engine) as figures:
        compacting_ns = _time_gets(
            engine.get, engine.put, data, written, options.latency_operations
        )
    written += options.latency_operations
    settle(context.store_path, options.settling_ms)
    engine.close()

    engine = _open(context)
    generator = random.Random(f"{data.seed}/warm")
    for _ in range(options.latency_rest_operations):
        engine.get(data.key(scattered_index(generator.randrange(written), data.entries)))
    rest_ns = _time_gets(engine.get, engine.put, data, written, options.latency_rest_operations)
    engine.close()
    return figures | _figures(context, "get", rest_ns, compacting_ns)


def _open(context: Context) -> Engine:
    return context.open("process", memtable_bytes=context.options.latency_memtable_bytes)


@contextmanager
def _compacting(operation: str, engine: Engine) -> Iterator[Figures]:
    """Adds to the figures how many flushes and merges finished inside, where an engine tells."""
    figures: Figures = {}
    if not isinstance(engine, Walkv):
        yield figures
        return
    before_count = engine.compaction_count()
    yield figures
    finished_count = engine.compaction_count() - before_count
    if finished_count == 0:
        raise TooSmallError(
            "no flush or merge finished while operations were timed: raise --latency-operations "
            "or lower --latency-memtable-bytes"
        )
    figures[f"latency-{operation}-compactions"] = finished_count


def _dataset(context: Context) -> Dataset:
    options = context.options
    timed = options.latency_rest_operations + options.latency_operations
    return context.dataset(WARMING_OPERATIONS + timed + _filling(options))


def _filling(options: Options) -> int:
    return int(options.latency_operations * FILLING)


def _put_all(put: Put, items: Iterator[Item], count: int) -> None:
    for key, value in islice(items, count):
        put(key, value)


def _time_puts(put: Put, items: Iterator[Item], count: int) -> "array[int]":
    elapsed_ns = _room(count)
    for number, (key, value) in enumerate(islice(items, count)):
        start_ns = perf_counter_ns()
        put(key, value)
        elapsed_ns[number] = perf_counter_ns() - start_ns
    return elapsed_ns


def _time_gets(get: Get, put: Put, data: Dataset, written: int, count: int) -> "array[int]":
    """`written` entries are there at first, and one more after each get."""
    elapsed_ns = _room(count)
    uniform = random.Random(data.seed).random
    for number, (new_key, new_value) in enumerate(islice(scattered_items(data, written), count)):
        index = scattered_index(int(uniform() * (written + number)), data.entries)
        key = data.key(index)
        start_ns = perf_counter_ns()
        value = get(key)
        elapsed_ns[number] = perf_counter_ns() - start_ns
        if value != data.value(index):
            raise WrongAnswerError(f"get({key!r}) did not return its value")
        put(new_key, new_value)
    return elapsed_ns


def _room(count: int) -> "array[int]":
    """Room for all latencies, so that the loop does not allocate any."""
    return array("q", bytes(8 * count))


def _figures(
    context: Context, operation: str, rest_ns: "array[int]", compacting_ns: "array[int]"
) -> Figures:
    figures: Figures = {}
    for phase, elapsed_ns in (("rest", rest_ns), ("compacting", compacting_ns)):
        ordered_ns = sorted(elapsed_ns)
        for name, percent in PERCENTILES.items():
            figures[f"latency-{operation}-{phase}-{name}"] = percentile(ordered_ns, percent) / 1e3
        context.series[f"latency-{operation}-{phase}"] = [
            (percent, percentile(ordered_ns, percent) / 1e3) for percent in CURVE_PERCENTILES
        ]
    for name in ("p99", "p99.9"):
        rest, compacting = (figures[f"latency-{operation}-{phase}-{name}"] for phase in PHASES)
        figures[f"latency-{operation}-{name}-grown"] = compacting / rest
    return figures


def percentile(ordered: list[int], percent: float) -> int:
    """The smallest of `ordered` that at least `percent` of them do not exceed."""
    # In thousandths of a percent, so that 99.9 of 1,000 is the 999th and not, rounded up, the last.
    rank = -(-len(ordered) * round(percent * 1_000) // 100_000)
    return ordered[max(rank, 1) - 1]


def _metrics(operation: str, description: str) -> tuple[Metric, ...]:
    points = tuple(
        Metric(
            f"latency-{operation}-{phase}-{name}",
            "us",
            "process",
            f"{description}, {when}, {name}",
            series=f"latency-{operation}-{phase}",
            x=percent,
            counted=percent < 100,
        )
        for phase, when in PHASES.items()
        for name, percent in PERCENTILES.items()
    )
    ratios = tuple(
        Metric(
            f"latency-{operation}-{name}-grown",
            "x",
            "process",
            f"{operation}: {name} while compaction runs over {name} at rest",
            counted=False,
        )
        for name in ("p99", "p99.9")
    )
    compactions = Metric(
        f"latency-{operation}-compactions",
        "count",
        "process",
        "flushes and merges that finished meanwhile; only walkv tells",
        counted=False,
    )
    return (*points, *ratios, compactions)


MOST_REPETITIONS = 1

WORKLOADS = (
    Workload(
        "latency-put",
        (latency_put,),
        _metrics("put", "put, scattered order"),
        needs=("millions",),
        most_repetitions=MOST_REPETITIONS,
    ),
    Workload(
        "latency-get",
        (latency_get,),
        _metrics("get", "get of random entries, a put after each"),
        needs=("millions",),
        most_repetitions=MOST_REPETITIONS,
    ),
)
