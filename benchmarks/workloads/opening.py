"""Opening a store."""

import gc
from time import perf_counter_ns

from benchmarks.dataset import Dataset
from benchmarks.workloads.base import READS, Context, Figures, Metric, Workload, WrongAnswerError


def closed_store(context: Context) -> Figures:
    """Fixture: a large store as a fill leaves it, closed but not compacted."""
    data = context.dataset(context.options.open_entries)
    engine = context.open("process")
    for batch in data.batches(data.random_order("fill"), context.options.batch_entries):
        engine.write_batch(batch)
    engine.close()
    return {}


def open_store(context: Context) -> Figures:
    """Opens the store, and gets one key."""
    open_ms, first_get_ms = open_and_get_ms(context, context.dataset(context.options.open_entries))
    return {"open": open_ms, "open-first-get": first_get_ms}


def open_and_get_ms(context: Context, data: Dataset) -> tuple[float, float]:
    """How long opening takes, and opening and getting a key: a lazy open is paid for there."""
    middle = data.entries // 2
    key = data.key(middle)
    gc.collect()
    start_ns = perf_counter_ns()
    engine = context.open_at_once("process")
    opened_ns = perf_counter_ns()
    value = engine.get(key)
    read_ns = perf_counter_ns()
    engine.close()
    if value != data.value(middle):
        raise WrongAnswerError(f"get({key!r}) did not return its value")
    return (opened_ns - start_ns) / 1e6, (read_ns - start_ns) / 1e6


WORKLOADS = (
    Workload(
        "open",
        (open_store,),
        (
            Metric("open", "ms", READS, "open a cleanly closed store"),
            Metric("open-first-get", "ms", READS, "open it and get one key"),
        ),
        fixture=closed_store,
        needs=("millions",),
    ),
)
