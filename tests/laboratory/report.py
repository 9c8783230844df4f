"""The figures of a run: one table for people, one object for programs."""

from __future__ import annotations

import platform
import sys
from typing import Any, Final, NamedTuple

import walkv
from tests.laboratory.job import Failure
from tests.laboratory.registry import NAMES, find
from tests.laboratory.runner import Results

STATES: Final = "distinct states"


class Row(NamedTuple):
    """A figure of all layers together.

    Attributes:
        name: as the layers count it.
        least: what a run of everything must reach, or None.
        most: what no run may exceed, or None.
    """

    name: str
    least: int | None = None
    most: int | None = None


ROWS: Final = (
    Row("crash points", least=5_000),
    Row(STATES, least=300_000),
    Row("acknowledged checked", least=1),
    Row("acknowledged lost", most=0),
    Row("prefix violations", most=0),
    Row("legal states refused", most=0),
    Row("faults injected", least=10_000),
    Row("damages injected", least=200_000),
    Row("damages refused", least=1),
    Row("damages harmless"),
    Row("damages torn tail"),
    Row("damages misjudged", most=0),
    Row("damages silent", most=0),
    Row("fuzz cases", least=1_000),
    Row("fuzz untyped", most=0),
    Row("schedules", least=100),
    Row("programs", least=100),
    Row("kills", least=500),
    Row("mutants planted", least=12),
    Row("mutants killed"),
    Row("mutants survived", most=0),
    Row("other failures", most=0),
)


def is_whole(results: Results) -> bool:
    """Whether every layer was run to its end."""
    return set(results.figures) == set(NAMES) and not results.interrupted


def totals(results: Results) -> dict[str, int]:
    """The figures of all layers together. States are united: the same disk counts once."""
    total = results.total()
    return {row.name: total.counts[row.name] for row in ROWS} | {STATES: len(total.states)}


def shortfalls(results: Results, *, full: bool) -> list[str]:
    """What is wrong with the figures of a run, in words."""
    found = []
    values = totals(results)
    for row in ROWS:
        value = values[row.name]
        if full and is_whole(results) and row.least is not None and value < row.least:
            found.append(f"{row.name}: {value:,}, and a full run has at least {row.least:,}")
        if row.most is not None and value > row.most:
            found.append(f"{row.name}: {value:,}, and there must be {row.most}")
    return found


def rows(results: Results) -> list[tuple[str, str, str]]:
    """(layer, figure, value) for every figure; those of all layers first."""
    found = [("all", name, f"{value:,}") for name, value in totals(results).items()]
    if len(results.figures) == 1:
        found = []
    for name, figures in results.figures.items():
        counts = dict(figures.counts)
        if figures.states:
            counts[STATES] = len(figures.states)
        found += [(name, key, f"{counts[key]:,}") for key in sorted(counts)]
        found.append((name, "core-seconds", f"{results.seconds[name]:,.0f}"))
    return found


def grouped(failures: list[Failure]) -> list[tuple[Failure, int]]:
    """One failure of each kind, and how many there are of it."""
    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(f"{failure.job.layer} {failure.what[:60]}", []).append(failure)
    return [(min(kind, key=lambda f: len(f.job.text)), len(kind)) for kind in kinds.values()]


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
        "figures": totals(results),
        "layers": {
            name: {
                "title": find(name).title,
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
    lines += ["", "The same by layer, and what else each counts:", ""]
    lines += ["| layer | figure | value |", "|---|---|---:|"]
    lines += [f"| {where} | {name} | {value} |" for where, name, value in shown if where != "all"]
    skipped = [f"- {text}" for f in results.figures.values() for text in f.skipped]
    lines += ["", "Not run there:" if skipped else "Nothing was skipped.", "", *skipped, ""]
    return "\n".join(lines)


def default_command() -> str:
    return " ".join(["python -m tests.laboratory", *sys.argv[1:]])
