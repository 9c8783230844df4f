"""The timed loops, and the checks of answers that follow them.

*Invariants*

1. A loop holds nothing but the call under test.
2. Garbage collection stays on, and starts clean.
"""

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter_ns

from benchmarks.dataset import Dataset, Item
from benchmarks.engines import Get
from benchmarks.workloads.base import WrongAnswerError

CHECKED_ANSWERS = 100
"""Of so many entries, spread over all, the answers are checked."""

Call = tuple[Callable[..., object], tuple[object, ...]]


def time_puts(put: Callable[[bytes, bytes], object], items: Iterable[Item]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for key, value in items:
        put(key, value)
    return perf_counter_ns() - start_ns


def time_batches(write: Callable[[Sequence[Item]], None], batches: Sequence[list[Item]]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for batch in batches:
        write(batch)
    return perf_counter_ns() - start_ns


def time_gets(get: Get, keys: Sequence[bytes]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for key in keys:
        get(key)
    return perf_counter_ns() - start_ns


def time_deletes(delete: Callable[[bytes], object], keys: Sequence[bytes]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for key in keys:
        delete(key)
    return perf_counter_ns() - start_ns


def time_seeks(
    read_from: Callable[[bytes, int], list[Item]], keys: Sequence[bytes], count: int
) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for key in keys:
        read_from(key, count)
    return perf_counter_ns() - start_ns


def time_calls(calls: Sequence[Call]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for call, arguments in calls:
        call(*arguments)
    return perf_counter_ns() - start_ns


def time_scan(entries: Iterator[Item]) -> int:
    gc.collect()
    start_ns = perf_counter_ns()
    for _key, _value in entries:
        pass
    return perf_counter_ns() - start_ns


def per_operation_us(elapsed_ns: int, operation_count: int) -> float:
    return elapsed_ns / operation_count / 1_000


def check_answers(get: Get, data: Dataset, value: Callable[[int], bytes] | None = None) -> None:
    """Raises `WrongAnswerError` unless entries have their values and missing keys have none.

    `value` gives the value that an index must have, where it is not the dataset's.
    """
    value = value or data.value
    for index in checked_indexes(data):
        if get(data.key(index)) != value(index):
            raise WrongAnswerError(f"get({data.key(index)!r}) did not return its value")
        if get(data.missing_key(index)) is not None:
            raise WrongAnswerError(f"get({data.missing_key(index)!r}) returned a value")


def checked_indexes(data: Dataset) -> range:
    return range(0, data.entries, max(1, data.entries // CHECKED_ANSWERS))


def check_scan(entries: Iterator[Item], data: Dataset, *, reverse: bool) -> None:
    indexes = reversed(range(data.entries)) if reverse else range(data.entries)
    expected = ((data.key(index), data.value(index)) for index in indexes)
    for actual, wanted in itertools.zip_longest(entries, expected):
        if actual != wanted:
            raise WrongAnswerError(f"a scan returned {actual} instead of {wanted}")
