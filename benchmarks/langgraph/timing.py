"""The clocks."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any


def elapsed_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    begin_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin_ns) / 1e6


def median_ms(call: Callable[[], Any], calls: int) -> float:
    """Milliseconds of a call, the median of so many, after one that warms it up."""
    call()
    gc.collect()
    return statistics.median(elapsed_ms(call) for _ in range(calls))
