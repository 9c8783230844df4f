"""What is timed: each workload, its steps, and the metrics they report.

A step runs in a process of its own, is given a directory, and returns figures by metric name. The
steps of one workload share a directory. A fixture is a step that builds, once per engine and
untimed, the store of which every repetition opens a copy.

*Invariants*

1. A timed loop holds nothing but the call under test: keys and values exist before it starts, and
   answers are checked after it ends.
2. The same loop, with the same keys in the same order, times every engine.
3. Garbage collection stays on, as users run, and starts clean; keys and values of the harness are
   frozen out of it, so that only what an engine allocates is ever traversed.
"""

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.dataset import Dataset
from benchmarks.engines import (
    DURABLE_POLICIES,
    ENGINES,
    SUBJECT,
    AsyncPut,
    Engine,
    Feature,
    Guarantee,
    Walkv,
    open_async_put,
)
from benchmarks.engines.base import MIB
from benchmarks.machine import drop_page_cache

READS: Guarantee = "process"
"""What reads are reported under: their answers come from stores written with this guarantee."""


@dataclass(frozen=True)
class Options:
    """The sizes of a run. All of them are reported with its results."""

    entries: int = 200_000
    value_bytes: int = 100
    large_entries: int = 20_000
    large_value_bytes: int = 4_096
    batch_entries: int = 1_000
    seeks: int = 20_000
    durable_operations: int = 2_000
    commits: int = 4_000
    minimum_commit_ms: int = 500
    most_writers: int = 1_024
    ycsb_records: int = 100_000
    ycsb_operations: int = 100_000
    ycsb_value_bytes: int = 1_000
    open_entries: int = 1_000_000
    memtable_bytes: int = 8 * MIB
    cache_bytes: int = 8 * MIB
    memory_ratio: int = 20
    memory_value_bytes: int = 1_024
    scale_entries: int = 10_000_000
    scale_reads: int = 100_000
    scale_limit_seconds: int = 300
    sustained_entries: int = 5_000_000
    settling_ms: int = 500
    latency_rest_operations: int = 20_000
    latency_operations: int = 1_000_000
    latency_memtable_bytes: int = 128 * MIB
    seed: int = 1
    policy: str = DURABLE_POLICIES[0]


QUICK = Options(
    entries=2_000,
    large_entries=300,
    seeks=200,
    durable_operations=20,
    commits=32,
    minimum_commit_ms=1,
    most_writers=64,
    ycsb_records=500,
    ycsb_operations=500,
    open_entries=5_000,
    memtable_bytes=MIB,
    cache_bytes=MIB,
    memory_ratio=4,
    scale_entries=10_000,
    scale_reads=1_000,
    sustained_entries=5_000,
    settling_ms=50,
    latency_rest_operations=1_000,
    latency_operations=5_000,
    latency_memtable_bytes=MIB // 4,
)


Point = tuple[float, float]


@dataclass(frozen=True)
class Context:
    """What a step is given."""

    engine_name: str
    directory: Path
    options: Options
    series: dict[str, list[Point]] = field(default_factory=dict)
    """By name, what the step found out over time or over another parameter, for the plots."""

    @property
    def store_path(self) -> Path:
        return self.directory / "store"

    def open(self, guarantee: Guarantee, **budgets_bytes: int) -> Engine:
        """Opens the store, with all that the harness made so far out of the collector's way.

        `budgets_bytes` are walkv's, as of ``walkv.open``; the peers keep their configuration.
        """
        gc.collect()
        gc.freeze()
        return self.open_at_once(guarantee, **budgets_bytes)

    def open_at_once(self, guarantee: Guarantee, **budgets_bytes: int) -> Engine:
        """Opens the store and does nothing else; `budgets_bytes` as of `open`."""
        path, options = self.store_path, self.options
        if self.engine_name == SUBJECT:
            return Walkv(
                path,
                guarantee,
                value_bytes=options.value_bytes,
                policy=options.policy,
                **budgets_bytes,
            )
        return ENGINES[self.engine_name](path, guarantee, value_bytes=options.value_bytes)

    def open_cold(self, guarantee: Guarantee) -> Engine:
        """As `open`, with nothing of the store in the page cache, where the system can do that."""
        drop_page_cache(self.directory)
        return self.open(guarantee)

    def open_for_tasks(self) -> AbstractAsyncContextManager[AsyncPut]:
        """Opens a durable store for asyncio tasks; the context is its awaitable put."""
        return open_async_put(
            ENGINES[self.engine_name],
            self.store_path,
            value_bytes=self.options.value_bytes,
            policy=self.options.policy,
        )

    def dataset(self, entries: int | None = None) -> Dataset:
        options = self.options
        return Dataset(entries or options.entries, options.value_bytes, options.seed)


@dataclass(frozen=True)
class Metric:
    """One row of the report. `guarantee` is what the peers of the row have in common.

    Rows of one `series` are points of a curve, each at its `x`: entries, threads, a percentile.
    A row that is not `counted` is no win and no loss: it says again, in another unit or as a ratio,
    what other rows say, or it is the one slowest of many operations, which chance decides.
    """

    name: str
    unit: str
    guarantee: str
    description: str
    better: Literal["lower", "higher"] = "lower"
    series: str | None = None
    x: float | None = None
    counted: bool = True


Figures = dict[str, float]
Step = Callable[[Context], Figures]


@dataclass(frozen=True)
class Workload:
    """Steps that together produce some rows of the report.

    `overrides` are options that are this workload's own: numbers, or names of the options whose
    numbers they take. `suffix` is added to the names of the figures that its steps report, so that
    the same steps can fill the rows of several sizes. An engine without the `needs` is not run.

    `most_repetitions` bounds how often a long one is measured. A workload of the scale series
    names its `scale` in entries, and in `tenth` the workload a tenth of its size, from which the
    runner foresees how long it takes. One of many `writers` names how many.
    """

    name: str
    steps: tuple[Step, ...]
    metrics: tuple[Metric, ...]
    fixture: Step | None = None
    engines: tuple[str, ...] = tuple(ENGINES)
    overrides: Mapping[str, int | str] = field(default_factory=dict)
    suffix: str = ""
    needs: tuple[Feature, ...] = ()
    most_repetitions: int | None = None
    writers: int = 0
    scale: int = 0
    tenth: str | None = None

    def options(self, options: Options) -> Options:
        """The options of a run, with this workload's own."""
        # Any: mypy would hold each of them against every field.
        own: dict[str, Any] = {
            name: getattr(options, value) if isinstance(value, str) else value
            for name, value in self.overrides.items()
        }
        return replace(options, **own)

    def fits(self, options: Options) -> bool:
        """Whether it is within the limits of a run."""
        return self.scale <= options.scale_entries and self.writers <= options.most_writers

    def inapplicable(self, engine: str) -> str | None:
        """Why an engine cannot be measured here, or None if it can."""
        reasons = ENGINES[engine].unsupported
        return next((reasons[feature] for feature in self.needs if feature in reasons), None)

    def with_suffix(
        self, suffix: str, overrides: Mapping[str, int | str], where: str
    ) -> "Workload":
        """The same steps under other options, as rows of their own; `where` describes them."""
        return replace(
            self,
            name=self.name + suffix,
            metrics=tuple(
                replace(
                    metric,
                    name=metric.name + suffix,
                    description=f"{metric.description}; {where}",
                )
                for metric in self.metrics
            ),
            overrides=overrides,
            suffix=suffix,
        )


class TooSmallError(Exception):
    """What is to be measured does not happen at these sizes; says which to change."""


class WrongAnswerError(Exception):
    """An engine did not return what was stored: its speed is of no interest."""
