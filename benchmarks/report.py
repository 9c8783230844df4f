"""Medians, spreads and ratios of a run: as a table, as Markdown, as JSON.

The ratio of a cell is its cost over the cost of the best peer of the row: 1.00 is as good as the
best peer, 0.50 half its cost, 2.00 twice. For a rate the cost is its inverse.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.engines import ENGINES, SUBJECT
from benchmarks.runner import Outcome
from benchmarks.workloads import Metric, Workload

SCHEMA_VERSION = 1
ABSENT = "-"


@dataclass(frozen=True)
class Cell:
    """What one engine did on one row."""

    samples: tuple[float, ...] = ()
    error: str | None = None
    ratio: float | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples and not self.error else None

    def texts(self) -> tuple[str, str, str]:
        """Median, spread and ratio, as shown."""
        if self.error:
            return "error", "", ""
        if self.median is None:
            return ABSENT, "", ""
        spread = f"{_figure(min(self.samples))}-{_figure(max(self.samples))}"
        return _figure(self.median), spread, f"x{_figure(self.ratio)}" if self.ratio else ""


@dataclass(frozen=True)
class Row:
    """One metric over all engines."""

    metric: Metric
    cells: Mapping[str, Cell]
    best_peer: str | None


def rows(outcome: Outcome, workloads: Sequence[Workload]) -> list[Row]:
    """The rows of a run, in the order of its workloads."""
    return [
        _row(metric, outcome, outcome.errors.get(workload.name, {}))
        for workload in workloads
        for metric in workload.metrics
    ]


def print_table(console: Console, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Prints the rows, and under them whatever a reader must know to believe them."""
    table = Table(box=box.SIMPLE_HEAD, title="median, x cost of the best peer, min-max")
    table.add_column("metric", no_wrap=True)
    table.add_column("unit")
    engines = list(facts["engines"])
    for engine in engines:
        table.add_column(engine, justify="right", style="bold" if engine == SUBJECT else "")
    for row in rows:
        table.add_row(
            f"{row.metric.name}\n[dim]{row.metric.guarantee}[/dim]",
            row.metric.unit,
            *("{0} {2}\n[dim]{1}[/dim]".format(*row.cells[engine].texts()) for engine in engines),
        )
    console.print(table)
    for line in _notes(facts):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The report as a Markdown document."""
    engines = list(facts["engines"])
    lines = [
        "# Benchmarks",
        "",
        "Median over the repetitions (min-max), x the cost of the best peer of the row: "
        "below 1.00 is better than every peer.",
        "",
        _markdown_line(["metric", "guarantee", "unit", *engines]),
        _markdown_line(["---", "---", "---", *("---:" for _ in engines)]),
    ]
    for row in rows:
        cells = []
        for engine in engines:
            median, spread, ratio = row.cells[engine].texts()
            cells.append(f"{median} ({spread}) {ratio}".strip() if spread else median)
        metric = row.metric
        lines.append(_markdown_line([metric.name, metric.guarantee, metric.unit, *cells]))
    lines += ["", "## What the rows are", ""]
    lines += [f"- `{row.metric.name}`: {row.metric.description}" for row in rows]
    lines += ["", "## How it was run", ""]
    lines += [f"- {note}" for note in _notes(facts)]
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain data, every sample included."""
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "rows": [
            {
                "metric": row.metric.name,
                "unit": row.metric.unit,
                "guarantee": row.metric.guarantee,
                "better": row.metric.better,
                "description": row.metric.description,
                "best_peer": row.best_peer,
                "engines": {
                    engine: {
                        "median": cell.median,
                        "samples": list(cell.samples),
                        "times_best_peer_cost": cell.ratio,
                        "error": cell.error,
                    }
                    for engine, cell in row.cells.items()
                },
            }
            for row in rows
        ],
    }


def engine_facts(outcome: Outcome) -> dict[str, dict[str, str]]:
    """Version and configuration of every engine that ran."""
    return {
        engine: {"version": version, "configuration": ENGINES[engine].configuration}
        for engine, version in outcome.versions.items()
    }


def _row(metric: Metric, outcome: Outcome, errors: Mapping[str, str]) -> Row:
    samples = outcome.figures.get(metric.name, {})
    cells = {
        engine: Cell(tuple(samples.get(engine, ())), errors.get(engine))
        for engine in outcome.versions
    }
    costs = {
        engine: cell.median if metric.better == "lower" else 1 / cell.median
        for engine, cell in cells.items()
        if cell.median
    }
    best_peer = min(
        (engine for engine in costs if engine != SUBJECT), key=costs.__getitem__, default=None
    )
    if best_peer:
        cells = {
            engine: Cell(cell.samples, cell.error, costs[engine] / costs[best_peer])
            if engine in costs
            else cell
            for engine, cell in cells.items()
        }
    return Row(metric, cells, best_peer)


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = [f"{engine} not available: {why}" for engine, why in facts["unavailable"].items()]
    notes += [
        f"error in {workload} of {engine}: {error}"
        for workload, errors in facts["errors"].items()
        for engine, error in errors.items()
    ]
    notes += [
        f"{engine} {about['version']}: {about['configuration']}"
        for engine, about in facts["engines"].items()
    ]
    notes += [_pairs("machine", facts["machine"]), _pairs("options", facts["options"])]
    notes.append(f"commit {facts['git_commit']}, {facts['date']}")
    notes.append(
        "reads and opens meet a warm page cache: cold means that the engine itself has cached "
        "nothing; tasks reach engines without an asyncio face through asyncio.to_thread"
    )
    return notes


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    return f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in values.items())


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"
