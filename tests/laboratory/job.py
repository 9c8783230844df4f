"""What a layer of the laboratory is: jobs that can be run alone, and the figures they bring.

A job is a text and a seed, and does the same whenever it is run with the same two: the command that
repeats a failure is made of them. A layer puts everything a job needs into its text.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import wraps
from typing import NamedTuple

from walkv import CorruptionError, FormatError
from walkv.testing import LostError


class Scale(Enum):
    """How much to do: seconds in the test suite, minutes in CI, and rounds of a soak."""

    QUICK = "quick"
    FULL = "full"
    SOAK = "soak"


class Job(NamedTuple):
    """One piece of a layer, of at most some ten seconds.

    Attributes:
        layer: the layer's name.
        text: what to do, in the layer's own words; no blanks at the ends, no quotes.
        seed: for every choice that is made.
        weight: about how long it takes; the longest are begun first.
    """

    layer: str
    text: str
    seed: int
    weight: float = 1.0

    def command(self) -> str:
        """How to run this job alone."""
        return f"python -m tests.laboratory --job '{self.layer}: {self.text}' --seed {self.seed}"


class Failure(NamedTuple):
    """Something that must not be.

    Attributes:
        job: the smallest job found that shows it.
        what: one line.
        detail: more lines; a traceback, the steps.
    """

    job: Job
    what: str
    detail: str = ""


@dataclass
class Figures:
    """What a job found.

    Attributes:
        counts: numbers that add up over jobs, by their names in the report.
        states: digests of distinct states (disks), united over jobs.
        failures: what must not be.
        skipped: what could not be tried here, and why.
    """

    counts: Counter[str] = field(default_factory=Counter)
    states: set[bytes] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.counts.update(other.counts)
        self.states |= other.states
        self.failures += other.failures
        self.skipped += [text for text in other.skipped if text not in self.skipped]

    def fail(self, job: Job, error: BaseException, detail: str = "") -> None:
        """Note an exception as a failure of a job."""
        self.counts[_kind(error)] += 1
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        self.failures.append(Failure(job, what, "\n".join(filter(None, [detail, *lines]))))


def _kind(error: BaseException) -> str:
    """Under which name of the report a failure is counted."""
    if isinstance(error, CorruptionError | FormatError):
        return "legal states refused"
    if isinstance(error, LostError):
        return "acknowledged lost" if str(error).startswith("acknowledged") else "prefix violations"
    return "other failures"


def off_main_thread(run: Callable[[Job], Figures]) -> Callable[[Job], Figures]:
    """The same, in a thread: the engine guards each rotation that the main thread asks for with a
    thread of its own, against Ctrl-C, and in a simulation that is a third of the time."""

    @wraps(run)
    def in_thread(job: Job) -> Figures:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(run, job).result()

    return in_thread


@dataclass(frozen=True)
class Layer:
    """One kind of proof.

    Attributes:
        name: as it stands before a job's text.
        title: for people.
        jobs: what there is to do at a scale, from a seed.
        run: does one job. An exception that escapes counts as a failure of it.
    """

    name: str
    title: str
    jobs: Callable[[Scale, int], list[Job]]
    run: Callable[[Job], Figures]
