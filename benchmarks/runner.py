"""Runs the workloads: every step in a process of its own, the engines interleaved.

Repetitions go A B C A B C, not A A B B C C, so that a disturbance of the machine meets all engines.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import REPOSITORY
from benchmarks.workloads import Options, Step, Workload

ERROR_CHARACTERS = 300


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


class StepFailedError(Exception):
    """A step of one engine failed; the others go on."""


@dataclass(frozen=True)
class Runner:
    """Runs `workloads` for `engines`, with stores below `root`."""

    engines: Sequence[str]
    workloads: Sequence[Workload]
    options: Options
    repetitions: int
    root: Path
    timeout_seconds: float
    progress: Progress

    def run(self) -> Outcome:
        """Runs everything; an engine that fails is named in the outcome, and stops nothing."""
        outcome = Outcome()
        for engine in self.engines:
            try:
                outcome.versions[engine] = self._work(engine, None, self.root)["version"]
            except StepFailedError as error:
                outcome.unavailable[engine] = str(error)
        plan = [
            (repetition, workload, engine)
            for workload in self.workloads
            for repetition in range(1, self.repetitions + 1)
            for engine in outcome.versions
            if engine in workload.engines
        ]
        for done_count, (repetition, workload, engine) in enumerate(plan):
            if engine in outcome.errors.get(workload.name, {}):
                continue
            label = f"{workload.name}, {engine}, {repetition} of {self.repetitions}"
            self.progress(label, done_count, len(plan))
            try:
                self._measure(workload, engine, outcome)
            except StepFailedError as error:
                outcome.errors.setdefault(workload.name, {})[engine] = str(error)
        return outcome

    def _measure(self, workload: Workload, engine: str, outcome: Outcome) -> None:
        directory = self.root / f"{workload.name}-{engine}"
        try:
            if workload.fixture:
                # A copy each: opening a store may change it, and all repetitions start alike.
                shutil.copytree(self._fixture(workload.fixture, engine), directory)
            else:
                directory.mkdir()
            for step in workload.steps:
                for metric, figure in self._work(engine, step, directory)["figures"].items():
                    outcome.figures.setdefault(metric, {}).setdefault(engine, []).append(figure)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _fixture(self, fixture: Step, engine: str) -> Path:
        """The directory of a fixture, built for the first that asks for it."""
        directory = self.root / f"{fixture.__name__}-{engine}"
        if not directory.exists():
            directory.mkdir()
            try:
                self._work(engine, fixture, directory)
            except StepFailedError:
                shutil.rmtree(directory)
                raise
        return directory

    def _work(self, engine: str, step: Step | None, directory: Path) -> dict[str, Any]:
        job = {
            "engine": engine,
            "step": step.__name__ if step else None,
            "directory": str(directory),
            "options": asdict(self.options),
        }
        # What the last engine wrote must not reach the disk at this one's expense.
        os.sync()
        result = self._run_worker(json.dumps(job))
        if "error" in result:
            raise StepFailedError(result["error"])
        return result

    def _run_worker(self, job: str) -> dict[str, Any]:
        search_path = filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path)},
            # A group of its own, so that whatever an engine starts can be ended with it.
            start_new_session=True,
        ) as process:
            try:
                output, complaints = process.communicate(job, self.timeout_seconds)
            except subprocess.TimeoutExpired:
                return {"error": f"not done after {self.timeout_seconds:.0f} s"}
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        lines = output.splitlines()
        if process.returncode != 0 or not lines:
            complaint = complaints[-ERROR_CHARACTERS:].strip()
            return {"error": f"exit status {process.returncode}: {complaint}"}
        result: dict[str, Any] = json.loads(lines[-1])
        return result
