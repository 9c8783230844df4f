"""Runs the workloads: every step in a process of its own, the engines interleaved.

Repetitions go A B C C B A A B C, not A A A B B B C C C, so that a disturbance of the machine meets
all engines, and none always runs after the same other.
The first rounds are warm-ups, measured like the others and then forgotten: they bring programs and
libraries into the page cache. A workload that is measured a few times only, for being long, has
none, and neither has one with a fixture, whose building is its warm-up.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.processes import run_job
from benchmarks.workloads.base import Options, Point, Step, Workload

Usage = dict[str, int | None]

# Told what is about to be measured, how many measurements are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass
class Outcome:
    """Everything a run found out."""

    versions: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    # By metric, then engine: one figure per repetition.
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    # By workload, then engine: the first error; the engine's later repetitions were left out.
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    # By series, then engine: the points of each repetition.
    series: dict[str, dict[str, list[list[Point]]]] = field(default_factory=dict)
    # By workload, then engine: why it cannot be measured at all.
    inapplicable: dict[str, dict[str, str]] = field(default_factory=dict)
    # By workload, then engine: what each step of each repetition used (`resources.Resources`).
    resources: dict[str, dict[str, list[list[Usage]]]] = field(default_factory=dict)
    # By workload, then engine: why it was not measured although it could have been.
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    # By workload, then engine: how long the latest measurement took, its processes included.
    elapsed_seconds: dict[str, dict[str, float]] = field(default_factory=dict)


class StepFailedError(Exception):
    """A step of one engine failed; the others go on."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs `workloads` for `engines`, with stores below `root`."""

    engines: Sequence[str]
    workloads: Sequence[Workload]
    options: Options
    repetitions: int
    warm_ups: int
    root: Path
    # Added to that of the workers.
    environment: Mapping[str, str]
    timeout_seconds: float
    progress: Progress

    def run(self) -> Outcome:
        """Runs everything; an engine that fails is named in the outcome, and stops nothing."""
        outcome = Outcome()
        for engine in self.engines:
            try:
                outcome.versions[engine] = self._work(engine, None, self.root, self.options)[
                    "version"
                ]
            except StepFailedError as error:
                outcome.unavailable[engine] = str(error)
        for workload in self.workloads:
            for engine in outcome.versions:
                if reason := workload.inapplicable(engine):
                    outcome.inapplicable.setdefault(workload.name, {})[engine] = reason
        plan = [
            (repetition, workload, engine)
            for workload in self.workloads
            # The warm-ups are those up to 0.
            for repetition in range(1 - self._warm_ups(workload), self._repetitions(workload) + 1)
            for engine in list(outcome.versions)[:: 1 if repetition % 2 else -1]
            if engine in workload.engines
            and engine not in outcome.inapplicable.get(workload.name, {})
        ]
        for done_count, (repetition, workload, engine) in enumerate(plan):
            if engine in outcome.errors.get(workload.name, {}):
                continue
            if reason := self._too_long(workload, engine, outcome):
                outcome.left_out.setdefault(workload.name, {})[engine] = reason
                continue
            counted = f"{repetition} of {self._repetitions(workload)}"
            label = f"{workload.name}, {engine}, {counted if repetition > 0 else 'warm-up'}"
            self.progress(label, done_count, len(plan))
            start_seconds = monotonic()
            try:
                results = self._measure(workload, engine)
                if repetition > 0:
                    _record(results, workload, engine, outcome)
            except StepFailedError as error:
                outcome.errors.setdefault(workload.name, {})[engine] = str(error)
            outcome.elapsed_seconds.setdefault(workload.name, {})[engine] = (
                monotonic() - start_seconds
            )
        return outcome

    def _repetitions(self, workload: Workload) -> int:
        return min(self.repetitions, workload.most_repetitions or self.repetitions)

    def _warm_ups(self, workload: Workload) -> int:
        return 0 if workload.most_repetitions or workload.fixture else self.warm_ups

    def _too_long(self, workload: Workload, engine: str, outcome: Outcome) -> str | None:
        """Why the next size is left out, judged by the size a tenth of it, where that was run."""
        tenth, limit_seconds = workload.tenth, self.options.scale_limit_seconds
        if tenth is None or engine not in outcome.elapsed_seconds.get(tenth, {}):
            left_out = outcome.left_out.get(tenth or "", {})
            return f"{tenth} was left out" if engine in left_out else None
        if engine in outcome.errors.get(tenth, {}):
            return f"{tenth} failed"
        foreseen_seconds = 10 * outcome.elapsed_seconds[tenth][engine]
        if foreseen_seconds <= limit_seconds:
            return None
        return (
            f"foreseen to take {foreseen_seconds:,.0f} s, ten times {tenth}; "
            f"the limit (--scale-limit-seconds) is {limit_seconds:,} s"
        )

    def _measure(self, workload: Workload, engine: str) -> list[dict[str, Any]]:
        """The results of the steps, each from a process of its own."""
        directory = self.root / f"{workload.name}-{engine}"
        options = workload.options(self.options)
        try:
            if workload.fixture:
                # A copy each: opening a store may change it, and all repetitions start alike.
                _copy_tree(self._fixture(workload, workload.fixture, engine), directory)
            else:
                directory.mkdir()
            return [self._work(engine, step, directory, options) for step in workload.steps]
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _fixture(self, workload: Workload, fixture: Step, engine: str) -> Path:
        """The directory of a fixture, built for the first that asks for it at its sizes."""
        directory = self.root / f"{fixture.__name__}{workload.suffix}-{engine}"
        if not directory.exists():
            directory.mkdir()
            try:
                self._work(engine, fixture, directory, workload.options(self.options))
            except StepFailedError:
                shutil.rmtree(directory)
                raise
        return directory

    def _work(
        self, engine: str, step: Step | None, directory: Path, options: Options
    ) -> dict[str, Any]:
        job = {
            "engine": engine,
            "step": step.__name__ if step else None,
            "directory": str(directory),
            "options": asdict(options),
        }
        # What the last engine wrote must not reach the disk at this one's expense.
        os.sync()
        result = run_job(
            "benchmarks.worker",
            job,
            environment=self.environment,
            timeout_seconds=self.timeout_seconds,
        )
        if "error" in result:
            raise StepFailedError(result["error"])
        return result


def _record(
    results: list[dict[str, Any]], workload: Workload, engine: str, outcome: Outcome
) -> None:
    for result in results:
        for name, figure in result["figures"].items():
            by_engine = outcome.figures.setdefault(name + workload.suffix, {})
            by_engine.setdefault(engine, []).append(figure)
        for name, points in result["series"].items():
            by_series = outcome.series.setdefault(name + workload.suffix, {})
            by_series.setdefault(engine, []).append(points)
    usages = outcome.resources.setdefault(workload.name, {}).setdefault(engine, [])
    usages.append([result["resources"] for result in results])


def _copy_tree(source: Path, target: Path) -> None:
    """Copies a directory with `cp`, which leaves holes what they are: LMDB's file is mostly one."""
    try:
        subprocess.run(
            ["cp", "-R", str(source), str(target)], check=True, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        raise StepFailedError(f"the fixture could not be copied: {error.stderr.strip()}") from error
