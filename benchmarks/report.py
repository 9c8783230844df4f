"""Medians, ratios and losses of a run, as data and as JSON. `rendering` shows them to people.

The ratio of a cell is its cost over the cost of another engine on the same row: 1.00 is as good,
0.50 half the cost, 2.00 twice. For a rate the cost is its inverse. Over a cost of nothing
every other cost is infinite, which JSON has no number for: Python writes it as ``Infinity``.

Two things are held against the subject: its cost against that of the best peer of each row, and
its speed against what every Python program has without an installation.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engines import BASELINE, ENGINES, SUBJECT
from benchmarks.runner import Outcome, Usage
from benchmarks.workloads import GROUPS
from benchmarks.workloads.base import Metric, Workload

SCHEMA_VERSION = 1
LOSS_LIMIT = 1.2
"""A row on which the subject costs more than so many times the best peer's is marked."""
BASELINE_SPEED_TARGET = 3.0
"""The subject is meant to be so many times as fast as the baseline, on every row of a speed."""
SPEED_UNITS = ("us", "ms")


@dataclass(frozen=True)
class Cell:
    """What one engine did on one row; the ratios are None where a side has no figure."""

    samples: tuple[float, ...] = ()
    error: str | None = None
    inapplicable: str | None = None
    times_best_peer_cost: float | None = None
    times_baseline_cost: float | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples and not self.error else None


@dataclass(frozen=True)
class Row:
    """One metric over all engines."""

    metric: Metric
    workload: str
    group: str
    cells: Mapping[str, Cell]
    best_peer: str | None

    @property
    def compared(self) -> bool:
        """Whether the subject and a peer have figures."""
        return SUBJECT in self.cells and self.cells[SUBJECT].times_best_peer_cost is not None

    @property
    def loss(self) -> float | None:
        """The subject's cost, in times the best peer's, where it is more than that."""
        ratio = self.cells[SUBJECT].times_best_peer_cost if SUBJECT in self.cells else None
        return ratio if ratio is not None and ratio > 1 else None

    @property
    def baseline_speed(self) -> float | None:
        """How many times as fast as the baseline the subject is, on a row of a speed."""
        is_speed = self.metric.unit in SPEED_UNITS or self.metric.unit.endswith("/s")
        ratio = self.cells[SUBJECT].times_baseline_cost if SUBJECT in self.cells else None
        return _inverse(ratio) if is_speed and ratio is not None else None


@dataclass(frozen=True)
class ResourceRow:
    """What one engine used for one workload, in medians over the repetitions.

    Of several steps, the memory is the largest, the counts are sums, and the disk is the last.
    """

    workload: str
    engine: str
    usage: Usage
    samples: list[Usage]


