"""Does the parts: each repetition of each side in a process of its own, the sides interleaved.

Repetitions go A B A B, not A A B B, so that a disturbance of the machine meets all sides.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agent.options import Options
from benchmarks.agent.parts import Part
from benchmarks.agent.sides import Calling, callings
from benchmarks.comparison import Row
from benchmarks.processes import run_job
from benchmarks.runner import Usage


class SideError(Exception):
    """A side cannot be measured; the others can."""


@dataclass
class Outcome:
    """Everything a run found out.

    Attributes:
        sides: version and configuration, by calling and side.
        unavailable: why a side was left out.
        errors: by part and side; what it had not measured by then is left out.
        resources: what each repetition used (`resources.Resources`), by part and side.
    """

    rows: list[Row] = field(default_factory=list)
    sides: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    resources: dict[str, dict[str, list[Usage]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Runner:
    """Does ``parts`` on ``sides``, with stores below ``root``."""

    sides: Sequence[str]
    parts: Sequence[Part]
    options: Options
    root: Path
    # Added to that of the workers.
    environment: Mapping[str, str]
    timeout_seconds: float
    tell: Callable[[str], None]

    def run(self) -> Outcome:
        """Measures everything; a side that fails is named in the outcome, and stops nothing."""
        outcome = Outcome()
        there = self._look_for_sides(outcome)
        for part in self.parts:
            sides = [name for name in part.sides if (part.calling, name) in there]
            rows: dict[tuple[str, str], Row] = {}
            repetitions = 1 if part.once else self.options.repetitions
            for repetition in range(1, repetitions + 1):
                for side in sides:
                    if side in outcome.errors.get(part.name, {}):
                        continue
                    self.tell(f"{part.name}, {side}, {repetition} of {repetitions}")
                    try:
                        self._measure(part, side, outcome, rows)
                    except SideError as error:
                        outcome.errors.setdefault(part.name, {})[side] = str(error)
            outcome.rows += rows.values()
            for side in sides:
                shutil.rmtree(self._filled(part, side), ignore_errors=True)
        return outcome

    def _look_for_sides(self, outcome: Outcome) -> set[tuple[Calling, str]]:
        there = set()
        needed = {part.calling for part in self.parts}
        for side in self.sides:
            for calling in callings(side):
                if calling not in needed:
                    continue
                try:
                    found = self._work(calling, side, None, self.root)
                except SideError as error:
                    outcome.unavailable[side] = str(error)
                    continue
                there.add((calling, side))
                about = {name: found[name] for name in ("version", "configuration")}
                outcome.sides.setdefault(calling, {})[side] = about
        return there

    def _filled(self, part: Part, side: str) -> Path:
        return self.root / f"{part.name}-{side}-filled"

    def _measure(
        self, part: Part, side: str, outcome: Outcome, rows: dict[tuple[str, str], Row]
    ) -> None:
        if part.fill is None:
            directory = self.root / f"{part.name}-{side}"
            directory.mkdir()
        else:
            directory = self._filled(part, side)
            if not directory.exists():
                directory.mkdir()
                self._work(part.calling, side, part, directory, fill=True)
        try:
            found = self._work(part.calling, side, part, directory)
        finally:
            if part.fill is None:
                shutil.rmtree(directory, ignore_errors=True)
        for name, guarantee, figure in found["rows"]:
            row = rows.setdefault((name, guarantee), Row(name, guarantee, part.unit, part.name, {}))
            row.samples.setdefault(side, []).append(figure)
        outcome.resources.setdefault(part.name, {}).setdefault(side, []).append(found["resources"])

    def _work(
        self, calling: Calling, side: str, part: Part | None, directory: Path, *, fill: bool = False
    ) -> dict[str, Any]:
        job = {
            "side": side,
            "calling": calling,
            "part": part.name if part else None,
            "fill": fill,
            "directory": str(directory),
            "options": asdict(self.options),
        }
        # What the last side wrote must not reach the disk at this one's expense.
        os.sync()
        result = run_job(
            "benchmarks.agent.worker",
            job,
            environment=self.environment,
            timeout_seconds=self.timeout_seconds,
        )
        if "error" in result:
            raise SideError(result["error"])
        return result
