"""The figures of a run: one table for people, one object for programs."""

from __future__ import annotations

import platform
import sys
from typing import Any, Final, NamedTuple

import walkv
from tests.laboratory.layers import layer
from tests.laboratory.runner import Results


class Row(NamedTuple):
    """A figure that a full run must reach.

    Attributes:
        name: in the report.
        layer: without which the figure says nothing.
        least: what a full run must reach, or None.
        most: what no run may exceed, or None.
    """

    name: str
    layer: str
    least: int | None = None
    most: int | None = None


ROWS: Final = (
    Row("crash points", "crashes", least=5_000),
    Row("distinct states", "crashes", least=300_000),
    Row("acknowledged checked", "crashes", least=1),
    Row("acknowledged lost", "crashes", most=0),
    Row("prefix violations", "crashes", most=0),
    Row("legal states refused", "crashes", most=0),
    Row("damages injected", "damage", least=200_000),
    Row("damages refused", "damage", least=1),
    Row("damages harmless", "damage"),
    Row("damages torn tail", "damage"),
    Row("damages silent", "damage", most=0),
    Row("faults injected", "faults", least=1),
    Row("kills", "kills", least=300),
    Row("mutants planted", "mutants", least=12),
    Row("mutants survived", "mutants", most=0),
)


def value_of(results: Results, name: str) -> int:
    """A figure by its name."""
    total = results.total()
    return len(total.states) if name == "distinct states" else total.counts[name]


def shortfalls(results: Results, *, full: bool) -> list[str]:
    """What is missing from a run, in words."""
    found = []
    for row in ROWS:
        value = value_of(results, row.name)
        if full and row.least is not None and row.layer in results.figures and value < row.least:
            found.append(f"{row.name}: {value:,}, and a full run has at least {row.least:,}")
        if row.most is not None and value > row.most:
            found.append(f"{row.name}: {value:,}, and there must be {row.most}")
    return found


def rows(results: Results) -> list[tuple[str, str, str]]:
    """(layer, figure, value) for every figure, the rows that count first."""
    main = [
        ("all", row.name, f"{value_of(results, row.name):,}")
        for row in ROWS
        if row.layer in results.figures
    ]
    known = {row.name for row in ROWS}
    rest = []
    for name, figures in results.figures.items():
        for key in sorted(figures.counts):
            if key not in known:
                rest.append((name, key, f"{figures.counts[key]:,}"))
        rest.append((name, "core-seconds", f"{results.seconds[name]:,.0f}"))
    return main + rest


def as_object(results: Results, *, seed: int, command: str) -> dict[str, Any]:
    """Everything, for ``--json``."""
    return {
        "command": command,
        "seed": seed,
        "walkv": walkv.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "rounds": results.rounds,
        "interrupted": results.interrupted,
        "elapsed_seconds": round(results.elapsed_seconds, 1),
        "figures": {
            row.name: value_of(results, row.name) for row in ROWS if row.layer in results.figures
        },
        "layers": {
            name: {
                "title": layer(name).title,
                "core_seconds": round(results.seconds[name], 1),
                "counts": dict(sorted(figures.counts.items())),
                "distinct_states": len(figures.states),
                "failures": [
                    {"what": f.what, "command": f.job.command(), "detail": f.detail}
                    for f in figures.failures
                ],
                "skipped": figures.skipped,
            }
            for name, figures in results.figures.items()
        },
    }


def as_markdown(results: Results, *, seed: int, command: str) -> str:
    """The tables of ``docs/reliability.md``."""
    lines = [
        f"`{command}`, seed {seed}, walkv {walkv.__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}: "
        f"{results.elapsed_seconds:,.0f} seconds.",
        "",
        "| figure | value |",
        "|---|---:|",
    ]
    shown = rows(results)
    lines += [f"| {name} | {value} |" for where, name, value in shown if where == "all"]
    for layer_name in results.figures:
        lines += ["", f"| {layer(layer_name).title} | |", "|---|---:|"]
        lines += [f"| {name} | {value} |" for where, name, value in shown if where == layer_name]
    skipped = [f"- {text}" for f in results.figures.values() for text in f.skipped]
    lines += ["", "Not run here:" if skipped else "Nothing was skipped.", *skipped, ""]
    return "\n".join(lines)


def default_command() -> str:
    return " ".join(["python -m tests.laboratory", *sys.argv[1:]])
