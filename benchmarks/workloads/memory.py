"""Memory, many times the budgets: what resident memory grows by may not depend on the data."""

import random

from benchmarks.dataset import Dataset, incompressible_items
from benchmarks.engines import SUBJECT, Engine
from benchmarks.engines.base import MIB
from benchmarks.machine import peak_memory_bytes
from benchmarks.workloads.base import (
    Context,
    Figures,
    Metric,
    Options,
    Workload,
    WrongAnswerError,
)

READ_SHARE = 4
"""One get for so many entries: still many times what the cache can hold."""
ALLOWED_MIB = 64
"""What resident memory may grow by beyond the budgets."""


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
    budget_mib = _budget_bytes(options) / MIB
    return {
        "memory-budget": budget_mib,
        "memory-limit": budget_mib + ALLOWED_MIB,
        "memory-data": entries * options.memory_value_bytes / MIB,
        "memory-fill": grown_bytes / MIB,
    }


def memory_scan(context: Context) -> Figures:
    """Scans what `memory_fill` left, in a new process."""
    baseline_bytes = peak_memory_bytes()
    store = _open_with_budgets(context)
    scanned_entries = sum(1 for _ in store.scan())
    grown_bytes = peak_memory_bytes() - baseline_bytes
    store.close()
    if scanned_entries != _memory_entries(context.options):
        raise WrongAnswerError(f"a scan returned {scanned_entries} entries")
    return {"memory-scan": grown_bytes / MIB}


def memory_get(context: Context) -> Figures:
    """Gets random keys from all over what `memory_fill` left, in a new process."""
    options = context.options
    entries = _memory_entries(options)
    generator = random.Random(options.seed)
    baseline_bytes = peak_memory_bytes()
    store = _open_with_budgets(context)
    get = store.get
    for _ in range(-(-entries // READ_SHARE)):
        key = Dataset.key(generator.randrange(entries))
        if get(key) is None:
            raise WrongAnswerError(f"get({key!r}) did not return a value")
    grown_bytes = peak_memory_bytes() - baseline_bytes
    store.close()
    return {"memory-get": grown_bytes / MIB}


def _open_with_budgets(context: Context) -> Engine:
    options = context.options
    return context.open_at_once(
        "process", memtable_bytes=options.memtable_bytes, cache_bytes=options.cache_bytes
    )


def _budget_bytes(options: Options) -> int:
    return options.memtable_bytes + options.cache_bytes


def _memory_entries(options: Options) -> int:
    return options.memory_ratio * _budget_bytes(options) // options.memory_value_bytes


WORKLOADS = (
    Workload(
        "memory",
        (memory_fill, memory_scan, memory_get),
        (
            Metric("memory-budget", "MiB", "process", "both budgets, as configured"),
            Metric("memory-limit", "MiB", "process", f"they and {ALLOWED_MIB} MiB: the target"),
            Metric("memory-data", "MiB", "process", "values written and read"),
            Metric("memory-fill", "MiB", "process", "peak growth while filling"),
            Metric("memory-scan", "MiB", "process", "peak growth while scanning, reopened"),
            Metric("memory-get", "MiB", "process", "peak growth in random gets, reopened"),
        ),
        engines=(SUBJECT,),
    ),
)
