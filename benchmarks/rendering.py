"""The report for people: tables on a terminal, and a Markdown document."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.engines import BASELINE, SUBJECT
from benchmarks.engines.base import MIB
from benchmarks.figures import readable
from benchmarks.report import (
    BASELINE_SPEED_TARGET,
    LOSS_LIMIT,
    Cell,
    ResourceRow,
    Row,
    below_baseline_target,
    losses,
)

ABSENT = "-"
BASELINE_SPEED_HEADING = f"x speed of {BASELINE}"
RESOURCES_TITLE = "peak memory MiB / written MiB / syncs / on disk MiB"


def print_report(
    console: Console,
    rows: Sequence[Row],
    resources: Sequence[ResourceRow],
    facts: Mapping[str, Any],
) -> None:
    """Prints the rows, and under them whatever a reader must know to believe them."""
    engines = list(facts["engines"])
    table = _table("median, x cost of the best peer, min-max", engines, ["metric", "unit"])
    table.add_column(BASELINE_SPEED_HEADING, justify="right")
    for row in rows:
        table.add_row(
            f"{row.metric.name}\n[dim]{row.metric.guarantee}[/dim]",
            row.metric.unit,
            *("{0} {2}\n[dim]{1}[/dim]".format(*_texts(row.cells[engine])) for engine in engines),
            _baseline_speed(row),
        )
    console.print(table)
    table = _table(RESOURCES_TITLE, engines, ["workload"])
    for workload, cells in _resource_cells(resources, engines):
        table.add_row(workload, *cells)
    console.print(table)
    for line in (*_verdict(rows), *_notes(facts)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def to_markdown(
    rows: Sequence[Row], resources: Sequence[ResourceRow], facts: Mapping[str, Any]
) -> str:
    """The report as a Markdown document."""
    engines = list(facts["engines"])
    figures = _markdown_table(
        ["metric", "guarantee", "unit", *engines, BASELINE_SPEED_HEADING],
        len(engines) + 1,
        [
            [
                row.metric.name,
                row.metric.guarantee,
                row.metric.unit,
                *(_markdown_cell(row.cells[engine]) for engine in engines),
                _baseline_speed(row),
            ]
            for row in rows
        ],
    )
    used = _markdown_table(
        ["workload", *engines],
        len(engines),
        [[workload, *cells] for workload, cells in _resource_cells(resources, engines)],
    )
    sections = (
        "# Benchmarks",
        "Median over the repetitions (min-max), x the cost of the best peer of the row: "
        "below 1.00 is better than every peer.",
        figures,
        f"## Where {SUBJECT} loses",
        _bullets(_verdict(rows)),
        "## What the workloads used",
        f"In each cell: {RESOURCES_TITLE}. Memory is that of the whole process, keys and values "
        "of the workload included; of several steps it is the largest, while bytes written and "
        "syncs are sums.",
        used,
        "## What the rows are",
        _bullets([f"`{row.metric.name}`: {row.metric.description}" for row in rows]),
        "## How it was run",
        _bullets(_notes(facts)),
    )
    return "\n\n".join(sections) + "\n"


def _table(title: str, engines: Sequence[str], headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for engine in engines:
        table.add_column(engine, justify="right", style="bold" if engine == SUBJECT else "")
    return table


def _texts(cell: Cell) -> tuple[str, str, str]:
    """Median, spread and ratio, as shown."""
    if cell.error:
        return "error", "", ""
    if cell.median is None:
        return ABSENT, "", ""
    spread = f"{readable(min(cell.samples))}-{readable(max(cell.samples))}"
    ratio = cell.times_best_peer_cost
    return readable(cell.median), spread, "" if ratio is None else f"x{readable(ratio)}"


def _baseline_speed(row: Row) -> str:
    return ABSENT if row.baseline_speed is None else f"x{readable(row.baseline_speed)}"


def _markdown_cell(cell: Cell) -> str:
    median, spread, ratio = _texts(cell)
    return f"{median} ({spread}) {ratio}".strip() if spread else median


def _resource_cells(
    resources: Sequence[ResourceRow], engines: Sequence[str]
) -> list[tuple[str, list[str]]]:
    by_workload: dict[str, dict[str, str]] = {}
    for row in resources:
        usage = row.usage
        by_workload.setdefault(row.workload, {})[row.engine] = " / ".join(
            (
                _mebibytes(usage["peak_memory_bytes"]),
                _mebibytes(usage["written_bytes"]),
                ABSENT if usage["sync_count"] is None else f"{usage['sync_count']:,}",
                _mebibytes(usage["disk_bytes"]),
            )
        )
    return [
        (workload, [cells.get(engine, ABSENT) for engine in engines])
        for workload, cells in by_workload.items()
    ]


def _verdict(rows: Sequence[Row]) -> list[str]:
    """Every row that the subject loses, and every row on which it misses its target."""
    lost = [
        f"{row.metric.name}: {SUBJECT} costs {readable(row.loss)} times {row.best_peer}"
        + (f", more than the limit of {LOSS_LIMIT}" if row.loss > LOSS_LIMIT else "")
        for row in losses(rows)
        if row.loss is not None
    ]
    slow = [
        f"{row.metric.name}: {SUBJECT} has {readable(row.baseline_speed)} times the speed of "
        f"{BASELINE}, less than {BASELINE_SPEED_TARGET:g}"
        for row in below_baseline_target(rows)
        if row.baseline_speed is not None
    ]
    compared_count = sum(row.compared and row.metric.counted for row in rows)
    return [f"{SUBJECT} loses {len(lost)} of {compared_count} compared rows", *lost, *slow]


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = [f"{engine} not available: {why}" for engine, why in facts["unavailable"].items()]
    notes += [
        f"{what} {workload} of {engine}: {why}"
        for what, key in (
            ("error in", "errors"),
            ("left out:", "left_out"),
            ("does not apply:", "inapplicable"),
        )
        for workload, reasons in facts[key].items()
        for engine, why in reasons.items()
    ]
    notes += [
        f"{engine} {about['version']}: {about['configuration']}"
        for engine, about in facts["engines"].items()
    ]
    notes += [_pairs("machine", facts["machine"]), _pairs("options", facts["options"])]
    notes.append(f"commit {facts['git_commit']}, {facts['date']}")
    if facts["syncs_not_counted"]:
        notes.append(facts["syncs_not_counted"])
    notes.append(
        "cold: the engine has cached nothing and the page cache was told to forget the files"
        if facts["page_cache_dropped"]
        else "cold: the engine has cached nothing, while the page cache of the system is warm"
    )
    return notes


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    return f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in values.items())


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _markdown_table(
    headings: Sequence[str], right_aligned: int, lines: Sequence[Sequence[str]]
) -> str:
    """A table whose last `right_aligned` columns hold figures."""
    rule = ["---"] * (len(headings) - right_aligned) + ["---:"] * right_aligned
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))


def _mebibytes(size_bytes: int | None) -> str:
    return ABSENT if size_bytes is None else readable(size_bytes / MIB)
