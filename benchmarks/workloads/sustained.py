"""A fill that goes on until compaction can no longer be put off."""

from time import perf_counter_ns

from benchmarks.dataset import Dataset
from benchmarks.machine import allocated_bytes
from benchmarks.workloads.base import Context, Figures, Metric, Workload
from benchmarks.workloads.settling import settle
from benchmarks.workloads.streams import making_window_ns, scattered_items, time_window
from benchmarks.workloads.timing import check_answers

WINDOWS = 50
ENDS = WINDOWS // 10
"""The first rate is that of the first tenth of the windows, the last that of the last tenth."""
OVERWRITTEN = WINDOWS // 2
MOST_REPETITIONS = 1


def sustained_fill(context: Context) -> Figures:
    """Puts one by one, in scattered order; the rate of each window, and what is left on disk."""
    data = _dataset(context)
    window_entries = data.entries // WINDOWS
    making_ns = making_window_ns(data, window_entries)
    items = scattered_items(data)
    engine = context.open("process")
    put = engine.put
    windows = [time_window(put, items, window_entries) for _ in range(WINDOWS)]
    check_answers(engine.get, data)
    settled_ms = settle(context.store_path, context.options.settling_ms) * 1e3
    start_ns = perf_counter_ns()
    engine.close()
    close_ns = perf_counter_ns() - start_ns

    costs_ns = [max(elapsed_ns - making_ns, 1) for elapsed_ns, _ in windows]
    rates = [window_entries / cost_ns * 1e9 for cost_ns in costs_ns]
    context.series["sustained-rate"] = [
        ((number + 1) * window_entries, rate) for number, rate in enumerate(rates)
    ]
    first, last = (
        ENDS * window_entries / sum(ends_ns) * 1e9
        for ends_ns in (costs_ns[:ENDS], costs_ns[-ENDS:])
    )
    return {
        "sustained-first": first,
        "sustained-last": last,
        "sustained-kept": last / first,
        "sustained-longest-put": max(longest_ns for _, longest_ns in windows) / 1e6,
        "sustained-settled": settled_ms,
        "sustained-close": close_ns / 1e6,
        "sustained-space": _space(context, data),
    }


def sustained_overwrite(context: Context) -> Figures:
    """Puts half of the entries again: how much of what they replaced stays on disk."""
    data = _dataset(context)
    window_entries = data.entries // WINDOWS
    making_ns = making_window_ns(data, window_entries)
    items = scattered_items(data)
    engine = context.open("process")
    elapsed_ns, _ = time_window(engine.put, items, OVERWRITTEN * window_entries)
    cost_ns = max(elapsed_ns - OVERWRITTEN * making_ns, 1)
    check_answers(engine.get, data)
    settle(context.store_path, context.options.settling_ms)
    engine.close()
    return {
        "sustained-overwrite": OVERWRITTEN * window_entries / cost_ns * 1e9,
        "sustained-overwrite-space": _space(context, data),
    }


def _dataset(context: Context) -> Dataset:
    """All windows are equally long: what would be left over is left out."""
    return context.dataset(context.options.sustained_entries // WINDOWS * WINDOWS)


def _space(context: Context, data: Dataset) -> float:
    """What is on disk, in multiples of the keys and values that are live."""
    live_bytes = data.entries * (len(data.key(0)) + data.value_bytes)
    return allocated_bytes(context.store_path) / live_bytes


WORKLOADS = (
    Workload(
        "sustained",
        (sustained_fill, sustained_overwrite),
        (
            Metric(
                "sustained-first",
                "puts/s",
                "process",
                "put one by one, scattered order, the first tenth of the entries",
                "higher",
            ),
            Metric("sustained-last", "puts/s", "process", "the same, the last tenth", "higher"),
            Metric(
                "sustained-kept",
                "x",
                "process",
                "the last rate over the first",
                "higher",
                counted=False,
            ),
            Metric(
                "sustained-longest-put",
                "ms",
                "process",
                "the longest put of that fill",
                counted=False,
            ),
            Metric("sustained-settled", "ms", "process", "until its files come to rest after it"),
            Metric("sustained-close", "ms", "process", "close after that"),
            Metric("sustained-space", "x", "process", "on disk then, over live keys and values"),
            Metric(
                "sustained-overwrite",
                "puts/s",
                "process",
                "put half of the entries again, reopened",
                "higher",
            ),
            Metric(
                "sustained-overwrite-space",
                "x",
                "process",
                "on disk after that, settled and closed, over live keys and values",
            ),
        ),
        needs=("millions",),
        most_repetitions=MOST_REPETITIONS,
    ),
)
