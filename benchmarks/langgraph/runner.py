"""Does the parts: each repetition of each side in a process of its own, the sides interleaved."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.comparison import Row
from benchmarks.langgraph.options import Options, Part
from benchmarks.processes import run_job
from benchmarks.runner import Usage


@dataclass
class Outcome:
    """Everything a run found out.

    Attributes:
        errors: by part and side; the side's later repetitions were left out.
        resources: what each repetition used (`resources.Resources`), by part and side.
    """

    rows: list[Row] = field(default_factory=list)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    resources: dict[str, dict[str, list[Usage]]] = field(default_factory=dict)


def run(
    parts: Sequence[Part],
    options: Options,
    root: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    tell: Callable[[str], None],
) -> Outcome:
    """Measures everything, with stores below ``root``; a side that fails stops nothing.

    Args:
        environment: added to that of the workers.
    """
    outcome = Outcome()
    for part in parts:
        rows: dict[tuple[str, str], Row] = {}
        repetitions = 1 if part.once else options.repetitions
        for repetition in range(1, repetitions + 1):
            # In one order and in the other.
            for side in part.sides if repetition % 2 else reversed(part.sides):
                if side in outcome.errors.get(part.name, {}):
                    continue
                tell(f"{part.name}, {side}, {repetition} of {repetitions}")
                # What the last side wrote must not reach the disk at this one's expense.
                os.sync()
                with tempfile.TemporaryDirectory(dir=root) as directory:
                    job = {"part": part.name, "side": side, "directory": directory}
                    found = run_job(
                        "benchmarks.langgraph.worker",
                        {**job, "options": asdict(options)},
                        environment=environment,
                        timeout_seconds=timeout_seconds,
                    )
                if "error" in found:
                    outcome.errors.setdefault(part.name, {})[side] = found["error"]
                    continue
                for name, guarantee, unit, figure in found["rows"]:
                    row = rows.setdefault(
                        (name, guarantee), Row(name, guarantee, unit, part.name, {})
                    )
                    row.samples.setdefault(side, []).append(figure)
                used = outcome.resources.setdefault(part.name, {}).setdefault(side, [])
                used.append(found["resources"])
        outcome.rows += rows.values()
    return outcome
