"""Times statements: medians of rounds in which all of them take turns.

Rounds are many and short: one that lasts longer than a time slice would time other processes too.
"""

import gc
import statistics
import timeit
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Statement:
    """Source text, the names in it, and how often it runs in a round.

    Text and not a function: calling one costs as much as many of the steps.

    Attributes:
        without: text of what is timed along and is no part of it, to be taken off.
    """

    text: str
    names: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 200
    without: str = "pass"


def medians_ns(statements: Mapping[str, Statement], rounds: int) -> dict[str, float]:
    """Nanoseconds of each statement. Rounds go through all of them, forward and backward in turn,
    so that neither a disturbance of the machine nor what came before falls on one alone; one more
    round, before, warms them up."""
    timers = {
        name: (_timer(each.text, each), _timer(each.without, each))
        for name, each in statements.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in statements}
    for number in range(rounds + 1):
        gc.collect()
        for name in list(timers)[:: -1 if number % 2 else 1]:
            timer, empty = timers[name]
            calls = statements[name].calls
            seconds = timer.timeit(calls) - empty.timeit(calls)
            if number:
                samples[name].append(seconds / calls * 1e9)
    return {name: statistics.median(found) for name, found in samples.items()}


def _timer(text: str, statement: Statement) -> timeit.Timer:
    # The collector stays on, as users run.
    return timeit.Timer(text, "import gc; gc.enable()", globals=dict(statement.names))
