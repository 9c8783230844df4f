"""What a run wrote, as the pictures need it.

A picture draws what is there; what is not there, it says. Nothing here knows matplotlib.
"""

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES
from benchmarks.report import SCHEMA_VERSION

Point = tuple[float, float]
Curves = dict[str, list[Point]]
"""By engine, in the order of the engines: the points of a curve, by growing x."""


class ResultsError(Exception):
    """The file is not a result of this harness; says what to do."""


@dataclass(frozen=True)
class Row:
    """One row of the report: the median of each engine that has one.

    Rows of one group, which is a module of workloads, are drawn together.
    """

    name: str
    workload: str
    group: str
    unit: str
    guarantee: str
    description: str
    series: str | None
    x: float | None
    medians: Mapping[str, float]
    best_peer: str | None
    times_best_peer_cost: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """A whole run."""

    engines: tuple[str, ...]
    rows: tuple[Row, ...]
    series: Mapping[str, Mapping[str, list[list[Point]]]]
    facts: Mapping[str, Any]

    def curves_of_rows(self, series: str) -> Curves:
        """The rows of a series as curves, over their `x`."""
        medians_at = sorted(
            (
                (row.x, row.medians)
                for row in self.rows
                if row.series == series and row.x is not None
            ),
            key=itemgetter(0),
        )
        points = {
            engine: [(x, medians[engine]) for x, medians in medians_at if engine in medians]
            for engine in self.engines
        }
        return {engine: found for engine, found in points.items() if found}

    def curves_of_steps(self, series: str) -> Curves:
        """What the steps found out besides their rows: the median of all repetitions."""
        found = self.series.get(series, {})
        return {
            engine: [
                (at_once[0][0], statistics.median(y for _, y in at_once))
                for at_once in zip(*found[engine], strict=False)
            ]
            for engine in self.engines
            if found.get(engine)
        }

    def absences(self, group: str) -> list[str]:
        """Why engines are missing in the rows of a group."""
        rows = [row for row in self.rows if row.group == group]
        names = {row.workload for row in rows} | {row.name for row in rows}
        kinds = {"errors": "failed", "left_out": "left out", "inapplicable": "does not apply"}
        return [
            *(
                f"{engine} is not available: {why}"
                for engine, why in self.facts["unavailable"].items()
            ),
            *(
                f"{name} of {engine} {words}: {why}"
                for kind, words in kinds.items()
                for name, reasons in self.facts[kind].items()
                if name in names
                for engine, why in reasons.items()
            ),
        ]

    def origin(self) -> str:
        """Machine, commit and date, in one line."""
        machine = self.facts["machine"]
        commit, _, modified = self.facts["git_commit"].partition(" ")
        line = ", ".join(
            [
                machine["cpu"],
                f"{machine['cores']} cores",
                machine["file_system"],
                machine["python"],
                f"commit {commit[:12]} {modified}".strip(),
                self.facts["date"][:10],
            ]
        )
        return f"{line}. A quick run: shows that it runs, not how fast." if self.quick else line

    @property
    def quick(self) -> bool:
        return bool(self.facts["options"]["quick"])


def load(path: Path) -> Results:
    """Reads a result.

    Raises:
        ResultsError: it is not one, or one of another version of the harness.
    """
    try:
        found = json.loads(path.read_text())
        version = found["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{path} is not a result: make one with python -m benchmarks --json {path}"
        ) from error
    if version != SCHEMA_VERSION:
        raise ResultsError(
            f"{path} has schema version {version}, and the plots read {SCHEMA_VERSION}: "
            "make it again with python -m benchmarks"
        )
    known = [engine for engine in ENGINES if engine in found["engines"]]
    unknown = [engine for engine in found["engines"] if engine not in ENGINES]
    return Results(
        (*known, *unknown),
        tuple(_rows(found["rows"])),
        found["series"],
        {name: value for name, value in found.items() if name not in ("rows", "series")},
    )


def _rows(found: list[dict[str, Any]]) -> Iterator[Row]:
    for row in found:
        cells = row["engines"].items()
        yield Row(
            row["metric"],
            row["workload"],
            row["group"],
            row["unit"],
            row["guarantee"],
            row["description"],
            row["series"],
            row["x"],
            {engine: cell["median"] for engine, cell in cells if cell["median"] is not None},
            row["best_peer"],
            {
                engine: cell["times_best_peer_cost"]
                for engine, cell in cells
                if cell["times_best_peer_cost"] is not None
            },
        )
