"""Entries without end: made one at a time, for workloads too large to hold their keys.

The loops over them are timed whole, so that whatever an engine does meanwhile, in its own threads
or in Python's collector, is paid for. What the harness's own part of the loop costs is measured
before an engine is opened, and taken off.
"""

import statistics
from collections.abc import Callable, Iterator
from itertools import islice
from time import perf_counter_ns

from benchmarks.dataset import SCATTER, Dataset, Item

SAMPLE_ENTRIES = 100_000
"""So many are made to learn what making one costs; fewer where there are fewer."""
SAMPLES = 3
"""The median of so many such samples counts, after one that is not timed."""


def scattered_index(position: int, entries: int) -> int:
    """The index of the entry that is written at `position`; each is, once."""
    return position * SCATTER % entries


def scattered_items(data: Dataset, start: int = 0) -> Iterator[Item]:
    """All entries from position `start` of the scattered order on."""
    for position in range(start, data.entries):
        index = scattered_index(position, data.entries)
        yield data.key(index), data.value(index)


def scattered_batches(data: Dataset, batch_entries: int) -> Iterator[list[Item]]:
    """All entries in scattered order, in lists of `batch_entries`; the last may be shorter."""
    items = scattered_items(data)
    while batch := list(islice(items, batch_entries)):
        yield batch


def fill_ns(write_batch: Callable[[list[Item]], object], data: Dataset, batch_entries: int) -> int:
    """Writes all entries in batches; what that took, less what making the batches takes."""
    sample = Dataset(min(data.entries, SAMPLE_ENTRIES), data.value_bytes, data.seed)
    making_ns = _sampled_ns(lambda: _write(_nothing, sample, batch_entries))
    making_ns = making_ns * data.entries // sample.entries
    return max(_write(write_batch, data, batch_entries) - making_ns, 1)


def time_window(
    put: Callable[[bytes, bytes], object], items: Iterator[Item], entries: int
) -> tuple[int, int]:
    """Puts the next `entries` of `items`: nanoseconds of all of it, and of the longest put."""
    longest_ns = 0
    start_ns = perf_counter_ns()
    for key, value in islice(items, entries):
        before_ns = perf_counter_ns()
        put(key, value)
        put_ns = perf_counter_ns() - before_ns
        if put_ns > longest_ns:
            longest_ns = put_ns
    return perf_counter_ns() - start_ns, longest_ns


def making_window_ns(data: Dataset, entries: int) -> int:
    """What `time_window` takes with a put that does nothing."""
    sample_entries = min(data.entries, SAMPLE_ENTRIES)
    elapsed_ns = _sampled_ns(
        lambda: time_window(_nothing, scattered_items(data), sample_entries)[0]
    )
    return elapsed_ns * entries // sample_entries


def _sampled_ns(make: Callable[[], int]) -> int:
    make()
    return round(statistics.median(make() for _ in range(SAMPLES)))


def _write(write_batch: Callable[[list[Item]], object], data: Dataset, batch_entries: int) -> int:
    start_ns = perf_counter_ns()
    for batch in scattered_batches(data, batch_entries):
        write_batch(batch)
    return perf_counter_ns() - start_ns


def _nothing(*_: object) -> None:
    """Stands in for the engine."""