def rows(
    outcome: Outcome, workloads: Sequence[Workload], guarantees: Sequence[str] = ()
) -> list[Row]:
    """The rows of a run, in the order of its workloads; of some guarantees only, if named."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    return [
        _row(metric, workload, groups[workload.name], outcome)
        for workload in workloads
        for metric in workload.metrics
        if not guarantees or metric.guarantee in guarantees
    ]


def resource_rows(outcome: Outcome) -> list[ResourceRow]:
    """What each workload took of each engine, in the order in which they ran."""
    return [
        _resource_row(workload, engine, repetitions)
        for workload, by_engine in outcome.resources.items()
        for engine, repetitions in by_engine.items()
    ]


def losses(rows: Sequence[Row]) -> list[Row]:
    """The rows on which the subject costs more than the best peer, the worst first."""
    lost = [row for row in rows if row.loss is not None and row.metric.counted]
    return sorted(lost, key=lambda row: -(row.loss or 0))


def below_baseline_target(rows: Sequence[Row]) -> list[Row]:
    """The rows of a speed on which the subject misses `BASELINE_SPEED_TARGET`, the worst first."""
    slow = [
        row
        for row in rows
        if row.baseline_speed is not None
        and row.baseline_speed < BASELINE_SPEED_TARGET
        and row.metric.counted
    ]
    return sorted(slow, key=lambda row: row.baseline_speed or 0)


def to_json(
    rows: Sequence[Row], resources: Sequence[ResourceRow], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain data, every sample included."""
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "rows": [
            {
                "metric": row.metric.name,
                "workload": row.workload,
                "group": row.group,
                "unit": row.metric.unit,
                "guarantee": row.metric.guarantee,
                "better": row.metric.better,
                "description": row.metric.description,
                "series": row.metric.series,
                "x": row.metric.x,
                "counted": row.metric.counted,
                "best_peer": row.best_peer,
                "engines": {
                    engine: {
                        "median": cell.median,
                        "samples": list(cell.samples),
                        "times_best_peer_cost": cell.times_best_peer_cost,
                        "times_baseline_cost": cell.times_baseline_cost,
                        "error": cell.error,
                        "inapplicable": cell.inapplicable,
                    }
                    for engine, cell in row.cells.items()
                },
            }
            for row in rows
        ],
        "losses": [
            {
                "metric": row.metric.name,
                "best_peer": row.best_peer,
                "times_best_peer_cost": row.loss,
                "above_limit": (row.loss or 0) > LOSS_LIMIT,
            }
            for row in losses(rows)
        ],
        "below_baseline_target": [
            {"metric": row.metric.name, "times_baseline_speed": row.baseline_speed}
            for row in below_baseline_target(rows)
        ],
        "resources": [
            {
                "workload": row.workload,
                "engine": row.engine,
                **row.usage,
                "samples": row.samples,
            }
            for row in resources
        ],
    }


def engine_facts(outcome: Outcome) -> dict[str, dict[str, str]]:
    """Version and configuration of every engine that ran."""
    return {
        engine: {"version": version, "configuration": ENGINES[engine].configuration}
        for engine, version in outcome.versions.items()
    }


def _row(metric: Metric, workload: Workload, group: str, outcome: Outcome) -> Row:
    samples = outcome.figures.get(metric.name, {})
    errors = outcome.errors.get(workload.name, {})
    inapplicable = outcome.inapplicable.get(workload.name, {})
    bare = {
        engine: Cell(tuple(samples.get(engine, ())), errors.get(engine), inapplicable.get(engine))
        for engine in outcome.versions
    }
    costs = {
        engine: cell.median if metric.better == "lower" else _inverse(cell.median)
        for engine, cell in bare.items()
        if cell.median is not None
    }
    best_peer = min(
        (engine for engine in costs if engine != SUBJECT), key=costs.__getitem__, default=None
    )
    cells = {
        engine: Cell(
            cell.samples,
            cell.error,
            cell.inapplicable,
            _ratio(costs, engine, best_peer),
            _ratio(costs, engine, BASELINE),
        )
        for engine, cell in bare.items()
    }
    return Row(metric, workload.name, group, cells, best_peer)


def _ratio(costs: Mapping[str, float], engine: str, other: str | None) -> float | None:
    if other is None or engine not in costs or other not in costs:
        return None
    cost, other_cost = costs[engine], costs[other]
    # Equal costs first: both may be nothing, or, of rates that are nothing, infinite.
    return 1.0 if cost == other_cost else cost * _inverse(other_cost)


def _inverse(number: float) -> float:
    return 1 / number if number else math.inf


def _resource_row(
    workload: str, engine: str, repetitions: Sequence[Sequence[Usage]]
) -> ResourceRow:
    samples = [
        {name: _over_steps(name, [step[name] for step in steps]) for name in steps[0]}
        for steps in repetitions
    ]
    usage = {name: _median([sample[name] for sample in samples]) for name in samples[0]}
    return ResourceRow(workload, engine, usage, samples)


def _over_steps(name: str, counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    if name == "disk_bytes":
        return known[-1]
    return max(known) if name == "peak_memory_bytes" else sum(known)


def _median(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return round(statistics.median(known)) if known else None
